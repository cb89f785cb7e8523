//! The space-map log on real files.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use freemap::{
    CreateOptions, Disk, Extent, FileDisk, LogError, Lsn, OpenOptions, Opened, SpaceMapLog,
};

fn small() -> CreateOptions {
    CreateOptions::new().limit(1 << 20)
}

fn create(path: &std::path::Path) -> Opened {
    SpaceMapLog::create(FileDisk::open(path).expect("a file"), 1 << 20, &small()).expect("empty")
}

#[test]
fn committed_is_committed() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("log");
    let opened = create(&path);
    let mut held = Vec::new();
    for round in 0..200 {
        let mut transaction = opened.allocator.begin();
        held.push(transaction.allocate(1 + round % 50).expect("room"));
        if round % 3 == 2 {
            transaction.free(held.remove(0)).expect("committed");
        }
        assert_eq!(transaction.commit(&opened.log).expect("a healthy disk"), Lsn(round + 1));
    }
    let mut lost = opened.allocator.begin();
    lost.allocate(1000).expect("room");
    std::mem::forget(lost); // as if the process ended here
    drop(opened);

    let opened = SpaceMapLog::open(
        FileDisk::open(&path).expect("a file"),
        &OpenOptions::new().expect_lsn(Lsn(200)).expect_blocks(1 << 20),
    )
    .expect("intact");
    assert_eq!((opened.report.last, opened.report.replayed), (Lsn(200), 200));
    let used: u64 = held.iter().map(|extent| extent.len).sum();
    assert_eq!(opened.allocator.free_blocks(), (1 << 20) - used);
    assert!(opened.check(held.clone()).is_clean());
    opened.log.condense().expect("a healthy disk");
    drop(opened);
    let (allocator, report) =
        SpaceMapLog::inspect(FileDisk::open_read_only(&path).expect("a file"), &OpenOptions::new())
            .expect("intact");
    assert_eq!((report.replayed, report.log_bytes), (0, 0), "condensed");
    assert_eq!(allocator.free_blocks(), (1 << 20) - used);
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("log");
    let opened = create(&path);
    assert!(matches!(FileDisk::open(&path), Err(LogError::Locked { .. })));
    assert!(matches!(FileDisk::open_read_only(&path), Err(LogError::Locked { .. })));
    drop(opened);
    let one = FileDisk::open_read_only(&path).expect("nobody writes");
    let two = FileDisk::open_read_only(&path).expect("readers share");
    assert!(matches!(FileDisk::open(&path), Err(LogError::Locked { .. })));
    drop((one, two));
    assert!(FileDisk::open(&path).is_ok());
    assert!(matches!(FileDisk::open(dir.path()), Err(LogError::Io(_))), "a folder");
    assert!(matches!(FileDisk::open_read_only(dir.path().join("none")), Err(LogError::Io(_))));
}

#[test]
fn a_region_keeps_to_its_bounds() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("device");
    std::fs::write(&path, vec![0xEE; 16 << 20]).expect("room");
    assert!(matches!(FileDisk::region(&path, 100, 4096), Err(LogError::Option { .. })));
    assert!(matches!(FileDisk::region(&path, 4096, u64::MAX), Err(LogError::Option { .. })));
    let short = FileDisk::region(&path, 1 << 20, 1 << 20).expect("a region");
    let error = SpaceMapLog::create(short, 1 << 20, &small().overwrite()).map(drop);
    assert!(matches!(error, Err(LogError::Io(_))), "{error:?}");
    let region = FileDisk::region(&path, 1 << 20, 8 << 20).expect("a region");
    let opened = SpaceMapLog::create(region, 1 << 20, &small().overwrite()).expect("room");
    let mut transaction = opened.allocator.begin();
    transaction.allocate(77).expect("room");
    transaction.commit(&opened.log).expect("a healthy disk");
    assert!(opened.log.grow(&opened.allocator, 1 << 30).is_err(), "a region does not grow");
    transaction = opened.allocator.begin();
    transaction.allocate(3).expect("room");
    transaction.commit(&opened.log).expect("the log goes on");
    drop(opened);
    let bytes = std::fs::read(&path).expect("the file");
    assert!(bytes[..1 << 20].iter().chain(&bytes[9 << 20..]).all(|&byte| byte == 0xEE));
    let region = FileDisk::region(&path, 1 << 20, 8 << 20).expect("a region");
    let opened = SpaceMapLog::open(region, &OpenOptions::new()).expect("intact");
    assert_eq!(opened.allocator.free_blocks(), (1 << 20) - 80);
}

#[test]
fn impossible_options_are_refused() {
    let disk =
        || FileDisk::open(tempfile::NamedTempFile::new().expect("a file").path()).expect("a file");
    let refused =
        |blocks, options: &CreateOptions| SpaceMapLog::create(disk(), blocks, options).map(drop);
    assert!(matches!(refused(0, &small()), Err(LogError::Config(_))));
    assert!(matches!(refused(u64::MAX, &small()), Err(LogError::Config(_))));
    assert!(matches!(
        refused(100, &small().sector(1024)),
        Err(LogError::Option { name: "sector", .. })
    ));
    assert!(matches!(refused(100, &small().limit(5)), Err(LogError::Option { name: "limit", .. })));
    assert!(matches!(refused(100, &small().block_size(5)), Err(LogError::Config(_))));
}

/// Counts its wake-ups as a flag.
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn tickets_are_futures() {
    let dir = tempfile::tempdir().expect("a folder");
    let opened = create(&dir.path().join("log"));
    let submit = || {
        let mut transaction = opened.allocator.begin();
        transaction.allocate(5).expect("room");
        opened.log.submit(transaction.freeze()).expect("fits")
    };
    let flag = Arc::new(Flag(AtomicBool::new(false)));
    let waker = Waker::from(flag.clone());
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(submit().into_future());
    assert!(future.as_mut().poll(&mut context).is_pending(), "polling does no I/O");
    opened.log.flush();
    assert!(flag.0.load(Ordering::Acquire));
    assert!(matches!(future.as_mut().poll(&mut context), Poll::Ready(Ok(Lsn(1)))));

    // With a flusher nobody has to do anything.
    let flusher = opened.log.start_flusher().expect("a thread");
    let tickets: Vec<_> = (0..100).map(|_| submit()).collect();
    let last = tickets.into_iter().map(|ticket| ticket.wait().expect("a healthy disk")).last();
    assert_eq!(last, Some(Lsn(101)));
    drop(submit());
    drop(flusher);
    assert_eq!(opened.log.last(), Lsn(102), "a flusher finishes its queue");
    assert_eq!(submit().wait().ok(), Some(Lsn(103)), "without one, whoever waits does the work");
}

/// A disk whose flushes wait until all committers of a round have submitted.
struct Patient {
    disk: FileDisk,
    missing: Mutex<u32>,
    changed: Condvar,
}

/// A committer that has not submitted yet, or has failed, when it is dropped.
struct Coming<'a>(&'a Patient);

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        *self.0.missing.lock().expect("no panic under it") -= 1;
        self.0.changed.notify_all();
    }
}

impl Disk for Patient {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn grow(&self, len: u64) -> io::Result<()> {
        self.disk.grow(len)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, bytes)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.write(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        let missing = self.missing.lock().expect("no panic under it");
        drop(self.changed.wait_while(missing, |missing| *missing > 0));
        self.disk.sync()
    }

    fn name(&self) -> String {
        self.disk.name()
    }
}

#[test]
fn committers_at_the_same_time_share_flushes() {
    const COMMITTERS: u32 = 32;
    const ROUNDS: u64 = 50;
    let dir = tempfile::tempdir().expect("a folder");
    let disk = FileDisk::open(dir.path().join("log")).expect("a file");
    let disk = Arc::new(Patient { disk, missing: Mutex::new(0), changed: Condvar::new() });
    let opened = SpaceMapLog::create(disk.clone(), 1 << 20, &small()).expect("empty");
    let before = opened.log.figures();
    let mut held = [None; COMMITTERS as usize];
    for _ in 0..ROUNDS {
        *disk.missing.lock().expect("no panic under it") = COMMITTERS;
        std::thread::scope(|scope| {
            for held in &mut held {
                scope.spawn(|| {
                    let coming = Coming(&disk);
                    let mut transaction = opened.allocator.begin();
                    let extent = transaction.allocate(3).expect("room");
                    if let Some(old) = held.replace(extent) {
                        transaction.free(old).expect("committed");
                    }
                    let ticket = opened.log.submit(transaction.freeze()).expect("fits");
                    drop(coming);
                    ticket.wait().expect("a healthy disk");
                });
            }
        });
    }
    let after = opened.log.figures();
    assert_eq!(after.commits - before.commits, u64::from(COMMITTERS) * ROUNDS);
    // The first flush of a round is for those that came before it, the next one for all others.
    let flushes = after.syncs - before.syncs;
    assert!((ROUNDS..=2 * ROUNDS).contains(&flushes), "{flushes}");
    opened.allocator.collect();
    assert_eq!(opened.allocator.free_blocks(), (1 << 20) - 3 * u64::from(COMMITTERS));
    opened.log.verify().expect("disk and memory agree");
}

/// A region of a device that holds something else in front of the log, opened at the wrong place: the
/// second superblock is not the first one of another log.
#[test]
fn a_log_opened_at_the_wrong_place_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("device");
    std::fs::write(&path, vec![0; 4 << 20]).expect("room");
    let region = |offset| FileDisk::region(&path, offset, 3 << 20).expect("a region");
    let options = CreateOptions::new().limit(64 << 10);
    let opened = SpaceMapLog::create(region(8192), 1000, &options).expect("room");
    for _ in 0..2 {
        let mut transaction = opened.allocator.begin();
        transaction.allocate(1).expect("room");
        transaction.commit(&opened.log).expect("a healthy disk");
    }
    drop(opened);
    let before = std::fs::read(&path).expect("the file");
    for offset in [4096, 12288] {
        let result = SpaceMapLog::open(region(offset), &OpenOptions::new()).map(drop);
        assert!(matches!(result, Err(LogError::Damaged { .. })), "{offset}: {result:?}");
    }
    assert!(before == std::fs::read(&path).expect("the file"), "nothing was written");
    let opened = SpaceMapLog::open(region(8192), &OpenOptions::new()).expect("intact");
    assert_eq!(opened.log.last(), Lsn(2));
    let beyond = FileDisk::region(&path, 3 << 20, 3 << 20);
    assert!(matches!(beyond.map(drop), Err(LogError::Truncated { .. } | LogError::Locked { .. })));
}

#[test]
fn repair_takes_as_many_transactions_as_it_needs() {
    let dir = tempfile::tempdir().expect("a folder");
    let disk = FileDisk::open(dir.path().join("log")).expect("a file");
    let words = vec![0xAAAA_AAAA_AAAA_AAAA; (1 << 17) / 64];
    let options = CreateOptions::new().limit(64 << 10);
    let opened =
        SpaceMapLog::create_from_bitmap(disk, 1 << 17, &words, &options).expect("an empty file");
    let found = opened.check([Extent::new(0, 1)]);
    assert_eq!((found.leaked.len(), found.unprotected.len()), (1 << 16, 1));
    opened.repair(&found).expect("a healthy disk");
    assert!(opened.check([Extent::new(0, 1)]).is_clean());
    opened.allocator.collect();
    assert_eq!(opened.allocator.free_blocks(), (1 << 17) - 1);
}

/// Placements are not written down; each opening says them.
#[test]
fn classes_are_placed_in_a_device_with_a_log() {
    let region = freemap::Extent::new(51_200, 10_240);
    let metadata = freemap::Placement::new().region(region).reserve(100);
    let class = freemap::Class::METADATA;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let options = CreateOptions::new().placement(class, metadata);
    let opened = SpaceMapLog::create(FileDisk::open(&path).unwrap(), 100_000, &options).unwrap();
    assert_eq!(opened.allocator.free_blocks(), 99_900);
    let mut transaction = opened.allocator.begin();
    let got = transaction.allocate_with(&freemap::Request::new(10).class(class)).unwrap();
    assert!(region.contains(got[0].start));
    transaction.commit(&opened.log).unwrap();
    drop(opened);

    let disk = FileDisk::open_existing(&path).unwrap();
    let opened = SpaceMapLog::open(disk, &OpenOptions::new().placement(class, metadata)).unwrap();
    assert_eq!(opened.allocator.free_blocks(), 99_890);
    assert_eq!(opened.allocator.is_allocated(got[0]), Ok(true));
    drop(opened);

    let wrong = CreateOptions::new()
        .overwrite()
        .placement(class, freemap::Placement::new().region(freemap::Extent::new(7, 9)));
    let disk = FileDisk::open_existing(&path).unwrap();
    assert!(SpaceMapLog::create(disk, 100_000, &wrong).is_err());
    let disk = FileDisk::open_existing(&path).unwrap();
    let opened = SpaceMapLog::open(disk, &OpenOptions::new()).unwrap();
    assert_eq!(opened.allocator.free_blocks(), 99_990, "nothing was overwritten");
}
