//! Reports and counters of a log.

use crate::values::lsn::Lsn;

/// What opening a log found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The last transaction found.
    pub last: Lsn,
    /// Transactions of the log that were replayed.
    pub replayed: u64,
    /// Bytes of live log that were read.
    pub log_bytes: u64,
    /// Frames behind the last whole transaction that were cut off: a crash left them, of commits
    /// that were never acknowledged. Frames torn beyond recognition are not counted.
    pub cut_frames: u64,
    /// Transactions taken back because the engine asked for an earlier one.
    pub taken_back: u64,
    /// Ranges whose newest image was damaged and which were restored from an older one.
    pub restored_ranges: u64,
    /// Directory pages and superblocks of which one copy was damaged.
    pub damaged_copies: u64,
    /// Time to read and check the log and the images, and to replay.
    pub load_time: std::time::Duration,
    /// Time to build the allocator's index from the state.
    pub build_time: std::time::Duration,
    /// Bytes read.
    pub read_bytes: u64,
    /// Offset of a damaged frame behind the requested transaction: what came after it is lost.
    pub damaged_at: Option<u64>,
}

/// Bytes written, to check the bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Figures {
    /// Transactions committed.
    pub commits: u64,
    /// Flushes.
    pub syncs: u64,
    /// Bytes of frames.
    pub log_bytes: u64,
    /// Bytes of records in them.
    pub record_bytes: u64,
    /// Bytes of images.
    pub image_bytes: u64,
    /// Bytes of directory pages and superblocks.
    pub directory_bytes: u64,
    /// The largest live log so far: from the oldest change that no image holds to the end.
    pub max_live: u64,
    /// The most bytes of images written with one flush.
    pub max_image_burst: u64,
    /// Parts of the engine's log that wait for an earlier one, at this moment: see
    /// [`SpaceMapLog::absorb`](crate::SpaceMapLog::absorb).
    pub waiting: u64,
}
