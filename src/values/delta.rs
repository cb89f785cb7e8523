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
    /// The allocator it comes from; none after decoding.
    pub(crate) origin: Option<u64>,
    /// A block that the allocator's ledger knows in another state.
    pub(crate) conflict: Option<u64>,
    /// Shared with its transaction, which acts by it, and with all clones; none after decoding.
    pub(crate) fate: Option<Arc<Fate>>,
}

/// What has become of a delta outside its transaction.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    /// Who may have made it durable, or may still do that.
    takers: Counter,
    /// 1 more than the number of the transaction that it became in the allocator's own log; 0 before.
    lsn: Counter,
}

impl Fate {
    /// Somebody may make the delta durable, or has.
    pub(crate) fn take(&self) {
        self.takers.add(1);
    }

    /// Whether the delta may be durable.
    pub(crate) fn is_taken(&self) -> bool {
        self.takers.get() != 0 || self.lsn.get() != 0
    }

    /// The allocator's own log has it.
    pub(crate) fn set_lsn(&self, lsn: Lsn) {
        self.lsn.set(lsn.0.saturating_add(1));
    }

    /// The transaction that it became there.
    pub(crate) fn lsn(&self) -> Option<Lsn> {
        self.lsn.get().checked_sub(1).map(Lsn)
    }
}

/// Whatever they come from.
impl PartialEq for Delta {
    fn eq(&self, other: &Self) -> bool {
        (&self.allocated, &self.freed) == (&other.allocated, &other.freed)
    }
}

impl Eq for Delta {}

impl Delta {
    /// Extents allocated, ascending, neighbours joined.
    pub fn allocated(&self) -> &[Extent] {
        &self.allocated
    }

    /// Extents freed, ascending, neighbours joined.
    pub fn freed(&self) -> &[Extent] {
        &self.freed
    }

    /// A block that the transaction takes to be in another state than it is in when all that was
    /// frozen before is committed: it frees one that another transaction frees too or that no
    /// transaction allocated, or allocates one that was freed without a transaction. Such a delta must
    /// not be made durable. Allocators not made by
    /// [`Builder::build_with_ledger`](crate::Builder::build_with_ledger) know only of blocks that another
    /// transaction has freed and nobody may reuse yet; of two that are frozen at the same moment, both may be told.
    ///
    /// With one bit per block, a block that was freed, and allocated again by somebody else, between
    /// [`Transaction::free`](crate::Transaction::free) and the freezing looks like the old one. A
    /// transaction that frees what another has frozen must be written after it.
    pub fn conflict(&self) -> Option<u64> {
        self.conflict
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.allocated.is_empty() && self.freed.is_empty()
    }

    /// Has a store make it durable. Unless `work` fails without a doubt, also if it panics, the delta may be
    /// durable from here on, whatever the engine makes of the answer.
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

/// Bytes that are no delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Offset in the bytes at which they stop making sense.
    pub offset: usize,
}

impl Display for DecodeError {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "no delta: byte {} makes no sense", self.offset)
    }
}

impl std::error::Error for DecodeError {}
