//! Calls about the engine's own records.

use crate::stores::log::SpaceMapLog;
use crate::stores::log::authority::Authority;
use crate::stores::log::commit_error::CommitError;
use crate::stores::log::known::inverse;
use crate::stores::log::writer::Work;
use crate::transaction::let_go;
use crate::values::lsn::Lsn;

impl SpaceMapLog {
    /// Tells a log under [`Authority::Engine`] that the engine's own log has every transaction up
    /// to `lsn`, durably. The engine will never go back to an earlier one, so images may contain
    /// them, and what those transactions freed may be reused. The same applies to the frees of a
    /// log that [holds](crate::OpenOptions::hold_until_stable) them. For engines whose records
    /// become durable in the order of their transactions; others call [`SpaceMapLog::recorded`].
    /// Does not wait for the disk; O(what it releases).
    ///
    /// Call it often: until then the log cannot be condensed, and in the end commits fail with
    /// [`CommitError::Full`]; and freed blocks stay allocated
    /// ([`Stats::held_blocks`](crate::Stats::held_blocks)).
    ///
    /// # Errors
    /// [`CommitError::Unknown`] if there is no such transaction yet: nothing changes, and the
    /// transaction that gets this number later is not stable. [`CommitError::Mode`] if nothing
    /// waits for the call: under another authority, unless frees are held.
    pub fn stable(&self, lsn: Lsn) -> Result<(), CommitError> {
        self.inner.expect_known(lsn)?;
        self.inner.note(|recorded| recorded.raise(lsn.0));
        Ok(())
    }

    /// As [`SpaceMapLog::stable`], but for this one transaction, in any order and any number of
    /// times: the log works out the mark, up to which there is no gap ([`SpaceMapLog::mark`]).
    /// After a crash the engine names the transactions that it found with
    /// [`OpenOptions::recover_until`](crate::OpenOptions::recover_until) and
    /// [`OpenOptions::recover_also`](crate::OpenOptions::recover_also).
    ///
    /// O(log n) in those behind the first gap, and about 16 bytes for each. A transaction that is
    /// never recorded stops the mark for good: see [`SpaceMapLog::revoke`].
    ///
    /// # Errors
    /// As [`SpaceMapLog::stable`].
    pub fn recorded(&self, lsn: Lsn) -> Result<(), CommitError> {
        self.inner.expect_known(lsn)?;
        self.inner.note(|recorded| recorded.add(lsn.0));
        Ok(())
    }

    /// Under [`Authority::Engine`]: the engine's own log has every transaction up to this one. Does
    /// not wait for the disk.
    pub fn mark(&self) -> Lsn {
        Lsn(self.inner.recorded().mark())
    }

    /// Commits the transaction that undoes `lsn`, under [`Authority::Engine`], when the engine's
    /// record of `lsn` will never come: for example because its write failed. Returns the LSN of
    /// the new transaction. Waits for its flush, and for one that is under way.
    ///
    /// The two cancel out. The engine writes *one* record into its own log which says that it knows
    /// both, and calls [`SpaceMapLog::recorded`] for both. If a crash comes before, both are taken
    /// back, with the same result. What `lsn` freed stays allocated, and may be freed again; what
    /// it allocated is reused when the mark has passed both. Drop any [`Frozen`](crate::Frozen) or
    /// [`HeldFrees`](crate::HeldFrees) of `lsn` that still exists: until then no other transaction
    /// can free what it freed.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] if a later transaction has freed what `lsn` allocated (a frozen one
    /// counts until it is dropped), or allocated what it freed; [`CommitError::Stable`] if the engine has said that it knows `lsn`;
    /// [`CommitError::Unknown`]; [`CommitError::Mode`]; and those of a commit.
    pub fn revoke(&self, lsn: Lsn) -> Result<Lsn, CommitError> {
        if self.inner.authority != Authority::Engine {
            return Err(CommitError::Mode);
        }
        self.inner.expect_known(lsn)?;
        let mut writer = self.inner.writer();
        let Some(records) = writer.unstable(lsn.0) else {
            return Err(CommitError::Stable { lsn, mark: self.mark() });
        };
        let inverse = inverse(records);
        let core = self.inner.core.upgrade();
        // As for any transaction: the frees get their owner first.
        if let Some(core) = &core {
            let block = core.space.own_all_frees(&inverse.freed).err();
            block.map_or(Ok(()), |block| Err(CommitError::Conflict { block }))?;
        }
        let mut records = Vec::new();
        inverse.encode_in_store(&mut records);
        let mut works = [Work { records: &records, undo: false, result: None }];
        writer.commit(&mut works);
        drop(writer);
        let [work] = works;
        let undo = work.result.unwrap_or_else(|| Err(self.inner.broken()));
        match (&core, &undo) {
            (Some(core), Ok(undo)) => let_go::revoke(core, lsn, *undo, inverse.freed),
            (Some(core), Err(_)) => core.space.disown_frees(inverse.freed),
            (None, _) => {}
        }
        undo
    }
}
