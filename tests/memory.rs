//! Memory that the process really has, which `Allocator::memory` cannot know.
#![cfg(target_os = "linux")]

use freemap::Allocator;

/// Resident bytes of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

/// The tables for closed regions, promises and discards are as large as the bitmap each; they were written
/// with zeros, and so had three times its memory for nothing, and a start took four times as long.
#[test]
fn what_is_not_used_takes_no_memory() {
    const TIB: u64 = 1 << 28;
    let before = resident();
    let allocator = Allocator::builder(TIB).build_allocated().unwrap();
    let taken = resident() - before;
    let memory = allocator.memory();
    let counted = memory.bitmap + memory.search;
    assert!(taken >= TIB / 8, "{taken}");
    assert!(taken < counted as u64 + (4 << 20), "{taken} resident, {counted} counted");
}
