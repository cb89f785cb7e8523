//! Bytes that are not what was written: the answer is the same state or an error, never another
//! state, and an error writes nothing.

use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::sim::SimDisk;
use super::{
    SLOTS, bitmap, commit, create, newest_superblock, open, patch_superblocks, scattered, small,
};
use crate::stores::log::fault::{Fault, select};
use crate::stores::log::format::{MAJOR, PAGE, Superblock};
use crate::stores::log::layout::Layout;
use crate::stores::log::record::RANGE_BLOCKS;
use crate::stores::log::{LogError, OpenOptions, Opened, Part, SpaceMapLog};
use crate::values::extent::Extent;
use crate::values::lsn::Lsn;

/// A log with images, directory pages on their way, and a live tail, at rest.
fn aged() -> (Vec<u8>, (u64, u32)) {
    let disk = Arc::new(SimDisk::default());
    let opened = create(&disk, 6 * RANGE_BLOCKS + 777);
    let mut rng = Pcg64Mcg::seed_from_u64(3);
    let mut held: Vec<Extent> = Vec::new();
    for round in 0..300 {
        let mut transaction = opened.allocator.begin();
        for _ in 0..8 {
            let len = rng.random_range(1..200);
            if let Ok(extent) = transaction.allocate(len) {
                held.push(extent);
            }
        }
        for _ in 0..4 {
            let victim = rng.random_range(0..held.len());
            let victim = held.swap_remove(victim);
            transaction.free(victim).expect("held");
        }
        transaction.commit(&opened.log).expect("a healthy disk");
        if round == 150 {
            opened.log.condense().expect("a healthy disk");
        }
    }
    (disk.bytes(), bitmap(&opened))
}

#[test]
fn one_flipped_bit_gives_the_same_state_or_an_error() {
    let (bytes, expected) = aged();
    let mut rng = Pcg64Mcg::seed_from_u64(9);
    let (mut same, mut refused) = (0, 0);
    for _ in 0..3000 {
        let mut damaged = bytes.clone();
        let at = rng.random_range(0..bytes.len());
        damaged[at] ^= 1 << rng.random_range(0..8);
        let disk = Arc::new(SimDisk::new(damaged.clone()));
        // The engine knows its last commit: only then is damage to the very last frame seen.
        let options = OpenOptions::new().expect_lsn(Lsn(300));
        match SpaceMapLog::open(disk.clone(), &options) {
            Ok(opened) => {
                assert_eq!(bitmap(&opened), expected, "a wrong state from a flip at byte {at}");
                same += 1;
            }
            Err(LogError::Damaged { .. } | LogError::Missing { .. }) => {
                assert_eq!(disk.bytes(), damaged, "an error writes nothing");
                refused += 1;
            }
            Err(error) => panic!("a flip at byte {at} is called: {error}"),
        }
    }
    println!("{same} times the same state, {refused} times refused");
    assert!(same > 0 && refused > 0);
}

#[test]
fn a_lost_frame_in_the_middle_is_an_error_that_names_it() {
    let disk = Arc::new(SimDisk::default());
    let opened = create(&disk, RANGE_BLOCKS);
    for block in 0..5 {
        commit(&opened, &[], &[Extent::new(block, 1)]);
    }
    let mut bytes = disk.bytes();
    let offset = newest_superblock(&bytes).ring_start.get() + 2 * 512;
    bytes[offset as usize..][..512].fill(0);
    match open(bytes) {
        Err(LogError::Damaged { part: Part::Frame, offset: found, .. }) => {
            assert_eq!(found, offset)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_last_frame_is_cut_and_missed_only_by_who_knows_of_it() {
    let disk = Arc::new(SimDisk::default());
    let opened = create(&disk, RANGE_BLOCKS);
    let first = commit(&opened, &[], &[Extent::new(0, 1)]);
    let second = commit(&opened, &[], &[Extent::new(1, 1)]);
    let mut bytes = disk.bytes();
    let offset = newest_superblock(&bytes).ring_start.get() as usize + 512;
    bytes[offset + 70] ^= 1;
    let disk = Arc::new(SimDisk::new(bytes.clone()));
    let missing = SpaceMapLog::open(disk.clone(), &OpenOptions::new().expect_lsn(second));
    assert!(matches!(missing, Err(LogError::Missing { expected, found, .. })
        if expected == second && found == first));
    let opened = open(bytes).expect("a torn tail is no error");
    assert_eq!(opened.log.last(), first);
    assert_eq!(opened.allocator.is_free(Extent::new(1, 1)), Ok(true));
}

/// Two transactions in two frames of one flush; the power fails and only the second frame is on the
/// disk. After the restart the first transaction is committed again, byte for byte the same, and the
/// power fails again. The second must not come back to life behind it.
fn repeated_commit() -> Lsn {
    let disk = Arc::new(SimDisk::default());
    let opened = create(&disk, RANGE_BLOCKS);
    let sectors = disk.bytes().len() / 512;
    // Together just more than a frame takes.
    let first = opened.log.submit(scattered(&opened, 0..2026)).expect("fits");
    let second = opened.log.submit(scattered(&opened, 3000..5026)).expect("fits");
    disk.crash_after(2, 255);
    opened.log.flush();
    assert!(first.wait().is_err() && second.wait().is_err());
    let ring = newest_superblock(&disk.bytes()).ring_start.get() as usize / 512;
    assert!(disk.has_crashed() && sectors > ring);
    // The first sector of the first frame is lost.
    let opened = open(disk.after_losing(|sector| sector != ring)).expect("a torn tail");
    assert_eq!(opened.log.last(), Lsn(0));
    drop(opened);
    let disk = Arc::new(SimDisk::new(disk.after_losing(|sector| sector != ring)));
    let opened = SpaceMapLog::open(disk.clone(), &OpenOptions::new()).expect("a torn tail");
    let again = opened.log.submit(scattered(&opened, 0..2026)).expect("fits");
    assert_eq!(again.wait().ok(), Some(Lsn(1)));
    open(disk.bytes()).expect("a torn tail").log.last()
}

#[test]
fn a_frame_of_an_earlier_life_does_not_continue_a_later_one() {
    assert_eq!(repeated_commit(), Lsn(1));
    select(Some(Fault::SameIncarnation));
    let joined = repeated_commit();
    select(None);
    assert_eq!(joined, Lsn(2), "the incarnation is what prevents it");
}

#[test]
fn foreign_short_and_newer_files_are_told_apart() {
    let (bytes, _) = aged();
    let error = |bytes: Vec<u8>| open(bytes).map(drop).expect_err("not a good log");
    assert!(matches!(error(Vec::new()), LogError::Foreign { .. }));
    assert!(matches!(error(vec![0; 1 << 20]), LogError::Foreign { .. }));
    assert!(matches!(error(vec![0xAB; 1 << 20]), LogError::Foreign { .. }));
    let short = bytes[..bytes.len() - PAGE].to_vec();
    assert!(matches!(error(short), LogError::Truncated { .. }));

    let with = |change: &dyn Fn(&mut Superblock)| {
        let mut bytes = bytes.clone();
        patch_superblocks(&mut bytes, change);
        error(bytes)
    };
    let version = with(&|slot| slot.major = (MAJOR + 1).into());
    assert!(matches!(version, LogError::Version { major, .. } if major == MAJOR + 1));
    let features = with(&|slot| slot.incompatible = 4.into());
    assert!(matches!(features, LogError::Features { features: 4, .. }));
    let geometry = with(&|slot| slot.ring_len = (slot.ring_len.get() * 2).into());
    assert!(matches!(geometry, LogError::Damaged { part: Part::Superblocks, .. }));

    // Found by fuzzing: more ranges than a number holds.
    let regions = with(&|slot| {
        slot.region_count = 2.into();
        slot.regions[1].ranges = u32::MAX.into();
    });
    assert!(matches!(regions, LogError::Damaged { part: Part::Superblocks, .. }));

    let disk = Arc::new(SimDisk::new(bytes.clone()));
    let expected = OpenOptions::new().expect_blocks(5);
    let other = SpaceMapLog::open(disk, &expected);
    assert!(matches!(other, Err(LogError::Geometry { expected: 5, .. })));
}

/// Superblocks with the right checksum that say anything, also of devices that have grown and shrunk: no
/// panic, no memory for what the file has no room for, and a log that opens is a sound one.
#[test]
fn superblocks_of_any_numbers_are_refused_or_make_sense() {
    let disk = Arc::new(SimDisk::default());
    let opened = create(&disk, 3 * RANGE_BLOCKS);
    commit(&opened, &[], &[Extent::new(0, 2 * RANGE_BLOCKS)]);
    opened.log.condense().expect("a healthy disk");
    opened.log.grow(&opened.allocator, 5 * RANGE_BLOCKS).expect("a healthy disk");
    commit(&opened, &[Extent::new(100, 2 * RANGE_BLOCKS - 100)], &[]);
    opened.allocator.collect();
    let shrink = opened.allocator.shrink(RANGE_BLOCKS + 5).expect("a tail");
    opened.log.shrink(shrink).expect("nobody is there");
    let bytes = disk.bytes();
    let mut rng = Pcg64Mcg::seed_from_u64(4);
    let (mut sound, mut refused) = (0, 0);
    for _ in 0..3000 {
        let mut patched = bytes.clone();
        let (at, width) = (rng.random_range(24..1180), 1 << rng.random_range(0..4));
        let value = rng.random::<u64>() >> rng.random_range(0..64);
        for slot in SLOTS {
            patched[slot + at..slot + at + width].copy_from_slice(&value.to_le_bytes()[..width]);
            let crc = crc32c::crc32c(&patched[slot..slot + PAGE - 4]);
            patched[slot + PAGE - 4..slot + PAGE].copy_from_slice(&crc.to_le_bytes());
        }
        match open(patched) {
            Ok(opened) => {
                opened.log.verify().expect("disk and memory agree");
                commit(&opened, &[], &[Extent::new(opened.allocator.blocks() - 1, 1)]);
                opened.log.condense().expect("a healthy disk");
                sound += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(sound > 100 && refused > 1000, "{sound} sound, {refused} refused");
}

#[test]
fn a_disk_that_holds_something_is_not_overwritten() {
    let (bytes, expected) = aged();
    let layout = Layout::from_superblock(&newest_superblock(&bytes)).expect("ours");
    let disk = Arc::new(SimDisk::new(bytes));
    let again = SpaceMapLog::create(disk.clone(), 1000, &small());
    assert!(matches!(again, Err(LogError::Exists { .. })));
    let opened = SpaceMapLog::open(disk.clone(), &OpenOptions::new()).expect("untouched");
    assert_eq!(bitmap(&opened), expected);
    drop(opened);
    // Overwritten, nothing of the old log shines through, though it lies in the same places.
    let new =
        SpaceMapLog::create(disk.clone(), layout.blocks, &small().overwrite()).expect("told to");
    assert_eq!(new.allocator.free_blocks(), layout.blocks);
    let other = Arc::new(SimDisk::new(vec![1; 1 << 20]));
    let foreign = SpaceMapLog::create(other, 1000, &small());
    assert!(matches!(foreign, Err(LogError::NotBlank { offset: 0, found: None, .. })));
}

/// The bytes of a small log, all kinds of pages and records in it. If this fails, the format changed:
/// logs that exist cannot be read any more, or are written differently. That takes a new version, and a file of
/// the old one beside the others.
#[test]
fn the_format_is_what_it_was() {
    let disk = Arc::new(SimDisk::default());
    let opened = golden(&disk);
    let bytes = disk.bytes();
    let written = listing(&bytes);
    assert_eq!(written, include_str!("../../../../tests/data/log-v2.hex"), "{written}");
    let again = open(unlisted(&written)).expect("intact");
    assert_eq!((bitmap(&again), again.log.last()), (bitmap(&opened), opened.log.last()));
}

#[test]
fn a_log_of_version_1_is_read_and_converted() {
    let expected = golden(&Arc::new(SimDisk::default()));
    let old = unlisted(include_str!("../../../../tests/data/log-v1.hex"));
    let disk = || Arc::new(SimDisk::new(old.clone()));
    let (allocator, report) =
        SpaceMapLog::inspect(disk(), &OpenOptions::new()).expect("an old version");
    assert!(allocator.to_bitmap() == expected.allocator.to_bitmap());
    assert_eq!(report.last, Lsn(3));
    let refused = open(old.clone());
    assert!(matches!(refused, Err(LogError::OldVersion { major: 1, .. })), "{refused:?}");
    let new = Arc::new(SimDisk::default());
    let opened = SpaceMapLog::convert(disk(), new.clone(), &small()).expect("a healthy disk");
    assert_eq!(bitmap(&opened), bitmap(&expected));
    assert_eq!(opened.log.uuid(), [7; 16]);
    assert_eq!(commit(&opened, &[Extent::new(7, 1)], &[]), Lsn(4));
    opened.log.verify().expect("disk and memory agree");
    let back = OpenOptions::new().recover_until(Lsn(2));
    let refused = SpaceMapLog::open(new.clone(), &back);
    assert!(matches!(refused, Err(LogError::TooOld { oldest: Lsn(3), .. })), "{refused:?}");
    let again = SpaceMapLog::convert(new, SimDisk::default(), &small().limit(1 << 20));
    assert_eq!(bitmap(&again.expect("any version")), bitmap(&opened));
}

fn golden(disk: &Arc<SimDisk>) -> Opened {
    let opened = create(disk, 4 * RANGE_BLOCKS + 100);
    commit(&opened, &[], &[Extent::new(100, 50), Extent::new(RANGE_BLOCKS, 2 * RANGE_BLOCKS)]);
    commit(&opened, &[Extent::new(120, 5)], &[Extent::new(4 * RANGE_BLOCKS, 100)]);
    opened.log.condense().expect("a healthy disk");
    commit(&opened, &[Extent::new(RANGE_BLOCKS, RANGE_BLOCKS)], &[Extent::new(7, 1)]);
    opened.allocator.collect();
    opened
}

/// Bytes as text: of every 32 that are not all zero, the offset and the values, without zeros at the end.
fn listing(bytes: &[u8]) -> String {
    let mut text = format!("length {}\n", bytes.len());
    for (index, line) in bytes.chunks(32).enumerate() {
        if let Some(last) = line.iter().rposition(|&byte| byte != 0) {
            let values: String = line[..=last].iter().map(|byte| format!("{byte:02x}")).collect();
            text += &format!("{:x} {values}\n", 32 * index);
        }
    }
    text
}

fn unlisted(text: &str) -> Vec<u8> {
    let mut lines = text.lines().map(|line| line.split_once(' ').expect("two words"));
    let (_, len) = lines.next().expect("a length");
    let mut bytes = vec![0; len.parse().expect("a number")];
    for (offset, values) in lines {
        let offset = usize::from_str_radix(offset, 16).expect("an offset");
        for at in 0..values.len() / 2 {
            let value = u8::from_str_radix(&values[2 * at..][..2], 16).expect("a byte");
            bytes[offset + at] = value;
        }
    }
    bytes
}
