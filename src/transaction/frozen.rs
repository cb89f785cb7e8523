//! Transactions that are made durable by somebody else.

use crate::transaction::Transaction;
use crate::transaction::open::Open;
use crate::values::delta::Delta;
use crate::values::lsn::Lsn;

/// A transaction that takes no more changes, while the engine makes its [`Delta`] durable in a log
/// or key-value store of its own.
///
/// Dropping it gives up, as dropping the transaction does, as long as the delta can be nowhere. It can from
/// the moment on that it (or a clone) was [encoded](Delta::encode) or a store has taken it: a space-map log
/// or RocksDB freelist whose [`Store::commit`](crate::Store::commit) was called and did not surely fail. From then on dropping is
/// [`Frozen::in_doubt`], so that a `?` or a panic between the write and [`Frozen::committed`] gives nobody
/// blocks that a restart may find in use; [`Frozen::not_written`] is for engines that know better. An
/// engine that makes it durable in another way (from [`Delta::allocated`] and [`Delta::freed`], in a
/// RocksDB batch that it writes itself, in a [`Store`](crate::Store) of its own) calls [`Frozen::in_doubt`] if it may be
/// durable.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let write_and_sync = |_: &[u8]| -> std::io::Result<()> { Ok(()) };
/// let allocator = freemap::Allocator::new(1 << 20)?;
/// let mut transaction = allocator.begin();
/// transaction.allocate(7)?;
///
/// let frozen = transaction.freeze();
/// let mut record = Vec::new();
/// frozen.delta().encode(&mut record);
/// write_and_sync(&record)?; // after an error the record may be there or not: in doubt
/// frozen.committed();
/// assert_eq!(allocator.free_blocks(), (1 << 20) - 7);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping it gives up the transaction, or leaves it in doubt"]
pub struct Frozen {
    pub(super) open: Open,
    pub(super) delta: Delta,
}

impl Frozen {
    /// What has to be made durable.
    pub fn delta(&self) -> &Delta {
        &self.delta
    }

    /// The delta is durable: the freed extents go to the quarantine, or are held if the store
    /// [holds](crate::OpenOptions::hold_until_stable) them. A delta that the allocator's ledger
    /// [objects to](Delta::conflict) must not have become durable, and is dropped; what another transaction had
    /// freed is that one's to let go.
    ///
    /// On an allocator that belongs to a space-map log, that log must have it: by
    /// [`Store::commit`](crate::Store::commit) with this delta, or under
    /// [`Authority::Piggyback`](crate::Authority::Piggyback) by
    /// [`SpaceMapLog::absorb`](crate::SpaceMapLog::absorb), which calls this itself. Otherwise the log would
    /// go on to take the old extents for allocated and the new ones for free: the transaction is in doubt
    /// then.
    pub fn committed(self) {
        if self.open.entered {
            self.open.committed(None);
        }
    }

    /// It is durable in the engine's own log: nobody may give up its blocks.
    pub(crate) fn taken(&self) {
        self.delta.fate.iter().for_each(|fate| fate.take());
    }

    /// The same for the allocator's own log, which has made it transaction `lsn`.
    pub(crate) fn committed_as(self, lsn: Lsn) {
        self.open.fate.iter().for_each(|fate| fate.set_lsn(lsn));
        self.committed();
    }

    /// The delta is durable nowhere and will never be, although a store was at it or it was
    /// [encoded](Delta::encode): gives up the transaction, whose blocks others may have from here on.
    pub fn not_written(mut self) {
        (self.open.fate, self.open.frozen) = (None, false);
    }

    /// The delta may be durable and may not, since the engine's write failed half way: nobody gets the
    /// transaction's blocks, neither those it allocated nor those it frees, until a restart finds out.
    pub fn in_doubt(mut self) {
        self.doubt();
    }

    /// Whether a store may be at work on it: only then, a panic leaves it in doubt.
    #[cfg(feature = "rocksdb")]
    pub(crate) fn at_work(&mut self, at_work: bool) {
        self.open.frozen = at_work;
    }

    /// As [`Frozen::in_doubt`], for what is dropped later.
    pub(crate) fn doubt(&mut self) {
        self.open.thaw();
        self.open.in_doubt = true;
    }

    /// Back to a transaction, for changes that were forgotten. If the delta may be durable (see above),
    /// dropping the transaction leaves it in doubt.
    pub fn reopen(mut self) -> Transaction<'static> {
        self.open.thaw();
        Transaction { open: self.open, cursor: None }
    }
}
