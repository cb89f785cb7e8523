//! What a transaction changes, as a store writes it down.

use std::fmt::{Display, Formatter};
use std::sync::Arc;

use crate::base::sync::Counter;
use crate::values::extent::{Extent, Extents};
use crate::values::lsn::Lsn;

/// The net effect of one transaction: which blocks it allocates and which it frees. No block is in
/// both lists, and none twice.
#[derive(Clone, Debug, Default)]
pub struct Delta {
    pub(crate) allocated: Extents,
    pub(crate) freed: Extents,
    /// The allocator it comes from; `None` after decoding.
    pub(crate) origin: Option<u64>,
    /// A block whose state in the allocator's ledger differs from what the transaction expects.
    pub(crate) conflict: Option<u64>,
    /// Shared with its transaction, which acts on it, and with all clones; `None` after decoding.
    pub(crate) fate: Option<Arc<Fate>>,
}

/// What became of a delta outside its transaction.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    /// How many callers may have made it durable, or still may.
    takers: Counter,
    /// 1 + its transaction number in the allocator's own log; 0 before it has one.
    lsn: Counter,
}

impl Fate {
    /// Records that a caller may make the delta durable, or has.
    pub(crate) fn take(&self) {
        self.takers.add(1);
    }

    /// Whether the delta may be durable.
    pub(crate) fn is_taken(&self) -> bool {
        self.takers.get() != 0 || self.lsn.get() != 0
    }

    /// Records that the allocator's own log has it, as transaction `lsn`.
    pub(crate) fn set_lsn(&self, lsn: Lsn) {
        self.lsn.set(lsn.0.saturating_add(1));
    }

    /// Its transaction number in that log.
    pub(crate) fn lsn(&self) -> Option<Lsn> {
        self.lsn.get().checked_sub(1).map(Lsn)
    }
}

/// Equal if they change the same blocks, wherever they come from.
impl PartialEq for Delta {
    fn eq(&self, other: &Self) -> bool {
        (&self.allocated, &self.freed) == (&other.allocated, &other.freed)
    }
}

impl Eq for Delta {}

impl Delta {
    /// Allocated extents, ascending, with neighbours joined.
    pub fn allocated(&self) -> &[Extent] {
        &self.allocated
    }

    /// Freed extents, ascending, with neighbours joined.
    pub fn freed(&self) -> &[Extent] {
        &self.freed
    }

    /// A block whose state differs from what the transaction expects once everything frozen before
    /// is committed. The transaction frees a block that another transaction frees too or that no
    /// transaction allocated, or it allocates a block that was freed without a transaction. Such a
    /// delta must not be made durable. Allocators not made by
    /// [`Builder::build_with_ledger`](crate::Builder::build_with_ledger) know only of blocks that
    /// another transaction has freed and that may not be reused yet; of two such transactions
    /// frozen at the same moment, both may be told.
    ///
    /// With one bit per block, a block that was freed and allocated again by another owner between
    /// [`Transaction::free`](crate::Transaction::free) and the freeze looks like the old one. A
    /// transaction that frees what another has frozen must be written after it.
    pub fn conflict(&self) -> Option<u64> {
        self.conflict
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.allocated.is_empty() && self.freed.is_empty()
    }

    /// Lets a store make it durable by `work`. Unless `work` fails without doubt, the delta may be
    /// durable from here on, even if `work` panics and whatever the engine makes of the answer.
    pub(crate) fn hand_over<E>(
        &self,
        work: impl FnOnce() -> Result<Lsn, E>,
        leaves_doubt: impl FnOnce(&E) -> bool,
    ) -> Result<Lsn, E> {
        let Some(fate) = &self.fate else { return work() };
        fate.take();
        let result = work();
        match &result {
            Ok(lsn) => fate.set_lsn(*lsn),
            Err(error) if leaves_doubt(error) => {}
            Err(_) => fate.takers.add(1u64.wrapping_neg()),
        }
        result
    }
}

/// The bytes do not decode to a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Offset of the first byte that makes no sense.
    pub offset: usize,
}

impl Display for DecodeError {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "no delta: byte {} makes no sense", self.offset)
    }
}

impl std::error::Error for DecodeError {}
