//! Images plus log, for all ranges: each range from its newest intact image, then the log's changes
//! to it, strictly: a block must be free to be allocated, and allocated to be freed. Ranges are
//! independent, so each thread reads the log once and applies the changes to its share.
//!
//! The bytes read bound the time, whatever they contain: a fill of whole ranges is a number until
//! one of them is changed block by block, and of a range both image slots are read once, and one
//! perhaps twice.

use rayon::prelude::*;
use smallvec::SmallVec;

use super::directory::Directory;
use super::frames::Log;
use super::loader::Loader;
use super::slots::{RangeState, Slots, Words};
use crate::stores::log::error::{LogError, Part};
use crate::stores::log::fault::{Fault, faulty};
use crate::stores::log::layout::Layout;
use crate::stores::log::mirror::{Mirror, RANGE_WORDS, apply_item};
use crate::stores::log::record::{Image, Item, MAX_FILL, RANGE_BLOCKS, Record, Records, items};
use crate::stores::log::report::Report;
use crate::stores::log::state::{Base, Bases};
use crate::values::error::ConfigError;
use crate::values::lsn::Lsn;
use crate::values::op::Op;
use crate::values::plain_bitmap::first_set;

/// The most whole ranges that the fills of a version 1 log may change together, since version 1
/// does not limit a single fill: 32 PiB of device.
const MAX_FILLED: u64 = 1 << 28;

pub(super) struct Replay<'a> {
    pub loader: &'a Loader,
    pub layout: &'a Layout,
    pub log: &'a Log,
    /// The position of the log's tail.
    pub tail_position: u64,
    pub until: Option<Lsn>,
    /// The images are the whole state: the log has no changes to bring an older one up to date.
    pub complete: bool,
}

/// An image that may be the newest of its range, and the position of the frame that names it, if
/// any.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    image: Image,
    frame: Option<u64>,
    in_directory: bool,
}

/// One thread's result for its share of the ranges.
struct Share {
    bases: Vec<Bases>,
    allocated: u64,
    restored: u64,
    /// The first allocated block behind the device's end.
    beyond: Option<u64>,
    /// The state, as of `until`, of ranges that were changed after it.
    before: Vec<(u32, Vec<u64>)>,
}

/// The result of the replay.
pub(super) struct Replayed {
    pub mirror: Mirror,
    pub bases: Vec<Bases>,
    /// The state, as of `until`, of ranges that were changed after it.
    pub before: Vec<(u32, Vec<u64>)>,
}

impl Replay<'_> {
    pub(super) fn run(
        &self,
        directory: &Directory,
        report: &mut Report,
    ) -> Result<Replayed, LogError> {
        let (blocks, ranges) = (self.layout.blocks, self.layout.ranges());
        let mut mirror = Mirror::new(blocks, ranges)
            .ok_or(ConfigError::OutOfMemory { bytes: blocks.div_ceil(8) })?;
        let candidates = self.candidates(directory)?;
        let share = (ranges as usize).div_ceil(rayon::current_num_threads()).max(64);
        let shares: Vec<Share> = mirror
            .words_mut()
            .par_chunks_mut(share * RANGE_WORDS)
            .zip(candidates.par_chunks(share))
            .enumerate()
            .map(|(index, (words, candidates))| {
                self.share((index * share) as u32, words, candidates)
            })
            .collect::<Result<_, LogError>>()?;
        if let Some(block) = shares.iter().find_map(|share| share.beyond) {
            let range = (block / RANGE_BLOCKS) as u32;
            return Err(self.loader.damage(Part::Beyond, self.layout.image_offset(range, 0)));
        }
        let allocated = shares.iter().map(|share| share.allocated).sum();
        if allocated != self.log.head.allocated && !faulty(Fault::TotalUnchecked) {
            let last = self.log.frames.last();
            let offset =
                last.map_or(0, |frame| self.layout.ring_offset(frame.header.position.get()));
            return Err(self.loader.damage(Part::Total, offset));
        }
        mirror.set_allocated(allocated);
        report.restored_ranges = shares.iter().map(|share| share.restored).sum();
        let (mut bases, mut before) = (Vec::with_capacity(ranges as usize), Vec::new());
        for mut share in shares {
            bases.append(&mut share.bases);
            before.append(&mut share.before);
        }
        Ok(Replayed { mirror, bases, before })
    }

    /// The images of each range in the order of their bases: those that a copy of the directory
    /// names, and those that the log names.
    fn candidates(&self, directory: &Directory) -> Result<Vec<Vec<Candidate>>, LogError> {
        let candidate = |&image: &Image| Candidate { image, frame: None, in_directory: true };
        let named = |images: &SmallVec<[Image; 2]>| images.iter().map(candidate).collect();
        let mut candidates: Vec<Vec<Candidate>> = directory.entries.iter().map(named).collect();
        for &(range, image, frame) in &self.log.images {
            let known = candidates.get_mut(range as usize);
            let known = known.ok_or_else(|| self.damage_at(Part::Record, frame))?;
            // An older image may lack changes that the log has discarded.
            let counts = (self.log.tail_lsn..=self.log.head.lsn).contains(&image.base);
            if counts || faulty(Fault::ImageBaseUnchecked) {
                known.push(Candidate { image, frame: Some(frame), in_directory: false });
            }
        }
        for of_range in &mut candidates {
            of_range.sort_by_key(|candidate| candidate.image.base);
            of_range.dedup_by(|later, kept| {
                let same = later.image == kept.image;
                if same {
                    kept.in_directory |= later.in_directory;
                    kept.frame = kept.frame.or(later.frame);
                }
                same
            });
        }
        Ok(candidates)
    }

    fn damage_at(&self, part: Part, position: u64) -> LogError {
        self.loader.damage(part, self.layout.ring_offset(position))
    }

    /// Loads and replays the ranges from `first` on; their state is put into `words`.
    fn share(
        &self,
        first: u32,
        words: &mut [u64],
        candidates: &[Vec<Candidate>],
    ) -> Result<Share, LogError> {
        let mut share = Share {
            bases: Vec::with_capacity(candidates.len()),
            allocated: 0,
            restored: 0,
            beyond: None,
            before: Vec::new(),
        };
        let mut states = Vec::with_capacity(candidates.len());
        for ((words, images), range) in words.chunks_mut(RANGE_WORDS).zip(candidates).zip(first..) {
            let (bases, state) = self.load(range, words, images, &mut share.restored)?;
            share.bases.push(bases);
            states.push(state);
        }
        let (settled, kept) = (vec![u64::MAX; states.len()], vec![false; states.len()]);
        let mut player =
            Player { replay: self, first, words, states, settled, kept, share: &mut share };
        player.play()?;
        player.finish();
        Ok(share)
    }

    /// The newest intact image of `range`, with the earlier ones that count, and its state.
    fn load(
        &self,
        range: u32,
        words: &mut [u64],
        candidates: &[Candidate],
        restored: &mut u64,
    ) -> Result<(Bases, RangeState), LogError> {
        let until = self.until.map_or(u64::MAX, |until| until.0);
        let wanted = candidates.partition_point(|candidate| candidate.image.base <= until);
        let mut slots = Slots::default();
        for (index, candidate) in candidates[..wanted].iter().enumerate().rev() {
            self.loader.steps.add(1);
            // The changes that the log lacks may be only in a later image.
            let lacks = self.log.is_cut() && candidate.image.base == self.log.tail_lsn;
            if lacks && !candidate.in_directory && wanted < candidates.len() {
                continue;
            }
            if let Some(state) =
                slots.load(self.loader, self.layout, range, words, &candidate.image)?
            {
                *restored += u64::from(index + 1 < candidates.len() && wanted == candidates.len());
                return Ok((self.bases(&candidates[..=index]), state));
            }
            if self.complete {
                break;
            }
        }
        if let Some(later) = candidates.get(wanted) {
            let (file, oldest) = (self.loader.name.clone(), Lsn(later.image.base));
            return Err(LogError::TooOld { file, until: Lsn(until), oldest });
        }
        let slot = candidates.last().map_or(0, |candidate| candidate.image.slot);
        Err(self.loader.damage(Part::Image, self.layout.image_offset(range, slot)))
    }

    /// The last candidate, which was loaded, and those that a copy of the directory names. What
    /// changed after one of them is not known yet, except where no changes follow (`complete`):
    /// there, the log is needed from the frame that names the next image.
    fn bases(&self, candidates: &[Candidate]) -> Bases {
        let last = candidates.len() - 1;
        let mut bases = Bases::new();
        for (index, candidate) in candidates.iter().enumerate() {
            if index < last && !candidate.in_directory {
                continue;
            }
            let next = candidates.get(index + 1).filter(|_| self.complete);
            let after = next.map(|next| next.frame.unwrap_or(self.tail_position));
            bases.push(Base { image: candidate.image, after });
        }
        bases
    }
}

/// Applies the log's changes to one share of the ranges.
struct Player<'a> {
    replay: &'a Replay<'a>,
    first: u32,
    words: &'a mut [u64],
    states: Vec<RangeState>,
    /// Changes of later transactions only need to be applied: every image of the range is older,
    /// and has its first later change noted.
    settled: Vec<u64>,
    /// Ranges whose state is in `share.before`.
    kept: Vec<bool>,
    share: &'a mut Share,
}

impl Player<'_> {
    fn play(&mut self) -> Result<(), LogError> {
        let replay = self.replay;
        let (ranges, end) = (replay.layout.ranges(), self.first + self.states.len() as u32);
        let mut lsn = replay.log.tail_lsn + 1;
        let mut filled = 0;
        for frame in &replay.log.frames {
            let position = frame.header.position.get();
            let damaged = || replay.damage_at(Part::Record, position);
            for record in Records::new(&replay.log.bytes[frame.records.clone()]).flatten() {
                replay.loader.steps.add(1);
                match record {
                    Record::Commit => lsn += 1,
                    // A range that a shrink cut off was on the device when this was written; it has
                    // been freed since.
                    Record::Delta { range, items: of } if (self.first..end).contains(&range) => {
                        for item in items(of) {
                            self.change(lsn, position, range, item.ok_or_else(damaged)?)?;
                        }
                    }
                    Record::Delta { range, .. } if range >= ranges => return Err(damaged()),
                    Record::Fill { first: from, count, op } => {
                        filled += u64::from(count);
                        let too_many = match replay.layout.major {
                            1 => filled > MAX_FILLED,
                            _ => count > MAX_FILL,
                        };
                        let to = from.checked_add(count).filter(|&to| to <= ranges && !too_many);
                        let to = to.ok_or_else(damaged)?;
                        let whole = Item { start: 0, len: RANGE_BLOCKS as u32, op };
                        for range in from.max(self.first)..to.min(end) {
                            self.change(lsn, position, range, whole)?;
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Applies an item of transaction `lsn`, in the frame at `position`.
    fn change(&mut self, lsn: u64, position: u64, range: u32, item: Item) -> Result<(), LogError> {
        let index = (range - self.first) as usize;
        self.replay.loader.steps.add(1);
        if lsn <= self.settled[index] && !self.settle(lsn, position, index) {
            return Ok(());
        }
        if self.replay.until.is_some_and(|until| lsn > until.0) {
            self.keep(range, index);
        }
        let contradiction = |block: u32| LogError::Contradiction {
            file: self.replay.loader.name.clone(),
            offset: self.replay.layout.ring_offset(position),
            block: u64::from(range) * RANGE_BLOCKS + u64::from(block),
        };
        let whole = RANGE_BLOCKS as u32;
        let (before, after) = match item.op {
            Op::Allocate => (0, whole),
            Op::Free => (whole, 0),
        };
        if item.len == whole && self.states[index].allocated == before {
            let state = &mut self.states[index];
            state.allocated = after;
            if state.words == Words::Fresh {
                state.words = Words::Stale;
            }
            return Ok(());
        }
        self.replay.loader.steps.add(item.len.div_ceil(64) as usize);
        apply_item(self.fresh(index), item).map_err(contradiction)?;
        let allocated = &mut self.states[index].allocated;
        *allocated = match item.op {
            Op::Allocate => *allocated + item.len,
            Op::Free => *allocated - item.len,
        };
        Ok(())
    }

    /// Notes the first change after each image. Returns whether the newest image lacks this change.
    fn settle(&mut self, lsn: u64, position: u64, index: usize) -> bool {
        let bases = &mut self.share.bases[index];
        self.replay.loader.steps.add(bases.len());
        for base in bases.iter_mut().filter(|base| base.image.base < lsn) {
            base.after.get_or_insert(position);
        }
        let newest = bases.last().map_or(0, |base| base.image.base);
        if newest < lsn {
            self.settled[index] = newest;
        }
        newest < lsn
    }

    /// Keeps the state of `range` from before its first change after `until`.
    fn keep(&mut self, range: u32, index: usize) {
        if !std::mem::replace(&mut self.kept[index], true) {
            let words = self.fresh(index).to_vec();
            self.share.before.push((range, words));
        }
    }

    /// The words of a range, brought up to date.
    fn fresh(&mut self, index: usize) -> &mut [u64] {
        let words = &mut self.words[index * RANGE_WORDS..][..RANGE_WORDS];
        let state = &mut self.states[index];
        let written =
            state.words != Words::Fresh && (state.words, state.allocated) != (Words::Zero, 0);
        self.replay.loader.steps.add(if written { RANGE_WORDS } else { 0 });
        match (std::mem::replace(&mut state.words, Words::Fresh), state.allocated) {
            (Words::Fresh, _) | (Words::Zero, 0) => {}
            (Words::Stale, 0) => words.fill(0),
            (Words::Zero | Words::Stale, _) => words.fill(u64::MAX),
        }
        words
    }

    fn finish(&mut self) {
        let blocks = self.replay.layout.blocks;
        for index in 0..self.states.len() {
            let allocated = self.states[index].allocated;
            self.share.allocated += u64::from(allocated);
            let start = (u64::from(self.first) + index as u64) * RANGE_BLOCKS;
            let words = self.fresh(index);
            if allocated > 0 && start + RANGE_BLOCKS > blocks {
                let found = first_set(words, blocks.saturating_sub(start));
                let found = found.map(|block| start + block);
                self.share.beyond = self.share.beyond.or(found);
            }
        }
        // An older image without a noted change needs the log from its tail on.
        for bases in &mut self.share.bases {
            let older = bases.len() - 1;
            for base in &mut bases[..older] {
                base.after.get_or_insert(self.replay.tail_position);
            }
        }
    }
}
