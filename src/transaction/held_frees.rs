//! The frees of one transaction, held until the engine's own record is durable.

use std::sync::Arc;

use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::request::thread_cursor;
use crate::transaction::let_go;
use crate::values::extent::{Extent, Extents};
use crate::values::lsn::Lsn;

/// The extents that a durable transaction has freed, kept from reuse until the engine says that its
/// own record of the frees is durable, too. From
/// [`Transaction::commit_holding`](crate::Transaction::commit_holding).
///
/// Until [`release`](Self::release) the blocks stay allocated, and count as
/// [`held_blocks`](crate::Stats::held_blocks). If this is dropped instead (an error in between, a
/// panic), the engine's metadata may still name them, so no caller gets them until the store is
/// opened again. There they are free: an engine whose metadata names them takes them back with
/// [`Opened::repair`](crate::Opened::repair). [`SpaceMapLog::revoke`](crate::SpaceMapLog::revoke)
/// undoes the transaction all the same. Leaking this is the same as dropping it.
#[derive(Debug)]
#[must_use = "unless it is released, its blocks are nobody's until a restart"]
pub struct HeldFrees {
    core: Arc<Core>,
    /// The transaction's number, for the gate of the allocator's own log.
    lsn: Option<Lsn>,
    /// The extents, whose frees this value owns.
    freed: Extents,
    /// Whether they are counted among the allocator's held blocks.
    counted: bool,
}

impl HeldFrees {
    pub(crate) fn new(core: Arc<Core>, lsn: Option<Lsn>, freed: Extents) -> Self {
        Self { core, lsn, freed, counted: false }
    }

    /// Counts the blocks as held, for the engine to keep.
    pub(crate) fn counted(mut self) -> Self {
        self.core.space.held_blocks.add(self.freed.blocks());
        self.counted = true;
        self
    }

    /// The extents, ascending.
    pub fn extents(&self) -> &[Extent] {
        &self.freed
    }

    /// Sum of the lengths.
    pub fn blocks(&self) -> u64 {
        self.freed.blocks()
    }

    /// The engine's own record is durable: the blocks go to the quarantine, and are reused when
    /// older guards are gone. If the store itself holds frees
    /// ([`hold_until_stable`](crate::OpenOptions::hold_until_stable),
    /// [`Authority::Engine`](crate::Authority::Engine)), they also wait for its permission.
    pub fn release(self) {
        self.release_by(None);
    }

    /// As [`release`](Self::release), with the cursor of a handle, or else of this thread.
    pub(crate) fn release_by(mut self, cursor: Option<&mut Cursor>) {
        let freed = std::mem::take(&mut self.freed);
        if freed.is_empty() {
            return;
        }
        let core = &*self.core;
        if self.counted {
            core.space.held_blocks.add(freed.blocks().wrapping_neg());
        }
        match cursor {
            Some(cursor) => let_go::let_go(core, cursor, self.lsn, freed),
            None => {
                let mut freed = Some(freed);
                thread_cursor::with_cursor(core, |cursor| {
                    freed
                        .take()
                        .into_iter()
                        .for_each(|freed| let_go::let_go(core, cursor, self.lsn, freed));
                });
            }
        }
    }
}

/// Keeps the blocks allocated until a restart, or until the engine undoes the transaction.
impl Drop for HeldFrees {
    fn drop(&mut self) {
        let freed = std::mem::take(&mut self.freed);
        if freed.is_empty() {
            return;
        }
        if !self.counted {
            self.core.space.held_blocks.add(freed.blocks());
        }
        let_go::keep_held(&self.core, self.lsn, freed);
    }
}
