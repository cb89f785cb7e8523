//! The space-map log, the embedded store.
//!
//! - this file: the public face;
//! - `open`: creating, opening, inspecting; `convert`: older versions of the format; `check`: comparing with what the engine knows;
//!   `resize`: devices that become larger or smaller;
//! - `group`: who writes when many commit at once;
//! - `writer`: windows, ordering rules; `condense`: when images are written;
//! - `shared`: what is known without the writer; `order`: what comes in any order;
//! - `recover`: from bytes to state; `known`: back to what the engine knows;
//! - `mirror`: the committed state in memory;
//! - `record`, `format`, `layout`: bytes; `disk`: what they are written to;
//!   `lock`: who has which part of it; `blank`, `found`: what is there already;
//! - `fault`: ordering faults for the crash tests; `work`: what opening costs, for those that bound it.

mod authority;
mod blank;
mod check;
mod condense;
mod convert;
mod delta;
mod disk;
mod error;
mod fault;
mod format;
mod found;
pub(crate) mod group;
mod identify;
mod known;
mod layout;
mod lock;
mod memory;
mod mirror;
mod open;
mod order;
pub(crate) mod record;
mod recover;
mod report;
mod resize;
mod shared;
mod state;
#[cfg(all(test, not(loom)))]
mod tests;
mod work;
mod writer;

use std::future::Future;
use std::ops::{Deref, DerefMut, Range};
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

pub use authority::Authority;
pub use disk::{Disk, FileDisk};
pub use error::{CommitError, IoFailure, LogError, Part};
pub use found::Found;
pub use memory::LogMemory;
pub use open::{CreateOptions, OpenOptions, Opened};
pub use report::{Figures, Report};

use crate::core::Core;
use crate::transaction::store::Store;
use crate::transaction::{CommitFailed, Frozen, Transaction, let_go};
use crate::values::delta::Delta;
use crate::values::lsn::Lsn;
use group::{Full, Group, Ticket};
use order::Recorded;
use shared::{Piece, Shared};
use writer::{Work, Writer};

/// What queues for a flush: the records of one transaction.
type Queue = Group<Vec<u8>, Result<Lsn, CommitError>>;
type Outcome = Ticket<Result<Lsn, CommitError>>;

/// The embedded store: an append-only log of what each transaction allocated and freed, and behind
/// it one bitmap page for every 32768 blocks, in a fixed area beside the managed blocks.
///
/// - *Commit* writes one or more checksummed frames and flushes once; all who commit at the same time
///   share that flush.
/// - *Condensing* keeps the live log below a limit L (and a few of the largest commits) by writing the pages of the ranges that changed
///   longest ago, in small instalments with the commits themselves: for each byte of log at most
///   2C/L bytes of pages, C being 4608 bytes for each range of the device.
/// - *Opening* reads the pages and replays the log strictly, in parallel.
///
/// Clones are names for the same log.
///
/// # What a crash leaves
///
/// Every acknowledged transaction, whole; of those in flight a prefix in the order of their LSNs,
/// each whole or not at all. A torn tail is cut silently (and reported); damage in front of intact
/// frames that were durable is an error, and nothing is written then.
///
/// # Limits
///
/// - One transaction takes at most a quarter of the log's limit (2 MiB with the smallest default: about
///   500,000 extents).
/// - The committed state is kept in memory too: one bit per block, 32 MiB per TiB of 4 KiB blocks,
///   of which ranges that were never used cost nothing. It lets every commit be checked block by
///   block before it is written. About 1 MiB per TiB is needed for bookkeeping beside it.
/// - The ring is as long as it was made, which limits how far the device can
///   [grow](SpaceMapLog::grow): [`SpaceMapLog::max_blocks`].
/// - After a failed flush the system may show pages, until it is restarted or drops its cache, that
///   are not on the device. Opening believes what it reads: after [`CommitError::Sync`] on a device
///   that did fail, restart the machine (or drop the cache) before opening the log again.
/// - Damage to the very last frame looks like a torn tail: an engine that keeps the LSN of its last
///   commit can have that noticed by [`OpenOptions::expect_lsn`].
///
/// ```
/// use freemap::{CreateOptions, FileDisk, OpenOptions, SpaceMapLog};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("free.log");
/// let created = SpaceMapLog::create(FileDisk::open(&path)?, 1 << 20, &CreateOptions::new())?;
/// let mut transaction = created.allocator.begin();
/// let extent = transaction.allocate(100)?;
/// let lsn = transaction.commit(&created.log)?;
/// drop(created); // or a crash
///
/// let opened = SpaceMapLog::open(FileDisk::open(&path)?, &OpenOptions::new().expect_lsn(lsn))?;
/// assert_eq!(opened.allocator.is_allocated(extent), Ok(true));
/// assert_eq!(opened.allocator.free_blocks(), (1 << 20) - 100);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SpaceMapLog {
    inner: Arc<Inner>,
}

struct Inner {
    queue: Queue,
    /// Locked during I/O.
    writer: Mutex<Writer>,
    /// What is known without it.
    shared: Arc<Shared>,
    /// The allocator whose transactions this log takes.
    allocator: u64,
    /// The same, as long as anybody has it: where frees are held.
    core: Weak<Core>,
    /// Frees are held until the engine's records are durable.
    holds: bool,
    authority: Authority,
    uuid: [u8; 16],
    max_commit: u64,
    name: String,
    /// Which transactions the engine's log has; the writer hears of the mark when it is used next.
    recorded: Mutex<Recorded>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("name", &self.name)
            .field("authority", &self.authority)
            .field("last", &self.shared.seen().last)
            .finish_non_exhaustive()
    }
}

/// The writer, locked. Those who do not wait for it see what it did when it is let go at the latest.
struct Busy<'a>(MutexGuard<'a, Writer>);

impl Deref for Busy<'_> {
    type Target = Writer;

    fn deref(&self) -> &Writer {
        &self.0
    }
}

impl DerefMut for Busy<'_> {
    fn deref_mut(&mut self) -> &mut Writer {
        &mut self.0
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.show();
    }
}

impl Inner {
    fn writer(&self) -> Busy<'_> {
        let mut writer = self.writer.lock().unwrap_or_else(|poisoned| {
            // Somebody panicked in the middle of a change: from here on everything is refused.
            let mut writer = poisoned.into_inner();
            writer.refuse(self.panicked());
            writer
        });
        writer.stable(self.recorded().mark());
        Busy(writer)
    }

    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits a batch, as the leader.
    fn work(&self, batch: Vec<Vec<u8>>) -> Vec<Result<Lsn, CommitError>> {
        let mut works: Vec<Work<'_>> =
            batch.iter().map(|records| Work { records, undo: false, result: None }).collect();
        let mut writer = self.writer();
        writer.commit(&mut works);
        drop(writer);
        works.into_iter().map(|work| work.result.unwrap_or_else(|| Err(self.broken()))).collect()
    }

    fn panicked(&self) -> IoFailure {
        let error = Arc::new(std::io::Error::other("an earlier call panicked"));
        IoFailure { file: self.name.clone(), action: "go on", offset: 0, error }
    }

    fn broken(&self) -> CommitError {
        CommitError::Refused(self.panicked())
    }

    fn expect_sound(&self, delta: &Delta) -> Result<(), CommitError> {
        if delta.origin != Some(self.allocator) {
            return Err(CommitError::Foreign);
        }
        delta.conflict().map_or(Ok(()), |block| Err(CommitError::Conflict { block }))
    }

    fn encode(&self, delta: &Delta) -> Result<Vec<u8>, CommitError> {
        self.expect_sound(delta)?;
        if self.authority == Authority::Piggyback {
            return Err(CommitError::Mode);
        }
        let mut records =
            Vec::with_capacity(12 * (delta.allocated().len() + delta.freed().len()) + 8);
        delta.encode_in_store(&mut records);
        let (bytes, max) = (records.len() as u64, self.max_commit);
        if bytes > max { Err(CommitError::TooLarge { bytes, max }) } else { Ok(records) }
    }

    fn wait(&self, ticket: &Outcome) -> Result<Lsn, CommitError> {
        self.outcome(self.queue.wait(ticket, |batch| self.work(batch)))
    }

    /// Who took the work and died over it may have written it.
    fn outcome(&self, result: Option<Result<Lsn, CommitError>>) -> Result<Lsn, CommitError> {
        result.unwrap_or_else(|| Err(CommitError::Panicked { file: self.name.clone() }))
    }

    /// Notes what the engine's own log has; frees that waited for it are let go.
    fn note(&self, change: impl FnOnce(&mut Recorded)) {
        let mut recorded = self.recorded();
        change(&mut recorded);
        let mark = Lsn(recorded.mark());
        drop(recorded);
        if let Some(core) = self.core.upgrade() {
            let_go::open_gate(&core, mark);
        }
    }

    /// An error unless the engine may speak of transaction `lsn`.
    fn expect_known(&self, lsn: Lsn) -> Result<(), CommitError> {
        if self.authority != Authority::Engine && !self.holds {
            return Err(CommitError::Mode);
        }
        let last = Lsn(self.shared.seen().last);
        if lsn > last { Err(CommitError::Unknown { lsn, last }) } else { Ok(()) }
    }
}

impl Store for SpaceMapLog {
    type Error = CommitError;

    /// Writes the delta's records and flushes, together with whoever commits at the same time. The
    /// calling thread may do the work of others; it waits for one flush that began after it came,
    /// and perhaps for one that was under way.
    ///
    /// Where the engine says by number what is [stable](SpaceMapLog::stable), an empty delta is a transaction like
    /// others, and has a number of its own.
    fn commit(&self, delta: &Delta) -> Result<Lsn, CommitError> {
        let work = || {
            let numbered = self.inner.authority == Authority::Engine || self.inner.holds;
            if delta.is_empty() && delta.origin == Some(self.inner.allocator) && !numbered {
                return Ok(self.last());
            }
            let records = self.inner.encode(delta)?;
            let bytes = records.len() as u64;
            let ticket = self.inner.queue.submit(records, bytes);
            self.inner.wait(&ticket)
        };
        // Of another allocator's nothing is known here.
        delta.hand_over(work, CommitError::leaves_doubt)
    }

    fn leaves_doubt(&self, error: &CommitError) -> bool {
        error.leaves_doubt()
    }
}

impl SpaceMapLog {
    /// The identity of the device, as chosen or drawn at creation.
    pub fn uuid(&self) -> [u8; 16] {
        self.inner.uuid
    }

    /// Whose log is right after a crash.
    pub fn authority(&self) -> Authority {
        self.inner.authority
    }

    /// Queues a transaction without waiting: for engines with more commits in flight than threads.
    ///
    /// What comes back is a future, and can be waited for by a thread as well. Somebody has to do
    /// the work: a [`Flusher`], a call of [`SpaceMapLog::flush`], or any thread that commits or
    /// waits. Polling does not.
    ///
    /// The queue has a limit ([`CreateOptions::max_queued`], [`CreateOptions::max_queued_bytes`]), beside which
    /// there is what is being written, and one transaction for each thread in
    /// [`Transaction::commit`](crate::Transaction::commit).
    ///
    /// # Errors
    /// [`CommitError::Foreign`], [`CommitError::TooLarge`], [`CommitError::Mode`], [`CommitError::Conflict`] for a
    /// [conflict](Delta::conflict) that was known when it was frozen, and
    /// [`CommitError::QueueFull`] at once, with the transaction.
    pub fn submit(
        &self,
        transaction: Frozen,
    ) -> Result<Pending, CommitFailed<'static, CommitError>> {
        self.enqueue(transaction, |queue, records| {
            let bytes = records.len() as u64;
            queue.try_submit(records, bytes).map_err(|Full { items: transactions, bytes }| {
                CommitError::QueueFull { transactions, bytes }
            })
        })
    }

    /// As [`SpaceMapLog::submit`], but waits while the queue is full: until those who do the work have taken
    /// what is queued, which they do at the latest after the flush that is under way. If there is nobody,
    /// the calling thread does it.
    ///
    /// # Errors
    /// As [`SpaceMapLog::submit`], but never [`CommitError::QueueFull`].
    pub fn submit_waiting(
        &self,
        transaction: Frozen,
    ) -> Result<Pending, CommitFailed<'static, CommitError>> {
        self.enqueue(transaction, |queue, records| {
            let bytes = records.len() as u64;
            Ok(queue.submit_waiting(records, bytes, |batch| self.inner.work(batch)))
        })
    }

    fn enqueue(
        &self,
        transaction: Frozen,
        submit: impl FnOnce(&Queue, Vec<u8>) -> Result<Outcome, CommitError>,
    ) -> Result<Pending, CommitFailed<'static, CommitError>> {
        let records = self.inner.encode(transaction.delta());
        match records.and_then(|records| submit(&self.inner.queue, records)) {
            Ok(ticket) => {
                Ok(Pending { inner: self.inner.clone(), ticket, transaction: Some(transaction) })
            }
            Err(error) => Err(CommitFailed { transaction: transaction.reopen(), error }),
        }
    }

    /// Writes and flushes whatever is queued, or leaves that to the thread that is at it now, which
    /// then goes on until nothing is queued.
    pub fn flush(&self) {
        self.inner.queue.flush(|batch| self.inner.work(batch));
    }

    /// Starts a thread that writes and flushes whatever is queued, for engines that
    /// [`submit`](SpaceMapLog::submit), and condenses when nothing has been queued for a second. As
    /// long as it lives, it does the work of all committers. Dropping it finishes the queue.
    ///
    /// # Errors
    /// The system's, if there can be no thread.
    pub fn start_flusher(&self) -> std::io::Result<Flusher> {
        let log = self.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread =
            std::thread::Builder::new().name("freemap-flusher".to_string()).spawn(move || {
                let inner = &log.inner;
                // An idle device ends with an empty log; an error shows at the next commit.
                let idle = || drop(inner.writer().idle());
                inner.queue.serve(
                    &stopped,
                    Duration::from_secs(1),
                    |batch| inner.work(batch),
                    idle,
                );
            })?;
        Ok(Flusher { log: self.clone(), stop, thread: Some(thread) })
    }

    /// The last durable transaction; 0 before the first. Does not wait for the disk.
    pub fn last(&self) -> Lsn {
        Lsn(self.inner.shared.seen().last)
    }

    /// Tells a log under [`Authority::Engine`] that the engine's own log has every transaction up to
    /// `lsn`, durably: it will never ask to be taken back to an earlier one, so images may know of it, and what
    /// those transactions freed may be reused. The same for the frees of a log that
    /// [holds](OpenOptions::hold_until_stable) them. For engines whose records become durable in the order of
    /// their transactions; others call [`SpaceMapLog::recorded`]. Does not wait for the disk; O(what it lets go).
    ///
    /// Call it often: until then the log cannot be condensed, and at last is [`CommitError::Full`], and
    /// freed blocks stay allocated ([`Stats::held_blocks`](crate::Stats::held_blocks)).
    ///
    /// # Errors
    /// [`CommitError::Unknown`] if there is no such transaction yet: nothing changes, and what gets this
    /// number later is not stable. [`CommitError::Mode`] if there is nothing that waits for it: under another
    /// authority, unless frees are held.
    pub fn stable(&self, lsn: Lsn) -> Result<(), CommitError> {
        self.inner.expect_known(lsn)?;
        self.inner.note(|recorded| recorded.raise(lsn.0));
        Ok(())
    }

    /// As [`SpaceMapLog::stable`], but of this one transaction, in any order and as often as you like: the log
    /// works out up to where there is no gap ([`SpaceMapLog::mark`]). After a crash the engine says
    /// which ones it found by [`OpenOptions::recover_until`] and [`OpenOptions::recover_also`].
    ///
    /// O(log n) in those behind the first gap, and about 16 bytes for each. A transaction that is never
    /// recorded stops the mark for good: see [`SpaceMapLog::revoke`].
    ///
    /// # Errors
    /// As [`SpaceMapLog::stable`].
    pub fn recorded(&self, lsn: Lsn) -> Result<(), CommitError> {
        self.inner.expect_known(lsn)?;
        self.inner.note(|recorded| recorded.add(lsn.0));
        Ok(())
    }

    /// Under [`Authority::Engine`]: the engine's own log has every transaction up to this one. Does not wait for
    /// the disk.
    pub fn mark(&self) -> Lsn {
        Lsn(self.inner.recorded().mark())
    }

    /// Commits the transaction that undoes `lsn`, under [`Authority::Engine`], since the engine's record of
    /// `lsn` will never come: its write failed, say. Answers with the number of the new one. Waits for the
    /// flush, and one that is under way.
    ///
    /// The two come to nothing together. The engine writes *one* record into its own log which says that it knows
    /// both, and calls [`SpaceMapLog::recorded`] for both; if a crash comes before, both are taken back,
    /// which comes to the same. What `lsn` freed stays allocated, and may be freed again; what it allocated
    /// is reused when the mark has passed both. A [`Frozen`] or [`HeldFrees`](crate::HeldFrees) that there still is of it is
    /// dropped, and until then nobody else can free what it freed.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] if a later transaction has freed what `lsn` allocated, or allocated what
    /// it freed; [`CommitError::Stable`] if the engine has said that it knows it; [`CommitError::Unknown`];
    /// [`CommitError::Mode`]; and those of a commit.
    pub fn revoke(&self, lsn: Lsn) -> Result<Lsn, CommitError> {
        if self.inner.authority != Authority::Engine {
            return Err(CommitError::Mode);
        }
        self.inner.expect_known(lsn)?;
        let mut writer = self.inner.writer();
        let Some(records) = writer.unstable(lsn.0) else {
            return Err(CommitError::Stable { lsn, mark: self.mark() });
        };
        let inverse = known::inverse(records);
        let mut records = Vec::new();
        inverse.encode_in_store(&mut records);
        let mut works = [Work { records: &records, undo: false, result: None }];
        writer.commit(&mut works);
        drop(writer);
        let [work] = works;
        let undo = work.result.unwrap_or_else(|| Err(self.inner.broken()))?;
        if let Some(core) = self.inner.core.upgrade() {
            let_go::revoke(&core, lsn, undo, inverse.freed);
        }
        Ok(undo)
    }

    /// Writes an image of every range that changed, and empties the log: before a shutdown, so that
    /// the next opening has nothing to replay. Commits wait meanwhile. A handful of flushes, and
    /// 4 KiB for each range that changed.
    ///
    /// # Errors
    /// [`CommitError`]; the state is as good as before.
    pub fn condense(&self) -> Result<(), CommitError> {
        let mut writer = self.inner.writer();
        let until = writer.head.position;
        writer.advance(until)
    }

    /// One step of what [`SpaceMapLog::condense`] does: about a sixteenth of the ranges that changed.
    /// For idle times, about once a second; a [`Flusher`] does it by itself. `false` when there was
    /// nothing to do.
    ///
    /// # Errors
    /// [`CommitError`]; the state is as good as before.
    pub fn idle(&self) -> Result<bool, CommitError> {
        self.inner.writer().idle()
    }

    /// Takes in a transaction that the engine has made durable in its own log, under
    /// [`Authority::Piggyback`]. `span` is the part of that log that carries its delta: byte offsets, or n - 1..n
    /// for record n. Does not wait for the disk, also beside a [`checkpoint`](SpaceMapLog::checkpoint).
    ///
    /// Parts may come in any order. The log keeps a [mark](SpaceMapLog::position): everything before it has come.
    /// A part that begins there is applied at once, and with it those that waited for it. One that comes early
    /// waits: it is in no checkpoint, and what it frees is not reused, until the mark is there. So every
    /// part of the engine's log must come sometime, or be declared empty by [`SpaceMapLog::skip`].
    ///
    /// A part that waits takes about 500 bytes, and 60 for each extent. There is no limit: there are as many as
    /// the engine has made durable behind the first one that it has not
    /// ([`Figures::waiting`]).
    ///
    /// It goes on after a checkpoint failed for good ([`CommitError::Refused`]): the engine's log has everything.
    ///
    /// O(log n) in those that wait, and O(blocks / 64).
    ///
    /// # Errors
    /// With the transaction: [`CommitError::Order`] if the part is empty, begins before the mark, or overlaps
    /// one that waits; [`CommitError::Conflict`] if it begins at the mark and does not fit the state (the mark
    /// stays: skip the part if the engine can do without it), or its delta has a
    /// [conflict](Delta::conflict); [`CommitError::Mode`];
    /// [`CommitError::Foreign`]. [`CommitError::Contradicted`] if a part that had waited did not fit: the log takes
    /// nothing more, and the transaction is in doubt.
    pub fn absorb(
        &self,
        transaction: Frozen,
        span: Range<u64>,
    ) -> Result<(), CommitFailed<'static, CommitError>> {
        let applied = match self.expect_absorbing(transaction.delta()) {
            Err(error) => return Err(CommitFailed { transaction: transaction.reopen(), error }),
            Ok(()) => self.take_in(span, transaction)?,
        };
        self.let_go(applied);
        Ok(())
    }

    fn expect_absorbing(&self, delta: &Delta) -> Result<(), CommitError> {
        self.inner.expect_sound(delta)?;
        if self.inner.authority == Authority::Piggyback { Ok(()) } else { Err(CommitError::Mode) }
    }

    fn take_in(
        &self,
        span: Range<u64>,
        mut transaction: Frozen,
    ) -> Result<Vec<Frozen>, CommitFailed<'static, CommitError>> {
        let mut records = Vec::new();
        transaction.delta().encode_in_store(&mut records);
        let mut state = self.inner.shared.state();
        if let Err(error) = state.admit(&span, &records) {
            drop(state);
            if error.leaves_doubt() {
                transaction.doubt();
            }
            return Err(CommitFailed { transaction: transaction.reopen(), error });
        }
        // It is durable in the engine's log, also if it still waits when this one is closed.
        transaction.taken();
        Ok(state.add(span, Piece { records, transaction: Some(transaction) }))
    }

    /// Declares, under [`Authority::Piggyback`], that a part of the engine's log carries no delta and never will:
    /// the mark moves over it. What has been skipped is to be skipped again when the log is replayed after a
    /// crash. Does not wait for the disk.
    ///
    /// # Errors
    /// [`CommitError::Order`], [`CommitError::Mode`], [`CommitError::Contradicted`], as
    /// [`SpaceMapLog::absorb`].
    pub fn skip(&self, span: Range<u64>) -> Result<(), CommitError> {
        if self.inner.authority != Authority::Piggyback {
            return Err(CommitError::Mode);
        }
        let mut state = self.inner.shared.state();
        state.admit(&span, &[])?;
        let applied = state.add(span, Piece::default());
        drop(state);
        self.let_go(applied);
        Ok(())
    }

    /// What was absorbed may let go of what it frees: the engine's record of it is durable. Without the lock, since
    /// that may take a while.
    fn let_go(&self, applied: Vec<Frozen>) {
        let last = self.last();
        applied.into_iter().for_each(|transaction| transaction.committed_as(last));
    }

    /// The mark, under [`Authority::Piggyback`]: every part of the engine's log before it has been absorbed or
    /// skipped. Where the engine's log begins, 0 unless a checkpoint says more. Does not wait for the disk.
    pub fn position(&self) -> u64 {
        self.inner.shared.state().mark()
    }

    /// Makes everything before the [mark](SpaceMapLog::position) durable, all of it or nothing, and the mark with
    /// it; the engine's log may then be cut there. The mark is that of the beginning: what is absorbed
    /// meanwhile is for the next checkpoint, and does not wait. 4 KiB for each range that changed, in memory at
    /// first, and a handful of flushes.
    ///
    /// # Errors
    /// [`CommitError`]; what opening finds is the checkpoint before, or this one after
    /// [`CommitError::Sync`]. [`CommitError::Contradicted`] if a part that had waited did not fit: no checkpoint
    /// is made any more.
    pub fn checkpoint(&self) -> Result<(), CommitError> {
        if self.inner.authority != Authority::Piggyback {
            return Err(CommitError::Mode);
        }
        self.inner.writer().checkpoint()
    }

    /// Bytes and flushes since the log was opened, as of the last window. Does not wait for the disk.
    pub fn figures(&self) -> Figures {
        let waiting = self.inner.shared.state().waiting();
        Figures { waiting: waiting as u64, ..self.inner.shared.seen().figures }
    }
}

/// A transaction on its way into the log. A thread may [`wait`](Pending::wait) for it, a task may
/// `await` it; dropping it does not take the transaction back, as long as somebody flushes before the
/// log is gone: an engine whose requests can be cancelled calls [`cancel`](Pending::cancel) then, or keeps
/// the extents elsewhere.
#[derive(Debug)]
#[must_use = "the outcome is known only when it is waited for"]
pub struct Pending {
    inner: Arc<Inner>,
    ticket: Outcome,
    transaction: Option<Frozen>,
}

impl Pending {
    /// Takes the transaction back if nobody has begun to write it. O(transactions queued).
    ///
    /// # Errors
    /// The pending one: it is being written, or has been.
    pub fn cancel(mut self) -> Result<Transaction<'static>, Self> {
        match self.transaction.take() {
            Some(transaction) if self.inner.queue.withdraw(&self.ticket) => {
                Ok(transaction.reopen())
            }
            transaction => {
                self.transaction = transaction;
                Err(self)
            }
        }
    }

    /// Blocks until the transaction is durable or has failed, doing the work if nobody else does.
    ///
    /// # Errors
    /// As [`Transaction::commit`](crate::Transaction::commit).
    pub fn wait(mut self) -> Result<Lsn, CommitFailed<'static, CommitError>> {
        let result = self.inner.wait(&self.ticket);
        self.finish(result)
    }

    fn finish(
        &mut self,
        result: Result<Lsn, CommitError>,
    ) -> Result<Lsn, CommitFailed<'static, CommitError>> {
        // There until its one result is: neither `wait` nor a future that is ready comes here twice.
        let transaction = self.transaction.take();
        match (result, transaction) {
            (Err(error), Some(mut transaction)) => {
                if error.leaves_doubt() {
                    transaction.doubt();
                }
                Err(CommitFailed { transaction: transaction.reopen(), error })
            }
            (result, transaction) => {
                let lsn = result.unwrap_or(Lsn(self.inner.shared.seen().last));
                transaction.into_iter().for_each(|transaction| transaction.committed_as(lsn));
                Ok(lsn)
            }
        }
    }
}

impl IntoFuture for Pending {
    type Output = Result<Lsn, CommitFailed<'static, CommitError>>;
    type IntoFuture = Committing;

    fn into_future(self) -> Committing {
        Committing(self)
    }
}

/// The future of a [`Pending`] transaction. Whoever does the work wakes it; polling does none.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Committing(Pending);

impl Committing {
    /// See [`Pending::cancel`].
    ///
    /// # Errors
    /// As there.
    pub fn cancel(self) -> Result<Transaction<'static>, Self> {
        self.0.cancel().map_err(Self)
    }
}

impl Future for Committing {
    type Output = Result<Lsn, CommitFailed<'static, CommitError>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let pending = &mut self.0;
        pending.inner.queue.poll(&pending.ticket, context).map(|result| {
            let result = pending.inner.outcome(result);
            pending.finish(result)
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Whoever has the result lets the freed blocks go, or gives back the allocated ones.
        if let Some(mut transaction) = self.transaction.take() {
            let then = move |result: Option<Result<Lsn, CommitError>>| match result {
                Some(Ok(lsn)) => transaction.committed_as(lsn),
                Some(Err(error)) if !error.leaves_doubt() => {}
                Some(Err(_)) | None => transaction.doubt(),
            };
            self.inner.queue.detach(&self.ticket, Box::new(then));
        }
    }
}

/// The thread that [`SpaceMapLog::start_flusher`] started. Dropping it finishes what is queued and
/// ends the thread.
#[derive(Debug)]
#[must_use = "the thread ends when this is dropped: keep it as long as it is to flush"]
pub struct Flusher {
    log: SpaceMapLog,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.log.inner.queue.stop(&self.stop);
        // A waker may be the one that drops it, on the thread itself.
        let ours = |thread: &std::thread::JoinHandle<()>| {
            thread.thread().id() == std::thread::current().id()
        };
        if let Some(thread) = self.thread.take().filter(|thread| !ours(thread)) {
            drop(thread.join());
        }
    }
}
