//! What happens between a commit and the reuse of what it freed: guards and quarantine (q), group
//! commit (g).

use std::sync::atomic::{AtomicBool, AtomicU8};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use freemap::epoch::Pin;
use freemap::group::{Group, Room, Ticket};
use freemap::quarantine::Quarantine;
use freemap::{Extent, Extents};
use loom::cell::Cell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{join, spawn};

/// What a block holds: the object, or whatever its next owner writes there.
const OBJECT: u64 = 1;
const REUSED: u64 = 2;

/// A block of the device. Nothing in it orders anything: that is up to the quarantine.
trait Block {
    fn new() -> Self;
    fn read(&self) -> u64;
    fn write(&self, value: u64);
}

/// A block whose reads and writes may overlap: a reader is caught by what it sees.
impl Block for AtomicUsize {
    fn new() -> Self {
        Self::new(OBJECT as usize)
    }
    fn read(&self) -> u64 {
        self.load(Relaxed) as u64
    }
    fn write(&self, value: u64) {
        self.store(value as usize, Relaxed);
    }
}

/// A block of which loom reports every overlap, also where no wrong value could be seen.
impl Block for Cell<u64> {
    fn new() -> Self {
        Self::new(OBJECT)
    }
    fn read(&self) -> u64 {
        self.get()
    }
    fn write(&self, value: u64) {
        self.set(value);
    }
}

/// An object on a device of three blocks: it lies in block 0 and has copies in the others already,
/// so that moving it is one relaxed store.
struct Device<B> {
    quarantine: Quarantine,
    /// Where the object is: the engine's metadata.
    place: AtomicUsize,
    blocks: [B; 3],
}

impl<B: Block + 'static> Device<B> {
    fn new(lanes: usize) -> Arc<Self> {
        let (place, blocks) = (AtomicUsize::new(0), std::array::from_fn(|_| B::new()));
        Arc::new(Self { quarantine: Quarantine::new(lanes), place, blocks })
    }

    /// The block of the object, for a reader.
    fn look_up(&self) -> &B {
        &self.blocks[self.place.load(Relaxed)]
    }

    fn read(&self, lane: usize) {
        let pin = self.quarantine.pin(lane);
        assert_eq!(self.look_up().read(), OBJECT, "read under a guard after its reuse");
        self.quarantine.unpin(pin);
    }

    /// Moves the object and retires the block where it was.
    fn replace(&self, old: u64, new: usize) {
        self.place.store(new, Relaxed);
        self.retire(old);
    }

    fn retire(&self, block: u64) {
        self.quarantine.retire(Extents::from_iter([Extent::new(block, 1)]));
    }

    /// Collects, and reuses what comes out at once.
    fn collect(&self) -> Vec<u64> {
        let mut out = Vec::new();
        self.quarantine.collect(usize::MAX, |extent| {
            self.blocks[extent.start as usize].write(REUSED);
            out.push(extent.start);
        });
        out
    }

    fn collect_thrice(&self) -> Vec<u64> {
        (0..3).flat_map(|_| self.collect()).collect()
    }
}

fn read_beside_a_move<B: Block + 'static>() {
    let device = Device::<B>::new(1);
    let reader = spawn(&device, |device| device.read(0));
    device.replace(0, 1);
    let mut out = device.collect();
    out.extend(device.collect());
    join(reader);
    out.extend(device.collect_thrice());
    assert_eq!(out, [0], "what nobody reads any more does not come out once");
    assert_eq!((device.quarantine.pinned(), device.quarantine.blocks()), (0, 0));
}

pub fn q1() {
    read_beside_a_move::<AtomicUsize>();
}

pub fn q1c() {
    read_beside_a_move::<Cell<u64>>();
}

pub fn q1m() {
    let device = Device::<Cell<u64>>::new(1);
    let reader = spawn(&device, |device| {
        device.collect();
        device.read(0);
    });
    device.replace(0, 1);
    device.collect();
    join(reader);
}

/// The epoch has moved on when the object moves, so that a reader may be counted two epochs behind.
pub fn q1l() {
    let device = Device::<Cell<u64>>::new(1);
    let reader = spawn(&device, |device| device.read(0));
    device.collect();
    device.collect();
    device.replace(0, 1);
    device.collect();
    device.collect();
    join(reader);
}

pub fn q2() {
    let device = Device::<Cell<u64>>::new(2);
    let first = spawn(&device, |device| device.read(0));
    let second = spawn(&device, |device| device.read(1));
    device.replace(0, 1);
    device.collect();
    device.collect();
    join(first);
    join(second);
}

pub fn q3() {
    let device = Device::<Cell<u64>>::new(1);
    let writer = spawn(&device, |device| {
        device.replace(0, 1);
        device.collect();
        device.collect();
    });
    let pin = device.quarantine.pin(0);
    let place = device.place.load(Relaxed);
    assert_eq!(device.blocks[place].read(), OBJECT, "read under a guard after its reuse");
    let other = spawn(&device, move |device| {
        assert_eq!(device.blocks[place].read(), OBJECT, "read under a guard after its reuse");
        device.quarantine.unpin(pin);
    });
    join(writer);
    join(other);
    assert_eq!(device.quarantine.pinned(), 0);
}

pub fn q4() {
    let device = Device::<Cell<u64>>::new(1);
    device.retire(0);
    let mut out = device.collect();
    let leaker = spawn(&device, |device| device.quarantine.pin(0));
    out.extend(device.collect());
    let _leaked = join(leaker);
    out.extend(device.collect());
    assert_eq!(out, [0], "a guard keeps what it cannot reach");
    device.retire(1);
    assert_eq!(device.collect_thrice(), [], "a guard that is still there was passed over");
    assert_eq!((device.quarantine.pinned(), device.quarantine.blocks()), (1, 1));
}

pub fn q5() {
    let device = Device::<Cell<u64>>::new(1);
    let reader = spawn(&device, |device| device.read(0));
    let other = spawn(&device, |device| {
        device.retire(2);
        device.collect()
    });
    device.replace(0, 1);
    let mut out = device.collect();
    out.extend(join(other));
    join(reader);
    out.extend(device.collect_thrice());
    out.sort_unstable();
    assert_eq!(out, [0, 2], "something retired came out twice or never");
}

pub fn q6() {
    fn next(device: &Device<Cell<u64>>, last: Pin) -> Pin {
        let next = device.quarantine.pin(0);
        device.quarantine.unpin(last);
        next
    }
    let device = Device::<Cell<u64>>::new(1);
    device.retire(0);
    let other = spawn(&device, |device| {
        let first = device.quarantine.pin(0);
        device.collect();
        next(device, first)
    });
    let mut mine = device.quarantine.pin(0);
    let mut out = device.collect();
    mine = next(&device, mine);
    let mut theirs = join(other);
    for _ in 0..3 {
        (mine, theirs) = (next(&device, mine), next(&device, theirs));
        out.extend(device.collect());
    }
    assert_eq!(device.quarantine.blocks(), 0, "guards that overlap without end hold up everything");
    assert_eq!(device.quarantine.pinned(), 2);
    device.quarantine.unpin(mine);
    device.quarantine.unpin(theirs);
}

/// The owner of the guard moves the object itself and reads on where it was; the other collects and
/// is late.
pub fn q7() {
    let device = Device::<Cell<u64>>::new(1);
    let late = spawn(&device, |device| device.collect());
    device.collect();
    let pin = device.quarantine.pin(0);
    let block = device.look_up();
    device.replace(0, 1);
    device.collect();
    assert_eq!(block.read(), OBJECT, "read under a guard after its reuse");
    device.quarantine.unpin(pin);
    join(late);
}

/// Work for a group: counts how often each item was worked on. A cell, so that loom reports two who
/// work at the same time.
struct Shop {
    group: Group<usize, usize>,
    stop: AtomicBool,
    done: Cell<[u8; 3]>,
}

impl Shop {
    fn new() -> Arc<Self> {
        let (stop, done) = (AtomicBool::new(false), Cell::new([0; 3]));
        Arc::new(Self { group: Group::new(), stop, done })
    }

    /// Whose queue has room for one who does not wait.
    fn narrow() -> Arc<Self> {
        let (stop, done) = (AtomicBool::new(false), Cell::new([0; 3]));
        let group = Group::with_room(Room { items: 1, bytes: 1 });
        Arc::new(Self { group, stop, done })
    }

    fn submit_waiting(&self, item: usize) -> Ticket<usize> {
        self.group.submit_waiting(item, 1, |items| self.work(items))
    }

    fn work(&self, items: Vec<usize>) -> Vec<usize> {
        let mut done = self.done.get();
        items.iter().for_each(|&item| done[item] += 1);
        self.done.set(done);
        items.into_iter().map(result_of).collect()
    }

    fn wait(&self, item: usize, ticket: &Ticket<usize>) {
        let result = self.group.wait(ticket, |items| self.work(items));
        assert_eq!(result, Some(result_of(item)), "somebody else's result");
    }

    fn commit(&self, item: usize) {
        self.wait(item, &self.group.submit(item, 1));
    }

    fn flush(&self) {
        self.group.flush(|items| self.work(items));
    }

    fn serve(&self) {
        self.group.serve(&self.stop, Duration::MAX, |items| self.work(items), || ());
    }

    fn poll(&self, ticket: &Ticket<usize>, waker: &Waker) -> Poll<Option<usize>> {
        self.group.poll(ticket, &mut Context::from_waker(waker))
    }

    /// Asserts that `item` has been worked on, although nobody waits for it now.
    fn is_done(&self, item: usize, ticket: &Ticket<usize>) {
        let result = self.poll(ticket, Waker::noop());
        assert_eq!(result, Poll::Ready(Some(result_of(item))), "left in the queue");
    }

    /// Asserts that the first `items` have been worked on, each once.
    fn settle(&self, items: usize) {
        let each = std::array::from_fn(|item| u8::from(item < items));
        assert_eq!(self.done.get(), each, "an item was worked on twice or never");
    }
}

fn result_of(item: usize) -> usize {
    10 + item
}

pub fn g1() {
    let shop = Shop::new();
    let other = spawn(&shop, |shop| shop.commit(1));
    shop.commit(0);
    join(other);
    shop.settle(2);
}

pub fn g2() {
    let shop = Shop::new();
    let first = spawn(&shop, |shop| shop.commit(1));
    let second = spawn(&shop, |shop| shop.commit(2));
    shop.commit(0);
    join(first);
    join(second);
    shop.settle(3);
}

pub fn g3() {
    let shop = Shop::new();
    let before = shop.group.submit(0, 1);
    let other = spawn(&shop, |shop| shop.commit(1));
    let beside = shop.group.submit(2, 1);
    join(other);
    shop.is_done(0, &before);
    shop.wait(2, &beside);
    shop.settle(3);
}

pub fn g4() {
    let shop = Shop::new();
    let other = spawn(&shop, |shop| shop.commit(0));
    let ticket = shop.group.submit(1, 1);
    shop.flush();
    join(other);
    shop.is_done(1, &ticket);
    shop.settle(2);
}

/// How often something was called or woken.
#[derive(Default)]
struct Count(AtomicU8);

impl Count {
    fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }
    fn get(&self) -> u8 {
        self.0.load(Relaxed)
    }
}

impl Wake for Count {
    fn wake(self: std::sync::Arc<Self>) {
        self.add();
    }
}

pub fn g5() {
    let shop = Shop::new();
    let other = spawn(&shop, |shop| shop.commit(1));
    let calls = std::sync::Arc::new(Count::default());
    let called = calls.clone();
    let then = move |result| {
        assert_eq!(result, Some(result_of(0)), "somebody else's result");
        called.add();
    };
    shop.group.detach(&shop.group.submit(0, 1), Box::new(then));
    join(other);
    shop.flush();
    assert_eq!(calls.get(), 1, "called twice or never");
    shop.settle(2);
}

pub fn g5w() {
    let shop = Shop::new();
    let other = spawn(&shop, |shop| shop.commit(1));
    let wakes = std::sync::Arc::new(Count::default());
    let ticket = shop.group.submit(0, 1);
    let early = shop.poll(&ticket, &wakes.clone().into());
    join(other);
    shop.flush();
    if early.is_pending() {
        assert_eq!(wakes.get(), 1, "woken twice or never");
        shop.is_done(0, &ticket);
    }
    shop.settle(2);
}

pub fn g6() {
    let shop = Shop::new();
    let flusher = spawn(&shop, Shop::serve);
    let other = spawn(&shop, |shop| shop.commit(1));
    shop.commit(0);
    join(other);
    shop.group.stop(&shop.stop);
    join(flusher);
    shop.settle(2);
}

pub fn g7() {
    let shop = Shop::new();
    let flusher = spawn(&shop, Shop::serve);
    let other = spawn(&shop, |shop| shop.commit(0));
    let ticket = shop.group.submit(1, 1);
    shop.group.stop(&shop.stop);
    join(flusher);
    join(other);
    shop.is_done(1, &ticket);
    shop.settle(2);
}

/// The flusher waits for the end of a leader who leaves it nothing to do.
pub fn g8() {
    let shop = Shop::new();
    let flusher = spawn(&shop, Shop::serve);
    let other = spawn(&shop, |shop| shop.commit(0));
    let ticket = shop.group.submit(1, 1);
    shop.flush();
    shop.group.stop(&shop.stop);
    join(flusher);
    join(other);
    shop.is_done(1, &ticket);
    shop.settle(2);
}

pub fn g9() {
    let shop = Shop::narrow();
    let other = spawn(&shop, |shop| shop.commit(0));
    let beside = shop.group.submit(1, 1);
    let last = shop.submit_waiting(2);
    shop.flush();
    join(other);
    shop.is_done(1, &beside);
    shop.is_done(2, &last);
    shop.settle(3);
}

pub fn g10() {
    let shop = Shop::narrow();
    let flusher = spawn(&shop, Shop::serve);
    let first = shop.group.submit(0, 1);
    let last = shop.submit_waiting(1);
    shop.group.stop(&shop.stop);
    join(flusher);
    shop.is_done(0, &first);
    shop.flush();
    shop.is_done(1, &last);
    shop.settle(2);
}

pub fn g11() {
    let shop = Shop::narrow();
    let flusher = spawn(&shop, Shop::serve);
    let first = shop.group.submit(0, 1);
    let other = spawn(&shop, |shop| drop(shop.submit_waiting(2)));
    let withdrawn = shop.group.withdraw(&first);
    join(other);
    shop.group.stop(&shop.stop);
    join(flusher);
    shop.flush();
    let done = [u8::from(!withdrawn), 0, 1];
    assert_eq!(shop.done.get(), done, "withdrawn and done, or neither");
}

/// Commits on the thread that wakes it.
struct Commits(Arc<Shop>);

impl Wake for Commits {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.commit(1);
    }
}

pub fn g12() {
    let shop = Shop::new();
    let ticket = shop.group.submit(0, 1);
    let waker = Waker::from(std::sync::Arc::new(Commits(shop.clone())));
    assert!(shop.poll(&ticket, &waker).is_pending());
    drop(waker);
    let flusher = spawn(&shop, Shop::serve);
    shop.commit(2);
    shop.group.stop(&shop.stop);
    join(flusher);
    shop.is_done(0, &ticket);
    shop.settle(3);
}
