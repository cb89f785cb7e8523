//! The state that all clones of a log share.

use crate::core::Core;
use crate::stores::log::authority::Authority;
use crate::stores::log::commit_error::CommitError;
use crate::stores::log::group::Group;
use crate::stores::log::io_failure::IoFailure;
use crate::stores::log::order::Recorded;
use crate::stores::log::shared::Shared;
use crate::stores::log::ticket::Ticket;
use crate::stores::log::writer::{Work, Writer};
use crate::transaction::let_go;
use crate::values::delta::Delta;
use crate::values::lsn::Lsn;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The queue for a flush; an item holds the records of one transaction.
pub(super) type Queue = Group<Vec<u8>, Result<Lsn, CommitError>>;
pub(super) type Outcome = Ticket<Result<Lsn, CommitError>>;

pub(super) struct Inner {
    pub(super) queue: Queue,
    /// Locked during I/O.
    pub(super) writer: Mutex<Writer>,
    /// What can be read and changed without the writer.
    pub(super) shared: Arc<Shared>,
    /// The allocator whose transactions this log takes.
    pub(super) allocator: u64,
    /// That allocator, as long as it exists: for held frees.
    pub(super) core: Weak<Core>,
    /// Frees are held until the engine's records are durable.
    pub(super) holds: bool,
    pub(super) authority: Authority,
    pub(super) uuid: [u8; 16],
    pub(super) max_commit: u64,
    pub(super) name: String,
    /// Which transactions the engine's log has; the writer learns the mark when it is used next.
    pub(super) recorded: Mutex<Recorded>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("name", &self.name)
            .field("authority", &self.authority)
            .field("last", &self.shared.seen().last)
            .finish_non_exhaustive()
    }
}

/// The writer, locked. On release at the latest, it publishes its progress to readers that do not
/// wait for it.
pub(super) struct Busy<'a>(pub(super) MutexGuard<'a, Writer>);

impl Deref for Busy<'_> {
    type Target = Writer;

    fn deref(&self) -> &Writer {
        &self.0
    }
}

impl DerefMut for Busy<'_> {
    fn deref_mut(&mut self) -> &mut Writer {
        &mut self.0
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.show();
    }
}

impl Inner {
    pub(super) fn writer(&self) -> Busy<'_> {
        let mut writer = self.writer.lock().unwrap_or_else(|poisoned| {
            // A call panicked in the middle of a change: from here on everything is refused.
            let mut writer = poisoned.into_inner();
            writer.refuse(self.panicked());
            writer
        });
        writer.stable(self.recorded().mark());
        Busy(writer)
    }

    pub(super) fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits a batch, as the leader.
    pub(super) fn work(&self, batch: Vec<Vec<u8>>) -> Vec<Result<Lsn, CommitError>> {
        let mut works: Vec<Work<'_>> =
            batch.iter().map(|records| Work { records, undo: false, result: None }).collect();
        let mut writer = self.writer();
        writer.commit(&mut works);
        drop(writer);
        works.into_iter().map(|work| work.result.unwrap_or_else(|| Err(self.broken()))).collect()
    }

    fn panicked(&self) -> IoFailure {
        let error = Arc::new(std::io::Error::other("an earlier call panicked"));
        IoFailure { file: self.name.clone(), action: "go on", offset: 0, error }
    }

    pub(super) fn broken(&self) -> CommitError {
        CommitError::Refused(self.panicked())
    }

    pub(super) fn expect_sound(&self, delta: &Delta) -> Result<(), CommitError> {
        if delta.origin != Some(self.allocator) {
            return Err(CommitError::Foreign);
        }
        delta.conflict().map_or(Ok(()), |block| Err(CommitError::Conflict { block }))
    }

    pub(super) fn encode(&self, delta: &Delta) -> Result<Vec<u8>, CommitError> {
        self.expect_sound(delta)?;
        if self.authority == Authority::Piggyback {
            return Err(CommitError::Mode);
        }
        let mut records =
            Vec::with_capacity(12 * (delta.allocated().len() + delta.freed().len()) + 8);
        delta.encode_in_store(&mut records);
        let (bytes, max) = (records.len() as u64, self.max_commit);
        if bytes > max { Err(CommitError::TooLarge { bytes, max }) } else { Ok(records) }
    }

    pub(super) fn wait(&self, ticket: &Outcome) -> Result<Lsn, CommitError> {
        self.outcome(self.queue.wait(ticket, |batch| self.work(batch)))
    }

    /// The result, or `Panicked`: a leader that panicked may have written the transaction.
    pub(super) fn outcome(
        &self,
        result: Option<Result<Lsn, CommitError>>,
    ) -> Result<Lsn, CommitError> {
        result.unwrap_or_else(|| Err(CommitError::Panicked { file: self.name.clone() }))
    }

    /// Notes what the engine's own log has, and releases the frees that waited for it.
    pub(super) fn note(&self, change: impl FnOnce(&mut Recorded)) {
        let mut recorded = self.recorded();
        change(&mut recorded);
        let mark = Lsn(recorded.mark());
        drop(recorded);
        if let Some(core) = self.core.upgrade() {
            let_go::open_gate(&core, mark);
        }
    }

    /// An error unless the engine may name transaction `lsn`.
    pub(super) fn expect_known(&self, lsn: Lsn) -> Result<(), CommitError> {
        if self.authority != Authority::Engine && !self.holds {
            return Err(CommitError::Mode);
        }
        let last = Lsn(self.shared.seen().last);
        if lsn > last { Err(CommitError::Unknown { lsn, last }) } else { Ok(()) }
    }
}
