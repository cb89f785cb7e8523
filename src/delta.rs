//! What a transaction changes, as a store writes it down.

use std::fmt::{Display, Formatter};

use crate::extent::{Extent, Extents};
use crate::log::record;

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
    /// not be made durable. Known only to allocators made by
    /// [`Builder::build_with_ledger`](crate::Builder::build_with_ledger); always `None` otherwise.
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

    /// Appends the delta as the space-map log encodes it, for engines that keep it in a log of
    /// their own: 12 bytes for one extent, about 4.5 for each of many that lie close together. The
    /// bytes carry no length and no checksum; the engine's log has both.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        record::encode_delta(self, bytes);
    }

    /// The delta that [`Delta::encode`] wrote, to be looked at or replayed: it belongs to no
    /// transaction any more, so a log takes it for foreign.
    ///
    /// # Errors
    /// [`DecodeError`] if `bytes` is anything else. Never panics, and takes no more memory than a
    /// few times the length of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        record::decode_delta(bytes)
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
