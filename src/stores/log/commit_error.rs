//! Why a transaction was not committed.

use crate::stores::log::io_failure::IoFailure;
use crate::stores::log::mirror::Misfit;
use crate::transaction::CommitFailed;
use crate::values::error::{FreeError, MarkError};
use crate::values::lsn::Lsn;
use thiserror::Error;

/// A transaction could not be committed to the log.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The committed state contradicts the transaction: it frees a block that another transaction
    /// freed before it (or is about to free: [`Delta::conflict`](crate::Delta::conflict)), or that
    /// its allocator never committed. Drop it, or try again once the other transaction was given
    /// up.
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
    /// The log's counters are at their end. No device gets there: something else wrote them.
    #[error("the counters of the log are at their end")]
    Exhausted,
    /// A write failed. Nothing is committed, and the log goes on. Try again, after making room if
    /// that was the reason ([`StorageFull`](std::io::ErrorKind::StorageFull)), or give up.
    #[error("not committed: {0}")]
    Write(IoFailure),
    /// The flush failed (or a write, and what it left could not be undone). Whether the transaction
    /// is durable shows only when the log is opened again. Until then its blocks are not handed
    /// out, whether it is dropped or not.
    #[error("perhaps committed: {0}")]
    Sync(IoFailure),
    /// An earlier call failed and left open what is on the device; the log must be opened again.
    /// This call committed nothing; a transaction that was told [`CommitError::Sync`] before stays
    /// in doubt.
    #[error("refused, since an earlier call failed: {0}")]
    Refused(IoFailure),
    /// The thread that wrote the transaction panicked, most likely in a [`Disk`](crate::Disk).
    /// Whether it is durable shows only when the log is opened again, as after
    /// [`CommitError::Sync`]. Until then the log refuses everything, and the transaction's blocks
    /// are not handed out.
    #[error("{file}: perhaps committed: the thread that wrote the transaction panicked")]
    Panicked {
        /// The name of the disk.
        file: String,
    },
    /// The log is in the mode in which the engine's own log carries the transactions
    /// ([`Authority::Piggyback`](crate::Authority::Piggyback)), or is not and should be.
    #[error("this log's mode does not allow it")]
    Mode,
    /// Too many transactions wait to be written: see
    /// [`CreateOptions::max_queued`](crate::CreateOptions::max_queued). Nothing happened; wait for
    /// an earlier transaction, or call
    /// [`SpaceMapLog::submit_waiting`](crate::SpaceMapLog::submit_waiting).
    #[error("{transactions} transactions of {bytes} bytes are queued already")]
    QueueFull {
        /// Transactions in the queue.
        transactions: usize,
        /// Bytes of their records.
        bytes: u64,
    },
    /// This part of the engine's log is empty, begins before the mark, or overlaps one that waits
    /// ([`Authority::Piggyback`](crate::Authority::Piggyback)). Nothing happened. A part before the
    /// mark has been taken in already: do not feed it again.
    #[error(
        "the part from {from} to {to} of the engine's log does not fit: all before {mark} has come"
    )]
    Order {
        /// Where the part begins.
        from: u64,
        /// Where it ends.
        to: u64,
        /// Everything before this has come: see
        /// [`SpaceMapLog::position`](crate::SpaceMapLog::position).
        mark: u64,
    },
    /// The delta of a part of the engine's log that had come early contradicts the parts before it
    /// ([`Authority::Piggyback`](crate::Authority::Piggyback)). The engine's log has it, so this
    /// log cannot go on without it: it takes nothing more and makes no checkpoint. Correct the
    /// engine's log, open the last checkpoint and replay.
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
    /// There is no such transaction yet ([`Authority::Engine`](crate::Authority::Engine)). Nothing
    /// happened.
    #[error("there is no transaction {lsn} yet, the last one is {last}")]
    Unknown {
        /// The transaction that the engine named.
        lsn: Lsn,
        /// The last one.
        last: Lsn,
    },
    /// The engine has said that its own log has this transaction, so it cannot be revoked.
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
            MarkError::AlreadyAllocated { block }
            | MarkError::Promised { block }
            | MarkError::Closed { block } => Self::Conflict { block },
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
