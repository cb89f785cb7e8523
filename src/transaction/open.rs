//! What a transaction holds until it is decided.

use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::request::thread_cursor;
use crate::transaction::held_frees::HeldFrees;
use crate::values::delta::{Delta, Fate};
use crate::values::extent::{Extent, Extents};
use crate::values::extent_set::ExtentSet;
use crate::values::op::Op;
use std::sync::Arc;

/// The transaction without the way it allocates.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) core: Arc<Core>,
    pub(super) allocated: ExtentSet,
    pub(super) freed: ExtentSet,
    /// Allocated and freed again, both here: no part of the delta.
    pub(super) returned: ExtentSet,
    /// It may be durable: what it allocated is given to nobody.
    pub(super) in_doubt: bool,
    /// A store may be at work on it.
    pub(super) frozen: bool,
    /// What has become of its delta, while it is frozen.
    pub(super) fate: Option<Arc<Fate>>,
    /// Its changes are in the allocator's ledger.
    pub(super) entered: bool,
    /// Of what it frees, while it is frozen.
    pub(super) owned: Owned,
    /// Blocks by which the allocator counts it as being committed.
    pub(super) pending: u64,
}

/// The blocks whose free a transaction owns.
#[derive(Debug, Default)]
pub(super) enum Owned {
    #[default]
    None,
    All,
    /// The others are another transaction's.
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

    /// What a store has to make durable, and whether to hear what becomes of it.
    pub(super) fn freeze(&mut self, followed: bool) -> Delta {
        let conflict = match self.core.space.entered() {
            Some(ledger) => ledger.enter(self.changes()).err(),
            None => None,
        };
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

    /// Makes what it frees its own to free; and the first block that is another transaction's, if there is one.
    fn own_frees(&mut self) -> (Extents, Option<u64>) {
        let own = self.core.space.mark_freed(self.freed.iter());
        if own.blocks() == self.freed.iter().map(|extent| extent.len).sum::<u64>() {
            self.owned = Owned::All;
            return (own, None);
        }
        let mut known = ExtentSet::default();
        own.iter().for_each(|&part| known.insert(part));
        self.owned = Owned::Part(own);
        let mut parts = self.freed.iter().flat_map(|extent| known.split(extent));
        let twice = parts.find(|(_, own)| !own).map(|(part, _)| part.start);
        (self.freed.iter().collect(), twice)
    }

    fn disown_frees(&mut self) {
        match std::mem::take(&mut self.owned) {
            Owned::None => {}
            Owned::All => self.core.space.disown_frees(self.freed.iter()),
            Owned::Part(own) => self.core.space.disown_frees(own),
        }
    }

    /// Counts as being committed with so many blocks to be freed.
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

    fn changes(&self) -> impl Iterator<Item = (Extent, Op)> + Clone + '_ {
        let allocated = self.allocated.iter().map(|extent| (extent, Op::Allocate));
        allocated.chain(self.freed.iter().map(|extent| (extent, Op::Free)))
    }

    /// Whether the delta may be durable, as far as the engine has not said.
    fn is_taken(&self) -> bool {
        self.fate.as_ref().is_some_and(|fate| fate.is_taken())
    }

    /// Lets go of everything. `cursor` is that of the handle; without one it is that of this thread.
    pub(super) fn committed(self, mut cursor: Option<&mut Cursor>) {
        self.settle(cursor.as_deref_mut()).release_by(cursor);
    }

    /// Lets go of everything but what it frees.
    pub(super) fn settle(mut self, cursor: Option<&mut Cursor>) -> HeldFrees {
        let lsn = self.fate.take().and_then(|fate| fate.lsn());
        if lsn.is_none() && self.core.space.has_log() {
            // The log knows nothing of it: what it frees is allocated there, and will be at a restart.
            self.in_doubt = true;
            return HeldFrees::new(self.core.clone(), lsn, Extents::new());
        }
        self.allocated = ExtentSet::default();
        let mut freed = std::mem::take(&mut self.freed).into_extents();
        match std::mem::take(&mut self.owned) {
            Owned::All => {}
            // The store did not mind the conflict.
            Owned::Part(own) => {
                self.core.space.conflicts.add(freed.blocks() - own.blocks());
                freed = own;
            }
            Owned::None => freed = self.core.space.own_frees(freed),
        }
        // Nothing durable names these, but a reader may have been told of them; and a first try that
        // failed may have named them.
        let returned = std::mem::take(&mut self.returned);
        if !self.in_doubt {
            let returned = self.core.space.own_frees(returned.into_extents());
            HeldFrees::new(self.core.clone(), None, returned).release_by(cursor);
        }
        HeldFrees::new(self.core.clone(), lsn, freed)
    }
}

/// Rolls back: nothing is left here after a commit.
impl Drop for Open {
    fn drop(&mut self) {
        self.count_pending(0);
        self.disown_frees();
        if self.in_doubt {
            return;
        }
        if self.is_taken() || self.frozen && std::thread::panicking() {
            // Between the write and the word that it is done: nobody knows. What it would have freed
            // stays, and may be freed again, which comes to the same in either case.
            if let (true, Some(ledger)) = (self.entered, self.core.space.entered()) {
                ledger.leave(self.freed.iter().map(|extent| (extent, Op::Free)));
            }
            return;
        }
        let core = &*self.core;
        let let_out = || {
            if self.allocated.is_empty() && self.returned.is_empty() {
                return;
            }
            thread_cursor::with_lane(core, |lane| {
                for extent in self.allocated.iter().chain(self.returned.iter()) {
                    core.space.let_out(lane, extent);
                }
            });
        };
        match core.space.entered() {
            Some(ledger) if self.entered => ledger.give_up(self.changes(), let_out),
            _ => let_out(),
        }
    }
}
