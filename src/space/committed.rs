//! What an allocator decides by the committed state of its store.

use crate::space::Space;
use crate::space::ledger::{Keeper, Ledger};
use crate::values::error::{FreeError, on_device};
use crate::values::extent::Extent;

impl Space {
    fn kept_by(&self, keeper: Keeper) -> Option<&Ledger> {
        let committed = self.committed.as_ref();
        committed.filter(|c| c.keeper == keeper).map(|committed| &*committed.ledger)
    }

    /// The ledger in which transactions enter their changes, if there is one.
    pub(crate) fn entered(&self) -> Option<&Ledger> {
        self.kept_by(Keeper::Transactions)
    }

    /// Whether a transaction is committed only when a certain store says so.
    pub(crate) fn has_log(&self) -> bool {
        self.kept_by(Keeper::Store).is_some()
    }

    /// An error if the store knows a block of `extent` to be committed, unless that is allowed.
    #[cold]
    pub(crate) fn refuse_committed(&self, extent: Extent) -> Result<(), FreeError> {
        let Some(committed) = self.committed.as_ref().filter(|c| !c.plain_frees) else {
            return Ok(());
        };
        on_device(extent, self.bitmap.blocks())?;
        // A caller that knows that the block is committed learned it from the store, so it sees
        // that here.
        let first = committed.ledger.first_allocated(extent);
        first.map_or(Ok(()), |block| Err(FreeError::Committed { block }))
    }

    /// Hands to `each` what is to become free: all of `extent` except blocks that the store knows
    /// to be committed. Those were freed without a transaction, and then allocated by a transaction
    /// that is given up; no other transaction that got them could commit either. They stay
    /// allocated, and are counted.
    pub(crate) fn without_committed(&self, extent: Extent, mut each: impl FnMut(Extent)) {
        let ledger = self.committed.as_ref().map(|committed| &*committed.ledger);
        match ledger.filter(|ledger| ledger.first_allocated(extent).is_some()) {
            None => each(extent),
            Some(ledger) => ledger.split(extent, |part, is_committed| {
                if is_committed {
                    self.conflicts.add(part.len);
                } else {
                    each(part);
                }
            }),
        }
    }
}
