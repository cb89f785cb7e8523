//! Errors of a freelist in RocksDB, as values that say what and where.

use std::fmt::{Display, Formatter};
use std::path::PathBuf;

use rocksdb::ErrorKind;
use thiserror::Error;

use crate::stores::log::LogError;
use crate::transaction::CommitFailed;
use crate::values::error::{ConfigError, FreeError, MarkError, RangeError, ResizeError};

/// Where in the column family damage was found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// The description of the freelist, under the key `meta`.
    Meta,
    /// The value of a chunk has the wrong length for the freelist's chunk size.
    Length {
        /// The chunk's number.
        chunk: u64,
        /// Bytes found.
        found: usize,
        /// Bytes that the value of a chunk has.
        expected: usize,
    },
    /// The value of a chunk does not have the checksum of its bits.
    Checksum {
        /// The chunk's number.
        chunk: u64,
    },
    /// A value names blocks beyond the device.
    Beyond {
        /// The chunk's number.
        chunk: u64,
    },
    /// A key that no freelist uses.
    Key(Vec<u8>),
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Meta => write!(f, "the description is damaged"),
            Self::Length { chunk, found, expected } => {
                write!(f, "the value of chunk {chunk} has {found} bytes instead of {expected}")
            }
            Self::Checksum { chunk } => write!(f, "the checksum of chunk {chunk} is wrong"),
            Self::Beyond { chunk } => write!(f, "chunk {chunk} has blocks beyond the device"),
            Self::Key(key) => write!(f, "no freelist has the key {}", key.escape_ascii()),
        }
    }
}

/// A freelist could not be created, opened or changed. Each call documents what may have been
/// written when it fails.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum RocksError {
    /// RocksDB's error.
    #[error("column family {family}: cannot {action}: {error}")]
    Database {
        /// The column family.
        family: String,
        /// The action that failed.
        action: &'static str,
        /// RocksDB's answer.
        error: rocksdb::Error,
    },
    /// Another process, or another part of this one, has the database open.
    #[error("{}: in use by another process, or by another part of this one", path.display())]
    Locked {
        /// The database's folder.
        path: PathBuf,
    },
    /// No column family can have this name, or it is named twice.
    #[error("column family {}: {reason}", family.escape_debug())]
    Name {
        /// The column family.
        family: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Another freelist of this process is using the column family.
    #[error("column family {family}: in use by another freelist")]
    InUse {
        /// The column family.
        family: String,
    },
    /// The database was not opened with this column family.
    #[error("the database was not opened with the column family {family}")]
    NoFamily {
        /// The column family.
        family: String,
    },
    /// The column family was not opened with our merge operator: see
    /// [`RocksFreelist::family_options`](crate::RocksFreelist::family_options).
    #[error("column family {family}: not opened with the options of a freelist")]
    Operator {
        /// The column family.
        family: String,
    },
    /// There is no freelist, or one whose creation was interrupted.
    #[error("column family {family}: holds no freelist")]
    NoFreelist {
        /// The column family.
        family: String,
    },
    /// The column family is not empty.
    #[error("column family {family}: is not empty")]
    Exists {
        /// The column family.
        family: String,
    },
    /// The column family holds something other than a freelist.
    #[error("column family {family}: holds something else")]
    Foreign {
        /// The column family.
        family: String,
    },
    /// Written by a version whose format this one cannot read.
    #[error("column family {family}: format version {version} is not supported")]
    Version {
        /// The column family.
        family: String,
        /// The version found.
        version: u16,
    },
    /// Needs features that this version does not have.
    #[error("column family {family}: unknown features {features:#x}")]
    Features {
        /// The column family.
        family: String,
        /// The unknown bits.
        features: u32,
    },
    /// The device is not the one that the caller expects.
    #[error("column family {family}: {what} is {found}, not {expected}")]
    Geometry {
        /// The column family.
        family: String,
        /// What differs.
        what: &'static str,
        /// The caller's value.
        expected: u64,
        /// The freelist's value.
        found: u64,
    },
    /// A change of the chunk size was interrupted: [`rechunk`](crate::RocksFreelist::rechunk)
    /// again, to the same size, finishes it.
    #[error("column family {family}: the change to chunks of {target} blocks is not finished")]
    Rechunking {
        /// The column family.
        family: String,
        /// Blocks of a chunk once it is finished.
        target: u64,
    },
    /// The freelist is damaged.
    #[error("column family {family}: {place}")]
    Damaged {
        /// The column family.
        family: String,
        /// The place and kind of the damage.
        place: Place,
    },
    /// The device cannot end before this block, which is allocated, although no transaction needs
    /// it any more: it was changed without one
    /// ([`Opened::check`](crate::stores::rocks::Opened::check) finds such blocks).
    #[error("column family {family}: block {block} is still allocated")]
    Occupied {
        /// The column family.
        family: String,
        /// The block.
        block: u64,
    },
    /// The device cannot be made longer or shorter now. Nothing was written.
    #[error(transparent)]
    Resize(#[from] ResizeError),
    /// A copy differs from its original.
    #[error("column family {family}: block {block} differs from its copy")]
    Differs {
        /// The column family.
        family: String,
        /// The first such block.
        block: u64,
    },
    /// An option is out of range.
    #[error("{name} = {value} is not possible: {reason}")]
    Option {
        /// Which option.
        name: &'static str,
        /// Its value.
        value: u64,
        /// The values that are possible.
        reason: &'static str,
    },
    /// No allocator can have this size.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A space-map log could not be written or read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A transaction of the freelist could not be committed.
    #[error(transparent)]
    Commit(#[from] StageError),
    /// The system has no random numbers.
    #[error("cannot draw a UUID: {0}")]
    Random(String),
}

/// A transaction could not be staged or committed.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum StageError {
    /// The committed state contradicts the transaction: see
    /// [`Delta::conflict`](crate::Delta::conflict). When two threads replace one object at the same
    /// time, the loser gets this error and looks the object up again. The transaction can only be
    /// dropped; nothing was staged.
    #[error("block {block} is not in the state that the transaction takes it to be in")]
    Conflict {
        /// The block.
        block: u64,
    },
    /// The transaction belongs to another allocator. Nothing was staged.
    #[error("the transaction belongs to another allocator")]
    Foreign,
    /// The database no longer has the column family open. Nothing was staged.
    #[error("the column family {family} is gone")]
    NoFamily {
        /// The column family.
        family: String,
    },
    /// The engine's additions to the batch removed what had been staged. Nothing was written.
    #[error("the batch was cleared or replaced")]
    Cleared,
    /// An extent is not on the device, or empty.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// RocksDB did not take the batch: because of a stall, with `no_slowdown`; because a synced
    /// write without a write-ahead log is impossible; or because it still takes no writes since one
    /// failed. Nothing was written.
    #[error("not committed: {0}")]
    Refused(rocksdb::Error),
    /// RocksDB answered the write with an error. It reports the failure of one writer, perhaps
    /// behind the write-ahead log, to all writers of the group, so an error in general does not
    /// mean that nothing was written. Whether the transaction is durable shows only when the
    /// database is opened again (the freelist alone is not enough), even if RocksDB goes on by
    /// itself, as it does when a full device has room again. Until then its blocks are not handed
    /// out, whether it is dropped or not. After this error, [`RocksFreelist`](crate::RocksFreelist)
    /// tries RocksDB out before it hands over another transaction; an engine that stages itself
    /// should do the same.
    #[error("perhaps committed: {0}")]
    Doubt(rocksdb::Error),
}

impl RocksError {
    /// The error of doing `action`, from RocksDB's `error`.
    pub(super) fn of(error: rocksdb::Error, action: &'static str, family: &str) -> Self {
        // RocksDB has several codes for a missing operator, and uses them for other errors too.
        let of_kind = matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::NotSupported);
        if of_kind && error.as_ref().contains("merge_operator") {
            return Self::Operator { family: family.to_string() };
        }
        Self::Database { family: family.to_string(), action, error }
    }
}

impl StageError {
    /// Classifies RocksDB's `error` for the write of a staged batch: [`StageError::Refused`] where
    /// it surely wrote nothing, [`StageError::Doubt`] otherwise.
    pub fn of_write(error: rocksdb::Error) -> Self {
        // Only these are returned before anything of a group is written, to any of its members:
        // 11.8.1, WriteImpl, PreprocessWrite, DelayWrite, LinkOne, BeginWriteStall, in all modes of
        // writing.
        let message = error.as_ref().to_lowercase();
        let before = match error.kind() {
            ErrorKind::Incomplete => message.contains("write stall"),
            ErrorKind::InvalidArgument => message.contains("sync writes has to enable wal"),
            _ => false,
        };
        if before { Self::Refused(error) } else { Self::Doubt(error) }
    }

    /// Whether the transaction may be durable all the same: see
    /// [`Frozen::in_doubt`](crate::Frozen::in_doubt).
    pub fn leaves_doubt(&self) -> bool {
        matches!(self, Self::Doubt(_))
    }
}

impl From<CommitFailed<'_, StageError>> for StageError {
    /// Gives the transaction up.
    fn from(failed: CommitFailed<'_, StageError>) -> Self {
        failed.error
    }
}

impl From<CommitFailed<'_, StageError>> for RocksError {
    /// Gives the transaction up.
    fn from(failed: CommitFailed<'_, StageError>) -> Self {
        failed.error.into()
    }
}

impl From<MarkError> for StageError {
    fn from(error: MarkError) -> Self {
        match error {
            MarkError::AlreadyAllocated { block }
            | MarkError::Promised { block }
            | MarkError::Closed { block } => Self::Conflict { block },
            MarkError::Range(error) => Self::Range(error),
        }
    }
}

impl From<FreeError> for StageError {
    fn from(error: FreeError) -> Self {
        match error {
            FreeError::DoubleFree { block } | FreeError::Committed { block } => {
                Self::Conflict { block }
            }
            FreeError::Torn { released } => Self::Conflict { block: released.start },
            FreeError::Range(error) => Self::Range(error),
        }
    }
}
