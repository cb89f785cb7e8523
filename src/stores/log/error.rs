//! Everything that can go wrong with the log, as values that name the file and the offset.

use std::io;
use std::sync::Arc;

use thiserror::Error;

use crate::stores::log::found::Found;
use crate::stores::log::mirror::Misfit;
use crate::transaction::CommitFailed;
use crate::values::error::{ConfigError, FreeError, MarkError, ResizeError};
use crate::values::lsn::Lsn;

/// An I/O error with its place.
#[derive(Clone, Debug, Error)]
#[error("{file}: cannot {action} at byte {offset}: {error}")]
pub struct IoFailure {
    /// The name of the disk.
    pub file: String,
    /// What was tried.
    pub action: &'static str,
    /// Where.
    pub offset: u64,
    /// The system's answer.
    pub error: Arc<io::Error>,
}

impl IoFailure {
    /// Whether there was no room on the device or for its user.
    pub(super) fn is_full(&self) -> bool {
        matches!(self.error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// A part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// All superblock slots, or they are older than the directory: writes were lost that the device had
    /// acknowledged.
    Superblocks,
    /// Both copies of a directory page.
    DirectoryPage,
    /// A directory page is older, in both copies, than the superblock says: writes were lost that the device had
    /// acknowledged.
    Directory,
    /// A frame that was durable, and of which later ones are intact.
    Frame,
    /// A record inside an intact frame.
    Record,
    /// The image of a range, with no older one to fall back on.
    Image,
    /// A block behind the end of the device is allocated.
    Beyond,
    /// The number of allocated blocks: what was replayed differs from what the last commit counted.
    Total,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Superblocks => "every superblock",
            Self::DirectoryPage => "both copies of a directory page",
            Self::Directory => "the directory, which is older than the superblock,",
            Self::Frame => "a frame of the log",
            Self::Record => "a record of the log",
            Self::Image => "the image of a range",
            Self::Beyond => "the image of a range behind the device's end",
            Self::Total => "the count of allocated blocks",
        })
    }
}

fn told(found: Option<Found>) -> String {
    found.map_or(String::new(), |found| format!(", there is {found}"))
}

/// A log could not be created, opened or changed. Nothing was written, unless the error is
/// [`LogError::Io`] with `write` or `sync` as its action.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    /// The system's error.
    #[error(transparent)]
    Io(#[from] IoFailure),
    /// Another process, or another part of this one, has it or a part of it open; or a block device is
    /// mounted, or otherwise used by the system.
    #[error("{file}: in use by another process, another part of this one, or the system")]
    Locked {
        /// The file.
        file: String,
    },
    /// There is a log already.
    #[error("{file}: holds a freemap log already")]
    Exists {
        /// The file.
        file: String,
    },
    /// The log would be written over something: a byte of its area is not zero.
    /// [`CreateOptions::overwrite`](crate::CreateOptions::overwrite) takes the disk all the same.
    #[error("{file}: not blank: byte {offset} is not zero{}", told(*.found))]
    NotBlank {
        /// The file.
        file: String,
        /// The first byte that is not zero.
        offset: u64,
        /// What it belongs to, if that could be recognised.
        found: Option<Found>,
    },
    /// The bytes are no freemap log.
    #[error("{file}: no freemap log at byte 0")]
    Foreign {
        /// The file.
        file: String,
    },
    /// Written by a version that this one cannot read.
    #[error("{file}: format version {major} is not supported")]
    Version {
        /// The file.
        file: String,
        /// The major version found.
        major: u16,
    },
    /// Written by an older version, whose format can be read but not be written to any more.
    #[error("{file}: format version {major} must be converted first, by `SpaceMapLog::convert`")]
    OldVersion {
        /// The file.
        file: String,
        /// The major version found.
        major: u16,
    },
    /// Needs features that this version does not have.
    #[error("{file}: unknown features {features:#x}")]
    Features {
        /// The file.
        file: String,
        /// The unknown bits.
        features: u32,
    },
    /// Another device than the caller expects.
    #[error("{file}: {what} is {found}, not {expected}")]
    Geometry {
        /// The file.
        file: String,
        /// What differs.
        what: &'static str,
        /// As the caller says.
        expected: u64,
        /// As the log says.
        found: u64,
    },
    /// The file ends too soon.
    #[error("{file}: {found} bytes, but the log has {expected}")]
    Truncated {
        /// The file.
        file: String,
        /// Bytes that the superblock speaks of.
        expected: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// A part is damaged without which acknowledged transactions are lost.
    #[error("{file}: {part} at byte {offset} is damaged")]
    Damaged {
        /// The file.
        file: String,
        /// Which part.
        part: Part,
        /// Where.
        offset: u64,
    },
    /// A record allocates an allocated block or frees a free one.
    #[error("{file}: the record at byte {offset} contradicts the state of block {block}")]
    Contradiction {
        /// The file.
        file: String,
        /// Where the record's frame begins.
        offset: u64,
        /// The block.
        block: u64,
    },
    /// The log was written to each time that it was read, for too long to find a moment at which it stood still.
    /// Try again.
    #[error("{file}: changes too fast to be looked at")]
    Changing {
        /// The file.
        file: String,
    },
    /// The log ends before a transaction that the engine knows to be durable.
    #[error("{file}: the log ends with transaction {found}, but {expected} was acknowledged")]
    Missing {
        /// The file.
        file: String,
        /// The transaction that the engine expects.
        expected: Lsn,
        /// The last one in the log.
        found: Lsn,
    },
    /// The state after an old transaction cannot be had any more.
    #[error("{file}: the state after transaction {until} is gone, the oldest left is {oldest}")]
    TooOld {
        /// The file.
        file: String,
        /// The transaction asked for.
        until: Lsn,
        /// The oldest that can be had.
        oldest: Lsn,
    },
    /// A transaction that the engine knows depends on one that it does not know: without the latter, this
    /// block is not in the state that the former takes it to be in. Nothing was written. Either name both in
    /// [`OpenOptions::recover_also`](crate::OpenOptions::recover_also), or neither.
    #[error(
        "{file}: transaction {known} cannot stay without {unknown}, which changed block {block} before it"
    )]
    Dependent {
        /// The file.
        file: String,
        /// The transaction that was to stay.
        known: Lsn,
        /// The last one before it that changed the block and was to be taken back.
        unknown: Lsn,
        /// The block.
        block: u64,
    },
    /// The device cannot end before this block, which is allocated, although no transaction needs it any
    /// more: it was freed without one ([`Opened::check`](crate::Opened::check) finds such blocks).
    #[error("block {block} is still allocated in the log")]
    Occupied {
        /// The block.
        block: u64,
    },
    /// The device cannot become smaller while the engine may ask to have a transaction taken back that
    /// allocated or freed what is to be cut off: see [`SpaceMapLog::stable`](crate::SpaceMapLog::stable).
    #[error("transaction {lsn} is not stable, and changed blocks that are to be cut off")]
    Unstable {
        /// The last such transaction.
        lsn: Lsn,
    },
    /// The device cannot be made longer or shorter now. Nothing was written.
    #[error(transparent)]
    Resize(#[from] ResizeError),
    /// An option is out of range.
    #[error("{name} = {value} is not possible: {reason}")]
    Option {
        /// Which option.
        name: &'static str,
        /// Its value.
        value: u64,
        /// What would be.
        reason: &'static str,
    },
    /// No allocator can have this size.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log refuses since an earlier sync failed; open it again.
    #[error("{0}")]
    Commit(#[from] CommitError),
}

/// A transaction could not be committed to the log.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The committed state contradicts the transaction: it frees a block that another transaction
    /// freed before it (or is about to: [`Delta::conflict`](crate::Delta::conflict)), or that its allocator
    /// never committed. It can only be dropped, or tried again once the other one was given up.
    #[error("block {block} is not in the state that the transaction takes it to be in")]
    Conflict {
        /// The block.
        block: u64,
    },
    /// The transaction belongs to another allocator, or names blocks beyond the log's device.
    #[error("the transaction belongs to another allocator")]
    Foreign,
    /// The transaction is larger than the log can take at once.
    #[error("{bytes} bytes of records are more than the {max} that one transaction may have")]
    TooLarge {
        /// Bytes of its records.
        bytes: u64,
        /// The limit: a quarter of the log's.
        max: u64,
    },
    /// There is no room in the ring, and none can be made: the engine has not said for long that
    /// its own log is durable (see [`SpaceMapLog::stable`](crate::SpaceMapLog::stable)).
    #[error("the log has room for {free} bytes, and {needed} are needed")]
    Full {
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The log's counters are at their end, which no device comes to: something else wrote them.
    #[error("the counters of the log are at their end")]
    Exhausted,
    /// A write failed. Nothing is committed, and the log goes on: try again, when there is room if that
    /// was the reason ([`io::ErrorKind::StorageFull`]), or give up.
    #[error("not committed: {0}")]
    Write(IoFailure),
    /// The flush failed (or a write, and what it left could not be undone). Whether the transaction
    /// is durable shows only when the log is opened again; until then nobody gets its blocks, whether
    /// it is dropped or not.
    #[error("perhaps committed: {0}")]
    Sync(IoFailure),
    /// An earlier call failed in a way that leaves open what is on the device; the log must be opened
    /// again. This call committed nothing; a transaction that was told [`CommitError::Sync`] before
    /// stays in doubt.
    #[error("refused, since an earlier call failed: {0}")]
    Refused(IoFailure),
    /// The thread that wrote it panicked, in a [`Disk`](crate::Disk) most likely. Whether the transaction is
    /// durable shows only when the log is opened again, as after [`CommitError::Sync`]; until then the log
    /// refuses everything, and nobody gets the transaction's blocks.
    #[error("{file}: perhaps committed: the thread that wrote the transaction panicked")]
    Panicked {
        /// The name of the disk.
        file: String,
    },
    /// The log is in the mode in which the engine's own log carries the transactions
    /// ([`Authority::Piggyback`](crate::Authority::Piggyback)), or is not and should be.
    #[error("this log's mode does not allow it")]
    Mode,
    /// Too much waits to be written: see
    /// [`CreateOptions::max_queued`](crate::CreateOptions::max_queued). Nothing happened; wait for an earlier
    /// transaction, or call [`SpaceMapLog::submit_waiting`](crate::SpaceMapLog::submit_waiting).
    #[error("{transactions} transactions of {bytes} bytes are queued already")]
    QueueFull {
        /// Transactions in the queue.
        transactions: usize,
        /// Bytes of their records.
        bytes: u64,
    },
    /// This part of the engine's log is empty, begins before the mark, or overlaps one that waits
    /// ([`Authority::Piggyback`](crate::Authority::Piggyback)). Nothing happened. A part before the mark has been
    /// taken in: it must not be fed in again.
    #[error(
        "the part from {from} to {to} of the engine's log does not fit: all before {mark} has come"
    )]
    Order {
        /// Where the part begins.
        from: u64,
        /// Where it ends.
        to: u64,
        /// All before this has come: see [`SpaceMapLog::position`](crate::SpaceMapLog::position).
        mark: u64,
    },
    /// The delta of a part of the engine's log that had come early contradicts the parts before it
    /// ([`Authority::Piggyback`](crate::Authority::Piggyback)). The engine's log has it, so the log cannot go on
    /// without it: it takes nothing more and makes no checkpoint. Correct the engine's log, open the
    /// last checkpoint and replay.
    #[error(
        "block {block} is not in the state that the delta from {from} to {to} of the engine's log takes it to be in"
    )]
    Contradicted {
        /// Where the part begins.
        from: u64,
        /// Where it ends.
        to: u64,
        /// The block.
        block: u64,
    },
    /// There is no such transaction yet ([`Authority::Engine`](crate::Authority::Engine)). Nothing happened.
    #[error("there is no transaction {lsn} yet, the last one is {last}")]
    Unknown {
        /// The transaction that the engine speaks of.
        lsn: Lsn,
        /// The last one.
        last: Lsn,
    },
    /// The engine has said of this transaction that its own log has it, so it cannot be revoked.
    #[error("transaction {lsn} cannot be revoked: everything up to {mark} is stable")]
    Stable {
        /// The transaction.
        lsn: Lsn,
        /// The last stable one.
        mark: Lsn,
    },
}

impl From<CommitFailed<'_, CommitError>> for CommitError {
    /// Gives the transaction up.
    fn from(failed: CommitFailed<'_, CommitError>) -> Self {
        failed.error
    }
}

impl CommitError {
    /// Whether the transaction may be durable all the same.
    pub(super) fn leaves_doubt(&self) -> bool {
        matches!(self, Self::Sync(_) | Self::Panicked { .. } | Self::Contradicted { .. })
    }
}

impl From<Misfit> for CommitError {
    fn from(misfit: Misfit) -> Self {
        match misfit {
            Misfit::Block(block) => Self::Conflict { block },
            Misfit::Record(_) => Self::Foreign,
        }
    }
}

impl From<MarkError> for CommitError {
    fn from(error: MarkError) -> Self {
        match error {
            MarkError::AlreadyAllocated { block } | MarkError::Closed { block } => {
                Self::Conflict { block }
            }
            MarkError::Range(_) => Self::Foreign,
        }
    }
}

impl From<FreeError> for CommitError {
    fn from(error: FreeError) -> Self {
        match error {
            FreeError::DoubleFree { block } | FreeError::Committed { block } => {
                Self::Conflict { block }
            }
            FreeError::Torn { released } => Self::Conflict { block: released.start },
            FreeError::Range(_) => Self::Foreign,
        }
    }
}
