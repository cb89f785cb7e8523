//! Calls beside a disk that is slow, panics, or is not asked: what waits, what is in doubt, what is queued.

use std::future::IntoFuture;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use super::sim::SimDisk;
use super::{bitmap, commit, small};
use crate::allocator::Allocator;
use crate::stores::log::disk::Disk;
use crate::stores::log::record::RANGE_BLOCKS;
use crate::stores::log::{
    Authority, CommitError, Committing, CreateOptions, Opened, Pending, SpaceMapLog,
};
use crate::transaction::Frozen;
use crate::transaction::store::Store;
use crate::values::extent::Extent;
use crate::values::lsn::Lsn;

/// A disk whose writes and flushes stop until they are let through.
#[derive(Default)]
struct Gate {
    disk: SimDisk,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    shut: Option<(Stop, u32)>,
    /// Something has stopped.
    stopped: bool,
    /// What is let through panics, once.
    panics: bool,
}

/// What is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Write,
    Sync,
}

impl Gate {
    /// Stops the `number`-th of its kind from now, counting from 1. A test that fails must not leave others
    /// waiting, so the end of what comes back opens the gate.
    fn shut_after(&self, stop: Stop, number: u32) -> Shut<'_> {
        self.state.lock().expect("no panic under it").shut = Some((stop, number));
        Shut(self)
    }

    fn shut(&self, stop: Stop) -> Shut<'_> {
        self.shut_after(stop, 1)
    }

    fn wait_until_stopped(&self) {
        let state = self.state.lock().expect("no panic under it");
        drop(self.changed.wait_while(state, |state| !state.stopped));
    }

    fn is_stopped(&self) -> bool {
        self.state.lock().expect("no panic under it").stopped
    }

    fn open(&self, panics: bool) {
        let mut state = self.state.lock().expect("no panic under it");
        (state.shut, state.panics) = (None, panics);
        self.changed.notify_all();
    }

    fn pass(&self, stop: Stop) {
        let mut state = self.state.lock().expect("no panic under it");
        if let Some((_, left)) = state.shut.as_mut().filter(|(of, _)| *of == stop) {
            *left = left.saturating_sub(1);
        }
        if state.shut == Some((stop, 0)) {
            state.stopped = true;
            self.changed.notify_all();
            state = self.changed.wait_while(state, |state| state.shut.is_some()).expect("no panic");
            state.stopped = false;
        }
        let panics = std::mem::take(&mut state.panics);
        drop(state);
        if panics {
            std::panic::resume_unwind(Box::new("a bug in the disk"));
        }
    }
}

struct Shut<'a>(&'a Gate);

impl Drop for Shut<'_> {
    fn drop(&mut self) {
        self.0.state.lock().expect("no panic under it").shut = None;
        self.0.changed.notify_all();
    }
}

impl Disk for Gate {
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
        self.disk.write(offset, bytes)?;
        self.pass(Stop::Write);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.pass(Stop::Sync);
        self.disk.sync()
    }

    fn name(&self) -> String {
        "a gate".to_string()
    }
}

fn gate(options: &CreateOptions) -> (Arc<Gate>, Opened) {
    let disk = Arc::new(Gate::default());
    let opened = SpaceMapLog::create(disk.clone(), 2 * RANGE_BLOCKS, options).expect("empty");
    (disk, opened)
}

fn block(opened: &Opened, block: u64) -> Frozen {
    let mut transaction = opened.allocator.begin();
    transaction.mark_allocated(Extent::new(block, 1)).expect("free");
    transaction.freeze()
}

fn submit(opened: &Opened, at: u64) -> Pending {
    opened.log.submit(block(opened, at)).expect("room")
}

/// Everything that reads memory alone; with numbers that are there.
fn look(opened: &Opened, blocks: u64) {
    let log = &opened.log;
    assert_eq!((log.blocks(), log.uuid()), (blocks, [7; 16]));
    assert!(log.max_blocks() >= blocks);
    let _ = log.figures();
    assert!(format!("{log:?}{opened:?}").contains("a gate"));
    let (_, _, _) = (log.last(), log.position(), log.mark());
    match log.authority() {
        Authority::Engine => {
            log.stable(Lsn(1)).expect("there");
            log.recorded(Lsn(1)).expect("there");
        }
        _ => assert!(matches!(log.stable(Lsn(1)), Err(CommitError::Mode))),
    }
}

#[test]
fn what_reads_memory_does_not_wait_for_a_commit() {
    for (authority, stop) in [
        (Authority::Log, Stop::Sync),
        (Authority::Log, Stop::Write),
        (Authority::Engine, Stop::Sync),
        (Authority::Engine, Stop::Write),
    ] {
        let (disk, opened) = gate(&small().authority(authority));
        commit(&opened, &[], &[Extent::new(0, 10)]);
        std::thread::scope(|scope| {
            let _shut = disk.shut(stop);
            let leader = scope.spawn(|| commit(&opened, &[], &[Extent::new(20, 10)]));
            disk.wait_until_stopped();
            look(&opened, 2 * RANGE_BLOCKS);
            assert_eq!(opened.log.last(), Lsn(1));
            let pending = submit(&opened, 50);
            opened.log.flush();
            assert!(disk.is_stopped(), "none of them did I/O");
            disk.open(false);
            assert_eq!(leader.join().ok(), Some(Lsn(2)));
            assert_eq!(pending.wait().ok(), Some(Lsn(3)));
        });
        for (change, blocks) in [(0, 2 * RANGE_BLOCKS), (1, 3 * RANGE_BLOCKS)] {
            std::thread::scope(|scope| {
                let _shut = disk.shut(stop);
                let work = scope.spawn(|| match change {
                    0 => opened.log.condense().is_ok(),
                    _ => opened.log.grow(&opened.allocator, blocks).is_ok(),
                });
                disk.wait_until_stopped();
                look(&opened, 2 * RANGE_BLOCKS);
                disk.open(false);
                assert_eq!(work.join().ok(), Some(true));
            });
            look(&opened, blocks);
        }
    }
}

/// A checkpoint held up absorbing, which does no I/O, for as long as it took.
#[test]
fn absorbing_does_not_wait_for_a_checkpoint_which_is_of_its_beginning() {
    for stop in [Stop::Write, Stop::Sync] {
        let (disk, opened) = gate(&small().authority(Authority::Piggyback));
        let absorb = |transaction: Frozen, at: u64| {
            opened.log.absorb(transaction, at..at + 1).expect("fits or waits");
        };
        absorb(block(&opened, 0), 0);
        absorb(block(&opened, RANGE_BLOCKS), 1);
        let expected = bitmap(&opened);
        let (second, third) = (block(&opened, 1), block(&opened, 2));
        std::thread::scope(|scope| {
            let _shut = disk.shut(stop);
            let checkpoint = scope.spawn(|| opened.log.checkpoint());
            disk.wait_until_stopped();
            absorb(third, 3);
            absorb(second, 2);
            let mut transaction = opened.allocator.begin();
            transaction.free(Extent::new(RANGE_BLOCKS, 1)).expect("committed");
            absorb(transaction.freeze(), 4);
            opened.log.skip(7..9).expect("waits");
            look(&opened, 2 * RANGE_BLOCKS);
            assert_eq!((opened.log.position(), opened.log.figures().waiting), (5, 1));
            assert!(disk.is_stopped(), "none of them did I/O");
            disk.open(false);
            checkpoint.join().expect("no panic").expect("a healthy disk");
        });
        let found = super::open(disk.disk.bytes()).expect("intact");
        assert_eq!((found.position, bitmap(&found)), (2, expected), "as it was at the beginning");
        opened.log.verify().expect("disk and memory agree");
        opened.log.checkpoint().expect("a healthy disk");
        let found = super::open(disk.disk.bytes()).expect("intact");
        assert_eq!((found.position, bitmap(&found)), (5, bitmap(&opened)));
    }
}

/// What is absorbed beside a checkpoint that fails is in the next one.
#[test]
fn a_failed_checkpoint_forgets_no_change() {
    use super::sim::Operation;
    for (stop, operation) in [(Stop::Write, Operation::Write), (Stop::Sync, Operation::Write)] {
        for number in 1..8 {
            let (disk, opened) = gate(&small().authority(Authority::Piggyback));
            opened.log.absorb(block(&opened, 0), 0..1).expect("fits");
            opened.log.checkpoint().expect("a healthy disk");
            opened.log.absorb(block(&opened, RANGE_BLOCKS), 1..2).expect("fits");
            std::thread::scope(|scope| {
                let _shut = disk.shut_after(stop, number);
                let checkpoint = scope.spawn(|| opened.log.checkpoint());
                while !disk.is_stopped() && !checkpoint.is_finished() {
                    std::thread::yield_now();
                }
                disk.disk.refuse(operation, io::ErrorKind::StorageFull);
                opened.log.absorb(block(&opened, 1), 2..3).expect("fits");
                disk.open(false);
                drop(checkpoint.join());
            });
            let again = opened.log.checkpoint().or_else(|_| opened.log.checkpoint());
            again.expect("room again");
            let found = super::open(disk.disk.bytes()).expect("intact");
            assert_eq!((found.position, bitmap(&found)), (3, bitmap(&opened)));
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum How {
    Submit,
    Commit,
}

/// A panic in the disk, after the bytes were down, under another thread: it was told as "not committed", and the
/// object that the transaction deletes was in use in memory and gone after a restart.
#[test]
fn a_panic_in_the_disk_leaves_doubt_to_all_whose_work_was_taken() {
    for stop in [Stop::Write, Stop::Sync] {
        for (how, flusher) in
            [(How::Submit, true), (How::Commit, true), (How::Submit, false), (How::Commit, false)]
        {
            let (disk, opened) = gate(&small());
            let object = Extent::new(0, 8);
            commit(&opened, &[], &[object]);
            let flusher = flusher.then(|| opened.log.start_flusher().expect("a thread"));
            if flusher.is_some() {
                // It is there when it has done something.
                drop(submit(&opened, 9000));
                while opened.log.last() < Lsn(2) {
                    std::thread::yield_now();
                }
            }
            let free = opened.allocator.free_blocks();
            let told = std::thread::scope(|scope| {
                let _shut = disk.shut(stop);
                let committer = scope.spawn(|| {
                    let mut transaction = opened.allocator.begin();
                    transaction.allocate(5).expect("room");
                    transaction.free(object).expect("committed");
                    match how {
                        How::Submit => {
                            let pending = opened.log.submit(transaction.freeze()).expect("room");
                            pending.wait().map_err(|failed| failed.into_error())
                        }
                        How::Commit => {
                            transaction.commit(&opened.log).map_err(|failed| failed.into_error())
                        }
                    }
                });
                disk.wait_until_stopped();
                // Too late for the window that panics.
                let late = submit(&opened, 5000);
                disk.open(true);
                let told = committer.join();
                let late = late.wait().expect_err("the log refuses");
                assert!(matches!(late.error, CommitError::Refused(_)), "{how:?}: {late:?}");
                assert!(!opened.log.leaves_doubt(&late.error));
                told
            });
            // Without a flusher the committer itself panics.
            assert_eq!(told.is_err(), flusher.is_none());
            if let Ok(told) = told {
                let error = told.expect_err("a panic is no success");
                assert!(matches!(&error, CommitError::Panicked { file } if file == "a gate"));
                assert!(opened.log.leaves_doubt(&error));
            }
            drop(flusher);
            opened.allocator.collect();
            assert_eq!(opened.allocator.free_blocks(), free - 5, "{how:?}: nobody gets its blocks");
            super::open(disk.disk.bytes()).expect("either state");
        }
    }
}

/// Futures and dropped tickets whose leader dies are in doubt as well.
#[test]
fn a_panic_is_told_to_tasks_and_dropped_tickets() {
    let (disk, opened) = gate(&small());
    let free = opened.allocator.free_blocks();
    drop(submit(&opened, 0));
    let mut future = pin!(submit(&opened, 1).into_future());
    let mut context = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending());
    disk.open(true);
    assert!(catch_unwind(AssertUnwindSafe(|| opened.log.flush())).is_err());
    let Poll::Ready(Err(failed)) = future.as_mut().poll(&mut context) else { panic!("pending") };
    assert!(matches!(failed.error, CommitError::Panicked { .. }));
    drop(failed);
    assert_eq!(opened.allocator.free_blocks(), free - 2);
}

#[test]
fn the_queue_has_a_limit_which_is_an_answer() {
    let record = 12;
    for options in [small().max_queued(3), small().max_queued_bytes(3 * record)] {
        let (_, opened) = gate(&options);
        let pending: Vec<Pending> = (0..3).map(|at| submit(&opened, at)).collect();
        let failed = opened.log.submit(block(&opened, 3)).expect_err("full");
        assert!(
            matches!(failed.error, CommitError::QueueFull { transactions: 3, bytes: 36 }),
            "{failed:?}"
        );
        assert_eq!(failed.transaction.allocated().collect::<Vec<_>>(), [Extent::new(3, 1)]);
        // A thread that waits for its result is no part of it.
        let lsn = failed.transaction.commit(&opened.log).expect("a healthy disk");
        assert_eq!(lsn, Lsn(4));
        assert!(pending.into_iter().all(|pending| pending.wait().is_ok()), "taken along");
        // One that is larger than the limit goes alone.
        let mut large = opened.allocator.begin();
        (0..100).for_each(|at| large.mark_allocated(Extent::new(100 + 2 * at, 1)).expect("free"));
        let large = opened.log.submit(large.freeze()).expect("alone");
        assert_eq!(large.wait().ok(), Some(Lsn(5)));
    }
}

#[test]
fn who_waits_for_room_works_if_nobody_else_does() {
    let (_, opened) = gate(&small().max_queued(2));
    let mut all = Vec::new();
    for at in 0..10 {
        all.push(opened.log.submit_waiting(block(&opened, at)).expect("room sometime"));
    }
    assert_eq!(opened.log.last(), Lsn(8));
    for (pending, lsn) in all.into_iter().zip(1..) {
        assert_eq!(pending.wait().ok(), Some(Lsn(lsn)));
    }
}

#[test]
fn who_waits_for_room_is_told_of_it() {
    for flusher in [true, false] {
        let (disk, opened) = gate(&small().max_queued(1));
        let flusher = flusher.then(|| opened.log.start_flusher().expect("a thread"));
        std::thread::scope(|scope| {
            let _shut = disk.shut(Stop::Sync);
            let leader = scope.spawn(|| commit(&opened, &[], &[Extent::new(0, 1)]));
            disk.wait_until_stopped();
            let queued = submit(&opened, 1);
            let waiting =
                scope.spawn(|| opened.log.submit_waiting(block(&opened, 2)).map(Pending::wait));
            assert!(opened.log.submit(block(&opened, 3)).is_err());
            disk.open(false);
            assert_eq!(leader.join().ok(), Some(Lsn(1)));
            assert!(waiting.join().expect("no panic").expect("room").is_ok());
            assert_eq!(queued.wait().ok(), Some(Lsn(2)));
        });
        drop(flusher);
        assert_eq!(opened.log.last(), Lsn(3));
    }
}

/// A request that was cancelled left blocks that nobody knew of.
#[test]
fn what_nobody_writes_yet_can_be_taken_back() {
    let (disk, opened) = gate(&small().max_queued(2));
    let free = opened.allocator.free_blocks();
    let (first, second) = (submit(&opened, 0), submit(&opened, 1));
    drop(first.cancel().expect("queued"));
    assert_eq!(opened.allocator.free_blocks(), free - 1);
    let third = submit(&opened, 0);
    drop(third.into_future().cancel().expect("queued"));
    let second = std::thread::scope(|scope| {
        let _shut = disk.shut(Stop::Sync);
        let leader = scope.spawn(|| opened.log.flush());
        disk.wait_until_stopped();
        let second = second.cancel().expect_err("being written");
        disk.open(false);
        leader.join().expect("no panic");
        second.cancel().expect_err("written")
    });
    assert_eq!(second.wait().ok(), Some(Lsn(1)));
    assert_eq!((opened.log.last(), opened.allocator.free_blocks()), (Lsn(1), free - 1));
}

/// An executor that works at once, on the thread that wakes it.
struct Inline {
    log: SpaceMapLog,
    allocator: Allocator,
    how: fn(&Arc<Self>),
    future: Mutex<Option<Committing>>,
    rounds: AtomicU32,
}

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        let future = self.future.lock().expect("no panic").take();
        if let Some(mut future) = future {
            let poll = pin!(&mut future).poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(poll, Poll::Ready(Ok(_))), "woken with the result");
        }
        if self.rounds.fetch_sub(1, SeqCst) > 0 {
            (self.how)(&self);
        }
    }
}

impl Inline {
    fn frozen(&self) -> Frozen {
        let mut transaction = self.allocator.begin();
        transaction.allocate(1).expect("room");
        transaction.freeze()
    }

    /// Submits, to be woken.
    fn submit(self: &Arc<Self>) {
        let mut future = self.log.submit(self.frozen()).expect("room").into_future();
        let waker = Waker::from(self.clone());
        assert!(pin!(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
        *self.future.lock().expect("no panic") = Some(future);
    }
}

/// Commits, waits and flushes from inside a waker, on the thread of a flusher or of whoever flushes: a flusher
/// waited for itself.
#[test]
fn wakers_may_commit() {
    let ways: [fn(&Arc<Inline>); 5] = [
        |it| {
            let mut transaction = it.allocator.begin();
            transaction.allocate(1).expect("room");
            transaction.commit(&it.log).map(drop).expect("a healthy disk");
        },
        |it| {
            let pending = it.log.submit(it.frozen()).expect("room");
            pending.wait().map(drop).expect("a healthy disk");
        },
        |it| {
            drop(it.log.submit(it.frozen()).expect("room"));
            it.log.flush();
        },
        |it| {
            drop(it.log.submit(it.frozen()).expect("room"));
            drop(it.log.submit_waiting(it.frozen()).expect("room sometime"));
            it.log.flush();
        },
        |it| it.log.condense().expect("a healthy disk"),
    ];
    for how in ways {
        for flusher in [true, false] {
            let (_, opened) = gate(&small().max_queued(1));
            let (log, allocator) = (opened.log.clone(), opened.allocator.clone());
            let (future, rounds) = (Mutex::new(None), AtomicU32::new(1));
            let inline = Arc::new(Inline { log, allocator, how, future, rounds });
            inline.submit();
            let flusher = flusher.then(|| opened.log.start_flusher().expect("a thread"));
            if flusher.is_none() {
                opened.log.flush();
            }
            drop(flusher);
            assert!(inline.future.lock().expect("no panic").is_none(), "never woken");
        }
    }
}

/// Each transaction begins the next one when it is done, inside its waker: that is a loop, and no recursion.
#[test]
fn wakers_that_commit_for_ever_need_no_stack() {
    let ways: [fn(&Arc<Inline>); 3] = [
        |it| {
            it.submit();
            it.log.flush();
        },
        |it| {
            it.submit();
            let mut transaction = it.allocator.begin();
            transaction.allocate(1).expect("room");
            transaction.commit(&it.log).map(drop).expect("a healthy disk");
        },
        Inline::submit,
    ];
    for (index, how) in ways.into_iter().enumerate() {
        for flusher in [true, false] {
            if index == 2 && !flusher {
                continue; // nobody would flush
            }
            let (_, opened) = gate(&small().max_queued(4));
            let (log, allocator) = (opened.log.clone(), opened.allocator.clone());
            let (future, rounds) = (Mutex::new(None), AtomicU32::new(3000));
            let inline = Arc::new(Inline { log, allocator, how, future, rounds });
            inline.submit();
            let flusher = flusher.then(|| opened.log.start_flusher().expect("a thread"));
            if flusher.is_none() {
                opened.log.flush();
            }
            while inline.rounds.load(SeqCst) != u32::MAX {
                std::thread::yield_now();
            }
            drop(flusher);
            assert!(opened.log.last() > Lsn(3000));
        }
    }
}

/// The task of a waker that stood behind one that panicked was never woken.
#[test]
fn one_waker_that_panics_keeps_no_other_from_being_woken() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            std::panic::resume_unwind(Box::new("a bug in the executor"));
        }
    }
    struct Counts(AtomicU32);
    impl Wake for Counts {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    let (_, opened) = gate(&small());
    let counts = Arc::new(Counts(AtomicU32::new(0)));
    let mut futures: Vec<_> =
        (0..6).map(|at| Box::pin(submit(&opened, at).into_future())).collect();
    for (index, future) in futures.iter_mut().enumerate() {
        let waker: Waker =
            if index % 2 == 0 { Arc::new(Panics).into() } else { counts.clone().into() };
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    assert!(catch_unwind(AssertUnwindSafe(|| opened.log.flush())).is_err());
    assert_eq!(counts.0.load(SeqCst), 3);
    assert_eq!(commit(&opened, &[], &[Extent::new(50, 1)]), Lsn(7));
}

/// A flusher that is dropped by a waker, on its own thread.
#[test]
fn a_waker_may_drop_the_flusher() {
    struct Drops(Mutex<Option<crate::stores::log::Flusher>>, AtomicU32);
    impl Wake for Drops {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().expect("no panic").take());
            self.1.store(1, SeqCst);
        }
    }
    let (disk, opened) = gate(&small());
    let _shut = disk.shut(Stop::Sync);
    let drops = Arc::new(Drops(Mutex::new(None), AtomicU32::new(0)));
    let mut future = Box::pin(submit(&opened, 0).into_future());
    let waker = Waker::from(drops.clone());
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    *drops.0.lock().expect("no panic") = Some(opened.log.start_flusher().expect("a thread"));
    disk.wait_until_stopped();
    disk.open(false);
    while drops.1.load(SeqCst) == 0 {
        std::thread::yield_now();
    }
    assert_eq!(commit(&opened, &[], &[Extent::new(50, 1)]), Lsn(2));
}
