//! The log as the checkpoint of an engine that has its own log.

use crate::stores::log::SpaceMapLog;
use crate::stores::log::authority::Authority;
use crate::stores::log::commit_error::CommitError;
use crate::stores::log::shared::Piece;
use crate::transaction::{CommitFailed, Frozen};
use crate::values::delta::Delta;
use std::ops::Range;

impl SpaceMapLog {
    /// Takes in a transaction that the engine has made durable in its own log, under
    /// [`Authority::Piggyback`]. `span` is the part of that log that carries its delta: byte
    /// offsets, or n - 1..n for record n. Does not wait for the disk, even beside a
    /// [`checkpoint`](SpaceMapLog::checkpoint).
    ///
    /// Parts may come in any order. The log keeps a [mark](SpaceMapLog::position): everything
    /// before it has come. A part that begins there is applied at once, together with those that
    /// waited for it. An early part waits until the mark reaches it: no checkpoint contains it, and
    /// what it frees is not reused. So every part of the engine's log must come sometime, or be
    /// declared empty with [`SpaceMapLog::skip`].
    ///
    /// A waiting part takes about 500 bytes, and 60 for each extent. There is no limit: there are
    /// as many as the engine has made durable behind the first one that it has not
    /// ([`Figures::waiting`](crate::Figures::waiting)).
    ///
    /// Absorbing goes on after a checkpoint failed for good ([`CommitError::Refused`]): the
    /// engine's log has everything.
    ///
    /// O(log n) in those that wait, and O(blocks / 64).
    ///
    /// # Errors
    /// With the transaction: [`CommitError::Order`] if the part is empty, begins before the mark,
    /// or overlaps one that waits; [`CommitError::Conflict`] if it begins at the mark and does not
    /// fit the state (the mark stays: skip the part if the engine can do without it), or its delta
    /// has a [conflict](Delta::conflict); [`CommitError::Mode`]; [`CommitError::Foreign`].
    /// [`CommitError::Contradicted`] if a part that had waited did not fit: the log takes nothing
    /// more, and the transaction is in doubt.
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

    pub(super) fn expect_absorbing(&self, delta: &Delta) -> Result<(), CommitError> {
        self.inner.expect_sound(delta)?;
        if self.inner.authority == Authority::Piggyback { Ok(()) } else { Err(CommitError::Mode) }
    }

    pub(super) fn take_in(
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
        // The engine's log has it durably, even if it still waits when this log is closed.
        transaction.taken();
        Ok(state.add(span, Piece { records, transaction: Some(transaction) }))
    }

    /// Declares, under [`Authority::Piggyback`], that a part of the engine's log carries no delta
    /// and never will: the mark moves over it. Skip it again when the engine's log is replayed
    /// after a crash. Does not wait for the disk.
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

    /// Releases what absorbed transactions freed: the engine's records of them are durable. Called
    /// without the lock, since it may take a while.
    pub(super) fn let_go(&self, applied: Vec<Frozen>) {
        let last = self.last();
        applied.into_iter().for_each(|transaction| transaction.committed_as(last));
    }

    /// The mark, under [`Authority::Piggyback`]: every part of the engine's log before it has been
    /// absorbed or skipped. Starts where the last checkpoint says, or at 0. Does not wait for the
    /// disk.
    pub fn position(&self) -> u64 {
        self.inner.shared.state().mark()
    }

    /// Makes everything before the [mark](SpaceMapLog::position) durable, all or nothing, and the
    /// mark with it; the engine's log may then be cut there. The mark is taken at the beginning:
    /// what is absorbed meanwhile does not wait, and is left for the next checkpoint. Costs 4 KiB
    /// for each range that changed, first in memory, and a handful of flushes.
    ///
    /// # Errors
    /// [`CommitError`]; opening then finds the previous checkpoint, or this one after
    /// [`CommitError::Sync`]. [`CommitError::Contradicted`] if a part that had waited did not fit:
    /// no checkpoint is made any more.
    pub fn checkpoint(&self) -> Result<(), CommitError> {
        if self.inner.authority != Authority::Piggyback {
            return Err(CommitError::Mode);
        }
        self.inner.writer().checkpoint()
    }
}
