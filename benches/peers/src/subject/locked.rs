//! What threads share a single-threaded subject through: a `parking_lot::Mutex`, the fastest lock
//! in wide use, taken for each operation.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{Limits, Piece, Shared, Subject};
use crate::device::BlockMap;

pub struct Locked<S>(Arc<Mutex<S>>);

impl<S> Locked<S> {
    fn of(subject: S) -> Self {
        Self(Arc::new(Mutex::new(subject)))
    }
}

impl<S: Subject> Subject for Locked<S> {
    type Held = S::Held;

    const LIMITS: Limits = S::LIMITS;

    fn new(blocks: u64) -> Self {
        Self::of(S::new(blocks))
    }

    fn with_state(map: &BlockMap, blocks: &[u32]) -> (Self, Vec<S::Held>) {
        let (subject, held) = S::with_state(map, blocks);
        (Self::of(subject), held)
    }

    #[inline]
    fn allocate(&mut self, len: u32) -> Option<S::Held> {
        self.0.lock().allocate(len)
    }

    #[inline]
    fn free(&mut self, held: S::Held, len: u32) {
        self.0.lock().free(held, len);
    }

    #[cfg(test)]
    fn block(held: S::Held) -> u32 {
        S::block(held)
    }

    #[inline]
    fn allocate_scattered(&mut self, blocks: u32, pieces: &mut Vec<Piece<S::Held>>) {
        self.0.lock().allocate_scattered(blocks, pieces);
    }

    #[inline]
    fn free_scattered(&mut self, pieces: &[Piece<S::Held>]) {
        self.0.lock().free_scattered(pieces);
    }
}

impl<S: Subject> Shared for Locked<S> {
    fn handles(self, count: usize) -> Vec<Self> {
        (0..count).map(|_| Self(self.0.clone())).collect()
    }
}
