//! Allocations and frees that become durable together.
//!
//! Promises: a transaction is committed whole or not at all, and what it frees is reused only when that is
//! durable and no guard from before is alive. Uses `held`, `request` and all below them, `core`; `store` is the
//! port to those who make it durable.

pub(crate) mod held_frees;
pub(crate) mod let_go;
pub(crate) mod store;

use std::fmt::{Display, Formatter};
use std::sync::Arc;

use crate::core::Core;
use crate::held::reservation::Reservation;
use crate::held::stream::Stream;
use crate::placement::cursor::Cursor;
use crate::request::{allocate, thread_cursor};
use crate::space::ledger::Change;
use crate::transaction::held_frees::HeldFrees;
use crate::transaction::store::Store;
use crate::values::delta::{Delta, Fate};
use crate::values::error::{AllocError, FreeError, MarkError, RequestError, on_device};
use crate::values::extent::{Extent, Extents};
use crate::values::extent_set::ExtentSet;
use crate::values::lsn::Lsn;
use crate::values::request::Request;

/// Allocations and frees that become durable together or not at all.
///
/// Allocated blocks are taken from the free space at once, so nobody else gets them; freed blocks
/// stay allocated until the transaction is durable and every [`ReadGuard`](crate::ReadGuard) is gone
/// that was there before. Dropping the transaction, also by unwinding, gives back what it allocated
/// and forgets what it freed. A crash before the commit does the same. If a thread panics while it
/// commits, nobody knows, and nobody gets the blocks until a restart.
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
/// An engine whose metadata is in the store itself (or that can tell at a restart what is what) calls
/// [`commit`](Self::commit), and `old` may be reused at once. Which order is right for what, and what to do
/// after a crash, is the subject of [`metadata`](crate::metadata).
///
/// A committed transaction is gone, so that nothing can be added to it:
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
    /// The cursor of the handle it was begun on, or the thread's.
    cursor: Option<&'h mut Cursor>,
}

/// The transaction without the way it allocates.
#[derive(Debug)]
struct Open {
    core: Arc<Core>,
    allocated: ExtentSet,
    freed: ExtentSet,
    /// Allocated and freed again, both here: no part of the delta.
    returned: ExtentSet,
    /// It may be durable: what it allocated is given to nobody.
    in_doubt: bool,
    /// A store may be at work on it.
    frozen: bool,
    /// What has become of its delta, while it is frozen.
    fate: Option<Arc<Fate>>,
    /// Its changes are in the allocator's ledger.
    entered: bool,
    /// Of what it frees, while it is frozen.
    owned: Owned,
    /// Blocks by which the allocator counts it as being committed.
    pending: u64,
}

/// The blocks whose free a transaction owns.
#[derive(Debug, Default)]
enum Owned {
    #[default]
    None,
    All,
    /// The others are another transaction's.
    Part(Extents),
}

/// A transaction that takes no more changes, while the engine makes its [`Delta`] durable in a log
/// or key-value store of its own.
///
/// Dropping it gives up, as dropping the transaction does, as long as the delta can be nowhere. It can from
/// the moment on that it (or a clone) was [encoded](Delta::encode) or a store has taken it: a space-map log
/// or RocksDB freelist whose [`Store::commit`] was called and did not surely fail. From then on dropping is
/// [`Frozen::in_doubt`], so that a `?` or a panic between the write and [`Frozen::committed`] gives nobody
/// blocks that a restart may find in use; [`Frozen::not_written`] is for engines that know better. An
/// engine that makes it durable in another way (from [`Delta::allocated`] and [`Delta::freed`], in a
/// RocksDB batch that it writes itself, in a [`Store`] of its own) calls [`Frozen::in_doubt`] if it may be
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
    open: Open,
    delta: Delta,
}

/// A commit that failed, with the transaction as it was: commit it again, or drop it.
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
    /// See [`AllocError`]; the transaction is as it was then.
    pub fn allocate(&mut self, len: u64) -> Result<Extent, AllocError> {
        let extent = self.with_cursor(|core, cursor| allocate::allocate(core, cursor, len))?;
        self.open.allocated.insert(extent);
        Ok(extent)
    }

    /// Allocates what `request` asks for: see
    /// [`Allocator::allocate_with`](crate::Allocator::allocate_with).
    ///
    /// # Errors
    /// See [`AllocError`]; the transaction is as it was then.
    pub fn allocate_with(&mut self, request: &Request) -> Result<Extents, AllocError> {
        let mut extents = Extents::new();
        self.with_cursor(|core, cursor| {
            allocate::allocate_into(core, cursor, request, &mut extents)
        })?;
        extents.iter().for_each(|&extent| self.open.allocated.insert(extent));
        Ok(extents)
    }

    /// Allocates what `request` asks for, and uses as much of `reservation`: see [`Reservation`].
    ///
    /// # Errors
    /// See [`Reservation::allocate`]; transaction and reservation are as they were then.
    pub fn allocate_reserved(
        &mut self,
        reservation: &mut Reservation,
        request: &Request,
    ) -> Result<Extents, AllocError> {
        if !reservation.is_of(&self.open.core) {
            return Err(RequestError::Foreign.into());
        }
        let extents = self.with_cursor(|_, cursor| reservation.allocate_by(cursor, request))?;
        extents.iter().for_each(|&extent| self.open.allocated.insert(extent));
        Ok(extents)
    }

    /// Allocates what `request` asks for, where `stream` goes on: see [`Stream`].
    ///
    /// # Errors
    /// See [`Stream::allocate_with`]; the transaction is as it was then.
    pub fn allocate_in(
        &mut self,
        stream: &mut Stream,
        request: &Request,
    ) -> Result<Extents, AllocError> {
        if !stream.is_of(&self.open.core) {
            return Err(RequestError::Foreign.into());
        }
        let extents = stream.allocate_with(request)?;
        extents.iter().for_each(|&extent| self.open.allocated.insert(extent));
        Ok(extents)
    }

    /// Allocates exactly `extent`.
    ///
    /// # Errors
    /// See [`MarkError`]; the transaction is as it was then.
    pub fn mark_allocated(&mut self, extent: Extent) -> Result<(), MarkError> {
        self.with_cursor(|core, cursor| allocate::mark_allocated(core, cursor.lane, extent))?;
        self.open.allocated.insert(extent);
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

    /// Frees `extent` when the transaction is committed. Its blocks may be committed ones, ones that
    /// this transaction allocated, or both; until then they stay allocated.
    ///
    /// That two transactions free the same block is seen here if the first is frozen or being committed by then,
    /// or held, or waits for readers; otherwise when the second is frozen ([`Delta::conflict`]), which the
    /// stores of this crate refuse to commit
    /// ([`CommitError::Conflict`](crate::CommitError::Conflict) of the space-map log). If a store commits
    /// it all the same, the block is let out once and counted in
    /// [`Stats::conflicting_frees`](crate::Stats::conflicting_frees).
    ///
    /// O(log n) in the extents of the transaction, and O(len / 64).
    ///
    /// # Errors
    /// See [`FreeError`]: a block is free, or this transaction freed it already. The transaction is
    /// as it was then.
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
        for (part, own) in allocated.split(extent) {
            if own {
                allocated.remove(part);
                returned.insert(part);
            } else {
                freed.insert(part);
            }
        }
        Ok(())
    }

    /// Extents allocated so far, ascending, without those freed again.
    pub fn allocated(&self) -> impl Iterator<Item = Extent> + '_ {
        self.open.allocated.iter()
    }

    /// Extents to be freed that were allocated before, ascending.
    pub fn freed(&self) -> impl Iterator<Item = Extent> + '_ {
        self.open.freed.iter()
    }

    /// Whether nothing would be written: nothing was allocated or freed, or only freed again.
    pub fn is_empty(&self) -> bool {
        self.open.allocated.is_empty() && self.open.freed.is_empty()
    }

    /// Makes everything durable in `store`, then lets the freed extents go to the quarantine. Blocks
    /// until the store answers.
    ///
    /// From then on what was freed may be reused, so anything durable that still names it must be of no
    /// consequence: see [`metadata`](crate::metadata), and
    /// [`commit_holding`](Self::commit_holding) where it is of some. A log that
    /// [holds](crate::OpenOptions::hold_until_stable) frees does so for every commit.
    ///
    /// On an allocator that belongs to a log, only that log (or a store that hands the delta on to it) can
    /// commit. If another says that it did, the freed blocks are kept from everybody until a restart.
    ///
    /// # Errors
    /// The store's error with the transaction, unchanged, to be committed again or dropped. If the
    /// error leaves open whether it is durable ([`Store::leaves_doubt`]), nobody gets its blocks until
    /// a restart, even if it is dropped.
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

    /// As [`Transaction::commit`], but what was freed stays allocated until the answer is
    /// [released](HeldFrees::release): for engines whose own metadata names extents and becomes durable
    /// after this. See [`metadata`](crate::metadata).
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
            Ok(lsn) => Ok((lsn, self.open.settle(self.cursor).counted())),
            Err(error) => Err(CommitFailed { transaction: self, error }),
        }
    }

    /// Leaves the transaction frozen, or after an error as it was.
    fn make_durable<S: Store + ?Sized>(&mut self, store: &S) -> Result<Lsn, S::Error> {
        let has_log = self.open.core.space.has_log();
        let delta = self.open.freeze(has_log);
        store.commit(&delta).inspect_err(|error| {
            self.open.in_doubt |= store.leaves_doubt(error);
            self.open.thaw();
        })
    }

    /// Ends the collecting of changes, for engines that make the delta durable themselves.
    pub fn freeze(mut self) -> Frozen {
        let delta = self.open.freeze(true);
        Frozen { open: self.open, delta }
    }
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
    /// [`Store::commit`] with this delta, or under
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

impl Open {
    fn new(core: Arc<Core>) -> Self {
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
    fn freeze(&mut self, followed: bool) -> Delta {
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
    fn thaw(&mut self) {
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

    fn changes(&self) -> impl Iterator<Item = (Extent, Change)> + Clone + '_ {
        let allocated = self.allocated.iter().map(|extent| (extent, Change::Allocate));
        allocated.chain(self.freed.iter().map(|extent| (extent, Change::Free)))
    }

    /// Whether the delta may be durable, as far as the engine has not said.
    fn is_taken(&self) -> bool {
        self.fate.as_ref().is_some_and(|fate| fate.is_taken())
    }

    /// Lets go of everything. `cursor` is that of the handle; without one it is that of this thread.
    fn committed(self, mut cursor: Option<&mut Cursor>) {
        self.settle(cursor.as_deref_mut()).release_by(cursor);
    }

    /// Lets go of everything but what it frees.
    fn settle(mut self, cursor: Option<&mut Cursor>) -> HeldFrees {
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
                ledger.leave(self.freed.iter().map(|extent| (extent, Change::Free)));
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
