//! Creating, opening and inspecting a log.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::allocator::{Allocator, Builder};
use crate::space::gate::Gate;
use crate::stores::log::authority::Authority;
use crate::stores::log::blank::refuse_used;
use crate::stores::log::disk::Disk;
use crate::stores::log::error::{CommitError, LogError, Part};
use crate::stores::log::fault::{Fault, faulty};
use crate::stores::log::format::{OLDEST_MAJOR, PAGE, Superblock, Tail, directory_crc};
use crate::stores::log::group::{Group, Room};
use crate::stores::log::known::{Dependent, Known};
use crate::stores::log::layout::{Layout, SECOND_PLACE, is_limit};
use crate::stores::log::mirror::{Mirror, RANGE_WORDS, blocks_of};
use crate::stores::log::order::Recorded;
use crate::stores::log::record::RANGE_BLOCKS;
use crate::stores::log::recover::{Loaded, Loader};
use crate::stores::log::report::Report;
use crate::stores::log::state::{Recovered, empty_page};
use crate::stores::log::writer::{Work, Writer, image};
use crate::stores::log::{Inner, SpaceMapLog};
use crate::values::class::{Class, Placement, Tuning};
use crate::values::delta::Delta;
use crate::values::lsn::Lsn;
use crate::values::plain_bitmap::expect_count;

/// How to create a log.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    block_size: Option<u32>,
    limit: Option<u64>,
    sector: Option<u32>,
    authority: Authority,
    uuid: Option<[u8; 16]>,
    tuning: Tuning,
    overwrite: bool,
    sparse: bool,
    queue: Room,
    hold: bool,
}

impl CreateOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes per block: see [`Builder::block_size`](crate::Builder::block_size).
    #[must_use]
    pub fn block_size(mut self, bytes: u32) -> Self {
        self.block_size = Some(bytes);
        self
    }

    /// The live log stays below this many bytes ("L"): a multiple of 4096 from 64 KiB to 1 TiB. By
    /// default four times the cost of all images, from 8 to 256 MiB. Larger means fewer images and
    /// a longer replay. The ring takes one and three quarters as much.
    #[must_use]
    pub fn limit(mut self, bytes: u64) -> Self {
        self.limit = Some(bytes);
        self
    }

    /// What the device writes atomically and without reading first: 4096 (the default) or 512 bytes.
    /// Frames are padded to it.
    #[must_use]
    pub fn sector(mut self, bytes: u32) -> Self {
        self.sector = Some(bytes);
        self
    }

    /// Whose log is right after a crash.
    #[must_use]
    pub fn authority(mut self, authority: Authority) -> Self {
        self.authority = authority;
        self
    }

    /// The device's identity; random by default.
    #[must_use]
    pub fn uuid(mut self, uuid: [u8; 16]) -> Self {
        self.uuid = Some(uuid);
        self
    }

    /// See [`Builder::shards`](crate::Builder::shards).
    #[must_use]
    pub fn shards(mut self, count: usize) -> Self {
        self.tuning.shards = Some(count);
        self
    }

    /// See [`Builder::placement`](crate::Builder::placement): to be set at each opening.
    #[must_use]
    pub fn placement(mut self, class: Class, placement: Placement) -> Self {
        self.tuning.placements[class.index()] = Some(placement);
        self
    }

    /// How many transactions may be queued by [`SpaceMapLog::submit`] and not yet be taken to be written: 16384
    /// unless set, at least 1. To be set at each opening.
    #[must_use]
    pub fn max_queued(mut self, transactions: usize) -> Self {
        self.queue.items = transactions;
        self
    }

    /// How many bytes the records of queued transactions may have: 16 MiB unless set. One transaction is always
    /// taken. In memory each takes about 500 bytes more, and 60 for each extent. To be set at each opening.
    #[must_use]
    pub fn max_queued_bytes(mut self, bytes: u64) -> Self {
        self.queue.bytes = bytes;
        self
    }

    /// Holds what every commit frees until [`SpaceMapLog::stable`] names its transaction or a later one,
    /// whichever call committed it: for engines under [`Authority::Log`] whose own metadata becomes durable
    /// after the commit and names extents. Held blocks stay allocated
    /// ([`Stats::held_blocks`](crate::Stats::held_blocks)), and a device of which all free space is held has
    /// none: make the metadata durable, call `stable`, try again. To be set at each opening, which itself
    /// calls everything stable that it finds. Under [`Authority::Engine`] it is always so, under
    /// [`Authority::Piggyback`] never, since there the engine's record comes first.
    #[must_use]
    pub fn hold_until_stable(mut self) -> Self {
        self.hold = true;
        self
    }

    /// Lets committed blocks be freed without a transaction: see
    /// [`Builder::allow_plain_frees`](crate::Builder::allow_plain_frees), which says what that risks. To be
    /// set at each opening.
    #[must_use]
    pub fn allow_plain_frees(mut self) -> Self {
        self.tuning.plain_frees = true;
        self
    }

    /// Destroy what the disk holds: without this, only a disk is taken on which everything that the log
    /// will write over is zero.
    #[must_use]
    pub fn overwrite(mut self) -> Self {
        self.overwrite = true;
        self
    }

    /// Do not write zeros over the whole area of a new file (for 1 TiB: 316 MiB). Saves time and space
    /// at first, but then a commit can meet a full file system ([`CommitError::Write`], as long as there is
    /// no room; growth is always written), and flushes are slower while the file is filling.
    #[must_use]
    pub fn sparse(mut self) -> Self {
        self.sparse = true;
        self
    }
}

/// How to open a log.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    blocks: Option<u64>,
    lsn: Option<Lsn>,
    until: Option<Lsn>,
    accept_loss: bool,
    also: Vec<Lsn>,
    tuning: Tuning,
    queue: Room,
    hold: bool,
}

impl OpenOptions {
    /// Whatever is there.
    pub fn new() -> Self {
        Self::default()
    }

    /// The device must have this many blocks.
    #[must_use]
    pub fn expect_blocks(mut self, blocks: u64) -> Self {
        self.blocks = Some(blocks);
        self
    }

    /// The engine knows that this transaction was acknowledged: the log must not end before it.
    #[must_use]
    pub fn expect_lsn(mut self, lsn: Lsn) -> Self {
        self.lsn = Some(lsn);
        self
    }

    /// The engine's own log ends with this transaction: later ones are taken back, by a transaction
    /// that undoes them. Under [`Authority::Engine`], that is possible for everything that was not
    /// called [`stable`](SpaceMapLog::stable); otherwise only as far back as the images allow. Opening
    /// again with the same LSN writes nothing more; going back ever further, opening by opening, takes
    /// room each time, which in the end there is not ([`CommitError::Full`]).
    ///
    /// An LSN behind the end of the log is [`LogError::Missing`].
    ///
    /// When something was taken back ([`Report::taken_back`]), the engine has to write into its own log that
    /// everything up to [`SpaceMapLog::last`] is decided, then calls [`SpaceMapLog::stable`] with that, and
    /// from then on never asks for an earlier one.
    #[must_use]
    pub fn recover_until(mut self, lsn: Lsn) -> Self {
        self.until = Some(lsn);
        self
    }

    /// Together with [`recover_until`](OpenOptions::recover_until): open the log even though it is damaged behind
    /// that transaction, and give up what was committed there, for good. Without this, such a log is
    /// [`LogError::Damaged`]; [`SpaceMapLog::inspect`] shows the state at any transaction before the
    /// damage, and [`Report::damaged_at`] where that is.
    #[must_use]
    pub fn accept_loss(mut self) -> Self {
        self.accept_loss = true;
        self
    }

    /// Of the transactions after the one of [`recover_until`](OpenOptions::recover_until), the engine's own
    /// log has exactly these: they stay, all others are taken back. In any order; without `recover_until`,
    /// nothing before them is known. What is found is the state of the known transactions, carried out one by
    /// one.
    ///
    /// A transaction that depends on one that is not known is [`LogError::Dependent`]: it frees what that
    /// one allocated, or allocates what that one freed. Under [`Authority::Engine`] the latter cannot be, as
    /// long as freed blocks are kept until the mark of [`SpaceMapLog::recorded`] has passed.
    #[must_use]
    pub fn recover_also(mut self, lsns: impl IntoIterator<Item = Lsn>) -> Self {
        self.also.extend(lsns);
        self
    }

    /// What the engine's own log has, if there is any word of it.
    fn known(&self) -> Option<Known> {
        let any = self.until.is_some() || !self.also.is_empty();
        any.then(|| Known::new(self.until.unwrap_or_default(), &self.also))
    }

    /// How many transactions may be queued by [`SpaceMapLog::submit`] and not yet be taken to be written: 16384
    /// unless set, at least 1. To be set at each opening.
    #[must_use]
    pub fn max_queued(mut self, transactions: usize) -> Self {
        self.queue.items = transactions;
        self
    }

    /// How many bytes the records of queued transactions may have: 16 MiB unless set. One transaction is always
    /// taken. In memory each takes about 500 bytes more, and 60 for each extent. To be set at each opening.
    #[must_use]
    pub fn max_queued_bytes(mut self, bytes: u64) -> Self {
        self.queue.bytes = bytes;
        self
    }

    /// See [`Builder::shards`](crate::Builder::shards).
    #[must_use]
    pub fn shards(mut self, count: usize) -> Self {
        self.tuning.shards = Some(count);
        self
    }

    /// See [`Builder::placement`](crate::Builder::placement): to be set at each opening.
    #[must_use]
    pub fn placement(mut self, class: Class, placement: Placement) -> Self {
        self.tuning.placements[class.index()] = Some(placement);
        self
    }

    /// Holds what every commit frees until [`SpaceMapLog::stable`] names its transaction or a later one,
    /// whichever call committed it: for engines under [`Authority::Log`] whose own metadata becomes durable
    /// after the commit and names extents. Held blocks stay allocated
    /// ([`Stats::held_blocks`](crate::Stats::held_blocks)), and a device of which all free space is held has
    /// none: make the metadata durable, call `stable`, try again. To be set at each opening, which itself
    /// calls everything stable that it finds. Under [`Authority::Engine`] it is always so, under
    /// [`Authority::Piggyback`] never, since there the engine's record comes first.
    #[must_use]
    pub fn hold_until_stable(mut self) -> Self {
        self.hold = true;
        self
    }

    /// Lets committed blocks be freed without a transaction: see
    /// [`Builder::allow_plain_frees`](crate::Builder::allow_plain_frees), which says what that risks. To be
    /// set at each opening.
    #[must_use]
    pub fn allow_plain_frees(mut self) -> Self {
        self.tuning.plain_frees = true;
        self
    }
}

/// A log and its allocator.
#[derive(Debug)]
#[non_exhaustive]
pub struct Opened {
    /// Where transactions are committed to.
    pub log: SpaceMapLog,
    /// The free space as of the last transaction. What is allocated here without a transaction is not in
    /// the log: it can be freed without one, and freeing it in one is a [`CommitError::Conflict`]. What is
    /// committed can be freed by transactions only
    /// ([`FreeError::Committed`](crate::FreeError::Committed)).
    pub allocator: Allocator,
    /// What was found.
    pub report: Report,
    /// Under [`Authority::Piggyback`]: the mark at the last checkpoint, up to which the engine's own log need
    /// not be [replayed](Opened::replay).
    pub position: u64,
}

impl Opened {
    /// Feeds the part `span` of the engine's own log, under [`Authority::Piggyback`]: everything behind
    /// [`Opened::position`], in order and without gaps, before anything is allocated. Parts without a delta
    /// are [skipped](SpaceMapLog::skip), also those that were skipped before the crash.
    ///
    /// # Errors
    /// [`CommitError::Order`] if the part does not begin where the last one ended;
    /// [`CommitError::Conflict`] if the delta does not fit the state, which is unchanged then (a guard
    /// that is alive can be the reason); [`CommitError::Foreign`] if it names blocks beyond the
    /// device; [`CommitError::Mode`].
    pub fn replay(&self, delta: &Delta, span: Range<u64>) -> Result<(), CommitError> {
        if self.log.authority() != Authority::Piggyback {
            return Err(CommitError::Mode);
        }
        let mark = self.log.position();
        if span.start != mark {
            return Err(CommitError::Order { from: span.start, to: span.end, mark });
        }
        // What an earlier one freed may be what this one allocates.
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

/// What a new log goes on from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Origin {
    /// The last transaction, and the engine's position.
    pub lsn: u64,
    pub engine: u64,
}

impl SpaceMapLog {
    /// Makes `disk` the log of a new device of `blocks` blocks, all free. Writes the whole
    /// area once (1.75 times the limit, and 8 KiB for every 32768 blocks), and flushes five times.
    ///
    /// # Errors
    /// [`LogError::Exists`] if the disk holds a log, [`LogError::NotBlank`] if it holds anything else where
    /// the log would be (all of that is read once), and [`CreateOptions::overwrite`] was not asked for;
    /// [`LogError::Option`], [`LogError::Config`] for impossible options; [`LogError::Io`]. After the
    /// last, and after [`ConfigError::OutOfMemory`](crate::ConfigError::OutOfMemory), there may be
    /// a log already.
    pub fn create(
        disk: impl Disk + 'static,
        blocks: u64,
        options: &CreateOptions,
    ) -> Result<Opened, LogError> {
        Self::create_with(Arc::new(disk), blocks, None, options, Origin::default())
    }

    /// As [`SpaceMapLog::create`], for a device that is in use already: bit i % 64 of word i / 64 of
    /// `allocated` is block i, 1 = allocated, as in
    /// [`Allocator::from_bitmap`](crate::Allocator::from_bitmap). Writes an image of every range that
    /// is neither all free nor all used.
    ///
    /// # Errors
    /// As [`SpaceMapLog::create`], and [`ConfigError::BitmapLength`](crate::ConfigError::BitmapLength).
    pub fn create_from_bitmap(
        disk: impl Disk + 'static,
        blocks: u64,
        allocated: &[u64],
        options: &CreateOptions,
    ) -> Result<Opened, LogError> {
        expect_count(blocks, allocated)?;
        Self::create_with(Arc::new(disk), blocks, Some(allocated), options, Origin::default())
    }

    pub(super) fn create_with(
        disk: Arc<dyn Disk>,
        blocks: u64,
        allocated: Option<&[u64]>,
        options: &CreateOptions,
        origin: Origin,
    ) -> Result<Opened, LogError> {
        let block_size = options.block_size.unwrap_or(4096);
        Allocator::builder(blocks).block_size(block_size).tuned(options.tuning).validate()?;
        let layout = layout(blocks, options)?;
        let loader = Loader::new(disk.clone());
        let used = disk.len().map_err(|error| loader.io("measure", 0, error))? > 0;
        if used && !options.overwrite {
            refuse_used(&loader, &*disk, layout.len())?;
        }
        let uuid = match options.uuid {
            Some(uuid) => uuid,
            None => {
                let mut uuid = [0; 16];
                getrandom::fill(&mut uuid)
                    .map_err(|error| loader.io("draw a UUID", 0, std::io::Error::other(error)))?;
                uuid
            }
        };
        let mut superblock = Superblock::zeroed();
        layout.describe(&mut superblock);
        superblock.uuid = uuid;
        superblock.block_shift = block_size.ilog2() as u8;
        superblock.mode = options.authority.encode();
        superblock.tail =
            Tail { sequence: 1.into(), previous: crc32c::crc32c(&uuid).into(), ..Tail::default() };
        (superblock.tail.lsn, superblock.tail.engine) = (origin.lsn.into(), origin.engine.into());
        // What came before is not here.
        superblock.floor = origin.lsn.into();
        disk.grow(layout.len()).map_err(|error| loader.io("grow", layout.len(), error))?;
        let write = |offset: u64, bytes: &[u8]| {
            disk.write(offset, bytes).map_err(|error| loader.io("write", offset, error))
        };
        let sync = || disk.sync().map_err(|error| loader.io("sync", 0, error));
        for place in [0, SECOND_PLACE] {
            write(place, &[0; 2 * PAGE])?;
        }
        sync()?;
        // Everything is written once, so that no later flush has to find room for it. A ring that was
        // used must in any case not show frames of its old log.
        let start = 2 * PAGE as u64;
        let end = match options.sparse {
            true if used => layout.ring_start + layout.ring_len,
            true => start,
            false => layout.len(),
        };
        let zeros = vec![0; 1 << 20];
        for offset in (start..end).step_by(zeros.len()) {
            let len = (end - offset).min(zeros.len() as u64);
            write(offset, &zeros[..len as usize])?;
        }
        let (mut total, mut pages) = (0, Vec::new());
        for (index, place) in layout.directory().iter().enumerate() {
            let mut page = empty_page(index, place, superblock.stamp());
            for (entry, range) in page.entries.iter_mut().zip(place.first_range..) {
                let Some(allocated) = allocated else { continue };
                let words = range_of(allocated, blocks, range);
                let (image, bytes) = image(&words, 0, 0);
                if let Some(bytes) = bytes {
                    write(layout.image_offset(range, 0), &bytes)?;
                }
                total += RANGE_BLOCKS - u64::from(image.free);
                *entry = image;
            }
            let bytes = page.to_bytes(superblock.identity());
            pages.push(page.version(&bytes).crc);
            write(place.copies[0], &bytes)?;
            write(place.copies[1], &bytes)?;
        }
        superblock.tail.allocated = total.into();
        superblock.directory = directory_crc(pages.into_iter()).into();
        sync()?;
        loader.write_superblock(&mut superblock)?;
        let CreateOptions { tuning, queue, hold, .. } = *options;
        Self::open_with(disk, &OpenOptions { tuning, queue, hold, ..OpenOptions::default() })
    }

    /// Opens the log on `disk`, with the state after its last transaction, or after the one that the
    /// options name. Reads the log and all images, in parallel on the rayon pool that the caller is
    /// in; flushes, writes a superblock, and what taking back needs.
    ///
    /// # Errors
    /// [`LogError`]. Nothing was written unless it is [`LogError::Io`], [`LogError::Commit`] or
    /// [`ConfigError::OutOfMemory`](crate::ConfigError::OutOfMemory), and then opening again finds the
    /// same state.
    pub fn open(disk: impl Disk + 'static, options: &OpenOptions) -> Result<Opened, LogError> {
        Self::open_with(Arc::new(disk), options)
    }

    fn open_with(disk: Arc<dyn Disk>, options: &OpenOptions) -> Result<Opened, LogError> {
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
        // What was found may be in the system's cache alone, if a process was killed before it flushed. It must
        // be durable before anything older is written over: the slots of the last superblock but one, for one.
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
        // Without a word from the engine everything is stable that is there.
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

    /// The state on `disk` without writing anything: an allocator whose changes go nowhere, and what
    /// was found.
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

fn layout(blocks: u64, options: &CreateOptions) -> Result<Layout, LogError> {
    let sector = u64::from(options.sector.unwrap_or(PAGE as u32));
    if ![512, 4096].contains(&sector) {
        let reason = "a sector has 512 or 4096 bytes";
        return Err(LogError::Option { name: "sector", value: sector, reason });
    }
    let limit = options.limit.unwrap_or_else(|| Layout::default_limit(blocks));
    if !is_limit(limit) {
        let reason = "a multiple of 4096 from 64 KiB to 1 TiB";
        return Err(LogError::Option { name: "limit", value: limit, reason });
    }
    Ok(Layout::new(blocks, sector, limit))
}

/// The words of `range` in a bitmap of `blocks` blocks, with nothing beyond the last.
fn range_of(bitmap: &[u64], blocks: u64, range: u32) -> Vec<u64> {
    let start = range as usize * RANGE_WORDS;
    let mut words = bitmap[start..bitmap.len().min(start + RANGE_WORDS)].to_vec();
    if let Some(last) = words.last_mut()
        && !blocks_of(blocks, range).is_multiple_of(64)
    {
        *last &= u64::MAX >> (64 - blocks_of(blocks, range) % 64);
    }
    words.resize(RANGE_WORDS, 0);
    words
}

/// The superblock, if it is what the caller expects.
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

/// What takes back the transactions that the engine does not know; an error if one that it knows depends on
/// them, or is not there.
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

/// From here on, frames of the last life cannot continue those of this one.
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

/// Commits the transaction that undoes `transactions`. Until the engine has called it stable, images
/// must know of neither.
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
    Allocator::builder(mirror.blocks()).block_size(1 << block_shift).tuned(options.tuning)
}

/// A typed error for a log that can be read but not be written to any more.
fn expect_current(loader: &Loader, major: u16) -> Result<(), LogError> {
    if major > OLDEST_MAJOR {
        return Ok(());
    }
    Err(LogError::OldVersion { file: loader.name().to_string(), major })
}
