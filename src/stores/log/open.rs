//! Creating, opening and inspecting a log.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::allocator::Allocator;
use crate::builder::Builder;
use crate::gate::Gate;
use crate::stores::log::authority::Authority;
use crate::stores::log::commit_error::CommitError;
use crate::stores::log::disk::Disk;
use crate::stores::log::error::{LogError, Part};
use crate::stores::log::fault::{Fault, faulty};
use crate::stores::log::format::{OLDEST_MAJOR, Superblock};
use crate::stores::log::group::Group;
use crate::stores::log::known::{Dependent, Known};
use crate::stores::log::mirror::Mirror;
use crate::stores::log::options::OpenOptions;
use crate::stores::log::order::Recorded;
use crate::stores::log::recover::{Loaded, Loader};
use crate::stores::log::report::Report;
use crate::stores::log::state::Recovered;
use crate::stores::log::writer::{Work, Writer};
use crate::stores::log::{Inner, SpaceMapLog};
use crate::values::delta::Delta;
use crate::values::lsn::Lsn;

/// A log and its allocator.
#[derive(Debug)]
#[non_exhaustive]
pub struct Opened {
    /// The log that transactions are committed to.
    pub log: SpaceMapLog,
    /// The free space as of the last transaction. Blocks allocated here without a transaction are
    /// not in the log: they can be freed without one, and freeing them in one is a
    /// [`CommitError::Conflict`]. Committed blocks can be freed by transactions only
    /// ([`FreeError::Committed`](crate::FreeError::Committed)).
    pub allocator: Allocator,
    /// What was found.
    pub report: Report,
    /// Under [`Authority::Piggyback`]: the mark at the last checkpoint. The engine's own log need
    /// not be [replayed](Opened::replay) before it.
    pub position: u64,
}

impl Opened {
    /// Replays the part `span` of the engine's own log, under [`Authority::Piggyback`]. Feed
    /// everything behind [`Opened::position`], in order and without gaps, before anything is
    /// allocated. [Skip](SpaceMapLog::skip) parts without a delta, also those that were skipped
    /// before the crash.
    ///
    /// # Errors
    /// [`CommitError::Order`] if the part does not begin where the last one ended;
    /// [`CommitError::Conflict`] if the delta does not fit the state, which is unchanged then (a
    /// live guard can be the reason); [`CommitError::Foreign`] if it names blocks beyond the
    /// device; [`CommitError::Mode`].
    pub fn replay(&self, delta: &Delta, span: Range<u64>) -> Result<(), CommitError> {
        if self.log.authority() != Authority::Piggyback {
            return Err(CommitError::Mode);
        }
        let mark = self.log.position();
        if span.start != mark {
            return Err(CommitError::Order { from: span.start, to: span.end, mark });
        }
        // This part may allocate what an earlier one freed.
        self.allocator.collect();
        let mut transaction = self.allocator.begin();
        for &extent in delta.allocated() {
            transaction.mark_allocated(extent)?;
        }
        for &extent in delta.freed() {
            transaction.free(extent)?;
        }
        self.log.absorb(transaction.freeze(), span).map_err(|failed| failed.error)
    }
}

impl SpaceMapLog {
    /// Opens the log on `disk`, with the state after its last transaction, or after the one that
    /// the options name. Reads the log and all images, in parallel on the caller's rayon pool. Then
    /// flushes, and writes: directory pages of which one copy is older or damaged, a superblock, and
    /// the transaction that takes others back, if any; with
    /// [`accept_loss`](OpenOptions::accept_loss), zeros over the frames that are given up.
    ///
    /// # Errors
    /// [`LogError`]. Nothing was written unless it is [`LogError::Io`], [`LogError::Commit`] or
    /// [`ConfigError::OutOfMemory`](crate::ConfigError::OutOfMemory); then opening again finds the
    /// same state.
    pub fn open(disk: impl Disk + 'static, options: &OpenOptions) -> Result<Opened, LogError> {
        Self::open_with(Arc::new(disk), options)
    }

    pub(super) fn open_with(
        disk: Arc<dyn Disk>,
        options: &OpenOptions,
    ) -> Result<Opened, LogError> {
        let loader = Loader::new(disk.clone());
        let (superblock, authority) = described(&loader, options)?;
        expect_current(&loader, superblock.major.get())?;
        let known = options.known();
        let mut state = loader.load(known.as_ref().map(|known| Lsn(known.until)))?;
        missing(&disk.name(), options, state.report.last)?;
        let undo = undo(&loader, known.as_ref(), &mut state)?;
        if let Some(offset) = state.report.damaged_at {
            if !options.accept_loss {
                return Err(loader.damage(Part::Frame, offset));
            }
            loader.give_up_rest(&state.recovered)?;
        }
        // What was found may be only in the system's cache, if a process was killed before it
        // flushed. It must be durable before anything older is overwritten: for example the slots
        // of the last superblock but one.
        loader.sync()?;
        loader.mend_directory(&mut state.recovered)?;
        begin_incarnation(&loader, &mut state.recovered)?;
        let head = state.recovered.head;
        let mut writer = Writer::new(state.recovered);
        let mut report = state.report;
        if let Some(tail) = state.rollback {
            take_back(&mut writer, &undo, tail.transactions)?;
        }
        writer.show();
        // If the engine names no transactions, everything found is stable.
        let known = known.unwrap_or(Known { until: writer.head.lsn, ..Known::default() });
        let started = Instant::now();
        let gate = match authority {
            Authority::Engine => Some(Gate::default()),
            Authority::Log => options.hold.then(Gate::default),
            Authority::Piggyback => None,
        };
        let (shared, holds) = (writer.shared.clone(), gate.is_some());
        let allocator = {
            let mirror = &shared.state().mirror;
            let builder = builder(mirror, superblock.block_shift, options);
            builder.build_of_store(mirror.ledger().clone(), gate)?
        };
        report.build_time = started.elapsed();
        let inner = Inner {
            queue: Group::with_room(options.queue),
            allocator: allocator.id(),
            core: Arc::downgrade(allocator.core()),
            holds,
            authority,
            uuid: superblock.uuid,
            max_commit: writer.layout.max_commit(),
            name: disk.name(),
            recorded: Mutex::new(Recorded::new(known.until, known.later)),
            shared,
            writer: Mutex::new(writer),
        };
        let log = Self { inner: Arc::new(inner) };
        Ok(Opened { log, allocator, report, position: head.engine })
    }

    /// The state on `disk`, without writing anything: an allocator whose changes are not stored,
    /// and a report of what was found.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn inspect(
        disk: impl Disk + 'static,
        options: &OpenOptions,
    ) -> Result<(Allocator, Report), LogError> {
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let loader = Loader::new(disk.clone());
        let (superblock, _) = described(&loader, options)?;
        let known = options.known();
        let mut state = loader.snapshot(known.as_ref().map(|known| Lsn(known.until)))?;
        missing(&disk.name(), options, state.report.last)?;
        let undo = undo(&loader, known.as_ref(), &mut state)?;
        let mut report = state.report;
        let mut mirror = state.recovered.mirror;
        let mut records = Vec::new();
        undo.encode(&mut records);
        let undone = mirror.apply(&records, |_| ());
        debug_assert_eq!(undone, Ok(()), "made from the difference");
        let started = Instant::now();
        let builder = builder(&mirror, superblock.block_shift, options);
        let allocator = builder.build_from_ledger(mirror.ledger())?;
        report.build_time = started.elapsed();
        Ok((allocator, report))
    }
}

/// The superblock, checked against the caller's expectations.
fn described(loader: &Loader, options: &OpenOptions) -> Result<(Superblock, Authority), LogError> {
    let (superblock, _) = loader.superblock()?;
    let found = superblock.blocks.get();
    if let Some(expected) = options.blocks.filter(|&expected| expected != found) {
        let file = loader.name().to_string();
        return Err(LogError::Geometry { file, what: "the number of blocks", expected, found });
    }
    let sound = (9..=20).contains(&superblock.block_shift);
    match Authority::decode(superblock.mode).filter(|_| sound) {
        Some(authority) => Ok((superblock, authority)),
        None => {
            let file = loader.name().to_string();
            Err(LogError::Features { file, features: u32::from(superblock.mode) })
        }
    }
}

/// The delta that takes back the transactions that the engine does not know. An error if a known
/// one depends on them.
fn undo(loader: &Loader, known: Option<&Known>, state: &mut Loaded) -> Result<Delta, LogError> {
    let (Some(known), Some(tail)) = (known, &state.rollback) else { return Ok(Delta::default()) };
    state.report.taken_back = known.unknown(&tail.transactions);
    let file = || loader.name().to_string();
    let undone = known.undo(tail, &state.recovered.mirror);
    undone.map_err(|Dependent { known, unknown, block }| LogError::Dependent {
        file: file(),
        known: Lsn(known),
        unknown: Lsn(unknown),
        block,
    })
}

fn missing(file: &str, options: &OpenOptions, found: Lsn) -> Result<(), LogError> {
    let expected = options.lsn.max(options.also.iter().copied().max());
    match expected.filter(|&expected| expected > found) {
        Some(expected) => Err(LogError::Missing { file: file.to_string(), expected, found }),
        None => Ok(()),
    }
}

/// From here on, frames of the previous incarnation cannot continue those of this one.
fn begin_incarnation(loader: &Loader, recovered: &mut Recovered) -> Result<(), LogError> {
    let directory = Loader::directory_crc(recovered);
    let superblock = &mut recovered.superblock;
    if !faulty(Fault::SameIncarnation) {
        superblock.incarnation = superblock.incarnation.get().wrapping_add(1).into();
    }
    superblock.clean = 0;
    superblock.directory = directory.into();
    loader.write_superblock(superblock)
}

/// Commits the transaction that undoes `transactions`. Until the engine has called it stable,
/// images must contain neither.
fn take_back(
    writer: &mut Writer,
    delta: &Delta,
    transactions: Vec<(u64, u64, Vec<u8>)>,
) -> Result<(), LogError> {
    writer.keep(transactions);
    if delta.is_empty() {
        return Ok(()); // an earlier opening has done it
    }
    let mut records = Vec::new();
    delta.encode(&mut records);
    let mut works = [Work { records: &records, undo: true, result: None }];
    writer.commit(&mut works);
    match &works[0].result {
        Some(Err(error)) => Err(error.clone().into()),
        _ => Ok(()),
    }
}

fn builder(mirror: &Mirror, block_shift: u8, options: &OpenOptions) -> Builder {
    Allocator::builder(mirror.blocks()).block_size(1 << block_shift).with_settings(options.settings)
}

/// Refuses a log whose format can be read but no longer be written.
fn expect_current(loader: &Loader, major: u16) -> Result<(), LogError> {
    if major > OLDEST_MAJOR {
        return Ok(());
    }
    Err(LogError::OldVersion { file: loader.name().to_string(), major })
}
