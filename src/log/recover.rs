//! From the bytes on disk to the committed state, without writing anything.
//!
//! 1. The newest intact superblock; the newest intact copy of each directory page.
//! 2. The log from the tail, as far as magic, checksum, sequence, position, incarnation and the chain
//!    of checksums hold, cut after the last frame that ends a transaction.
//! 3. Torn or damaged? An intact frame further on which says that what is missing was durable proves
//!    that acknowledged transactions are lost.
//! 4. Each range from its newest intact image, then the log's changes to it, strictly: what is
//!    allocated must have been free, and the other way round. Ranges are independent, so each
//!    thread reads the log once and carries out what concerns its share.
//! 5. Behind the device's end all must be free, and the number of allocated blocks what the last frame
//!    says.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use smallvec::SmallVec;
use zerocopy::IntoBytes;

use crate::delta::Delta;
use crate::error::ConfigError;
use crate::extent::Extent;
use crate::log::disk::Disk;
use crate::log::error::{IoFailure, LogError, Part};
use crate::log::format::{
    BOUNDARY, BadSuperblock, DirectoryPage, FrameHeader, HEADER, PAGE, Superblock,
};
use crate::log::layout::Layout;
use crate::log::mirror::{Mirror, RANGE_WORDS, apply_item};
use crate::log::open::Authority;
use crate::log::record::{Image, Item, RANGE_BLOCKS, Record, Records, State, items};
use crate::log::writer::{Base, Bases, Head, Mark, Recovered, identity};
use crate::store::Lsn;

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// An intact frame of the log.
#[derive(Debug)]
struct Frame {
    header: FrameHeader,
    crc: u32,
    /// Its records in `Log::bytes`.
    records: Range<usize>,
    /// The last transaction that ended in or before it, and the engine's position then.
    lsn: u64,
    engine: u64,
}

/// The part of the ring that counts.
#[derive(Debug, Default)]
struct Log {
    frames: Vec<Frame>,
    bytes: Vec<u8>,
    /// Images that its records name, and the frame that each is in.
    images: Vec<(usize, u32, Image)>,
    /// Bytes cut off: of frames that do not end a transaction.
    cut_frames: usize,
}

/// Everything known after looking, before anything is written.
pub struct Loaded {
    pub recovered: Recovered,
    /// Transactions replayed, bytes of log read, images fallen back from.
    pub report: Report,
    /// What takes the state back to the transaction asked for, if the log goes on behind it; with
    /// the transactions in between.
    pub rollback: Option<Rollback>,
}

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
    /// Frames behind the last whole transaction that were cut off: what a crash left of commits
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
    /// Time to build the allocator's index from it.
    pub build_time: std::time::Duration,
    /// Bytes read.
    pub read_bytes: u64,
}

pub struct Loader {
    disk: Arc<dyn Disk>,
    name: String,
}

impl Loader {
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        let name = disk.name();
        Self { disk, name }
    }

    pub fn io(&self, action: &'static str, offset: u64, error: std::io::Error) -> LogError {
        let (file, error) = (self.name.clone(), Arc::new(error));
        LogError::Io(IoFailure { file, action, offset, error })
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), LogError> {
        self.disk.read(offset, bytes).map_err(|error| self.io("read", offset, error))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn damage(&self, part: Part, offset: u64) -> LogError {
        LogError::Damaged { file: self.name.clone(), part, offset }
    }

    /// The newest intact superblock, and how many of the two are damaged.
    pub fn superblock(&self) -> Result<(Superblock, u64), LogError> {
        let file = self.name.clone();
        let len = self.disk.len().map_err(|error| self.io("measure", 0, error))?;
        if len < 2 * PAGE as u64 {
            return Err(LogError::Foreign { file });
        }
        let mut pages = vec![0; 2 * PAGE];
        self.read(0, &mut pages)?;
        let slot = |index: u64, page: &[u8]| {
            // One that lies in the other's place belongs to a log that begins elsewhere.
            let superblock = Superblock::from_page(page)?;
            let in_place = superblock.generation.get() % 2 == index;
            if in_place { Ok(superblock) } else { Err(BadSuperblock::Damaged) }
        };
        let slots = [slot(0, &pages[..PAGE]), slot(1, &pages[PAGE..])];
        for slot in &slots {
            match *slot {
                Err(BadSuperblock::Version { major }) => {
                    return Err(LogError::Version { file, major });
                }
                Err(BadSuperblock::Features { incompatible: features }) => {
                    return Err(LogError::Features { file, features });
                }
                _ => {}
            }
        }
        let damaged = slots.iter().filter(|slot| slot.is_err()).count() as u64;
        let foreign = slots.iter().all(|slot| *slot == Err(BadSuperblock::Foreign));
        let newest = slots.into_iter().flatten().max_by_key(|slot| slot.generation.get());
        match newest {
            Some(superblock) => Ok((superblock, damaged)),
            None if foreign => Err(LogError::Foreign { file }),
            None => Err(self.damage(Part::Superblocks, 0)),
        }
    }

    /// Everything.
    pub fn load(&self, until: Option<Lsn>) -> Result<Loaded, LogError> {
        let started = std::time::Instant::now();
        let (superblock, damaged) = self.superblock()?;
        let layout = Layout::from_superblock(&superblock)
            .filter(|layout| is_sound(&superblock, layout))
            .ok_or_else(|| self.damage(Part::Superblocks, 0))?;
        let found = self.disk.len().map_err(|error| self.io("measure", 0, error))?;
        if found < layout.len() {
            let (file, expected) = (self.name.clone(), layout.len());
            return Err(LogError::Truncated { file, expected, found });
        }
        let mut report = Report { damaged_copies: damaged, ..Report::default() };
        let (entries, pages) = self.directory(&layout, &superblock, &mut report)?;
        let log = self.scan(&layout, &superblock)?;
        let (head, allocated) = end_of(&superblock, &log);
        if let Some(until) = until.filter(|until| until.0 > head.lsn) {
            let (file, found) = (self.name.clone(), Lsn(head.lsn));
            return Err(LogError::Missing { file, expected: until, found });
        }
        self.look_behind(&layout, &superblock, &head)?;
        let floor = superblock.floor.get();
        if floor > head.lsn {
            return Err(self.damage(Part::Frame, layout.ring_offset(head.position)));
        }
        if let Some(until) = until.filter(|until| until.0 < floor) {
            return Err(LogError::TooOld { file: self.name.clone(), until, oldest: Lsn(floor) });
        }
        report.last = Lsn(head.lsn);
        report.replayed = head.lsn - superblock.tail.lsn.get();
        report.log_bytes = head.position - superblock.tail.position.get();
        report.cut_frames = log.cut_frames as u64;
        let complete = superblock.mode == Authority::Piggyback.encode();
        for (entries, range) in entries.iter().zip(0u32..) {
            if entries.iter().any(|image| image.base > head.lsn) {
                let page = layout.directory().into_iter().rfind(|page| page.first_range <= range);
                let offset = page.map_or(0, |page| page.copies[0]);
                return Err(self.damage(Part::DirectoryPage, offset));
            }
        }
        let replay = Replay {
            loader: self,
            layout: &layout,
            superblock: &superblock,
            log: &log,
            last: head.lsn,
            until,
            complete,
        };
        let (mirror, ranges, rollback) = replay.run(entries, allocated, &mut report)?;
        report.read_bytes = layout.ring_len
            + (2 * PAGE * layout.directory().len()) as u64
            + ranges.iter().filter(|bases| in_page(bases)).count() as u64 * PAGE as u64;
        let marks = marks(&superblock, &log);
        report.load_time = started.elapsed();
        let disk = self.disk.clone();
        let recovered = Recovered { disk, layout, superblock, mirror, head, ranges, pages, marks };
        Ok(Loaded { recovered, report, rollback })
    }

    /// The entries of all ranges, from one or two intact copies with the older first, and for each
    /// page the sequence and the copy to be written last.
    #[expect(clippy::type_complexity, reason = "one caller, which takes it apart at once")]
    fn directory(
        &self,
        layout: &Layout,
        superblock: &Superblock,
        report: &mut Report,
    ) -> Result<(Vec<SmallVec<[Image; 2]>>, Vec<(u64, usize)>), LogError> {
        let mut entries = vec![SmallVec::new(); layout.ranges() as usize];
        let mut pages = Vec::new();
        let identity = identity(superblock);
        let mut bytes = vec![0; PAGE];
        for (index, place) in layout.directory().into_iter().enumerate() {
            let mut copies = Vec::new();
            for (copy, &offset) in place.copies.iter().enumerate() {
                self.read(offset, &mut bytes)?;
                let page = DirectoryPage::from_bytes(&bytes, identity, index as u32, place.count);
                copies.extend(page.map(|page| (page, copy)));
            }
            copies.sort_by_key(|(page, _)| page.sequence);
            report.damaged_copies += 2 - copies.len() as u64;
            let Some((newest, copy)) = copies.last() else {
                return Err(self.damage(Part::DirectoryPage, place.copies[0]));
            };
            pages.push((newest.sequence, *copy));
            for (page, _) in &copies {
                for (entry, range) in page.entries.iter().zip(place.first_range as usize..) {
                    if !entries[range].contains(entry) {
                        entries[range].push(*entry);
                    }
                }
            }
        }
        Ok((entries, pages))
    }

    /// Reads the log from the tail as far as it goes.
    fn scan(&self, layout: &Layout, superblock: &Superblock) -> Result<Log, LogError> {
        let tail = &superblock.tail;
        let (mut position, mut sequence) = (tail.position.get(), tail.sequence.get());
        let (mut lsn, mut previous, mut incarnation) = (tail.lsn.get(), tail.previous.get(), 0);
        let end = position + layout.ring_len;
        let mut window = Vec::new();
        let mut window_start = position;
        let mut engine = tail.engine.get();
        let mut log = Log::default();
        let mut whole = 0;
        while position < end {
            let at = (position - window_start) as usize;
            if window.len() - at < layout.max_frame() as usize
                && window_start + (window.len() as u64) < end
            {
                window.drain(..at);
                window_start = position;
                let more = (CHUNK.max(2 * layout.max_frame() as usize))
                    .min((end - position) as usize - window.len());
                let old = window.len();
                window.resize(old + more, 0);
                self.read_ring(layout, position + old as u64, &mut window[old..])?;
                continue;
            }
            let Some(header) = FrameHeader::parse(&window[at..], layout.sector, layout.max_frame())
            else {
                break;
            };
            let fits = header.position.get() == position
                && header.sequence.get() == sequence
                && header.previous.get() == previous
                && header.lsn.get() == lsn
                && (incarnation..=superblock.incarnation.get()).contains(&header.incarnation.get());
            let crc = header.verify(&window[at..]);
            let Some(crc) = crc.filter(|_| fits) else { break };
            let records = &window[at + HEADER..at + header.sealed()];
            for record in Records::new(records) {
                match record {
                    Ok(Record::Commit) => lsn += 1,
                    Ok(Record::Position(position)) => engine = position,
                    Ok(Record::Image { range, image }) => {
                        log.images.push((log.frames.len(), range, image));
                    }
                    Ok(_) => {}
                    Err(_) => return Err(self.damage(Part::Record, layout.ring_offset(position))),
                }
            }
            let start = log.bytes.len();
            log.bytes.extend_from_slice(records);
            let records = start..log.bytes.len();
            log.frames.push(Frame { header, crc, records, lsn, engine });
            position += u64::from(header.len.get());
            (sequence, previous, incarnation) = (sequence + 1, crc, header.incarnation.get());
            if header.flags.get() & BOUNDARY != 0 {
                whole = log.frames.len();
            }
        }
        log.cut_frames = log.frames.len() - whole;
        log.frames.truncate(whole);
        log.images.retain(|&(frame, ..)| frame < whole);
        Ok(log)
    }

    fn read_ring(&self, layout: &Layout, position: u64, bytes: &mut [u8]) -> Result<(), LogError> {
        let offset = layout.ring_offset(position);
        let room = (layout.ring_start + layout.ring_len - offset) as usize;
        let (first, second) = bytes.split_at_mut(bytes.len().min(room));
        self.read(offset, first)?;
        if second.is_empty() { Ok(()) } else { self.read(layout.ring_start, second) }
    }

    /// Looks through the rest of the ring for a frame which says that what should be at `head` was
    /// durable.
    fn look_behind(
        &self,
        layout: &Layout,
        superblock: &Superblock,
        head: &Head,
    ) -> Result<(), LogError> {
        let end = superblock.tail.position.get() + layout.ring_len;
        let chunks = (end - head.position).div_ceil(CHUNK as u64);
        let proof = (0..chunks).into_par_iter().map(|chunk| -> Result<bool, LogError> {
            let start = head.position + chunk * CHUNK as u64;
            let len = (CHUNK as u64).min(end - start) as usize;
            let mut bytes = vec![0; len];
            self.read_ring(layout, start, &mut bytes)?;
            let sector = layout.sector as usize;
            for at in (0..len).step_by(sector) {
                let position = start + at as u64;
                let Some(header) =
                    FrameHeader::parse(&bytes[at..], layout.sector, layout.max_frame())
                else {
                    continue;
                };
                let proves = header.position.get() == position
                    && header.sequence.get() > head.sequence
                    && header.durable.get() >= head.sequence;
                if proves {
                    let mut frame = vec![0; header.len.get() as usize];
                    self.read_ring(layout, position, &mut frame)?;
                    if header.verify(&frame).is_some() {
                        return Ok(true);
                    }
                }
            }
            Ok(false)
        });
        if proof.try_reduce(|| false, |a, b| Ok(a || b))? {
            return Err(self.damage(Part::Frame, layout.ring_offset(head.position)));
        }
        Ok(())
    }
}

/// Whether the numbers of a superblock are ones that a log can come to: all counters far from their
/// ends, so that nothing computed from them overflows.
fn is_sound(superblock: &Superblock, layout: &Layout) -> bool {
    let tail = &superblock.tail;
    let counters = [tail.position, tail.sequence, tail.lsn, superblock.generation];
    counters.iter().all(|counter| counter.get() < 1 << 62)
        && tail.position.get().is_multiple_of(layout.sector)
        && tail.sequence.get() >= 1
        // A device that shrank since may have had all there is room for.
        && tail.allocated.get() <= u64::from(layout.ranges()) * RANGE_BLOCKS
        && superblock.incarnation.get() < u32::MAX
}

fn in_page(bases: &Bases) -> bool {
    bases.last().is_some_and(|base| base.image.state == State::Page)
}

/// Where the log goes on, and blocks allocated there.
fn end_of(superblock: &Superblock, log: &Log) -> (Head, u64) {
    let tail = &superblock.tail;
    let mut head = Head {
        position: tail.position.get(),
        sequence: tail.sequence.get(),
        lsn: tail.lsn.get(),
        crc: tail.previous.get(),
        engine: tail.engine.get(),
    };
    let mut allocated = tail.allocated.get();
    for frame in &log.frames {
        let header = &frame.header;
        head.position += u64::from(header.len.get());
        head.sequence += 1;
        head.crc = frame.crc;
        (head.lsn, head.engine) = (frame.lsn, frame.engine);
        allocated = header.allocated.get();
    }
    (head, allocated)
}

/// A mark for each frame.
fn marks(superblock: &Superblock, log: &Log) -> VecDeque<Mark> {
    let mut mark = superblock.tail;
    let mut marks = VecDeque::with_capacity(log.frames.len());
    for frame in &log.frames {
        let header = &frame.header;
        mark.position = header.position;
        mark.sequence = header.sequence;
        mark.lsn = header.lsn;
        mark.previous = header.previous;
        marks.push_back(mark);
        mark.allocated = header.allocated;
        mark.engine = frame.engine.into();
    }
    marks
}

/// Images plus log, for all ranges.
struct Replay<'a> {
    loader: &'a Loader,
    layout: &'a Layout,
    superblock: &'a Superblock,
    log: &'a Log,
    last: u64,
    until: Option<Lsn>,
    /// The images are all there is: the log has no changes with which an older one would do.
    complete: bool,
}

/// What one thread came to for its share of the ranges.
struct Share {
    bases: Vec<Bases>,
    restored: u64,
    /// The state of ranges that were changed after `until`, as of then.
    before: Vec<(u32, Vec<u64>)>,
}

/// Carries out the log's changes to one share of the ranges.
struct Player<'a> {
    replay: &'a Replay<'a>,
    first: u32,
    words: &'a mut [u64],
    share: &'a mut Share,
    /// Later transactions than this need no more than to be carried out: every image of the range is
    /// older, and knows where the first change after it is.
    settled: Vec<u64>,
    /// Ranges whose state is in `share.before`.
    saved: Vec<bool>,
}

impl<'a> Player<'a> {
    fn new(replay: &'a Replay<'a>, first: u32, words: &'a mut [u64], share: &'a mut Share) -> Self {
        let count = share.bases.len();
        Self {
            replay,
            first,
            words,
            share,
            settled: vec![u64::MAX; count],
            saved: vec![false; count],
        }
    }

    fn end(&self) -> u32 {
        self.first + self.settled.len() as u32
    }

    fn has(&self, range: u32) -> bool {
        (self.first..self.end()).contains(&range)
    }

    /// Carries out an item of transaction `lsn`, in the frame at `position`.
    fn change(&mut self, lsn: u64, position: u64, range: u32, item: Item) -> Result<(), LogError> {
        let index = (range - self.first) as usize;
        if lsn <= self.settled[index] && !self.settle(lsn, position, index) {
            return Ok(());
        }
        let words = &mut self.words[index * RANGE_WORDS..][..RANGE_WORDS];
        if self.replay.until.is_some_and(|until| lsn > until.0) && !self.saved[index] {
            self.saved[index] = true;
            self.share.before.push((range, words.to_vec()));
        }
        apply_item(words, item).map_err(|block| LogError::Contradiction {
            file: self.replay.loader.name.clone(),
            offset: self.replay.layout.ring_offset(position),
            block: u64::from(range) * RANGE_BLOCKS + u64::from(block),
        })
    }

    /// Notes the first change after each image; whether the newest does not know of it yet.
    fn settle(&mut self, lsn: u64, position: u64, index: usize) -> bool {
        let bases = &mut self.share.bases[index];
        for base in bases.iter_mut().filter(|base| base.image.base < lsn) {
            base.after.get_or_insert(position);
        }
        let newest = bases.last().map_or(0, |base| base.image.base);
        if newest < lsn {
            self.settled[index] = newest;
        }
        newest < lsn
    }
}

/// What undoes the transactions after a certain one, and these: number, position, records.
pub type Rollback = (Delta, Vec<(u64, u64, Vec<u8>)>);

impl Replay<'_> {
    fn run(
        &self,
        mut candidates: Vec<SmallVec<[Image; 2]>>,
        allocated: u64,
        report: &mut Report,
    ) -> Result<(Mirror, Vec<Bases>, Option<Rollback>), LogError> {
        let blocks = self.layout.blocks;
        let mut mirror = Mirror::new(blocks, self.layout.ranges())
            .ok_or(ConfigError::OutOfMemory { bytes: blocks.div_ceil(8) })?;
        let tail = self.superblock.tail.lsn.get();
        for &(_, range, image) in &self.log.images {
            let known = candidates.get_mut(range as usize);
            let known = known.ok_or_else(|| self.loader.damage(Part::Record, 0))?;
            // An older one may lack changes that the log has forgotten.
            if (tail..=self.last).contains(&image.base) && !known.contains(&image) {
                known.push(image);
            }
        }
        for images in &mut candidates {
            images.sort_by_key(|image| image.base);
        }
        let share = (candidates.len().div_ceil(rayon::current_num_threads())).max(64);
        let shares: Vec<Share> = mirror
            .words_mut()
            .par_chunks_mut(share * RANGE_WORDS)
            .zip(candidates.par_chunks(share))
            .enumerate()
            .map(|(index, (words, candidates))| {
                self.share((index * share) as u32, words, candidates)
            })
            .collect::<Result<_, LogError>>()?;
        if let Some(block) = mirror.allocated_from(blocks) {
            let range = (block / RANGE_BLOCKS) as u32;
            return Err(self.loader.damage(Part::Beyond, self.layout.image_offset(range, 0)));
        }
        mirror.recount();
        if mirror.allocated() != allocated {
            let offset = self
                .log
                .frames
                .last()
                .map_or(0, |frame| self.layout.ring_offset(frame.header.position.get()));
            return Err(self.loader.damage(Part::Total, offset));
        }
        report.restored_ranges = shares.iter().map(|share| share.restored).sum();
        let rollback = self.until.and_then(|until| self.rollback(until, &mirror, &shares, report));
        let bases = shares.into_iter().flat_map(|share| share.bases).collect();
        Ok((mirror, bases, rollback))
    }

    /// Loads and replays ranges `first..`, whose state is `words`.
    fn share(
        &self,
        first: u32,
        words: &mut [u64],
        candidates: &[SmallVec<[Image; 2]>],
    ) -> Result<Share, LogError> {
        let mut share =
            Share { bases: Vec::with_capacity(candidates.len()), restored: 0, before: Vec::new() };
        for ((words, images), range) in words.chunks_mut(RANGE_WORDS).zip(candidates).zip(first..) {
            let bases = self.load(range, words, images, &mut share.restored)?;
            share.bases.push(bases);
        }
        self.replay(first, words, &mut share)?;
        Ok(share)
    }

    /// The newest image of `range` that is intact, and those before it that count.
    fn load(
        &self,
        range: u32,
        words: &mut [u64],
        images: &[Image],
        restored: &mut u64,
    ) -> Result<Bases, LogError> {
        let until = self.until.map_or(u64::MAX, |until| until.0);
        let mut oldest = u64::MAX;
        for (index, image) in images.iter().enumerate().rev() {
            if image.base > until {
                oldest = image.base;
                continue;
            }
            let intact = self.load_image(range, words, image)?;
            if !intact && self.complete {
                break;
            }
            if intact {
                *restored += u64::from(index + 1 < images.len() && oldest == u64::MAX);
                let bases = images[..=index].iter().map(|&image| Base { image, after: None });
                return Ok(bases.collect());
            }
        }
        if oldest != u64::MAX {
            let file = self.loader.name.clone();
            return Err(LogError::TooOld { file, until: Lsn(until), oldest: Lsn(oldest) });
        }
        let slot = images.last().map_or(0, |image| image.slot);
        Err(self.loader.damage(Part::Image, self.layout.image_offset(range, slot)))
    }

    fn load_image(&self, range: u32, words: &mut [u64], image: &Image) -> Result<bool, LogError> {
        match image.state {
            State::AllFree => words.fill(0),
            State::AllUsed => words.fill(u64::MAX),
            State::Page => {
                self.loader
                    .read(self.layout.image_offset(range, image.slot), words.as_mut_bytes())?;
                let intact = crc32c::crc32c(words.as_bytes()) == image.crc;
                words.iter_mut().for_each(|word| *word = u64::from_le(*word));
                return Ok(intact);
            }
        }
        Ok(true)
    }

    fn replay(&self, first: u32, words: &mut [u64], share: &mut Share) -> Result<(), LogError> {
        let ranges = self.layout.ranges();
        let mut lsn = self.superblock.tail.lsn.get() + 1;
        let mut player = Player::new(self, first, words, share);
        for frame in &self.log.frames {
            let position = frame.header.position.get();
            let beyond = || self.loader.damage(Part::Record, self.layout.ring_offset(position));
            for record in Records::new(&self.log.bytes[frame.records.clone()]).flatten() {
                match record {
                    Record::Commit => lsn += 1,
                    // What a shrink cut off was on the device when this was written; it has been freed
                    // since.
                    Record::Delta { range, items: of } if player.has(range) => {
                        for item in items(of) {
                            player.change(lsn, position, range, item.ok_or_else(beyond)?)?;
                        }
                    }
                    Record::Delta { range, .. } if range >= ranges => return Err(beyond()),
                    Record::Fill { first: from, count, op } => {
                        let to = from.checked_add(count).filter(|&to| to <= ranges);
                        let whole = Item { start: 0, len: RANGE_BLOCKS as u32, op };
                        let to = to.ok_or_else(beyond)?;
                        for range in from.max(first)..to.min(player.end()) {
                            player.change(lsn, position, range, whole)?;
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// What takes the state back to `until`, and the transactions behind it one by one.
    fn rollback(
        &self,
        until: Lsn,
        mirror: &Mirror,
        shares: &[Share],
        report: &mut Report,
    ) -> Option<Rollback> {
        report.taken_back = report.last.0 - until.0;
        if report.taken_back == 0 {
            return None;
        }
        let (mut allocated, mut freed) =
            (crate::extent_set::ExtentSet::default(), crate::extent_set::ExtentSet::default());
        let mut before: Vec<&(u32, Vec<u64>)> =
            shares.iter().flat_map(|share| &share.before).collect();
        before.sort_by_key(|(range, _)| *range);
        for (range, then) in before {
            for (index, (&now, &then)) in mirror.range(*range).iter().zip(then).enumerate() {
                let start = u64::from(*range) * RANGE_BLOCKS + 64 * index as u64;
                let mut changed = now ^ then;
                while changed != 0 {
                    let bit = changed.trailing_zeros();
                    changed &= changed - 1;
                    let block = Extent::new(start + u64::from(bit), 1);
                    let set = if now >> bit & 1 == 1 { &mut freed } else { &mut allocated };
                    set.insert(block);
                }
            }
        }
        let delta = Delta {
            allocated: allocated.into_extents(),
            freed: freed.into_extents(),
            origin: None,
            conflict: None,
        };
        Some((delta, self.transactions_after(until)))
    }

    fn transactions_after(&self, until: Lsn) -> Vec<(u64, u64, Vec<u8>)> {
        let mut found = Vec::new();
        let mut lsn = self.superblock.tail.lsn.get() + 1;
        let mut current: Option<(u64, Vec<u8>)> = None;
        for frame in &self.log.frames {
            let bytes = &self.log.bytes[frame.records.clone()];
            let (mut records, mut start) = (Records::new(bytes), 0);
            while let Some(record) = records.next() {
                let raw = &bytes[start..records.offset()];
                start = records.offset();
                match record {
                    Ok(Record::Commit) => {
                        // Empty ones too: images must not claim to know of them.
                        let nothing = (frame.header.position.get(), Vec::new());
                        let (position, bytes) = current.take().unwrap_or(nothing);
                        if lsn > until.0 {
                            found.push((lsn, position, bytes));
                        }
                        lsn += 1;
                    }
                    Ok(Record::Delta { .. } | Record::Fill { .. }) if lsn > until.0 => {
                        let position = frame.header.position.get();
                        current.get_or_insert((position, Vec::new())).1.extend_from_slice(raw);
                    }
                    _ => {}
                }
            }
        }
        found
    }
}
