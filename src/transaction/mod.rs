//! Allocations and frees that become durable together.
//!
//! Promises: a transaction is committed whole or not at all, and what it frees is reused only when
//! that is durable and no older guard is alive. Uses `held`, `request` and all below them, `core`;
//! `store` is the port to the stores that make it durable.

mod frozen;
pub(crate) mod held_frees;
pub(crate) mod let_go;
mod open;
pub(crate) mod store;

pub use frozen::Frozen;

use std::fmt::{Display, Formatter};
use std::sync::Arc;

use crate::core::Core;
use crate::held::reservation::Reservation;
use crate::held::stream::Stream;
use crate::placement::cursor::Cursor;
use crate::request::{allocate, by_name, thread_cursor};
use crate::transaction::held_frees::HeldFrees;
use crate::transaction::open::Open;
use crate::transaction::store::Store;
use crate::values::error::{AllocError, FreeError, MarkError, RequestError, on_device};
use crate::values::extent::{Extent, Extents};
use crate::values::lsn::Lsn;
use crate::values::request::Request;

/// Allocations and frees that become durable together or not at all.
///
/// Allocated blocks are taken from the free space at once, so no other caller gets them. Freed
/// blocks stay allocated until the transaction is durable and every older
/// [`ReadGuard`](crate::ReadGuard) is gone. Dropping the transaction, also by unwinding, gives back
/// what it allocated and forgets what it freed. A crash before the commit does the same. If a
/// thread panics while it commits, the outcome is unknown, and no caller gets the blocks until a
/// restart.
///
/// ```
/// use freemap::{Allocator, Extent, Store};
///
/// /// Moves an object to a new place.
/// fn rewrite<S: Store>(
///     allocator: &Allocator,
///     store: &S,
///     old: Extent,
///     write_metadata: impl FnOnce(Extent) -> std::io::Result<()>,
/// ) -> Result<Extent, Box<dyn std::error::Error>> {
///     let mut transaction = allocator.begin();
///     let new = transaction.allocate(old.len)?; // on an error, nothing has happened
///     transaction.free(old)?;
///     // ... write the data to `new`, and flush it ...
///     let (_, held) = transaction.commit_holding(store)?; // `new` is taken, and `old` not yet reused
///     write_metadata(new)?; // the object is in `new`, durably
///     held.release(); // from here on, `old` may be reused
///     Ok(new)
/// }
/// ```
///
/// An engine whose metadata is in the store itself (or that can tell at a restart which extents are
/// current) calls [`commit`](Self::commit), and `old` may be reused at once.
/// [`metadata`](crate::metadata) explains which order is right for which engine, and what to do
/// after a crash.
///
/// Committing consumes the transaction, so nothing can be added to it afterwards:
///
/// ```compile_fail
/// # fn f<S: freemap::Store>(allocator: freemap::Allocator, store: S) {
/// let mut transaction = allocator.begin();
/// transaction.commit(&store).unwrap();
/// transaction.allocate(1).unwrap();
/// # }
/// ```
#[derive(Debug)]
pub struct Transaction<'h> {
    open: Open,
    /// The cursor of the handle that began it; `None` stands for the thread's.
    cursor: Option<&'h mut Cursor>,
}

/// A commit that failed, with the unchanged transaction: commit it again, or drop it.
#[derive(Debug)]
pub struct CommitFailed<'h, E> {
    /// The transaction, unchanged.
    pub transaction: Transaction<'h>,
    /// Why it could not be committed.
    pub error: E,
}

impl<E> CommitFailed<'_, E> {
    /// The error alone; the transaction is given up.
    pub fn into_error(self) -> E {
        self.error
    }
}

impl<E: Display> Display for CommitFailed<'_, E> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "the transaction is not committed: {}", self.error)
    }
}

impl<E: std::error::Error + 'static> std::error::Error for CommitFailed<'_, E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl<'h> Transaction<'h> {
    pub(crate) fn new(core: Arc<Core>, cursor: Option<&'h mut Cursor>) -> Self {
        Self { open: Open::new(core), cursor }
    }

    /// Allocates `len` adjacent blocks.
    ///
    /// # Errors
    /// See [`AllocError`]; the transaction is then unchanged.
    pub fn allocate(&mut self, len: u64) -> Result<Extent, AllocError> {
        let extent = self.with_cursor(|core, cursor| allocate::allocate(core, cursor, len))?;
        self.open.took(extent);
        Ok(extent)
    }

    /// Allocates what `request` asks for: see
    /// [`Allocator::allocate_with`](crate::Allocator::allocate_with).
    ///
    /// # Errors
    /// See [`AllocError`]; the transaction is then unchanged.
    pub fn allocate_with(&mut self, request: &Request) -> Result<Extents, AllocError> {
        let mut extents = Extents::new();
        self.with_cursor(|core, cursor| {
            allocate::allocate_into(core, cursor, request, &mut extents)
        })?;
        extents.iter().for_each(|&extent| self.open.took(extent));
        Ok(extents)
    }

    /// Allocates what `request` asks for, and uses up as much of `reservation`: see
    /// [`Reservation`].
    ///
    /// # Errors
    /// See [`Reservation::allocate`]; transaction and reservation are then unchanged.
    pub fn allocate_reserved(
        &mut self,
        reservation: &mut Reservation,
        request: &Request,
    ) -> Result<Extents, AllocError> {
        if !reservation.is_of(&self.open.core) {
            return Err(RequestError::Foreign.into());
        }
        let extents = self.with_cursor(|_, cursor| reservation.allocate_by(cursor, request))?;
        extents.iter().for_each(|&extent| self.open.took(extent));
        Ok(extents)
    }

    /// Allocates what `request` asks for, where `stream` continues: see [`Stream`].
    ///
    /// # Errors
    /// See [`Stream::allocate_with`]; the transaction is then unchanged.
    pub fn allocate_in(
        &mut self,
        stream: &mut Stream,
        request: &Request,
    ) -> Result<Extents, AllocError> {
        if !stream.is_of(&self.open.core) {
            return Err(RequestError::Foreign.into());
        }
        let extents = stream.allocate_with(request)?;
        extents.iter().for_each(|&extent| self.open.took(extent));
        Ok(extents)
    }

    /// Allocates exactly `extent`: see
    /// [`Allocator::mark_allocated`](crate::Allocator::mark_allocated).
    ///
    /// # Errors
    /// See [`MarkError`]; the transaction is then unchanged.
    pub fn mark_allocated(&mut self, extent: Extent) -> Result<(), MarkError> {
        self.with_cursor(|core, cursor| by_name::mark_allocated(core, cursor, extent))?;
        self.open.took(extent);
        Ok(())
    }

    /// Calls `work` with the cursor of the handle, or else of this thread.
    fn with_cursor<T>(&mut self, mut work: impl FnMut(&Core, &mut Cursor) -> T) -> T {
        let core = &*self.open.core;
        match &mut self.cursor {
            Some(cursor) => work(core, cursor),
            None => thread_cursor::with_cursor(core, |cursor| work(core, cursor)),
        }
    }

    /// Frees `extent`. Committed blocks are freed when the transaction is committed, and stay
    /// allocated until then. What this transaction has itself allocated was never durable: it goes
    /// to the quarantine at once, and without a [`ReadGuard`](crate::ReadGuard) it is free for the
    /// next request (after a commit in doubt, it stays allocated until a restart).
    ///
    /// If two transactions free the same block, this call detects it when the first is already
    /// frozen, being committed, held, or waiting for readers. Otherwise it is detected when the
    /// second is frozen ([`Delta::conflict`](crate::Delta::conflict)), and the stores of this crate
    /// refuse to commit that ([`CommitError::Conflict`](crate::CommitError::Conflict) of the
    /// space-map log). If a store commits it all the same, the block is let out once and counted in
    /// [`Stats::conflicting_frees`](crate::Stats::conflicting_frees).
    ///
    /// O(log n) in the extents of the transaction, and O(len / 64).
    ///
    /// # Errors
    /// See [`FreeError`]: a block is free, or this transaction freed it already. The transaction is
    /// then unchanged.
    pub fn free(&mut self, extent: Extent) -> Result<(), FreeError> {
        let Open { core, allocated, freed, returned, .. } = &mut self.open;
        let (start, len) = on_device(extent, core.space.bitmap.blocks())?;
        let end = start + len;
        let twice = [&*freed, &*returned].into_iter().filter_map(|set| set.overlap(extent));
        let twice = twice.map(|part| part.start).min();
        let unowned = core
            .space
            .first_unowned(start, end)
            .min(core.space.quarantine.first_marked(start, end));
        let free = Some(unowned).filter(|&block| block < end);
        if let Some(block) = twice.into_iter().chain(free).min() {
            return Err(FreeError::DoubleFree { block });
        }
        if allocated.overlap(extent).is_none() {
            freed.insert(extent);
            return Ok(());
        }
        let mut own_parts = Extents::new();
        for (part, own) in allocated.split(extent) {
            if own {
                allocated.remove(part);
                own_parts.push(part);
            } else {
                freed.insert(part);
            }
        }
        self.open.give_back(own_parts, self.cursor.as_deref_mut());
        Ok(())
    }

    /// Extents allocated so far, ascending, without those that were freed again.
    pub fn allocated(&self) -> impl Iterator<Item = Extent> + '_ {
        self.open.allocated.iter()
    }

    /// Extents to be freed that were allocated before the transaction, ascending.
    pub fn freed(&self) -> impl Iterator<Item = Extent> + '_ {
        self.open.freed.iter()
    }

    /// Whether there is nothing to write: nothing was allocated or freed, except blocks freed
    /// again.
    pub fn is_empty(&self) -> bool {
        self.open.allocated.is_empty() && self.open.freed.is_empty()
    }

    /// Makes everything durable in `store`, then sends the freed extents to the quarantine. Blocks
    /// until the store answers.
    ///
    /// From then on freed extents may be reused, so no durable metadata that matters may still name
    /// them: see [`metadata`](crate::metadata), and [`commit_holding`](Self::commit_holding) for
    /// engines where such metadata exists. A log that
    /// [holds](crate::OpenOptions::hold_until_stable) frees does so for every commit.
    ///
    /// On an allocator that belongs to a log, only that log can commit (or a store that hands the
    /// delta on to it). If another store says that it committed, the freed blocks are withheld from
    /// all callers until a restart.
    ///
    /// # Errors
    /// The store's error with the unchanged transaction, to be committed again or dropped. If the
    /// error leaves open whether the transaction is durable ([`Store::leaves_doubt`]), no caller
    /// gets its blocks until a restart, even if it is dropped.
    pub fn commit<S: Store + ?Sized>(
        mut self,
        store: &S,
    ) -> Result<Lsn, CommitFailed<'h, S::Error>> {
        match self.make_durable(store) {
            Ok(lsn) => {
                self.open.committed(self.cursor);
                Ok(lsn)
            }
            Err(error) => Err(CommitFailed { transaction: self, error }),
        }
    }

    /// As [`Transaction::commit`], but the freed blocks stay allocated until the caller
    /// [releases](HeldFrees::release) the answer. For engines whose own metadata names extents and
    /// becomes durable after this. See [`metadata`](crate::metadata).
    ///
    /// ```
    /// use freemap::{Allocator, Extent, Store};
    ///
    /// /// Moves an object to a new place.
    /// fn rewrite<S: Store>(
    ///     allocator: &Allocator,
    ///     store: &S,
    ///     old: Extent,
    ///     write_metadata: impl FnOnce(Extent) -> std::io::Result<()>,
    /// ) -> Result<(), Box<dyn std::error::Error>> {
    ///     let mut transaction = allocator.begin();
    ///     let new = transaction.allocate(old.len)?;
    ///     transaction.free(old)?;
    ///     // ... write the data to `new`, and flush it ...
    ///     let (_, held) = transaction.commit_holding(store)?;
    ///     write_metadata(new)?; // durable when it returns; until then a restart finds the object in `old`
    ///     held.release(); // from here on, `old` may be reused
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`Transaction::commit`].
    pub fn commit_holding<S: Store + ?Sized>(
        mut self,
        store: &S,
    ) -> Result<(Lsn, HeldFrees), CommitFailed<'h, S::Error>> {
        match self.make_durable(store) {
            Ok(lsn) => Ok((lsn, self.open.settle().counted())),
            Err(error) => Err(CommitFailed { transaction: self, error }),
        }
    }

    /// Leaves the transaction frozen, or, after an error, as it was.
    fn make_durable<S: Store + ?Sized>(&mut self, store: &S) -> Result<Lsn, S::Error> {
        let has_log = self.open.core.space.has_log();
        let delta = self.open.freeze(has_log);
        store.commit(&delta).inspect_err(|error| {
            self.open.in_doubt |= store.leaves_doubt(error);
            self.open.thaw();
        })
    }

    /// Ends the collection of changes, for engines that make the delta durable themselves.
    pub fn freeze(mut self) -> Frozen {
        let delta = self.open.freeze(true);
        Frozen { open: self.open, delta }
    }
}
