//! What happens between a commit and the reuse of what it freed: pins and stamps (c), the quarantine (q),
//! and its queue (f).

use crate::quarantine::Quarantine;
use crate::quarantine::epoch::{Clock, Pin, Stamp};
use crate::quarantine::queue::Queue;
use crate::values::extent::Extent;
use loom::cell::Cell;
use loom::sync::Arc;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use loom::sync::atomic::{AtomicBool, AtomicUsize};

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
        let quarantine = match Quarantine::new(lanes, 3) {
            Ok(quarantine) => quarantine,
            Err(error) => panic!("{error:?}"),
        };
        let (place, blocks) = (AtomicUsize::new(0), std::array::from_fn(|_| B::new()));
        Arc::new(Self { quarantine, place, blocks })
    }

    fn pin(&self) -> Pin {
        self.quarantine.pin(0)
    }

    fn unpin(&self, pin: Pin) {
        self.quarantine.unpin(pin);
    }

    /// The block of the object, for a reader.
    fn look_up(&self) -> &B {
        &self.blocks[self.place.load(Relaxed)]
    }

    fn read(&self, lane: usize) {
        let pin = self.quarantine.pin(lane);
        self.read_pinned(self.look_up());
        self.unpin(pin);
    }

    fn read_pinned(&self, block: &B) {
        assert_eq!(block.read(), OBJECT, "read under a guard after its reuse");
    }

    /// Moves the object and retires the block where it was.
    fn replace(&self, old: u64, new: usize) -> Vec<u64> {
        self.place.store(new, Relaxed);
        self.retire(old)
    }

    /// Retires a block, and reuses what comes out at once.
    fn retire(&self, block: u64) -> Vec<u64> {
        assert_eq!(self.mark(block), [block], "a block that was retired once is marked already");
        self.retire_marked(block)
    }

    /// Makes the free of a block ours, unless it is somebody's.
    fn mark(&self, block: u64) -> Vec<u64> {
        let mut own = Vec::new();
        self.quarantine.mark(Extent::new(block, 1), |extent| own.push(extent.start));
        own
    }

    fn retire_marked(&self, block: u64) -> Vec<u64> {
        let mut out = Vec::new();
        self.quarantine.retire(&[Extent::new(block, 1)], |extent| self.reuse(extent, &mut out));
        out
    }

    /// Collects, and reuses what comes out at once.
    fn collect(&self) -> Vec<u64> {
        let mut out = Vec::new();
        self.quarantine.collect(|extent| {
            self.reuse(extent, &mut out);
            true
        });
        out
    }

    fn reuse(&self, extent: Extent, out: &mut Vec<u64>) {
        self.blocks[extent.start as usize].write(REUSED);
        out.push(extent.start);
    }

    /// Nobody is pinned: what waits comes out, and no block is marked.
    fn settle(&self, mut out: Vec<u64>, expected: &[u64]) {
        out.extend(self.collect());
        out.sort_unstable();
        assert_eq!(out, expected, "something retired came out twice or never");
        assert_eq!((self.quarantine.pinned(), self.quarantine.blocks()), (0, 0));
        let pin = self.pin();
        expected.iter().for_each(|&block| {
            self.retire(block);
        });
        self.unpin(pin);
        out = self.collect();
        out.sort_unstable();
        assert_eq!(out, expected, "a block cannot be retired again");
    }
}

fn read_beside_a_move<B: Block + 'static>() {
    let device = Device::<B>::new(1);
    let reader = spawn(&device, |device| device.read(0));
    let mut out = device.replace(0, 1);
    out.extend(device.collect());
    join(reader);
    out.extend(device.collect());
    assert_eq!(out, [0], "what nobody reads any more does not come out once");
    assert_eq!((device.quarantine.pinned(), device.quarantine.blocks()), (0, 0));
}

pub fn q1() {
    read_beside_a_move::<AtomicUsize>();
}

pub fn q1c() {
    read_beside_a_move::<Cell<u64>>();
}

/// A reader may be counted in a generation of the past.
pub fn q1l() {
    let device = Device::<Cell<u64>>::new(1);
    let reader = spawn(&device, |device| device.read(0));
    let before = device.pin();
    device.retire(2);
    device.unpin(before);
    device.collect();
    device.replace(0, 1);
    device.collect();
    join(reader);
}

pub fn q2() {
    let device = Device::<Cell<u64>>::new(2);
    let first = spawn(&device, |device| device.read(0));
    let second = spawn(&device, |device| device.read(1));
    device.replace(0, 1);
    device.collect();
    join(first);
    join(second);
}

pub fn q3() {
    let device = Device::<Cell<u64>>::new(1);
    let writer = spawn(&device, |device| {
        device.replace(0, 1);
        device.collect();
    });
    let pin = device.pin();
    let place = device.place.load(Relaxed);
    device.read_pinned(&device.blocks[place]);
    let other = spawn(&device, move |device| {
        device.read_pinned(&device.blocks[place]);
        device.unpin(pin);
    });
    join(writer);
    join(other);
    assert_eq!(device.quarantine.pinned(), 0);
}

pub fn q4() {
    let device = Device::<Cell<u64>>::new(1);
    let mut out = device.retire(0);
    let leaker = spawn(&device, |device| device.pin());
    out.extend(device.collect());
    let _leaked = join(leaker);
    assert_eq!(out, [0], "a guard keeps what it cannot reach");
    assert_eq!(device.retire(1), [], "a guard that is still there was passed over");
    assert_eq!(device.retire(2), [], "a guard of an epoch that is over was passed over");
    assert_eq!(device.collect(), [], "a guard that is still there was passed over");
    assert_eq!((device.quarantine.pinned(), device.quarantine.blocks()), (1, 2));
}

pub fn q5() {
    let device = Device::<Cell<u64>>::new(1);
    let pin = device.pin();
    let mut out = device.retire(0);
    let other = spawn(&device, |device| device.retire(2));
    device.unpin(pin);
    out.extend(device.collect());
    out.extend(join(other));
    device.settle(out, &[0, 2]);
}

pub fn q6() {
    fn next(device: &Device<Cell<u64>>, last: Pin) -> Pin {
        let next = device.pin();
        device.unpin(last);
        next
    }
    let device = Device::<Cell<u64>>::new(1);
    let first = device.pin();
    let mut out = device.retire(0);
    let other = spawn(&device, |device| {
        let pin = device.pin();
        let out = device.collect();
        (next(device, pin), out)
    });
    let mine = next(&device, first);
    out.extend(device.collect());
    let (theirs, more) = join(other);
    out.extend(more);
    out.extend(device.collect());
    assert_eq!(out, [0], "guards that came later hold up what they cannot reach");
    assert_eq!((device.quarantine.pinned(), device.quarantine.blocks()), (2, 0));
    device.unpin(mine);
    device.unpin(theirs);
}

/// The owner of the guard moves the object itself and reads on where it was; the other collects and
/// is late.
pub fn q7() {
    let device = Device::<Cell<u64>>::new(1);
    let late = spawn(&device, |device| device.collect());
    let pin = device.pin();
    let block = device.look_up();
    device.replace(0, 1);
    device.collect();
    device.read_pinned(block);
    device.unpin(pin);
    join(late);
}

/// Each guard holds what was retired in its time, also when there are more epochs than generations.
pub fn q8() {
    let device = Device::<Cell<u64>>::new(1);
    let first = device.pin();
    let mut out = device.retire(0);
    let second = device.pin();
    out.extend(device.retire(1));
    let third = device.pin();
    // All generations are in use: the epoch stands still.
    out.extend(device.retire(2));
    assert_eq!(out, [], "the guards are there");
    let other = spawn(&device, |device| device.collect());
    device.unpin(second);
    assert_eq!(device.collect(), [], "the first guard is there");
    device.unpin(first);
    out.extend(device.collect());
    out.extend(join(other));
    out.sort_unstable();
    assert_eq!(out, [0, 1], "the third guard holds what it holds and nothing else");
    device.unpin(third);
    device.settle(out, &[0, 1, 2]);
}

/// A block is let out, and its next owner retires it.
pub fn q9() {
    let device = Device::<Cell<u64>>::new(1);
    let free = Arc::new(AtomicBool::new(false));
    let pin = device.pin();
    device.retire(0);
    device.unpin(pin);
    let told = free.clone();
    let collector = spawn(&device, move |device| {
        device.quarantine.collect(|_| {
            told.store(true, Release);
            true
        });
    });
    if free.load(Acquire) {
        let pin = device.pin();
        device.retire(0);
        device.unpin(pin);
    }
    join(collector);
}

/// Two transactions free the same block, one of them also another beside it.
pub fn q10() {
    fn free(device: &Device<Cell<u64>>, blocks: &[u64]) -> Vec<u64> {
        let own = blocks.iter().flat_map(|&block| device.mark(block)).collect::<Vec<_>>();
        own.into_iter().flat_map(|block| device.retire_marked(block)).collect()
    }
    let device = Device::<Cell<u64>>::new(1);
    let pin = device.pin();
    let other = spawn(&device, |device| free(device, &[0]));
    let mut out = free(&device, &[0, 2]);
    out.extend(join(other));
    assert_eq!(out, [], "the guard is there");
    device.unpin(pin);
    device.settle(out, &[0, 2]);
}

/// One is given up while another is tried.
pub fn q11() {
    let device = Device::<Cell<u64>>::new(1);
    let other = spawn(&device, |device| {
        let own = device.mark(0);
        own.iter().for_each(|&block| device.quarantine.unmark(Extent::new(block, 1)));
    });
    let own = device.mark(0);
    let out = own.into_iter().flat_map(|block| device.retire_marked(block)).collect();
    join(other);
    let expected: Vec<u64> = Vec::clone(&out);
    device.settle(out, &expected);
    assert!(!device.quarantine.has_marks(), "a mark stayed");
}

/// The clock alone, with an object that moves from one place to another.
struct Timed {
    clock: Clock,
    /// Where the object is: the engine's metadata.
    moved: AtomicBool,
    block: Cell<u64>,
}

impl Timed {
    fn new(lanes: usize) -> Arc<Self> {
        let (moved, block) = (AtomicBool::new(false), Cell::new(OBJECT));
        Arc::new(Self { clock: Clock::new(lanes), moved, block })
    }

    fn read(&self, lane: usize) {
        let pin = self.clock.pin(lane);
        if !self.moved.load(Relaxed) {
            assert_eq!(self.block.get(), OBJECT, "read under a guard after its reuse");
        }
        self.clock.unpin(pin);
    }

    fn replace(&self) -> Stamp {
        self.moved.store(true, Relaxed);
        self.clock.stamp()
    }

    fn reuse_below(&self, floor: u64, stamp: u64) {
        if stamp < floor {
            self.block.set(REUSED);
        }
    }
}

/// The reader has moved the epoch on.
pub fn c1() {
    let timed = Timed::new(1);
    let before = timed.clock.pin(0);
    let reader = spawn(&timed, |timed| {
        timed.clock.stamp();
        timed.read(0);
    });
    let stamp = timed.replace();
    timed.clock.unpin(before);
    timed.reuse_below(timed.clock.floor(), stamp.epoch);
    join(reader);
}

/// Of three threads one reads, one moves the object, and one, which has moved the epoch on, reuses the block.
pub fn c2() {
    let timed = Timed::new(2);
    let before = timed.clock.pin(0);
    let stamped = Arc::new(AtomicUsize::new(0));
    let tell = stamped.clone();
    let reader = spawn(&timed, |timed| timed.read(1));
    let mover = spawn(&timed, move |timed| tell.store(timed.replace().epoch as usize, Release));
    timed.clock.stamp();
    timed.clock.unpin(before);
    let floor = timed.clock.floor();
    let stamp = stamped.load(Acquire);
    if stamp != 0 {
        timed.reuse_below(floor, stamp as u64);
    }
    join(reader);
    join(mover);
}

/// A reader moves the object itself, in an epoch that another thread begins at that moment.
pub fn c3() {
    let timed = Timed::new(1);
    let before = timed.clock.pin(0);
    let other = spawn(&timed, |timed| timed.clock.stamp());
    timed.clock.floor();
    let pin = timed.clock.pin(0);
    let stamp = timed.replace();
    timed.clock.unpin(before);
    assert!(stamp.held && timed.clock.floor() <= stamp.epoch, "our own pin is passed over");
    timed.clock.unpin(pin);
    let floor = timed.clock.floor();
    assert!(stamp.epoch < floor, "without pins, something is held");
    join(other);
}

/// A thread looks at an epoch without pins; then a reader comes and moves the object itself.
pub fn c4() {
    let timed = Timed::new(1);
    let other = spawn(&timed, |timed| timed.clock.floor());
    let pin = timed.clock.pin(0);
    let stamp = timed.replace();
    let floor = timed.clock.floor();
    assert!(stamp.held && floor <= stamp.epoch, "our own pin is passed over");
    timed.clock.unpin(pin);
    join(other);
}

/// The reader's generation is used for the first time, and the next epoch has an earlier one.
pub fn c5() {
    let timed = Timed::new(1);
    let before = timed.clock.pin(0);
    timed.clock.stamp();
    timed.clock.unpin(before);
    timed.clock.floor();
    let reader = spawn(&timed, |timed| timed.read(0));
    let stamp = timed.replace();
    timed.reuse_below(timed.clock.floor(), stamp.epoch);
    join(reader);
}

/// A queue that holds `contents`, all ripe.
fn queue(contents: &[u64]) -> Arc<Queue> {
    let queue = match Queue::new() {
        Ok(queue) => queue,
        Err(error) => panic!("{error:?}"),
    };
    contents.iter().for_each(|&what| push(&queue, what));
    Arc::new(queue)
}

fn push(queue: &Queue, what: u64) {
    assert!(queue.push(what, what), "no memory");
}

fn pop(queue: &Queue) -> Option<u64> {
    queue.pop_below(u64::MAX)
}

fn rest(queue: &Queue) -> Vec<u64> {
    std::iter::from_fn(|| pop(queue)).collect()
}

/// At the end: `out` came out before, `expected` is everything in any order; and the queue works.
fn settle_queue(queue: &Queue, out: impl IntoIterator<Item = Option<u64>>, expected: &[u64]) {
    let mut all: Vec<u64> = out.into_iter().flatten().collect();
    all.extend(rest(queue));
    all.sort_unstable();
    assert_eq!(all, expected, "something came out twice or never");
    for round in 0..2 {
        (0..3).for_each(|what| push(queue, what));
        assert_eq!(rest(queue), [0, 1, 2], "round {round}: a node is in two places");
    }
}

pub fn f1() {
    let queue = queue(&[]);
    let other = spawn(&queue, |queue| push(queue, 1));
    push(&queue, 2);
    join(other);
    settle_queue(&queue, [], &[1, 2]);
}

pub fn f2() {
    let queue = queue(&[1]);
    let other = spawn(&queue, |queue| push(queue, 2));
    let first = pop(&queue);
    assert_eq!(first, Some(1), "what was there all the time was not found, or not first");
    let second = pop(&queue);
    join(other);
    settle_queue(&queue, [first, second], &[1, 2]);
}

pub fn f3() {
    let queue = queue(&[1, 2]);
    let other = spawn(&queue, pop);
    let first = pop(&queue);
    settle_queue(&queue, [first, join(other)], &[1, 2]);
}

/// Nodes come back to where they were while a pop looks at them.
pub fn f4() {
    let queue = queue(&[1, 2]);
    let other = spawn(&queue, pop);
    let mut out = vec![pop(&queue)];
    push(&queue, 3);
    out.push(pop(&queue));
    out.push(join(other));
    settle_queue(&queue, out, &[1, 2, 3]);
}

/// The same while a push looks at them.
pub fn f5() {
    let queue = queue(&[1]);
    let other = spawn(&queue, |queue| push(queue, 2));
    let mut out = vec![pop(&queue)];
    push(&queue, 3);
    out.push(pop(&queue));
    join(other);
    settle_queue(&queue, out, &[1, 2, 3]);
}

/// The first is not ripe, or belongs to another life of its node.
pub fn f6() {
    let queue = queue(&[1, 5]);
    let other = spawn(&queue, |queue| queue.pop_below(3));
    let first = pop(&queue);
    push(&queue, 2);
    let out = join(other);
    assert!(out.is_none_or(|what| what < 3), "what is not ripe came out");
    settle_queue(&queue, [first, out], &[1, 2, 5]);
}

/// There is something all the time.
pub fn f7() {
    let queue = queue(&[1]);
    let other = spawn(&queue, |queue| {
        push(queue, 2);
        pop(queue)
    });
    let first = pop(&queue);
    assert_ne!(first, None, "something was there all the time");
    settle_queue(&queue, [first, join(other)], &[1, 2]);
}

/// The tail stays behind, and its node is used again.
pub fn f8() {
    let queue = queue(&[]);
    let other = spawn(&queue, |queue| push(queue, 1));
    let first = pop(&queue);
    push(&queue, 2);
    join(other);
    settle_queue(&queue, [first], &[1, 2]);
}

/// There is something ripe all the time, and other things come behind it.
pub fn f9() {
    let queue = queue(&[1, 1, 2]);
    let other = spawn(&queue, |queue| {
        let out = [pop(queue), pop(queue)];
        push(queue, 9);
        out
    });
    let mine = queue.pop_below(3);
    assert_ne!(mine, None, "something was ripe all the time");
    let [first, second] = join(other);
    settle_queue(&queue, [mine, first, second], &[1, 1, 2, 9]);
}
