//! The space-map log, the embedded store.
//!
//! - this file: the public face; `submit`: queued transactions; `engine`: calls about the engine's
//!   own records; `absorb`: the log as a checkpoint; `resize`: growing and shrinking;
//! - `options`, `create`, `open`: making and opening a log; `convert`: older versions of the
//!   format; `check`: comparing with the engine's list;
//! - `inner`: the state that all clones of a log share; `group`, `lead`, `ticket`: group commit,
//!   choosing the leader;
//! - `writer`: windows, ordering rules; `condense`: when images are written;
//! - `shared`: what can be read without the writer; `order`: parts that arrive in any order;
//! - `recover`: from bytes to state; `known`: back to the transactions that the engine knows;
//!   `state`: what recovery hands to the writer;
//! - `mirror`: the committed state in memory;
//! - `record`, `delta`, `frame`, `format`, `layout`: bytes; `disk`: where they are written; `lock`: file
//!   locks; `blank`, `identify`, `found`: what is on the disk already;
//! - `error`, `commit_error`, `io_failure`, `report`, `memory`, `authority`: public values;
//! - `fault`: ordering faults for the crash tests; `work`: counts the work of opening, for the
//!   tests that bound it.

mod absorb;
mod authority;
mod blank;
mod check;
mod commit_error;
mod condense;
mod convert;
mod create;
mod delta;
mod disk;
mod engine;
mod error;
mod fault;
mod format;
mod found;
mod frame;
pub(crate) mod group;
mod identify;
mod inner;
mod io_failure;
mod known;
mod layout;
mod lead;
mod lock;
mod memory;
mod mirror;
mod open;
mod options;
mod order;
pub(crate) mod record;
mod recover;
mod report;
mod resize;
mod shared;
mod state;
mod submit;
#[cfg(all(test, not(loom)))]
mod tests;
pub(crate) mod ticket;
mod work;
mod writer;

use std::sync::Arc;

pub use authority::Authority;
pub use commit_error::CommitError;
pub use disk::{Disk, FileDisk};
pub use error::{LogError, Part};
pub use found::Found;
pub use io_failure::IoFailure;
pub use memory::LogMemory;
pub use open::Opened;
pub use options::{CreateOptions, OpenOptions};
pub use report::{Figures, Report};
pub use submit::{Committing, Flusher, Pending};

use crate::stores::log::inner::Inner;
use crate::transaction::store::Store;
use crate::values::delta::Delta;
use crate::values::lsn::Lsn;

/// The embedded store: an append-only log of what each transaction allocated and freed, and behind
/// it one bitmap page for every 32768 blocks, in a fixed area beside the managed blocks.
///
/// - *Commit* writes one or more checksummed frames and flushes once; all concurrent committers
///   share that flush.
/// - *Condensing* keeps the live log below a limit L (plus a few of the largest commits). It writes
///   the pages of the ranges that changed longest ago, in small instalments with the commits
///   themselves: for each byte of log at most 2C/L bytes of pages, C being 4608 bytes for each
///   range of the device.
/// - *Opening* reads the pages and replays the log strictly, in parallel.
///
/// Clones share one log.
///
/// # What a crash leaves
///
/// Every acknowledged transaction survives, whole. Of those in flight a prefix in the order of
/// their LSNs survives, each whole or not at all. A torn tail is cut silently (and reported).
/// Damage in front of intact frames that were durable is an error, and nothing is written then.
///
/// # Limits
///
/// - One transaction takes at most a quarter of the log's limit (2 MiB with the smallest default:
///   about 500,000 extents).
/// - The committed state is kept in memory too: one bit per block, 32 MiB per TiB of 4 KiB blocks;
///   ranges that were never used cost nothing. Every commit is checked against it, block by block,
///   before it is written. Bookkeeping takes about 1 MiB more per TiB.
/// - The length of the ring is fixed at creation, which limits how far the device can
///   [grow](SpaceMapLog::grow): [`SpaceMapLog::max_blocks`].
/// - After a failed flush the system may show pages that are not on the device, until it is
///   restarted or drops its cache. Opening trusts what it reads: after [`CommitError::Sync`] on a
///   device that did fail, restart the machine (or drop the cache) before opening the log again.
/// - Damage to the very last frame looks like a torn tail. An engine that keeps the LSN of its last
///   commit can detect it with [`OpenOptions::expect_lsn`].
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

impl Store for SpaceMapLog {
    type Error = CommitError;

    /// Writes the delta's records and flushes, together with concurrent committers. The calling
    /// thread may do the work of others. It waits for one flush that began after the call, and
    /// perhaps for one under way.
    ///
    /// Where the engine reports by number what is [stable](SpaceMapLog::stable), an empty delta is
    /// a transaction like others and has its own number.
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
        // The log knows nothing about the blocks of another allocator.
        delta.hand_over(work, CommitError::leaves_doubt)
    }

    fn leaves_doubt(&self, error: &CommitError) -> bool {
        error.leaves_doubt()
    }
}

impl SpaceMapLog {
    /// Bytes that the log occupies, as of the last window; queued transactions as of now. Does not
    /// wait for the disk. O(parts that wait).
    pub fn memory(&self) -> LogMemory {
        let inner = &self.inner;
        let (committed, waiting) = {
            let state = inner.shared.state();
            (state.mirror.ledger().bytes(), state.waiting_bytes())
        };
        let queued = inner.queue.bytes() + waiting;
        LogMemory { committed, queued, ..inner.shared.seen().memory }
    }

    /// The device's UUID, as chosen or drawn at creation.
    pub fn uuid(&self) -> [u8; 16] {
        self.inner.uuid
    }

    /// Which log decides after a crash.
    pub fn authority(&self) -> Authority {
        self.inner.authority
    }

    /// The last durable transaction; 0 before the first. Does not wait for the disk.
    pub fn last(&self) -> Lsn {
        Lsn(self.inner.shared.seen().last)
    }

    /// Writes an image of every range that changed, and empties the log. Call it before a shutdown,
    /// so that the next opening has nothing to replay. Commits wait meanwhile. Costs a handful of
    /// flushes, and 4 KiB for each range that changed.
    ///
    /// # Errors
    /// [`CommitError`]; the state stays valid.
    pub fn condense(&self) -> Result<(), CommitError> {
        let mut writer = self.inner.writer();
        let until = writer.head.position;
        writer.advance(until)
    }

    /// One step of [`SpaceMapLog::condense`]: about a sixteenth of the ranges that changed. Call it
    /// when idle, about once a second; a [`Flusher`] does so itself. `false` when there was nothing
    /// to do.
    ///
    /// # Errors
    /// [`CommitError`]; the state stays valid.
    pub fn idle(&self) -> Result<bool, CommitError> {
        self.inner.writer().idle()
    }

    /// Bytes and flushes since the log was opened, as of the last window. Does not wait for the
    /// disk.
    pub fn figures(&self) -> Figures {
        let waiting = self.inner.shared.state().waiting();
        Figures { waiting: waiting as u64, ..self.inner.shared.seen().figures }
    }
}
