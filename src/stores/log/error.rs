//! Errors of the log, as values that name the file and the offset.

use thiserror::Error;

use crate::stores::log::commit_error::CommitError;
use crate::stores::log::found::Found;
use crate::stores::log::io_failure::IoFailure;
use crate::values::error::{ConfigError, ResizeError};
use crate::values::lsn::Lsn;

/// A part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// All superblock slots are damaged, or older than the directory: writes were lost that the
    /// device had acknowledged.
    Superblocks,
    /// Both copies of a directory page.
    DirectoryPage,
    /// A directory page is older, in both copies, than the superblock says: writes were lost that
    /// the device had acknowledged.
    Directory,
    /// A frame that was durable; later ones are intact.
    Frame,
    /// A record inside an intact frame.
    Record,
    /// The image of a range, with no older one to fall back on.
    Image,
    /// A block behind the end of the device is allocated.
    Beyond,
    /// The number of allocated blocks: replay counts another one than the last commit did.
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
/// [`LogError::Io`] with `write` or `sync` as its action, [`LogError::Commit`] or
/// [`ConfigError::OutOfMemory`].
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    /// The system's error.
    #[error(transparent)]
    Io(#[from] IoFailure),
    /// Another process, or another part of this one, has the file or a part of it open; or a block
    /// device is mounted, or otherwise used by the system.
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
    /// The log would overwrite something: a byte of its area is not zero.
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
    /// Written by a version whose format this one cannot read.
    #[error("{file}: format version {major} is not supported")]
    Version {
        /// The file.
        file: String,
        /// The major version found.
        major: u16,
    },
    /// Written by an older version, whose format can be read but no longer be written.
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
    /// The device is not the one that the caller expects.
    #[error("{file}: {what} is {found}, not {expected}")]
    Geometry {
        /// The file.
        file: String,
        /// What differs.
        what: &'static str,
        /// The caller's value.
        expected: u64,
        /// The log's value.
        found: u64,
    },
    /// The file ends too soon.
    #[error("{file}: {found} bytes, but the log has {expected}")]
    Truncated {
        /// The file.
        file: String,
        /// Bytes that the superblock describes, or that the region needs.
        expected: u64,
        /// Bytes of the file.
        found: u64,
    },
    /// A part is damaged; without it, acknowledged transactions are lost.
    #[error("{file}: {part} at byte {offset} is damaged")]
    Damaged {
        /// The file.
        file: String,
        /// Which part.
        part: Part,
        /// The offset in bytes.
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
    /// The log was written to during every attempt to read it. Try again.
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
    /// The state after an old transaction is no longer available.
    #[error("{file}: the state after transaction {until} is gone, the oldest left is {oldest}")]
    TooOld {
        /// The file.
        file: String,
        /// The transaction asked for.
        until: Lsn,
        /// The oldest that is available.
        oldest: Lsn,
    },
    /// A transaction that the engine knows depends on one that it does not know: without the
    /// latter, this block is not in the state that the former takes it to be in. Nothing was
    /// written. Name both in [`OpenOptions::recover_also`](crate::OpenOptions::recover_also), or
    /// neither.
    #[error(
        "{file}: transaction {known} cannot stay without {unknown}, which changed block {block} before it"
    )]
    Dependent {
        /// The file.
        file: String,
        /// The transaction that was to stay.
        known: Lsn,
        /// The last earlier transaction that changed the block and was to be taken back.
        unknown: Lsn,
        /// The block.
        block: u64,
    },
    /// The device cannot end before this block, which is allocated, although no transaction needs
    /// it any more: it was freed without one ([`Opened::check`](crate::Opened::check) finds such
    /// blocks).
    #[error("block {block} is still allocated in the log")]
    Occupied {
        /// The block.
        block: u64,
    },
    /// The device cannot become smaller while the engine may take back a transaction that allocated
    /// or freed blocks to be cut off: see [`SpaceMapLog::stable`](crate::SpaceMapLog::stable).
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
        /// The values that are possible.
        reason: &'static str,
    },
    /// No allocator can have this size.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The error of a commit. If the log refuses since an earlier sync failed, open it again.
    #[error("{0}")]
    Commit(#[from] CommitError),
}
