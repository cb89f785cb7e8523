//! Comparing the freelist with memory and with what the engine knows.

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
    /// Allocated in the database, but not by any transaction that was committed: somebody else wrote
    /// there.
    pub set_behind: Vec<Extent>,
    /// Free in the database although allocated by a committed transaction.
    pub cleared_behind: Vec<Extent>,
    /// Allocated in the index, but by no committed transaction: of one under way or in doubt, in the
    /// quarantine, or of [`Allocator::allocate`](crate::Allocator::allocate) or
    /// [`mark_allocated`](crate::Allocator::mark_allocated). The last are lost at the next restart, or
    /// given to somebody else then.
    pub unrecorded: Vec<Extent>,
    /// Free in the index although allocated by a committed transaction: of
    /// [`Allocator::free`](crate::Allocator::free) where [`Transaction::free`](crate::Transaction::free)
    /// was due, which [`allow_plain_frees`](crate::stores::rocks::OpenOptions::allow_plain_frees) lets happen. Every transaction that gets them is refused, until
    /// [`Allocator::mark_allocated`](crate::Allocator::mark_allocated) or [`Opened::repair`] makes it
    /// right.
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
    /// Compares three states, block by block: what is in the database, what was committed by the
    /// transactions of this process, and the index; and the committed one with the engine's own
    /// list of the extents it uses, in any order. Writes nothing. While transactions are under way,
    /// or freed blocks wait for [`ReadGuard`](crate::ReadGuard)s, theirs count as differences.
    ///
    /// O(n log n) in the list, and O(blocks / 64).
    ///
    /// # Errors
    /// What opening would answer.
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

    /// Makes the state what the engine's list says: `untracked` blocks are taken back into the index,
    /// `unprotected` ones allocated, `leaked` ones freed, in as many transactions as that takes;
    /// answers with the last. Overlaps are the engine's to resolve; `unrecorded` blocks may be those of
    /// transactions under way, and are not touched. What was written behind our back is found by
    /// this, too, after the freelist has been opened again. To be called before anything else is
    /// allocated, and without guards.
    ///
    /// # Errors
    /// [`StageError`]; what earlier transactions did stays, and another check shows the rest.
    /// [`StageError::Conflict`] if somebody allocated an unprotected or untracked block in the
    /// meantime.
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
