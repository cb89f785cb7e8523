//! What is compared: allocators behind one trait, so that every loop is compiled for each of them.

pub mod batch;
pub mod bitmap_allocator;
pub mod buddy;
#[cfg(test)]
pub mod check;
pub mod floor;
pub mod freemap;
pub mod hibitset;
pub mod locked;
pub mod offset_allocator;
pub mod range_alloc;
pub mod range_tree;
pub mod roaring;
pub mod roster;
pub mod two_level;

use crate::device::BlockMap;

/// An allocator as one thread uses it.
pub trait Subject: Sized + Send + 'static {
    /// What its user keeps of an allocation in order to free it.
    type Held: Copy + Send + 'static;

    const LIMITS: Limits = Limits::NONE;

    /// Whether it is used for many extents at a time and has nothing to show where operations come
    /// one by one.
    const BATCHES: bool = false;

    /// A device of `blocks` blocks, all free.
    fn new(blocks: u64) -> Self;

    /// A device in the state of `map`, and what its user holds of `blocks`, which are allocated and
    /// are going to be freed one by one.
    fn with_state(map: &BlockMap, blocks: &[u32]) -> (Self, Vec<Self::Held>);

    /// Takes `len` adjacent blocks; `None` if it finds none.
    fn allocate(&mut self, len: u32) -> Option<Self::Held>;

    /// Gives back an allocation of `len` blocks.
    fn free(&mut self, held: Self::Held, len: u32);

    /// The first block of an allocation.
    #[cfg(test)]
    fn block(held: Self::Held) -> u32;

    /// Allocates a block for each slot.
    #[inline]
    fn allocate_each(&mut self, slots: &mut [Self::Held]) {
        for slot in slots {
            *slot = self.allocate(1).expect("as many are free");
        }
    }

    /// Frees the block in each slot.
    #[inline]
    fn free_each(&mut self, slots: &mut [Self::Held]) {
        for slot in slots {
            self.free(*slot, 1);
        }
    }

    /// For each slot, frees the block in it and allocates another.
    #[inline]
    fn exchange_each(&mut self, slots: &mut [Self::Held]) {
        for slot in slots {
            self.free(*slot, 1);
            *slot = self.allocate(1).expect("one was just freed");
        }
    }

    /// Takes `blocks` blocks in whatever pieces, of which there are enough.
    #[inline]
    fn allocate_scattered(&mut self, blocks: u32, pieces: &mut Vec<Piece<Self::Held>>) {
        for _ in 0..blocks {
            let held = self.allocate(1).expect("as many are free");
            pieces.push(Piece { held, len: 1 });
        }
    }

    /// Frees what [`allocate_scattered`](Subject::allocate_scattered) took.
    #[inline]
    fn free_scattered(&mut self, pieces: &[Piece<Self::Held>]) {
        for piece in pieces {
            self.free(piece.held, piece.len);
        }
    }

    /// Called before each round of pairs.
    fn begin_round(&mut self) {}

    /// Forgets which requests were in vain.
    fn forget_failures(&mut self) {}
}

/// A subject that threads can share.
pub trait Shared: Subject {
    /// A way to the same blocks for each of `count` threads.
    fn handles(self, count: usize) -> Vec<Self>;
}

/// Part of a scattered allocation.
#[derive(Clone, Copy)]
pub struct Piece<H> {
    pub held: H,
    /// Number of blocks.
    pub len: u32,
}

/// What a subject cannot do, or not within 4 GiB of memory and seconds of preparation.
pub struct Limits {
    /// The longest run it hands out, in blocks.
    pub run: Limit<u32>,
    /// The largest device, in blocks.
    pub blocks: Limit<u64>,
    /// The most free runs that a device can have: it is measured on a smaller one instead.
    pub free_runs: Limit<u64>,
}

/// A bound and its reason.
pub struct Limit<T> {
    pub most: T,
    pub why: &'static str,
}

impl Limits {
    pub const NONE: Limits = Limits {
        run: Limit { most: u32::MAX, why: "" },
        blocks: Limit { most: u64::MAX, why: "" },
        free_runs: Limit { most: u64::MAX, why: "" },
    };

    /// The bound of those whose operations know no lengths.
    pub const SINGLE_BLOCKS: Limit<u32> = Limit { most: 1, why: "single blocks only" };
}

/// `count` single blocks, allocated: a table to begin with.
pub fn held_blocks<S: Subject>(subject: &mut S, count: usize) -> Vec<S::Held> {
    (0..count).map(|_| subject.allocate(1).expect("as many are free")).collect()
}
