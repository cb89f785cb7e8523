//! Comparing the freelist with memory and with the engine's list.

use crate::stores::check::{Discrepancies, check, push_bits, repair};
use crate::stores::rocks::error::RocksError;
use crate::stores::rocks::family::Mode;
use crate::stores::rocks::scan::scan;
use crate::stores::rocks::{Opened, StageError};
use crate::values::extent::Extent;
use crate::values::lsn::Lsn;

/// What [`Opened::check`] found: nothing, if all lists are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Integrity {
    /// Allocated in the database, but by no committed transaction: something else wrote there.
    pub set_behind: Vec<Extent>,
    /// Free in the database although allocated by a committed transaction.
    pub cleared_behind: Vec<Extent>,
    /// Allocated in the index, but by no committed transaction: blocks of a transaction under way
    /// or in doubt, in the quarantine, or from [`Allocator::allocate`](crate::Allocator::allocate)
    /// or [`mark_allocated`](crate::Allocator::mark_allocated). The last are lost at the next
    /// restart, or handed out again then.
    pub unrecorded: Vec<Extent>,
    /// Free in the index although allocated by a committed transaction: from
    /// [`Allocator::free`](crate::Allocator::free) where
    /// [`Transaction::free`](crate::Transaction::free) was due, which
    /// [`allow_plain_frees`](crate::stores::rocks::OpenOptions::allow_plain_frees) permits. Every
    /// transaction that gets them is refused, until
    /// [`Allocator::mark_allocated`](crate::Allocator::mark_allocated) or [`Opened::repair`]
    /// corrects it.
    pub untracked: Vec<Extent>,
    /// The committed state compared with the engine's list.
    pub discrepancies: Discrepancies,
}

impl Integrity {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

impl<M: Mode> Opened<M> {
    /// Compares three states, block by block: the database, what the transactions of this process
    /// committed, and the index. Also compares the committed state with the engine's own list of
    /// the extents it uses, in any order. Writes nothing. Blocks of transactions under way, and
    /// freed blocks that wait for [`ReadGuard`](crate::ReadGuard)s, count as differences.
    ///
    /// O(n log n) in the list, and O(blocks / 64).
    ///
    /// # Errors
    /// The errors of opening.
    pub fn check(&self, used: impl IntoIterator<Item = Extent>) -> Result<Integrity, RocksError> {
        self.allocator.collect();
        let committed = self.allocator.committed_bitmap()?.unwrap_or_default();
        let durable = scan(&self.freelist.inner.db, &self.freelist.inner.family)?.words;
        let index = self.allocator.to_bitmap()?;
        let mut found = Integrity {
            discrepancies: check(committed.iter().copied(), self.allocator.blocks(), used),
            ..Integrity::default()
        };
        for (at, ((&committed, &durable), &index)) in
            committed.iter().zip(&durable).zip(&index).enumerate()
        {
            let start = 64 * at as u64;
            push_bits(&mut found.set_behind, start, durable & !committed);
            push_bits(&mut found.cleared_behind, start, committed & !durable);
            push_bits(&mut found.unrecorded, start, index & !committed);
            push_bits(&mut found.untracked, start, committed & !index);
        }
        Ok(found)
    }

    /// Brings the state to the engine's list: takes `untracked` blocks back into the index,
    /// allocates `unprotected` ones and frees `leaked` ones, in as many transactions as that takes.
    /// Returns the LSN of the last. Overlaps are the engine's to resolve; `unrecorded` blocks may
    /// be those of transactions under way, and are not touched. This also finds foreign writes,
    /// once the freelist has been opened again. Call it before anything else is allocated, and
    /// without guards.
    ///
    /// # Errors
    /// [`StageError`]; what earlier transactions did stays, and another check shows the rest.
    /// [`StageError::Conflict`] if an unprotected or untracked block was allocated in the meantime.
    pub fn repair(&self, found: &Integrity) -> Result<Lsn, StageError> {
        /// Extents in one transaction.
        const AT_ONCE: usize = 50_000;
        self.allocator.collect();
        for &extent in &found.untracked {
            self.allocator.mark_allocated(extent)?;
        }
        repair(&self.allocator, &self.freelist, &found.discrepancies, AT_ONCE)?;
        Ok(Lsn(self.freelist.inner.db.latest_sequence_number()))
    }
}
