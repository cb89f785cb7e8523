//! What makes transactions durable.

use crate::values::delta::Delta;
use crate::values::lsn::Lsn;

/// Where the free space of an allocator is kept durably.
///
/// [`Transaction::commit`](crate::Transaction::commit) hands it the transaction's net effect and
/// lets freed extents go only when this returned `Ok`.
pub trait Store {
    /// Why a commit failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Makes `delta` durable, all of it or nothing, and says which transaction it was. Blocks until
    /// it is; calls at the same time may share the I/O. For an empty delta nothing need be written:
    /// the newest durable transaction is the answer.
    ///
    /// # Errors
    /// The store's own. The caller may call again with the same delta, or give up.
    fn commit(&self, delta: &Delta) -> Result<Lsn, Self::Error>;

    /// Whether `error` leaves open if the delta is durable. The blocks of such a transaction are given
    /// to nobody until the store is opened again, even if it is dropped. `false` unless overridden.
    fn leaves_doubt(&self, error: &Self::Error) -> bool {
        let _ = error;
        false
    }
}
