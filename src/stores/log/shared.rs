//! The state that readers of memory use and that absorbed transactions change. It has its own
//! locks, which are held for moments and never during I/O. A thread that holds the writer may take
//! them, not the other way round.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::stores::log::commit_error::CommitError;
use crate::stores::log::memory::LogMemory;
use crate::stores::log::mirror::{Mirror, Misfit};
use crate::stores::log::order::Order;
use crate::stores::log::report::Figures;
use crate::transaction::Frozen;

/// The part of a log that needs no writer.
pub(super) struct Shared {
    state: Mutex<State>,
    seen: Mutex<Seen>,
}

/// The committed state, and in piggyback mode the parts that follow.
pub(super) struct State {
    pub mirror: Mirror,
    /// In piggyback mode: ranges that changed since the last checkpoint copied them.
    pub changed: BTreeSet<u32>,
    order: Order<Piece>,
    /// A part that had come early contradicts those before it.
    contradicted: Option<CommitError>,
}

/// What the writer publishes after each window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub figures: Figures,
    pub memory: LogMemory,
    pub last: u64,
    pub blocks: u64,
    pub max_blocks: u64,
}

/// A part of the engine's log: the delta of a transaction, or nothing. If it is dropped before it
/// is applied, the transaction is in doubt: the engine's log has it.
#[derive(Debug, Default)]
pub(super) struct Piece {
    pub records: Vec<u8>,
    pub transaction: Option<Frozen>,
}

impl Piece {
    /// Its approximate size: a transaction's sets of extents are assumed to be as large as its
    /// delta's.
    fn bytes(&self) -> usize {
        let extents = self.transaction.as_ref().map_or(0, |frozen| {
            size_of_val(frozen.delta().allocated()) + size_of_val(frozen.delta().freed())
        });
        size_of::<Self>() + self.records.capacity() + 2 * extents
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(mut transaction) = self.transaction.take() {
            transaction.doubt();
        }
    }
}

impl Shared {
    pub(super) fn new(mirror: Mirror, mark: u64) -> Self {
        let state =
            State { mirror, changed: BTreeSet::new(), order: Order::new(mark), contradicted: None };
        Self { state: Mutex::new(state), seen: Mutex::default() }
    }

    // Both are changed in single steps, so a panic under the lock leaves no partial change.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn seen(&self) -> Seen {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn show(&self, seen: Seen) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}

impl State {
    /// The mark: every part of the engine's log before it is in the state.
    pub(super) fn mark(&self) -> u64 {
        self.order.mark()
    }

    /// Parts that wait for an earlier one.
    pub(super) fn waiting(&self) -> usize {
        self.order.waiting()
    }

    /// Their approximate size in bytes. O(parts that wait).
    pub(super) fn waiting_bytes(&self) -> usize {
        self.order.iter().map(Piece::bytes).sum()
    }

    /// An error if a part contradicted the state.
    pub(super) fn check(&self) -> Result<(), CommitError> {
        self.contradicted.clone().map_or(Ok(()), Err)
    }

    /// Checks that a part of the engine's log fits in. If it begins at the mark, applies its
    /// `records`. [`State::add`] must follow.
    pub(super) fn admit(&mut self, span: &Range<u64>, records: &[u8]) -> Result<(), CommitError> {
        self.check()?;
        let mark = self.mark();
        if !self.order.takes(span) {
            return Err(CommitError::Order { from: span.start, to: span.end, mark });
        }
        if span.start == mark { Ok(self.apply(records)?) } else { Ok(()) }
    }

    /// Adds an admitted part. If it begins at the mark, the mark moves, and the parts that waited
    /// for it are applied. Returns the applied transactions, to be marked committed without the
    /// lock.
    pub(super) fn add(&mut self, span: Range<u64>, piece: Piece) -> Vec<Frozen> {
        let mut applied = Vec::new();
        let mut admitted = Some(span.start);
        self.order.add(span, piece);
        while let Some((span, piece)) = self.order.next() {
            if admitted.take() != Some(span.start)
                && let Err(misfit) = self.apply(&piece.records)
            {
                self.contradict(span, piece, misfit);
                break;
            }
            applied.extend({ piece }.transaction.take());
        }
        applied
    }

    /// A part that had waited does not fit: the mark stays before it for good.
    fn contradict(&mut self, span: Range<u64>, piece: Piece, misfit: Misfit) {
        let block = match misfit {
            Misfit::Block(block) => block,
            Misfit::Record(_) => self.mirror.blocks(),
        };
        let Range { start: from, end: to } = span;
        self.contradicted = Some(CommitError::Contradicted { from, to, block });
        self.order.put_back(from..to, piece);
    }

    fn apply(&mut self, records: &[u8]) -> Result<(), Misfit> {
        let mut touched = Vec::new();
        self.mirror.apply(records, |range| touched.push(range))?;
        self.changed.extend(touched);
        Ok(())
    }
}
