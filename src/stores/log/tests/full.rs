//! File systems without room: growth is refused, transactions go on as long as the ring has room, and
//! everything works again when there is room.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex};

use super::sim::SimDisk;
use super::{all_stable, bitmap, commit, open, small};
use crate::stores::log::disk::Disk;
use crate::stores::log::record::RANGE_BLOCKS;
use crate::stores::log::{CommitError, LogError, Opened, SpaceMapLog};
use crate::values::extent::Extent;
use crate::values::lsn::Lsn;

/// A file on a file system with so many free pages: one of the file takes one when it is first written.
#[derive(Default)]
struct Sparse {
    disk: SimDisk,
    pages: Mutex<(BTreeSet<u64>, u64)>,
}

impl Sparse {
    fn with_room(pages: u64) -> Arc<Self> {
        let new = Self::default();
        new.set_room(pages);
        Arc::new(new)
    }

    fn set_room(&self, pages: u64) {
        self.pages.lock().expect("no panic").1 = pages;
    }

    fn room(&self) -> u64 {
        self.pages.lock().expect("no panic").1
    }
}

impl Disk for Sparse {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn grow(&self, len: u64) -> io::Result<()> {
        self.disk.grow(len)
    }

    fn cut(&self, len: u64) -> io::Result<()> {
        let mut pages = self.pages.lock().expect("no panic");
        let cut = pages.0.split_off(&len.div_ceil(4096));
        pages.1 += cut.len() as u64;
        self.disk.cut(len)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, bytes)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (taken, room) = &mut *self.pages.lock().expect("no panic");
        for (page, piece) in (offset / 4096..).zip(bytes.chunks(4096)) {
            assert!(offset.is_multiple_of(4096), "these tests write pages");
            if !taken.contains(&page) {
                *room = room.checked_sub(1).ok_or(ErrorKind::StorageFull)?;
                taken.insert(page);
            }
            self.disk.write(page * 4096, piece)?;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.sync()
    }

    fn name(&self) -> String {
        "a sparse file".to_string()
    }
}

fn is_full(error: &CommitError) -> bool {
    matches!(error, CommitError::Write(failure) if failure.error.kind() == ErrorKind::StorageFull)
}

fn allocate(opened: &Opened, len: u64) -> Result<Extent, CommitError> {
    let mut transaction = opened.allocator.begin();
    let extent = transaction.allocate(len).expect("room on the device");
    transaction.commit(&opened.log)?;
    Ok(extent)
}

fn free(opened: &Opened, extent: Extent) -> Result<Lsn, CommitError> {
    let mut transaction = opened.allocator.begin();
    transaction.free(extent).expect("committed");
    Ok(transaction.commit(&opened.log)?)
}

/// Growth made the file longer, without a page behind it, and was told as done. From then on every commit
/// failed, frees too, also after the log was opened again.
#[test]
fn growth_without_room_changes_nothing() {
    let disk = Sparse::with_room(1 << 20);
    let options = small().sector(4096);
    let opened = SpaceMapLog::create(disk.clone(), RANGE_BLOCKS, &options).expect("an empty disk");
    let held = allocate(&opened, 97).expect("room");
    let len = disk.len().expect("known");
    for room in [0, 3, 100] {
        disk.set_room(room);
        let grown = opened.log.grow(&opened.allocator, 4 * RANGE_BLOCKS);
        assert!(matches!(&grown, Err(LogError::Commit(error)) if is_full(error)), "{grown:?}");
        assert_eq!((disk.room(), disk.len().expect("known")), (room, len), "given back");
        assert_eq!((opened.log.blocks(), opened.allocator.blocks()), (RANGE_BLOCKS, RANGE_BLOCKS));
    }
    disk.set_room(0);
    for _ in 0..300 {
        let other = allocate(&opened, 5).expect("all of the log is there");
        free(&opened, other).expect("all of the log is there");
    }
    opened.log.condense().expect("all of the log is there");
    disk.set_room(1 << 20);
    opened.log.grow(&opened.allocator, 4 * RANGE_BLOCKS).expect("room");
    disk.set_room(0);
    let beyond = allocate(&opened, 2 * RANGE_BLOCKS).expect("all of the log is there");
    for _ in 0..300 {
        free(&opened, beyond).expect("all of the log is there");
        let mut again = opened.allocator.begin();
        opened.allocator.collect();
        again.mark_allocated(beyond).expect("free");
        again.commit(&opened.log).expect("all of the log is there");
    }
    opened.log.verify().expect("disk and memory agree");
    free(&opened, held).expect("committed");
    assert_eq!(bitmap(&open(disk.disk.bytes()).expect("intact")), bitmap(&opened));
}

/// After a write that found no room, the first sector of the frame could not be zeroed either, and the
/// log refused everything until it was opened again.
#[test]
fn a_sparse_log_works_again_when_there_is_room() {
    for authority in [crate::Authority::Log, crate::Authority::Engine] {
        let disk = Sparse::with_room(8);
        let options = small().sector(4096).sparse().authority(authority);
        let opened =
            SpaceMapLog::create(disk.clone(), RANGE_BLOCKS, &options).expect("an empty disk");
        let mut acknowledged = 0;
        for _ in 0..10 {
            match allocate(&opened, 1) {
                Ok(_) => acknowledged += 1,
                Err(error) => assert!(is_full(&error), "{error}"),
            }
        }
        assert!((1..10).contains(&acknowledged));
        assert_eq!(opened.allocator.free_blocks(), RANGE_BLOCKS - acknowledged);
        let again = open(disk.disk.after_losing(|_| false)).expect("intact");
        assert_eq!(again.log.last(), Lsn(acknowledged));
        disk.set_room(1);
        allocate(&opened, 1).expect("room again");
        assert!(is_full(&allocate(&opened, 1).expect_err("the page is used")));
        disk.set_room(1000);
        for _ in 0..100 {
            let extent = allocate(&opened, 1).expect("room again");
            free(&opened, extent).expect("room again");
            all_stable(&opened);
        }
        opened.log.verify().expect("disk and memory agree");
        assert_eq!(bitmap(&open(disk.disk.bytes()).expect("intact")), bitmap(&opened));
    }
}

/// Images had no room, and no transaction was committed any more, although the ring had all of its.
#[test]
fn images_without_room_are_put_off_as_long_as_the_ring_has_room() {
    let disk = Sparse::with_room(1 << 20);
    let options = small().sector(4096).sparse();
    let opened =
        SpaceMapLog::create(disk.clone(), 20 * RANGE_BLOCKS, &options).expect("an empty disk");
    let ranges = || (0..20).map(|range| Extent::new(range * RANGE_BLOCKS, 20));
    // Once round the ring, whose pages are there then, and images in one slot of each range.
    for extent in ranges() {
        commit(&opened, &[], &[extent]);
    }
    opened.log.condense().expect("room");
    while opened.log.figures().log_bytes < 1 << 20 {
        commit(&opened, &[Extent::new(0, 1)], &[]);
        opened.allocator.collect();
        commit(&opened, &[], &[Extent::new(0, 1)]);
        opened.log.condense().expect("room");
    }
    disk.set_room(0);
    let (mut good, mut full) = (0, 0);
    for round in 0..200 {
        let range = round % 20;
        let block = Extent::new(range * RANGE_BLOCKS + 1 + round / 20, 1);
        let mut transaction = opened.allocator.begin();
        transaction.free(block).expect("committed");
        match transaction.commit(&opened.log) {
            Ok(_) => {
                assert_eq!(full, 0, "the ring has room");
                good += 1;
            }
            Err(failed) => {
                assert!(is_full(&failed.error), "{}", failed.error);
                full += 1;
            }
        }
    }
    assert!(good > 0 && full > 0, "{good} commits, {full} refused");
    // A crash finds everything that was acknowledged.
    let again = open(disk.disk.after_losing(|_| false)).expect("intact");
    assert_eq!(bitmap(&again), bitmap(&opened));
    disk.set_room(1 << 20);
    for round in 0..100 {
        let extent = allocate(&opened, 1 + round).expect("room again");
        free(&opened, extent).expect("room again");
    }
    opened.log.condense().expect("room again");
    opened.log.verify().expect("disk and memory agree");
    let again = open(disk.disk.after_losing(|_| false)).expect("intact");
    assert_eq!(bitmap(&again), bitmap(&opened));
}
