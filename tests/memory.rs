//! Memory that the process really has, which `Allocator::memory` cannot know. Each test runs in a process of
//! its own.
#![cfg(target_os = "linux")]

mod alone;

use alone::alone;
use freemap::{Allocator, CreateOptions, Extent, FileDisk, SpaceMapLog};

/// Blocks of 4 KiB in 1 TiB.
const TIB: u64 = 1 << 28;

/// Blocks of 4 KiB in 16 TiB, whose bitmap takes 512 MiB.
const LARGE: u64 = 16 * TIB;

const MIB: u64 = 1 << 20;

/// Resident bytes of this process.
fn resident() -> u64 {
    status("VmRSS:")
}

/// The most bytes that were ever resident.
fn most_resident() -> u64 {
    status("VmHWM:")
}

fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

/// The tables for closed regions, promises and discards are as large as the bitmap each; they were written
/// with zeros, and so had three times its memory for nothing, and a start took four times as long.
#[test]
fn what_is_not_used_takes_no_memory() {
    alone("what_is_not_used_takes_no_memory", || {
        let before = resident();
        let allocator = Allocator::new(TIB).unwrap();
        let taken = resident() - before;
        let memory = allocator.memory();
        let counted = (memory.bitmap + memory.search) as u64;
        assert!(taken >= TIB / 8, "{taken}");
        assert!(taken < counted + 4 * MIB, "{taken} resident, {counted} counted");
        assert!(
            memory.aside as u64 > 3 * TIB / 8,
            "what is not touched is counted, too: {memory:?}"
        );
    });
}

/// Leaves and nodes, which are aligned to cache lines, were written with zeros: 529 MiB.
#[test]
fn an_allocator_without_free_blocks_takes_no_memory() {
    alone("an_allocator_without_free_blocks_takes_no_memory", || {
        let before = resident();
        let allocator = Allocator::builder(LARGE).build_allocated().unwrap();
        assert!(allocator.allocate(1).is_err() && allocator.allocate(10_000).is_err());
        assert_eq!((allocator.free_blocks(), allocator.next_free(0)), (0, None));
        let taken = most_resident() - before;
        assert!(taken < 3 * MIB, "{taken} bytes");

        // What becomes free takes the pages that it lies in.
        allocator.mark_free(Extent::new(LARGE / 2, TIB)).unwrap();
        let taken = resident() - before;
        assert!((TIB / 8..TIB / 8 + 8 * MIB).contains(&taken), "{taken} bytes for 1 TiB");
        assert_eq!(allocator.allocate(TIB), Ok(Extent::new(LARGE / 2, TIB)));
        assert!(allocator.verify().is_clean());
    });
}

/// The same from a bitmap, on several threads, but for the bitmap itself.
#[test]
fn an_allocator_from_a_full_bitmap_takes_no_memory() {
    alone("an_allocator_from_a_full_bitmap_takes_no_memory", || {
        let allocated = vec![u64::MAX; (LARGE / 64) as usize];
        // Once, so that the threads of the pool are there, and have their memory.
        drop(Allocator::from_bitmap(TIB, &allocated[..(TIB / 64) as usize]).unwrap());
        let before = most_resident();
        let allocator = Allocator::from_bitmap(LARGE, &allocated).unwrap();
        let taken = most_resident() - before;
        assert!(taken < 4 * MIB, "{taken} bytes");
        assert_eq!(allocator.free_blocks(), 0);
    });
}

/// A free block in each 8 GiB takes a page of the bitmap and one of the summary.
#[test]
fn an_allocator_from_a_nearly_full_bitmap_takes_few_pages() {
    alone("an_allocator_from_a_nearly_full_bitmap_takes_few_pages", || {
        let mut allocated = vec![u64::MAX; (LARGE / 64) as usize];
        let before = most_resident();
        let step = (1 << 21) / 64;
        allocated.iter_mut().step_by(step).for_each(|word| *word = !2);
        let count = LARGE.div_ceil(1 << 21);
        let allocator = Allocator::from_bitmap(LARGE, &allocated).unwrap();
        let taken = most_resident() - before;
        assert!(taken < 2 * 4096 * count + 4 * MIB, "{taken} bytes for {count} blocks");
        assert_eq!(allocator.free_blocks(), count);
        assert!((0..count).all(|n| allocator.is_free(Extent::new((n << 21) + 1, 1)) == Ok(true)));
    });
}

/// The mirror of a log was written with zeros, and read from end to end several times: 512 MiB. What is left
/// beside the allocator, of which all blocks are free, are about 100 bytes for each 32768 blocks.
#[test]
fn an_empty_log_takes_no_memory_for_blocks() {
    alone("an_empty_log_takes_no_memory_for_blocks", || {
        let directory = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(directory.path().join("log")).unwrap();
        let before = resident();
        let opened = SpaceMapLog::create(disk, LARGE, &CreateOptions::new().sparse()).unwrap();
        let memory = opened.allocator.memory();
        let counted = (memory.bitmap + memory.search) as u64;
        let taken = resident() - before;
        let beside = taken.saturating_sub(counted);
        let most = most_resident() - before;
        assert!(beside < 32 * MIB, "{beside} bytes beside {counted}");
        assert!(most < counted + 64 * MIB, "{most} bytes at most, {counted} counted");
    });
}
