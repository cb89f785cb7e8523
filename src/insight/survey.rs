//! Counting the free runs of a device bit by bit, beside full traffic.

use std::mem::{replace, take};
use std::ops::Range;
use std::sync::Arc;

use crate::base::geometry::{LEAF_BLOCKS, Native, WORD_BLOCKS};
use crate::base::place::{LeafIndex, ShardIndex};
use crate::base::word::Word;
use crate::core::Core;
use crate::index::events::Event;
use crate::space::survey_records::Found;
use crate::values::runs::Runs;

/// Blocks per step of a walk that runs to its end: 128 MiB of 4 KiB blocks.
pub(crate) const STEP_BLOCKS: u64 = 1 << 15;

/// A walk over the bitmap that counts the maximal free runs by length, from
/// [`Allocator::survey`](crate::Allocator::survey). Each step goes as far as the caller says,
/// blocks no other thread, and reads each word once. It skips stretches that the summary shows as
/// allocated.
///
/// When a shard has been surveyed, its result stays in the allocator, where
/// [`Allocator::stats`](crate::Allocator::stats) and [`shard_stats`](crate::Allocator::shard_stats)
/// find it at once. A run that crosses shards is counted once, at its full length, in the shard
/// where it begins. So that shard is done when the run's end is found.
///
/// While nothing else runs, the figures are exact. Otherwise they show no single moment. A block
/// that is free from before the walk reaches it until after it has passed is counted; one that is
/// allocated that long is not; one that changes meanwhile may be or not. No block is counted twice
/// in one survey. Shards by which the device grew since the survey began are not part of it.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let allocator = freemap::Allocator::new(1 << 24)?;
/// let mut survey = allocator.survey();
/// while survey.step(1 << 20) {
///     // 4 GiB of device were looked at: do something else, or sleep.
/// }
/// assert_eq!(survey.runs().largest(), 1 << 24);
/// assert_eq!(allocator.stats().surveyed.runs, *survey.runs());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a survey counts nothing until it goes on"]
pub struct Survey {
    core: Arc<Core>,
    walk: Walk,
}

impl Survey {
    /// A survey of `shards`, at least one.
    pub(crate) fn new(core: Arc<Core>, shards: Range<ShardIndex>) -> Self {
        let leaf = core.space.shards.first_leaf(shards.start);
        let start = leaf.first_block::<Native>();
        let cut = start > 0 && core.space.bitmap.is_free(start - 1, 1);
        let run = if cut { Run::Before } else { Run::None };
        let (found, carried, runs) = (Found::default(), None, Runs::default());
        Self { core, walk: Walk { shards, leaf, run, found, carried, runs } }
    }

    /// Continues over `blocks` blocks, rounded up to whole leaves of 512, at least one. Returns
    /// whether there is more to do. O(blocks / 64) and the runs in them.
    pub fn step(&mut self, blocks: u64) -> bool {
        let mut left = blocks.div_ceil(LEAF_BLOCKS).max(1);
        while left > 0 && !self.is_finished() {
            if self.walk.shards.is_empty() {
                self.walk.follow_run(&self.core);
            } else {
                self.walk.read_leaf(&self.core);
            }
            left -= 1;
        }
        !self.is_finished()
    }

    /// Walks to the end. O(blocks / 64) and the runs.
    pub fn finish(mut self) -> Runs {
        while self.step(STEP_BLOCKS) {}
        self.walk.runs
    }

    /// Whether there is nothing more to do.
    pub fn is_finished(&self) -> bool {
        self.walk.shards.is_empty() && self.walk.carried.is_none()
    }

    /// The block at which the walk continues.
    pub fn position(&self) -> u64 {
        self.walk.leaf.first_block::<Native>().min(self.core.space.bitmap.blocks())
    }

    /// The runs of the shards that are done.
    pub fn runs(&self) -> &Runs {
        &self.walk.runs
    }
}

/// The position and the findings of a survey.
#[derive(Debug)]
struct Walk {
    /// The current shard and those that follow.
    shards: Range<ShardIndex>,
    /// The next leaf to read.
    leaf: LeafIndex,
    run: Run,
    /// What was found in the current shard so far.
    found: Found,
    /// A shard that is complete except for the end of its last run, the current one.
    carried: Option<(ShardIndex, Found)>,
    /// The runs of all shards that are done.
    runs: Runs,
}

/// The run that the walk is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    None,
    /// It began here.
    From(u64),
    /// It began before the first shard: it belongs to another survey.
    Before,
}

impl Walk {
    fn read_leaf(&mut self, core: &Core) {
        let start = self.leaf.first_block::<Native>();
        // The device may have shrunk since.
        if self.is_at_end(core) {
            return self.end_shard(core);
        }
        if core.space.bitmap.may_have_free(self.leaf) {
            let words = core.space.bitmap.leaf_words(self.leaf);
            for (block, word) in (start..).step_by(WORD_BLOCKS as usize).zip(words) {
                self.read_word(core, block, word.to_u64());
            }
        } else {
            self.end_run(core, start);
        }
        self.leaf = self.leaf.next();
        if core.space.shards.is_first(self.leaf) || self.is_at_end(core) {
            self.end_shard(core);
        }
    }

    fn is_at_end(&self, core: &Core) -> bool {
        self.leaf >= core.space.bitmap.leaf_end()
    }

    /// Reads `word`, 1 = free, whose lowest bit is `block`.
    #[inline(always)]
    fn read_word(&mut self, core: &Core, block: u64, word: u64) {
        const FULL: u64 = u64::MAX >> (64 - WORD_BLOCKS);
        if word == 0 {
            return self.end_run(core, block);
        }
        self.found.free += u64::from(word.count_ones());
        self.found.end = block + u64::from(u64::BITS - word.leading_zeros());
        let mut rest = word;
        if self.run != Run::None {
            if word == FULL {
                return;
            }
            let more = word.trailing_ones();
            self.end_run(core, block + u64::from(more));
            rest &= u64::MAX << more;
        }
        while rest != 0 {
            let first = rest.trailing_zeros();
            let len = u64::from((rest >> first).trailing_ones());
            let start = block + u64::from(first);
            if u64::from(first) + len == WORD_BLOCKS {
                self.run = Run::From(start);
                return;
            }
            self.found.runs.count_run(start, len);
            // The carry clears the lowest run.
            rest &= rest + (1 << first);
        }
    }

    /// The current run, if any, ends before block `end`.
    #[inline]
    fn end_run(&mut self, core: &Core, end: u64) {
        let Run::From(start) = replace(&mut self.run, Run::None) else { return };
        // A device that shrank may end before `start`.
        let len = end.saturating_sub(start).max(1);
        match self.carried.take() {
            Some((shard, mut found)) => {
                found.runs.count_run(start, len);
                found.end = found.end.max(start + len);
                self.record(core, shard, &found);
            }
            None => self.found.runs.count_run(start, len),
        }
    }

    /// The current shard was read to its end.
    #[cold]
    fn end_shard(&mut self, core: &Core) {
        let at_end = self.is_at_end(core);
        if at_end {
            self.end_run(core, core.space.bitmap.blocks());
        }
        let (shard, found) = (self.shards.start, take(&mut self.found));
        self.shards.start = if at_end { self.shards.end } else { shard.next() };
        if matches!(self.run, Run::From(_)) && self.carried.is_none() {
            self.carried = Some((shard, found));
        } else {
            self.record(core, shard, &found);
        }
    }

    /// Behind the last shard: looks for the end of a run that began in it.
    fn follow_run(&mut self, core: &Core) {
        let start = self.leaf.first_block::<Native>();
        self.leaf = self.leaf.next();
        let end = self.leaf.first_block::<Native>().min(core.space.bitmap.blocks());
        let run_end = core.space.bitmap.run_end(start, end);
        if run_end < end || self.is_at_end(core) {
            self.end_run(core, run_end);
        }
    }

    fn record(&mut self, core: &Core, shard: ShardIndex, found: &Found) {
        self.runs.merge(&found.runs);
        if !core.space.all_shards().contains(&shard) || found.end > core.space.bitmap.blocks() {
            return; // the device was made shorter
        }
        core.surveyed.record(shard, found);
        // Pairs with the end of a shrink, which sets the length and then forgets what reaches
        // beyond it: one of the two sees the other.
        core.surveyed.forget_beyond(core.space.bitmap.blocks(), shard..shard.next());
        core.space.count(Event::ShardSurvey, shard.get());
    }
}
