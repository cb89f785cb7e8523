//! Layer 7: the space-map log, the embedded store.
//!
//! - this file: the public face;
//! - `open`: creating, opening, inspecting; `convert`: older versions of the format; `check`: comparing with what the engine knows;
//!   `resize`: devices that become larger or smaller;
//! - `group`: who writes when many commit at once;
//! - `writer`: windows, ordering rules; `condense`: when images are written;
//! - `recover`: from bytes to state;
//! - `mirror`: the committed state in memory;
//! - `record`, `format`, `layout`: bytes; `disk`: what they are written to;
//! - `fault`: ordering faults for the crash tests; `work`: what opening costs, for those that bound it.

mod check;
mod condense;
mod convert;
mod disk;
mod error;
mod fault;
mod format;
pub mod group;
mod layout;
mod mirror;
mod open;
pub mod record;
mod recover;
mod resize;
#[cfg(all(test, not(loom)))]
mod tests;
mod work;
mod writer;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

pub use disk::{Disk, FileDisk};
pub use error::{CommitError, IoFailure, LogError, Part};
pub use open::{Authority, CreateOptions, OpenOptions, Opened};
pub use recover::Report;
pub use writer::Figures;

use crate::delta::Delta;
use crate::store::{Lsn, Store};
use crate::sync::Counter;
use crate::transaction::{CommitFailed, Frozen};
use group::{Group, Ticket};
use writer::{Work, Writer};

/// What queues for a flush: the records of one transaction.
type Queue = Group<Vec<u8>, Result<Lsn, CommitError>>;

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
    writer: Mutex<Writer>,
    /// The allocator whose transactions this log takes.
    allocator: u64,
    authority: Authority,
    max_commit: u64,
    name: String,
    /// The last durable transaction.
    last: Counter,
    /// What the engine has called stable; the writer hears of it when it is used next.
    stable: Counter,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("name", &self.name)
            .field("authority", &self.authority)
            .field("last", &self.last.get())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn writer(&self) -> MutexGuard<'_, Writer> {
        let mut writer = self.writer.lock().unwrap_or_else(|poisoned| {
            // Somebody panicked in the middle of a change: from here on everything is refused.
            let mut writer = poisoned.into_inner();
            writer.refuse(self.panicked());
            writer
        });
        writer.stable(self.stable.get());
        writer
    }

    /// Commits a batch, as the leader.
    fn work(&self, batch: Vec<Vec<u8>>) -> Vec<Result<Lsn, CommitError>> {
        let mut works: Vec<Work<'_>> =
            batch.iter().map(|records| Work { records, undo: false, result: None }).collect();
        let mut writer = self.writer();
        writer.commit(&mut works);
        self.last.set(writer.head.lsn);
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

    fn encode(&self, delta: &Delta) -> Result<Vec<u8>, CommitError> {
        if delta.origin != Some(self.allocator) {
            return Err(CommitError::Foreign);
        }
        if self.authority == Authority::Piggyback {
            return Err(CommitError::Mode);
        }
        let mut records =
            Vec::with_capacity(12 * (delta.allocated().len() + delta.freed().len()) + 8);
        delta.encode(&mut records);
        let (bytes, max) = (records.len() as u64, self.max_commit);
        if bytes > max { Err(CommitError::TooLarge { bytes, max }) } else { Ok(records) }
    }

    fn wait(&self, ticket: &Ticket<Result<Lsn, CommitError>>) -> Result<Lsn, CommitError> {
        self.queue.wait(ticket, |batch| self.work(batch)).unwrap_or_else(|| Err(self.broken()))
    }
}

impl Store for SpaceMapLog {
    type Error = CommitError;

    /// Writes the delta's records and flushes, together with whoever commits at the same time. The
    /// calling thread may do the work of others; it waits for one flush that began after it came,
    /// and perhaps for one that was under way.
    fn commit(&self, delta: &Delta) -> Result<Lsn, CommitError> {
        if delta.is_empty() && delta.origin == Some(self.inner.allocator) {
            return Ok(self.last());
        }
        let records = self.inner.encode(delta)?;
        let ticket = self.inner.queue.submit(records);
        self.inner.wait(&ticket)
    }

    fn leaves_doubt(&self, error: &CommitError) -> bool {
        error.leaves_doubt()
    }
}

impl SpaceMapLog {
    /// The identity of the device, as chosen or drawn at creation.
    pub fn uuid(&self) -> [u8; 16] {
        self.inner.writer().superblock.uuid
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
    /// # Errors
    /// [`CommitError::Foreign`], [`CommitError::TooLarge`] and [`CommitError::Mode`] at once, with
    /// the transaction.
    pub fn submit(
        &self,
        transaction: Frozen,
    ) -> Result<Pending, CommitFailed<'static, CommitError>> {
        match self.inner.encode(transaction.delta()) {
            Ok(records) => {
                let ticket = self.inner.queue.submit(records);
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

    /// The last durable transaction; 0 before the first.
    pub fn last(&self) -> Lsn {
        Lsn(self.inner.last.get())
    }

    /// Tells a log under [`Authority::Engine`] that the engine's own log is durable up to `lsn`:
    /// it will never ask to be taken back to an earlier transaction, so images may know of it.
    /// Call it often, it is one atomic instruction: until then the log cannot be condensed, and at
    /// last is [`CommitError::Full`].
    pub fn stable(&self, lsn: Lsn) {
        self.inner.stable.raise(lsn.0);
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
    /// [`Authority::Piggyback`]: no I/O. `position` is the engine's: what comes back from opening as
    /// [`Opened::position`] after the next [`checkpoint`](SpaceMapLog::checkpoint).
    ///
    /// # Errors
    /// [`CommitError::Mode`], [`CommitError::Foreign`], [`CommitError::Conflict`] with the
    /// transaction, which is unchanged.
    pub fn absorb(
        &self,
        transaction: Frozen,
        position: u64,
    ) -> Result<(), CommitFailed<'static, CommitError>> {
        match self.absorb_delta(transaction.delta(), position) {
            Ok(()) => {
                transaction.committed();
                Ok(())
            }
            Err(error) => Err(CommitFailed { transaction: transaction.reopen(), error }),
        }
    }

    fn absorb_delta(&self, delta: &Delta, position: u64) -> Result<(), CommitError> {
        if delta.origin != Some(self.inner.allocator) {
            return Err(CommitError::Foreign);
        }
        if self.inner.authority != Authority::Piggyback {
            return Err(CommitError::Mode);
        }
        let mut records = Vec::new();
        delta.encode(&mut records);
        self.inner.writer().absorb(&records, position)
    }

    /// Makes everything absorbed so far durable, all of it or nothing, with the engine's last
    /// position; the engine's log may then be cut there. 4 KiB for each range that changed, and a
    /// handful of flushes.
    ///
    /// # Errors
    /// [`CommitError`]; the state is that of the checkpoint before.
    pub fn checkpoint(&self) -> Result<(), CommitError> {
        if self.inner.authority != Authority::Piggyback {
            return Err(CommitError::Mode);
        }
        let mut writer = self.inner.writer();
        let done = writer.checkpoint();
        self.inner.last.set(writer.head.lsn);
        done
    }

    /// Bytes and flushes since the log was opened.
    pub fn figures(&self) -> Figures {
        self.inner.writer().figures
    }
}

/// A transaction on its way into the log. A thread may [`wait`](Pending::wait) for it, a task may
/// `await` it; dropping it does not take the transaction back, as long as somebody flushes before the
/// log is gone.
#[derive(Debug)]
#[must_use = "the outcome is known only when it is waited for"]
pub struct Pending {
    inner: Arc<Inner>,
    ticket: Ticket<Result<Lsn, CommitError>>,
    transaction: Option<Frozen>,
}

impl Pending {
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
                transaction.into_iter().for_each(Frozen::committed);
                Ok(result.unwrap_or(Lsn(self.inner.last.get())))
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

impl Future for Committing {
    type Output = Result<Lsn, CommitFailed<'static, CommitError>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let pending = &mut self.0;
        pending.inner.queue.poll(&pending.ticket, context).map(|result| {
            let result = result.unwrap_or_else(|| Err(pending.inner.broken()));
            pending.finish(result)
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Whoever has the result lets the freed blocks go, or gives back the allocated ones.
        if let Some(mut transaction) = self.transaction.take() {
            let then = move |result: Option<Result<Lsn, CommitError>>| match result {
                Some(Ok(_)) => transaction.committed(),
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
pub struct Flusher {
    log: SpaceMapLog,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.log.inner.queue.stop(&self.stop);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
