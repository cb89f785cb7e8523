//! The space-map log, the embedded store.
//!
//! - this file: the public face; `submit`: transactions that are queued; `engine`: what the engine says of its own
//!   records; `absorb`: the log as a checkpoint; `resize`: devices that become larger or smaller;
//! - `options`, `create`, `open`: making and opening a log; `convert`: older versions of the format; `check`: comparing
//!   with what the engine knows;
//! - `inner`: what all copies of a log share; `group`, `lead`, `ticket`: who writes when many commit at once;
//! - `writer`: windows, ordering rules; `condense`: when images are written;
//! - `shared`: what is known without the writer; `order`: what comes in any order;
//! - `recover`: from bytes to state; `known`: back to what the engine knows; `state`: what both sides know of it;
//! - `mirror`: the committed state in memory;
//! - `record`, `delta`, `format`, `layout`: bytes; `disk`: what they are written to; `lock`: who has which part of it;
//!   `blank`, `identify`, `found`: what is there already;
//! - `error`, `commit_error`, `io_failure`, `report`, `memory`, `authority`: what callers are told, and say;
//! - `fault`: ordering faults for the crash tests; `work`: what opening costs, for those that bound it.

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
    /// Bytes that the log occupies, as of the last window but for what is queued. Does not wait for the disk.
    /// O(parts that wait).
    pub fn memory(&self) -> LogMemory {
        let inner = &self.inner;
        let (committed, waiting) = {
            let state = inner.shared.state();
            (state.mirror.ledger().bytes(), state.waiting_bytes())
        };
        let queued = inner.queue.bytes() + waiting;
        LogMemory { committed, queued, ..inner.shared.seen().memory }
    }

    /// The identity of the device, as chosen or drawn at creation.
    pub fn uuid(&self) -> [u8; 16] {
        self.inner.uuid
    }

    /// Whose log is right after a crash.
    pub fn authority(&self) -> Authority {
        self.inner.authority
    }

    /// The last durable transaction; 0 before the first. Does not wait for the disk.
    pub fn last(&self) -> Lsn {
        Lsn(self.inner.shared.seen().last)
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

    /// Bytes and flushes since the log was opened, as of the last window. Does not wait for the disk.
    pub fn figures(&self) -> Figures {
        let waiting = self.inner.shared.state().waiting();
        Figures { waiting: waiting as u64, ..self.inner.shared.seen().figures }
    }
}
