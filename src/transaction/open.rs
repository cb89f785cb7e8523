//! What a transaction holds until it is committed or given up.

use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::request::thread_cursor;
use crate::space::release::first_missing;
use crate::transaction::held_frees::HeldFrees;
use crate::values::delta::{Delta, Fate};
use crate::values::extent::{Extent, Extents};
use crate::values::extent_set::ExtentSet;
use crate::values::op::Op;
use std::sync::Arc;

/// A transaction without the cursor that it allocates by.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) core: Arc<Core>,
    pub(super) allocated: ExtentSet,
    pub(super) freed: ExtentSet,
    /// Extents that this transaction had allocated and has freed again, and not allocated since: a
    /// second free of them is a mistake.
    pub(super) returned: ExtentSet,
    /// Whether it may be durable: then no caller gets what it allocated.
    pub(super) in_doubt: bool,
    /// Whether a store may be at work on it.
    pub(super) frozen: bool,
    /// What became of its delta, while it is frozen.
    pub(super) fate: Option<Arc<Fate>>,
    /// Whether its changes are in the allocator's ledger.
    pub(super) entered: bool,
    /// The frees that it owns, while it is frozen.
    pub(super) owned: Owned,
    /// Number of blocks that it has added to the allocator's count of pending frees.
    pub(super) pending: u64,
}

/// The blocks whose free a transaction owns.
#[derive(Debug, Default)]
pub(super) enum Owned {
    #[default]
    None,
    All,
    /// Another transaction owns the frees of the others.
    Part(Extents),
}

impl Open {
    pub(super) fn new(core: Arc<Core>) -> Self {
        let none = ExtentSet::default;
        Self {
            core,
            allocated: none(),
            freed: none(),
            returned: none(),
            in_doubt: false,
            frozen: false,
            fate: None,
            entered: false,
            owned: Owned::None,
            pending: 0,
        }
    }

    /// Freezes the transaction; returns the changes that a store has to make durable. `followed`:
    /// the delta reports what becomes of it.
    pub(super) fn freeze(&mut self, followed: bool) -> Delta {
        let conflict = match self.core.space.entered() {
            Some(ledger) => ledger.enter(self.changes()).err(),
            None => None,
        };
        debug_assert!(!self.frozen && matches!(self.owned, Owned::None), "frozen once at a time");
        (self.frozen, self.entered) = (true, conflict.is_none());
        let allocated = self.allocated.iter().collect();
        let (freed, freed_twice) = match conflict {
            Some(_) => (self.freed.iter().collect(), None),
            None => self.own_frees(),
        };
        let conflict = conflict.or(freed_twice);
        self.count_pending(freed.blocks());
        self.fate = followed.then(Arc::default);
        let fate = self.fate.clone();
        Delta { allocated, freed, origin: Some(self.core.id), conflict, fate }
    }

    /// Marks what it frees as its own; also returns the first block that another transaction frees,
    /// if any.
    fn own_frees(&mut self) -> (Extents, Option<u64>) {
        let apart = |extent: &Extent| self.allocated.overlap(*extent).is_none();
        debug_assert!(self.freed.iter().all(|extent| apart(&extent)), "the effect is net");
        let own = self.core.space.mark_freed(self.freed.iter());
        if own.blocks() == self.freed.iter().map(|extent| extent.len).sum::<u64>() {
            self.owned = Owned::All;
            return (own, None);
        }
        let twice = first_missing(self.freed.iter(), &own);
        self.owned = Owned::Part(own);
        (self.freed.iter().collect(), twice)
    }

    fn disown_frees(&mut self) {
        match std::mem::take(&mut self.owned) {
            Owned::None => {}
            Owned::All => self.core.space.disown_frees(self.freed.iter()),
            Owned::Part(own) => self.core.space.disown_frees(own),
        }
    }

    /// Sets the number of blocks that the allocator counts as about to be freed by it.
    fn count_pending(&mut self, blocks: u64) {
        let before = std::mem::replace(&mut self.pending, blocks);
        if blocks != before {
            self.core.space.committing.add(blocks.wrapping_sub(before));
        }
    }

    /// Undoes [`Open::freeze`]; what may be durable stays in doubt.
    pub(super) fn thaw(&mut self) {
        self.count_pending(0);
        self.in_doubt |= self.is_taken();
        self.fate = None;
        self.frozen = false;
        self.disown_frees();
        if let (true, Some(ledger)) = (std::mem::take(&mut self.entered), self.core.space.entered())
        {
            ledger.leave(self.changes());
        }
    }

    /// Notes that the transaction has allocated `extent`.
    pub(super) fn took(&mut self, extent: Extent) {
        if !self.returned.is_empty() {
            for (part, returned) in self.returned.split(extent) {
                if returned {
                    self.returned.remove(part);
                }
            }
        }
        self.allocated.insert(extent);
    }

    /// Gives extents that the transaction had allocated to the quarantine: no record names them, but
    /// a reader may have been told of them. If the transaction is in doubt, a record may name them.
    pub(super) fn give_back(&mut self, extents: Extents, cursor: Option<&mut Cursor>) {
        extents.iter().for_each(|&extent| self.returned.insert(extent));
        if !self.in_doubt && !extents.is_empty() {
            let own = self.core.space.own_frees(extents);
            HeldFrees::new(self.core.clone(), None, own).release_by(cursor);
        }
    }

    fn changes(&self) -> impl Iterator<Item = (Extent, Op)> + Clone + '_ {
        let allocated = self.allocated.iter().map(|extent| (extent, Op::Allocate));
        allocated.chain(self.freed.iter().map(|extent| (extent, Op::Free)))
    }

    /// Whether the delta may be durable, before the engine has said what became of it.
    fn is_taken(&self) -> bool {
        self.fate.as_ref().is_some_and(|fate| fate.is_taken())
    }

    /// Releases everything. Uses `cursor`, that of the handle; `None` stands for this thread's.
    pub(super) fn committed(self, cursor: Option<&mut Cursor>) {
        self.settle().release_by(cursor);
    }

    /// Releases everything except what it frees.
    pub(super) fn settle(mut self) -> HeldFrees {
        let lsn = self.fate.take().and_then(|fate| fate.lsn());
        if lsn.is_none() && self.core.space.has_log() {
            // The log does not know it: there, what it frees is allocated, and will be after a
            // restart.
            self.in_doubt = true;
            return HeldFrees::new(self.core.clone(), lsn, Extents::new());
        }
        self.allocated = ExtentSet::default();
        let mut freed = std::mem::take(&mut self.freed).into_extents();
        match std::mem::take(&mut self.owned) {
            Owned::All => {}
            // The store committed in spite of the conflict.
            Owned::Part(own) => {
                self.core.space.conflicts.add(freed.blocks() - own.blocks());
                freed = own;
            }
            Owned::None => freed = self.core.space.own_frees(freed),
        }
        HeldFrees::new(self.core.clone(), lsn, freed)
    }
}

/// Rolls back; after a commit there is nothing left to roll back.
impl Drop for Open {
    fn drop(&mut self) {
        self.count_pending(0);
        self.disown_frees();
        if self.in_doubt {
            return;
        }
        if self.is_taken() || self.frozen && std::thread::panicking() {
            // Between the write and its confirmation: the outcome is unknown. What it would have
            // freed stays allocated, and may be freed again, which is right either way.
            if let (true, Some(ledger)) = (self.entered, self.core.space.entered()) {
                ledger.leave(self.freed.iter().map(|extent| (extent, Op::Free)));
            }
            return;
        }
        let core = &*self.core;
        let let_out = || {
            if self.allocated.is_empty() {
                return;
            }
            thread_cursor::with_lane(core, |lane| {
                self.allocated.iter().for_each(|extent| core.space.let_out(lane, extent));
            });
        };
        match core.space.entered() {
            Some(ledger) if self.entered => ledger.give_up(self.changes(), let_out),
            _ => let_out(),
        }
    }
}
