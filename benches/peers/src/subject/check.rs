//! That a subject does what it is timed for: no block is handed out twice, and what was freed can
//! be had again.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use rand::RngExt;

use super::{Shared, Subject};
use crate::device::{BlockMap, rng};
use crate::victims::Victims;

const BLOCKS: u64 = 1 << 12;
const OPERATIONS: usize = 20_000;

/// Who owns what: one flag per block.
struct Owners(Vec<AtomicBool>);

impl Owners {
    fn none() -> Self {
        Self((0..BLOCKS).map(|_| AtomicBool::new(false)).collect())
    }

    fn of(map: &BlockMap) -> Self {
        Self((0..BLOCKS as u32).map(|block| map.is_allocated(block).into()).collect())
    }

    fn flags(&self, start: u32, len: u32) -> &[AtomicBool] {
        &self.0[start as usize..(start + len) as usize]
    }

    fn take(&self, start: u32, len: u32) {
        for (flag, block) in self.flags(start, len).iter().zip(start..) {
            assert!(!flag.swap(true, SeqCst), "block {block} handed out twice");
        }
    }

    /// To be called before the blocks are freed.
    fn give(&self, start: u32, len: u32) {
        for (flag, block) in self.flags(start, len).iter().zip(start..) {
            assert!(flag.swap(false, SeqCst), "block {block} was not ours");
        }
    }

    fn count(&self) -> u64 {
        self.0.iter().filter(|flag| flag.load(SeqCst)).count() as u64
    }
}

/// All that one thread does.
pub fn alone<S: Subject>() {
    from_empty::<S>();
    from_state::<S>();
    if S::LIMITS.run.most > 1 {
        runs::<S>();
    }
}

/// Single blocks of a device that is free at first: full, none more, and empty again.
pub fn from_empty<S: Subject>() {
    let (mut subject, owners) = (S::new(BLOCKS), Owners::none());
    for _ in 0..2 {
        let mut held = Vec::new();
        while let Some(block) = subject.allocate(1) {
            owners.take(S::block(block), 1);
            held.push(block);
        }
        assert_eq!(held.len() as u64, BLOCKS, "all of it");
        for block in held {
            owners.give(S::block(block), 1);
            subject.free(block, 1);
        }
    }
}

/// Churn, batches and scattered requests from a given state.
fn from_state<S: Subject>() {
    let map = BlockMap::random(BLOCKS, BLOCKS / 10);
    let owners = Owners::of(&map);
    let (mut subject, held) = S::with_state(&map, &map.victims());
    let mut victims = Victims::new(held);
    for _ in 0..OPERATIONS {
        let slot = &mut victims.take(1)[0];
        owners.give(S::block(*slot), 1);
        subject.free(*slot, 1);
        *slot = subject.allocate(1).expect("one was just freed");
        owners.take(S::block(*slot), 1);
    }
    for _ in 0..OPERATIONS / 100 {
        let slots = victims.take(100);
        slots.iter().for_each(|&slot| owners.give(S::block(slot), 1));
        subject.exchange_each(slots);
        slots.iter().for_each(|&slot| owners.take(S::block(slot), 1));

        let mut pieces = Vec::new();
        subject.allocate_scattered(100, &mut pieces);
        assert_eq!(pieces.iter().map(|piece| piece.len).sum::<u32>(), 100);
        pieces.iter().for_each(|piece| owners.take(S::block(piece.held), piece.len));
        pieces.iter().for_each(|piece| owners.give(S::block(piece.held), piece.len));
        subject.free_scattered(&pieces);
    }
    let slots = victims.take(usize::MAX);
    slots.iter().for_each(|&slot| owners.give(S::block(slot), 1));
    subject.free_each(slots);
    assert_eq!(owners.count(), 0);
    subject.allocate_each(slots);
    slots.iter().for_each(|&slot| owners.take(S::block(slot), 1));
    while let Some(block) = subject.allocate(1) {
        owners.take(S::block(block), 1);
    }
    assert_eq!(owners.count(), BLOCKS, "all of it");
}

/// Runs of all orders to 8, and the whole device in the end.
fn runs<S: Subject>() {
    let (mut subject, owners, mut rng) = (S::new(BLOCKS), Owners::none(), rng(4));
    let (mut held, mut failures) = (Vec::new(), 0);
    for _ in 0..OPERATIONS {
        let len = 1 << rng.random_range(0..=8);
        match subject.allocate(len) {
            Some(run) => {
                owners.take(S::block(run), len);
                held.push((run, len));
            }
            None => failures += 1,
        }
        while owners.count() > BLOCKS / 2 {
            let (run, len) = held.swap_remove(rng.random_range(0..held.len()));
            owners.give(S::block(run), len);
            subject.free(run, len);
        }
    }
    assert!(failures < OPERATIONS / 2, "{failures} failures");
    for (run, len) in held {
        owners.give(S::block(run), len);
        subject.free(run, len);
    }
    let whole = subject.allocate(BLOCKS as u32).expect("all is free");
    assert_eq!(S::block(whole), 0);
    assert!(subject.allocate(1).is_none());
}

/// Threads that allocate and free at once.
pub fn shared<S: Shared>() {
    const THREADS: usize = 3;
    let owners = Owners::none();
    let mut handles = S::new(BLOCKS).handles(THREADS);
    std::thread::scope(|scope| {
        for (mut subject, stream) in handles.drain(..).zip(5..) {
            let owners = &owners;
            scope.spawn(move || {
                let (mut held, mut rng) = (Vec::new(), rng(stream));
                for _ in 0..OPERATIONS {
                    if held.len() < BLOCKS as usize / THREADS && rng.random() {
                        let block = subject.allocate(1).expect("the others leave us our part");
                        owners.take(S::block(block), 1);
                        held.push(block);
                    } else if !held.is_empty() {
                        let block = held.swap_remove(rng.random_range(0..held.len()));
                        owners.give(S::block(block), 1);
                        subject.free(block, 1);
                    }
                }
                for block in held {
                    owners.give(S::block(block), 1);
                    subject.free(block, 1);
                }
            });
        }
    });
    assert_eq!(owners.count(), 0);
}
