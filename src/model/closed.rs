//! Closed regions, a device that changes its length (a), and discards (d). Blocks that a thread owns are marked, so
//! that a second owner is noticed at once.

use std::ops::Range;

use crate::space::closed::{Closed, Moved};
use crate::space::discards::Discards;
use loom::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// An index with a place for what is set aside, and who owns what.
struct Device {
    index: Bitmap<Bit>,
    closed: Closed<Bit>,
    owned: Vec<AtomicBool>,
}

fn nothing(_: Moved, _: u64, _: u64) {}

/// The leaves of `blocks`, each of which is one.
fn leaves(blocks: Range<u64>) -> Range<LeafIndex> {
    LeafIndex::of_blocks::<Bit>(blocks)
}

impl Device {
    /// `blocks` blocks, each a leaf of its own, of which those in `free` are free, and the others
    /// somebody's.
    fn new(blocks: u64, free: &[u64]) -> Arc<Self> {
        let words = |word: WordIndex| u64::from(free.contains(&word.first_block::<Bit>()));
        let index = Bitmap::from_words(blocks, 1, words).expect("memory");
        let closed = Closed::new(blocks).expect("memory");
        let owned = (0..blocks).map(|block| AtomicBool::new(!free.contains(&block))).collect();
        Arc::new(Self { index, closed, owned })
    }

    fn own(&self, block: u64) {
        let before = self.owned[block as usize].swap(true, Ordering::Relaxed);
        assert!(!before, "block {block} has two owners");
    }

    /// What an allocation of one block is.
    fn allocate(&self) -> Option<u64> {
        loop {
            let block =
                self.index.claim_aligned(0, 1, 0, self.index.all_leaves(), Pack::First)?.start();
            let kept =
                !self.closed.is_active() || self.closed.keeps(&self.index, block, 1, &mut nothing);
            if kept {
                self.own(block);
                return Some(block);
            }
        }
    }

    fn free(&self, block: u64) {
        self.owned[block as usize].store(false, Ordering::Relaxed);
        let release = |block, len| self.index.release(block, len);
        let freed = if self.closed.is_active() {
            self.closed.release(&self.index, block, 1, &mut nothing, release)
        } else {
            release(block, 1)
        };
        assert_eq!(freed, Ok(()), "a rightful free failed");
    }

    fn close(&self, blocks: Range<u64>) -> bool {
        self.closed.close(&self.index, leaves(blocks), &mut nothing).is_ok()
    }

    fn open(&self, blocks: Range<u64>) {
        self.closed.open(&self.index, leaves(blocks), &mut nothing);
    }

    /// Takes the closed block `block` if nobody owns it.
    fn take(&self, block: u64) -> bool {
        let blocks = block..block + 1;
        self.closed.sweep(&self.index, leaves(blocks.clone()), &mut nothing);
        let taken = self.closed.take(blocks.clone());
        if taken {
            self.own(block);
            self.open(blocks);
        }
        taken
    }

    /// At the end, with everything open: each block is free or somebody's.
    fn all_there(&self) {
        assert!(!self.closed.is_active());
        let owned = self.owned.iter().filter(|owned| owned.load(Ordering::Relaxed)).count();
        let found = self.index.verify();
        assert!(found.is_clean(), "{:?}", found.differences);
        assert_eq!(
            found.free_blocks as usize + owned,
            self.index.blocks() as usize,
            "a block is lost"
        );
    }
}

/// A free that began before the leaf was closed ends after it. The claim is one that begins after.
pub fn a1() {
    let device = Device::new(1, &[]);
    let freeing = spawn(&device, |device| device.free(0));
    assert!(device.close(0..1));
    assert_eq!(device.allocate(), None, "the leaf is closed");
    join(freeing);
    assert_eq!(device.allocate(), None, "the leaf is closed");
    device.open(0..1);
    device.all_there();
}

/// A free into a closed leaf while that is opened.
pub fn a2() {
    let device = Device::new(1, &[]);
    assert!(device.close(0..1));
    let freeing = spawn(&device, |device| device.free(0));
    device.open(0..1);
    join(freeing);
    device.all_there();
}

/// A claim in a closed leaf, of what a late free has left there, while that is opened.
pub fn a3() {
    let device = Device::new(1, &[]);
    assert!(device.close(0..1));
    assert_eq!(device.index.release(0, 1), Ok(()));
    device.owned[0].store(false, Ordering::Relaxed);
    let claiming = spawn(&device, |device| device.allocate());
    device.open(0..1);
    join(claiming);
    device.all_there();
}

/// Closing, and taking what is empty, against a claim that may have been there first.
pub fn a4() {
    let device = Device::new(1, &[0]);
    let claiming = spawn(&device, |device| device.allocate());
    assert!(device.close(0..1));
    if !device.take(0) {
        device.open(0..1);
    }
    join(claiming);
    device.all_there();
}

/// The same against a free.
pub fn a5() {
    let device = Device::new(1, &[]);
    let freeing = spawn(&device, |device| device.free(0));
    assert!(device.close(0..1));
    if !device.take(0) {
        device.open(0..1);
    }
    join(freeing);
    device.all_there();
}

/// Opened, closed again and taken, beside a free that may have begun while it was closed before.
pub fn a6() {
    let device = Device::new(1, &[]);
    assert!(device.close(0..1));
    let freeing = spawn(&device, |device| device.free(0));
    device.open(0..1);
    assert!(device.close(0..1));
    if !device.take(0) {
        device.open(0..1);
    }
    join(freeing);
    device.all_there();
}

/// The device becomes longer, by a node of the summary, beside a search, which finds the new block or says that nothing was there.
pub fn a7() {
    let device = Device::new(2, &[]);
    let searching = spawn(&device, |device| exact(&device.index, 1).ok());
    device.index.lengthen(3).expect("memory");
    free(&device.index, 2, 1);
    let mine = exact(&device.index, 1).ok();
    let both = [mine, join(searching)];
    assert_eq!(both.into_iter().flatten().collect::<Vec<_>>(), [2], "one of them gets it");
}

/// The device becomes shorter if nobody has its last block, beside one who takes a block and frees it.
pub fn a8() {
    let device = Device::new(2, &[0, 1]);
    let other = spawn(&device, |device| {
        let block = device.allocate();
        if let Some(block) = block {
            device.free(block);
        }
    });
    assert!(device.close(1..2));
    device.closed.sweep(&device.index, leaves(1..2), &mut nothing);
    if device.closed.take(1..2) {
        device.own(1);
        device.index.shorten(1);
        device.closed.forget(&device.index, 1..2);
    }
    device.open(1..2);
    join(other);
    let rest = device.index.blocks() as usize;
    let free = device.index.verify();
    assert!(free.is_clean(), "{:?}", free.differences);
    assert_eq!(free.free_blocks as usize, rest);
}

/// The owner of a region opens it; another closes it, if it is open already, and takes it.
pub fn a9() {
    let device = Device::new(1, &[0]);
    assert!(device.close(0..1));
    let opening = spawn(&device, |device| device.open(0..1));
    let closed = device.close(0..1);
    if closed && !device.take(0) {
        device.open(0..1);
    }
    join(opening);
    device.all_there();
}

/// Two leaves are closed and taken together, beside a free in the second.
pub fn a10() {
    let device = Device::new(2, &[0]);
    let freeing = spawn(&device, |device| device.free(1));
    assert!(device.close(0..2));
    if device.closed.take(0..2) {
        (0..2).for_each(|block| device.own(block));
    }
    device.open(0..2);
    join(freeing);
    device.all_there();
}

/// What is freed waits to be discarded (d).
struct Discarding {
    index: Bitmap<Bit>,
    discards: Discards<Bit>,
}

impl Discarding {
    fn new(limit: u64) -> Arc<Self> {
        let index = Bitmap::from_words(1, 1, |_| 0).expect("memory");
        let discards = Discards::new(1).expect("memory");
        discards.set_limit(limit, &mut |_, _| {});
        Arc::new(Self { index, discards })
    }

    fn free(&self) {
        let freed = if self.discards.has_room(1) {
            self.discards.put(0, 1, &mut |word, bits| self.let_out(word, bits))
        } else {
            self.index.release(0, 1)
        };
        assert_eq!(freed, Ok(()), "a rightful free failed");
    }

    fn let_out(&self, word: WordIndex, bits: u64) {
        assert_eq!(self.index.release_in_word(word, bits), Ok(()), "a block is let out twice");
    }

    fn allocate(&self) -> Option<u64> {
        exact(&self.index, 1).ok().or_else(|| {
            self.discards.let_out(0, 1, u64::MAX, &mut |word, bits| self.let_out(word, bits));
            exact(&self.index, 1).ok()
        })
    }
}

/// A free while the discarder leaves.
pub fn d1() {
    let device = Discarding::new(1);
    let freeing = spawn(&device, Discarding::free);
    device.discards.set_limit(0, &mut |word, bits| device.let_out(word, bits));
    join(freeing);
    assert_eq!(exact(&device.index, 1), Ok(0), "the block is free");
}

/// The discarder takes a block that an allocation wants.
pub fn d2() {
    let device = Discarding::new(1);
    device.free();
    let allocating = spawn(&device, Discarding::allocate);
    if let Some((start, len)) = device.discards.take(0, 1) {
        free(&device.index, start, len);
    }
    let mut got: Vec<u64> = join(allocating).into_iter().collect();
    got.extend(device.allocate());
    assert_eq!(got, [0], "one of them gets it");
}
