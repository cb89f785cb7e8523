//! docs/format.md is enough to write a reader: the one in `read_log.py` was written from it, and finds the state
//! of real logs, also of such that a crash left behind. Needs Python 3; without one it says so, and does nothing.

use std::ops::Range;
use std::path::Path;
use std::process::Command;

use freemap::{Allocator, Authority, CreateOptions, Extent, FileDisk, OpenOptions, SpaceMapLog};
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

const RANGE: u64 = 32_768;

/// What the program says of the log in `part` of the file: its state, or why there is none.
fn read(file: &Path, part: Option<Range<u64>>) -> Result<serde_json::Value, String> {
    let mut command = Command::new("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/read_log.py")).arg(file);
    if let Some(part) = part {
        command.arg(part.start.to_string()).arg((part.end - part.start).to_string());
    }
    let output = command.output().expect("there is one: we looked");
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).expect("it prints JSON")),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Whether there is a Python.
fn can_read() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok();
    if !found {
        println!("not run: there is no python3");
    }
    found
}

/// The state as the program prints it.
fn extents(allocator: &Allocator) -> Vec<[u64; 2]> {
    let words = allocator.to_bitmap().expect("memory");
    let allocated = |block: u64| words[(block / 64) as usize] >> (block % 64) & 1 == 1;
    let mut found: Vec<[u64; 2]> = Vec::new();
    for block in (0..allocator.blocks()).filter(|&block| allocated(block)) {
        match found.last_mut() {
            Some([start, len]) if *start + *len == block => *len += 1,
            _ => found.push([block, 1]),
        }
    }
    found
}

/// Both read the same, or both refuse.
fn compare(file: &Path) -> bool {
    let disk = FileDisk::open_existing(file).expect("a file");
    let inspected = SpaceMapLog::inspect(disk, &OpenOptions::new());
    match (inspected, read(file, None)) {
        (Ok((allocator, report)), Ok(found)) => {
            assert_eq!(found["blocks"], allocator.blocks());
            assert_eq!(found["lsn"], report.last.0);
            assert_eq!(found["extents"], serde_json::json!(extents(&allocator)));
            true
        }
        (Err(_), Err(_)) => false,
        (inspected, read) => panic!("{:?}, but {read:?}", inspected.map(|(_, report)| report)),
    }
}

/// A transaction of any size that frees some of what is there.
fn change(allocator: &Allocator, rng: &mut Pcg64Mcg, held: &mut Vec<Extent>) -> freemap::Frozen {
    allocator.collect();
    let mut transaction = allocator.begin();
    for _ in 0..rng.random_range(1..6) {
        let len = rng.random_range(1..2000);
        if let Ok(extent) = transaction.allocate(len) {
            held.push(extent);
        }
    }
    if rng.random_ratio(1, 10) {
        let start = rng.random_range(0..3) * RANGE;
        let whole = Extent::new(start, 2 * RANGE);
        if transaction.mark_allocated(whole).is_ok() {
            held.push(whole);
        }
    }
    while held.len() > 40 {
        let victim = held.swap_remove(rng.random_range(0..held.len()));
        transaction.free(victim).expect("held");
    }
    transaction.freeze()
}

/// A log whose ring goes round several times, with images, and frames that end nothing behind the last.
#[test]
fn the_reader_finds_what_was_committed() {
    if !can_read() {
        return;
    }
    for (seed, authority) in [(1, Authority::Log), (2, Authority::Piggyback), (3, Authority::Log)] {
        let directory = tempfile::tempdir().expect("a folder");
        let file = directory.path().join("log");
        let options = CreateOptions::new().limit(64 << 10).sector(512).authority(authority);
        let blocks = 9 * RANGE + 777;
        let disk = FileDisk::open(&file).expect("a folder");
        let opened = SpaceMapLog::create(disk, blocks, &options).expect("an empty file");
        let (mut rng, mut held) = (Pcg64Mcg::seed_from_u64(seed), Vec::new());
        for round in 0..300 {
            let frozen = change(&opened.allocator, &mut rng, &mut held);
            if authority == Authority::Piggyback {
                opened.log.absorb(frozen, round..round + 1).expect("fits");
                if round % 7 == 3 {
                    opened.log.checkpoint().expect("a healthy disk");
                }
            } else {
                frozen.reopen().commit(&opened.log).expect("a healthy disk");
            }
            if round % 90 == 17 {
                opened.log.idle().expect("a healthy disk");
            }
        }
        let position = opened.log.position();
        drop(opened);
        assert!(compare(&file), "{authority:?}");
        if authority == Authority::Piggyback {
            let found = read(&file, None).expect("intact");
            assert!(
                found["position"].as_u64().is_some_and(|found| (1..=position).contains(&found))
            );
        }
    }
}

/// Wherever it is damaged, both find the same state, or neither finds one.
#[test]
fn the_reader_refuses_what_is_damaged() {
    if !can_read() {
        return;
    }
    let directory = tempfile::tempdir().expect("a folder");
    let file = directory.path().join("log");
    let options = CreateOptions::new().limit(64 << 10).sector(512);
    let disk = FileDisk::open(&file).expect("a folder");
    let opened = SpaceMapLog::create(disk, 3 * RANGE, &options).expect("an empty file");
    let (mut rng, mut held) = (Pcg64Mcg::seed_from_u64(9), Vec::new());
    for round in 0..60 {
        let frozen = change(&opened.allocator, &mut rng, &mut held);
        frozen.reopen().commit(&opened.log).expect("a healthy disk");
        if round == 30 {
            opened.log.condense().expect("a healthy disk");
        }
    }
    drop(opened);
    let bytes = std::fs::read(&file).expect("there");
    let used: Vec<usize> =
        (0..bytes.len()).step_by(512).filter(|&at| bytes[at..at + 512] != [0; 512]).collect();
    let (mut good, mut bad) = (0, 0);
    for _ in 0..60 {
        let mut damaged = bytes.clone();
        let at = used[rng.random_range(0..used.len())];
        rng.fill_bytes(&mut damaged[at..at + 512]);
        std::fs::write(&file, &damaged).expect("room");
        *(if compare(&file) { &mut good } else { &mut bad }) += 1;
    }
    println!("{good} states, {bad} refused");
    assert!(good > 0 && bad > 0);
}

/// The same in a part of a larger file.
#[test]
fn the_reader_reads_a_region() {
    if !can_read() {
        return;
    }
    let directory = tempfile::tempdir().expect("a folder");
    let path = directory.path().join("device");
    std::fs::write(&path, vec![0xEE; 4 << 20]).expect("room");
    let part = (1 << 20)..(3 << 20);
    std::fs::write(&path, {
        let mut bytes = vec![0xEE; 4 << 20];
        bytes[part.start as usize..part.end as usize].fill(0);
        bytes
    })
    .expect("room");
    let region = FileDisk::region(&path, part.start, part.end - part.start).expect("there");
    let options = CreateOptions::new().limit(64 << 10);
    let opened = SpaceMapLog::create(region, 10_000, &options).expect("zeros");
    let mut transaction = opened.allocator.begin();
    let extent = transaction.allocate(100).expect("room");
    transaction.commit(&opened.log).expect("a healthy disk");
    let found = read(&path, Some(part)).expect("intact");
    assert_eq!(found["extents"], serde_json::json!([[extent.start, extent.len]]));
}
