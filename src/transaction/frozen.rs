//! Transactions that the engine makes durable itself.

use crate::transaction::Transaction;
use crate::transaction::open::Open;
use crate::values::delta::Delta;
use crate::values::lsn::Lsn;

/// A transaction that takes no more changes, while the engine makes its [`Delta`] durable in a log
/// or key-value store of its own.
///
/// As long as the delta cannot be durable, dropping this gives up, as dropping the transaction
/// does. The delta may be durable once it (or a clone) was [encoded](Delta::encode), or once a
/// store has taken it: a space-map log or RocksDB freelist whose
/// [`Store::commit`](crate::Store::commit) was called and did not certainly fail. From then on,
/// dropping this is [`Frozen::in_doubt`]. So a `?` or a panic between the write and
/// [`Frozen::committed`] gives no caller blocks that a restart may find in use.
/// [`Frozen::not_written`] is for engines that know that nothing was written.
///
/// An engine may make the delta durable in another way: from [`Delta::allocated`] and
/// [`Delta::freed`], in a RocksDB batch that it writes itself, or in a [`Store`](crate::Store) of
/// its own. Such an engine calls [`Frozen::in_doubt`] if the delta may be durable.
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
    /// The changes that have to be made durable.
    pub fn delta(&self) -> &Delta {
        &self.delta
    }

    /// The delta is durable: the freed extents go to the quarantine, or are held if the store
    /// [holds](crate::OpenOptions::hold_until_stable) them. A delta that the allocator's ledger
    /// [objects to](Delta::conflict) must not have become durable, and is dropped. Extents that
    /// another transaction had freed are left to that one.
    ///
    /// On an allocator that belongs to a space-map log, that log must have the delta: by
    /// [`Store::commit`](crate::Store::commit) with this delta, or, under
    /// [`Authority::Piggyback`](crate::Authority::Piggyback), by
    /// [`SpaceMapLog::absorb`](crate::SpaceMapLog::absorb), which calls this itself. Otherwise the
    /// log would still consider the old extents allocated and the new ones free, so the transaction
    /// is left in doubt.
    pub fn committed(self) {
        if self.open.entered {
            self.open.committed(None);
        }
    }

    /// The delta is durable in the engine's own log: its blocks must not be given up.
    pub(crate) fn taken(&self) {
        self.delta.fate.iter().for_each(|fate| fate.take());
    }

    /// As [`Frozen::committed`], for the allocator's own log, which made it transaction `lsn`.
    pub(crate) fn committed_as(self, lsn: Lsn) {
        self.open.fate.iter().for_each(|fate| fate.set_lsn(lsn));
        self.committed();
    }

    /// The delta is durable nowhere and never will be, although a store had taken it or it was
    /// [encoded](Delta::encode). Gives up the transaction; other callers may get its blocks from
    /// now on.
    pub fn not_written(mut self) {
        (self.open.fate, self.open.frozen) = (None, false);
    }

    /// The delta may or may not be durable, since the engine's write failed half way. No caller
    /// gets the transaction's blocks, neither those it allocated nor those it frees, until a
    /// restart finds out.
    pub fn in_doubt(mut self) {
        self.doubt();
    }

    /// Sets whether a store may be at work on it: only then does a panic leave it in doubt.
    #[cfg(feature = "rocksdb")]
    pub(crate) fn at_work(&mut self, at_work: bool) {
        self.open.frozen = at_work;
    }

    /// As [`Frozen::in_doubt`], for a value that is dropped later.
    pub(crate) fn doubt(&mut self) {
        self.open.thaw();
        self.open.in_doubt = true;
    }

    /// Turns it back into a transaction, to add forgotten changes. If the delta may be durable (see
    /// above), dropping the transaction leaves it in doubt.
    pub fn reopen(mut self) -> Transaction<'static> {
        self.open.thaw();
        Transaction { open: self.open, cursor: None }
    }
}
