//! Bugs that were found, each with its story.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::task::{Context, Waker};

use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;

use super::sim::{Operation, Refusal, SimDisk};
use super::{SLOTS, bitmap, commit, open, scattered, small};
use crate::stores::log::disk::Disk;
use crate::stores::log::format::PAGE;
use crate::stores::log::record::RANGE_BLOCKS;
use crate::stores::log::{Authority, CommitError, OpenOptions, Opened, SpaceMapLog};
use crate::values::extent::Extent;
use crate::values::lsn::Lsn;

/// A disk with a trick.
#[derive(Default)]
struct Tricky {
    disk: SimDisk,
    trick: AtomicU8,
}

/// The next long write loses its first sector and fails.
const LOSE_FIRST_SECTOR: u8 = 1;
/// The next flush panics.
const PANIC: u8 = 2;
/// Flushes wait until somebody takes the trick away.
const WAIT: u8 = 3;
/// A flush waits.
const WAITING: u8 = 4;

impl Disk for Tricky {
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
        if bytes.len() > 4096 && self.trick.load(SeqCst) == LOSE_FIRST_SECTOR {
            self.trick.store(0, SeqCst);
            self.disk.write(offset + 512, &bytes[512..])?;
            return Err(io::Error::other("half of it"));
        }
        self.disk.write(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        match self.trick.load(SeqCst) {
            PANIC => {
                self.trick.store(0, SeqCst);
                std::panic::resume_unwind(Box::new("a bug in the disk"));
            }
            WAIT => {
                self.trick.store(WAITING, SeqCst);
                while self.trick.load(SeqCst) == WAITING {
                    std::thread::yield_now();
                }
            }
            _ => {}
        }
        self.disk.sync()
    }

    fn name(&self) -> String {
        "a tricky disk".to_string()
    }
}

fn tricky(blocks: u64) -> (Arc<Tricky>, Opened) {
    let disk = Arc::new(Tricky::default());
    let opened = SpaceMapLog::create(disk.clone(), blocks, &small()).expect("an empty disk");
    (disk, opened)
}

fn engine(authority: Authority) -> (Arc<SimDisk>, Opened) {
    let disk = Arc::new(SimDisk::default());
    let options = small().authority(authority);
    let opened =
        SpaceMapLog::create(disk.clone(), 4 * RANGE_BLOCKS, &options).expect("an empty disk");
    (disk, opened)
}

fn until(disk: &Arc<SimDisk>, lsn: u64) -> Opened {
    SpaceMapLog::open(disk.clone(), &OpenOptions::new().recover_until(Lsn(lsn)))
        .expect("can be taken back")
}

/// Of a failed window of two frames only the first was made void. When its transaction was repeated,
/// the same bytes came to the same place, and the second frame, which had been reported as not
/// committed, continued it.
#[test]
fn no_frame_of_a_failed_window_comes_back() {
    let (disk, opened) = tricky(4 * RANGE_BLOCKS);
    commit(&opened, &[], &[Extent::new(100_000, 10)]);
    let first = opened.log.submit(scattered(&opened, 0..2040)).expect("fits");
    let mut second = scattered(&opened, 40_000..42_000).reopen();
    second.free(Extent::new(100_000, 10)).expect("committed");
    let second = opened.log.submit(second.freeze()).expect("fits");
    disk.trick.store(LOSE_FIRST_SECTOR, SeqCst);
    opened.log.flush();
    let first = first.wait().expect_err("half a write");
    let given_up = second.wait().expect_err("half a write");
    assert!(matches!(given_up.error, CommitError::Write(_)));
    drop(given_up);
    first.transaction.commit(&opened.log).expect("a healthy disk");
    let again = open(disk.disk.bytes()).expect("intact");
    assert_eq!(again.log.last(), Lsn(2));
    assert_eq!(bitmap(&again), bitmap(&opened));
}

/// Condensing did not look whether its frames had room, and the reserve for them was too small for
/// many ranges in a short ring: it overwrote the tail.
#[test]
fn condensing_many_ranges_stays_in_its_reserve() {
    let ranges = 60_000;
    let disk = Arc::new(SimDisk::default());
    let options = small().sector(4096).authority(Authority::Engine);
    let opened = SpaceMapLog::create(disk, ranges * RANGE_BLOCKS, &options).expect("an empty disk");
    commit(&opened, &[], &[Extent::new(0, ranges * RANGE_BLOCKS)]);
    for block in 0.. {
        let mut transaction = opened.allocator.begin();
        transaction.free(Extent::new(2 * block, 1)).expect("committed");
        if transaction.commit(&opened.log).is_err() {
            break;
        }
    }
    opened.log.stable(opened.log.last()).expect("there");
    commit(&opened, &[Extent::new(1_000_001, 1)], &[]);
    opened.log.verify().expect("disk and memory agree");
}

/// The transaction that undoes several was held to the size of one, and to the room that commits may
/// use, so that a log could not be opened at the point that the engine needed.
#[test]
fn whatever_was_not_called_stable_can_be_taken_back() {
    let (disk, opened) = engine(Authority::Engine);
    let expected = bitmap(&opened);
    for round in 0..3 {
        let transaction = scattered(&opened, 3000 * round..3000 * (round + 1)).reopen();
        transaction.commit(&opened.log).expect("fits");
    }
    drop(opened);
    let opened = until(&disk, 0);
    assert_eq!(bitmap(&opened), expected);

    let (disk, opened) = engine(Authority::Engine);
    commit(&opened, &[], &[Extent::new(1, 1)]);
    let expected = bitmap(&opened);
    for block in 1.. {
        let mut transaction = opened.allocator.begin();
        transaction.mark_allocated(Extent::new(2 * block, 1)).expect("free");
        if let Err(failed) = transaction.commit(&opened.log) {
            assert!(matches!(failed.error, CommitError::Full { .. }));
            break;
        }
    }
    drop(opened);
    for _ in 0..100 {
        assert_eq!(bitmap(&until(&disk, 1)), expected, "as often as it takes");
    }
}

/// An empty transaction has a number but no records. It was left out of those that images must not
/// know of, and the engine could not go back to before it.
#[test]
fn an_empty_transaction_is_one_too() {
    let (disk, opened) = engine(Authority::Engine);
    commit(&opened, &[], &[Extent::new(0, 10)]);
    let empty = opened.log.submit(opened.allocator.begin().freeze()).expect("fits");
    assert_eq!(empty.wait().ok(), Some(Lsn(2)));
    commit(&opened, &[], &[Extent::new(70_000, 10)]);
    drop(opened);
    let opened = until(&disk, 1);
    opened.log.condense().expect("a healthy disk");
    drop(opened);
    assert_eq!(until(&disk, 1).allocator.free_blocks(), 4 * RANGE_BLOCKS - 10);
}

/// Blocks freed by one replayed transaction were still in the quarantine when the next one allocated
/// them.
#[test]
fn replaying_reuses_what_it_freed() {
    let (disk, opened) = engine(Authority::Piggyback);
    let extent = Extent::new(0, 4 * RANGE_BLOCKS);
    let mut own_log = Vec::new();
    for position in 1..4 {
        let mut transaction = opened.allocator.begin();
        match position {
            2 => transaction.free(extent).expect("allocated"),
            _ => transaction.allocate(extent.len).map(drop).expect("everything"),
        }
        let frozen = transaction.freeze();
        own_log.push((position, frozen.delta().clone()));
        opened.log.absorb(frozen, position - 1..position).expect("fits");
    }
    drop(opened);
    let opened = open(disk.bytes()).expect("intact");
    for (position, delta) in own_log {
        opened.replay(&delta, position - 1..position).expect("as it happened");
    }
    assert_eq!(opened.allocator.free_blocks(), 0);
}

/// After a panic below a commit, others than commits went on with a state that was half changed, and
/// made it durable.
#[test]
fn after_a_panic_everything_is_refused() {
    let (disk, opened) = tricky(RANGE_BLOCKS);
    commit(&opened, &[], &[Extent::new(0, 10)]);
    let expected = bitmap(&opened);
    disk.trick.store(PANIC, SeqCst);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut transaction = opened.allocator.begin();
        transaction.free(Extent::new(0, 5)).expect("committed");
        transaction.mark_allocated(Extent::new(100, 7)).expect("free");
        drop(transaction.commit(&opened.log));
    }));
    assert!(panicked.is_err());
    assert!(matches!(opened.log.condense(), Err(CommitError::Refused(_))));
    assert!(matches!(opened.log.idle(), Err(CommitError::Refused(_))));
    assert!(opened.log.grow(&opened.allocator, 2 * RANGE_BLOCKS).is_err());
    // The panic came after the write: like a failed flush.
    let again = open(disk.disk.bytes()).expect("intact");
    assert!(again.log.last() == Lsn(2) || bitmap(&again) == expected);
}

/// A flusher that panicked was still counted, and everybody waited for it for ever.
#[test]
fn a_dead_flusher_is_not_waited_for() {
    let (disk, opened) = tricky(RANGE_BLOCKS);
    let flusher = opened.log.start_flusher().expect("a thread");
    disk.trick.store(PANIC, SeqCst);
    let commit = || {
        let mut transaction = opened.allocator.begin();
        transaction.allocate(1).expect("room");
        transaction.commit(&opened.log).is_ok()
    };
    // Either the flusher meets the panic, or we, if it is not there yet.
    assert!(!catch_unwind(AssertUnwindSafe(commit)).unwrap_or(false));
    assert!(!commit());
    drop(flusher);
}

/// Dropping one of two flushers ended both.
#[test]
fn a_flusher_outlives_another() {
    let (_, opened) = tricky(RANGE_BLOCKS);
    let first = opened.log.start_flusher().expect("a thread");
    let second = opened.log.start_flusher().expect("a thread");
    drop(first);
    let mut transaction = opened.allocator.begin();
    transaction.allocate(1).expect("room");
    let pending = opened.log.submit(transaction.freeze()).expect("fits");
    while opened.log.last() < Lsn(1) {
        std::thread::yield_now();
    }
    assert_eq!(pending.wait().ok(), Some(Lsn(1)));
    drop(second);
}

/// A flush asked for while another was under way did nothing, and nobody did it later.
#[test]
fn a_flush_during_a_flush_is_not_forgotten() {
    let (disk, opened) = tricky(RANGE_BLOCKS);
    disk.trick.store(WAIT, SeqCst);
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| commit(&opened, &[], &[Extent::new(0, 1)]));
        while disk.trick.load(SeqCst) != WAITING {
            std::thread::yield_now();
        }
        let mut transaction = opened.allocator.begin();
        transaction.mark_allocated(Extent::new(50, 1)).expect("free");
        let pending = opened.log.submit(transaction.freeze()).expect("fits");
        opened.log.flush();
        disk.trick.store(0, SeqCst);
        assert_eq!(leader.join().ok(), Some(Lsn(1)));
        let mut future = Box::pin(pending.into_future());
        let ready = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(ready.is_ready());
    });
}

/// A waker was dropped under the lock of the group: one that owned another ticket waited for itself.
/// And one that panicked took the results of others with it.
#[test]
fn wakers_are_foreign_code() {
    struct Owner(Option<Box<crate::Committing>>, bool);
    impl std::task::Wake for Owner {
        fn wake(self: Arc<Self>) {
            // Not before the ticket that it owns has been dropped.
            if self.1 && self.0.is_none() {
                std::panic::resume_unwind(Box::new("a bug in the executor"));
            }
        }
    }
    let (_, opened) = tricky(RANGE_BLOCKS);
    let submit = || {
        let mut transaction = opened.allocator.begin();
        transaction.allocate(1).expect("room");
        opened.log.submit(transaction.freeze()).expect("fits")
    };
    let mut future = Box::pin(submit().into_future());
    let other = Box::new(submit().into_future());
    let owner = Waker::from(Arc::new(Owner(Some(other), false)));
    assert!(future.as_mut().poll(&mut Context::from_waker(&owner)).is_pending());
    drop(owner);
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());

    let panics = Waker::from(Arc::new(Owner(None, true)));
    assert!(future.as_mut().poll(&mut Context::from_waker(&panics)).is_pending());
    drop(submit());
    assert!(catch_unwind(AssertUnwindSafe(|| opened.log.flush())).is_err());
    assert_eq!(opened.log.last(), Lsn(3));
    assert_eq!(opened.allocator.free_blocks(), RANGE_BLOCKS - 3, "what is durable stays allocated");
}

/// The newest superblock may be in the system's cache alone when an opening reads it, if a process was
/// killed before its flush or an opening failed. The next opening wrote over the slots of the one before,
/// and with the power gone in the middle of that there was none, or an older one.
#[test]
fn an_opening_that_failed_is_no_harm_to_the_next() {
    let disk = Arc::new(SimDisk::default());
    let opened = SpaceMapLog::create(disk.clone(), RANGE_BLOCKS, &small()).expect("an empty disk");
    let mut last = Lsn(0);
    for block in 0..3 {
        last = commit(&opened, &[], &[Extent::new(block, 1)]);
    }
    drop(opened);
    let bytes = disk.bytes();
    let mut rng = Pcg64Mcg::seed_from_u64(5);
    for (first, second) in (0..6).flat_map(|first| (1..7).map(move |second| (first, second))) {
        let disk = Arc::new(SimDisk::new(bytes.clone()));
        let error = io::ErrorKind::Other;
        disk.refuse_later(Refusal {
            operation: Operation::Change,
            after: first,
            error,
            arrives: 1,
        });
        let _failed = SpaceMapLog::open(disk.clone(), &OpenOptions::new());
        disk.calm();
        disk.crash_after(second, 100);
        let _cut_short = SpaceMapLog::open(disk.clone(), &OpenOptions::new());
        for _ in 0..20 {
            let disk = Arc::new(SimDisk::new(disk.after_crash(&mut rng)));
            SpaceMapLog::open(disk, &OpenOptions::new().expect_lsn(last))
                .unwrap_or_else(|error| panic!("{first}, {second}: {error}"));
        }
    }
}

/// Under piggyback, images are all there is. After a recovery the older image of a range was taken for one that
/// needs nothing, so that the tail passed the frame with the newer one before both copies of the directory had it;
/// and the tail counted blocks that were absorbed and in no checkpoint. Two power failures and the log opened in an
/// older state than its position said, or not at all. Here are all such pairs: the power fails at each operation of
/// a checkpoint, then at each of what follows, and of what was not flushed nothing, all, the superblocks alone or all
/// but them got through.
#[test]
fn two_crashes_of_checkpoints_leave_the_state_that_the_position_says() {
    let (x, y, w) = (Extent::new(0, 10), Extent::new(40_000, 10), Extent::new(500, 10));
    let absorb = |opened: &Opened, allocated, freed: &[Extent], span: std::ops::Range<u64>| {
        let mut transaction = opened.allocator.begin();
        transaction.mark_allocated(allocated).expect("free");
        freed.iter().for_each(|&extent| transaction.free(extent).expect("allocated"));
        opened.log.absorb(transaction.freeze(), span).expect("fits");
    };
    let is_superblock = |sector: usize| {
        SLOTS.iter().any(|slot| (slot / 512..(slot + PAGE) / 512).contains(&sector))
    };
    let survivors: [&dyn Fn(usize) -> bool; 4] =
        [&|_| false, &|_| true, &is_superblock, &|sector| !is_superblock(sector)];
    let (disk, opened) = engine(Authority::Piggyback);
    absorb(&opened, x, &[], 0..1);
    opened.log.checkpoint().expect("a healthy disk");
    absorb(&opened, y, &[x], 1..2);
    drop(opened);
    let check = |bytes: Vec<u8>, least: u64| {
        let opened = open(bytes).expect("whatever the power failures left");
        assert!((least..=3).contains(&opened.position), "{}, not {least}", opened.position);
        let used = [x, y, w][opened.position as usize - 1];
        assert!(opened.check([used]).is_clean(), "position {}", opened.position);
        opened.log.verify().expect("disk and memory agree");
        opened.position
    };
    let start = disk.bytes();
    let mut crashes = 0;
    for first in 1..40 {
        for survive in survivors {
            let disk = Arc::new(SimDisk::new(start.clone()));
            let opened = SpaceMapLog::open(disk.clone(), &OpenOptions::new()).expect("intact");
            absorb(&opened, y, &[x], 1..2);
            disk.crash_after(first, 255);
            let least = if opened.log.checkpoint().is_ok() { 2 } else { 1 };
            let over = !disk.has_crashed();
            drop(opened);
            let bytes = disk.after_losing(survive);
            let position = check(bytes.clone(), least);
            for second in 1..40 {
                let disk = Arc::new(SimDisk::new(bytes.clone()));
                disk.crash_after(second, 255);
                let mut least = position;
                if let Ok(opened) = SpaceMapLog::open(disk.clone(), &OpenOptions::new()) {
                    if position == 2 && second % 2 == 0 {
                        absorb(&opened, w, &[y], 2..3);
                        least += u64::from(opened.log.checkpoint().is_ok());
                    }
                    let _either = opened.log.idle();
                    let _either = opened.log.condense();
                }
                for survive in survivors {
                    check(disk.after_losing(survive), least);
                    crashes += 1;
                }
                if !disk.has_crashed() {
                    break;
                }
            }
            if over {
                assert!(crashes > 1000, "{crashes}");
                return;
            }
        }
    }
    panic!("a checkpoint ends");
}
