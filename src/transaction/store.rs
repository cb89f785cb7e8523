//! The port to stores that make transactions durable.

use crate::values::delta::Delta;
use crate::values::lsn::Lsn;

/// Keeps the free space of an allocator durable.
///
/// [`Transaction::commit`](crate::Transaction::commit) passes it the transaction's net effect and
/// releases freed extents only when this returned `Ok`.
pub trait Store {
    /// Why a commit failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Makes `delta` durable, all of it or nothing, and returns its transaction number. Blocks
    /// until it is durable; concurrent calls may share the I/O. An empty delta need not be written:
    /// the answer is then the newest durable transaction.
    ///
    /// # Errors
    /// The store's own. The caller may call again with the same delta, or give up.
    fn commit(&self, delta: &Delta) -> Result<Lsn, Self::Error>;

    /// Whether `error` leaves open if the delta is durable. No caller gets the blocks of such a
    /// transaction until the store is opened again, even if it is dropped. `false` unless
    /// overridden.
    fn leaves_doubt(&self, error: &Self::Error) -> bool {
        let _ = error;
        false
    }
}
