//! The committed state in memory: one bit per block, 1 = allocated, as in images.
//!
//! This second bitmap takes 32 MiB per TiB (untouched ranges cost nothing, since their pages are
//! never written). In return, an image is one copy of 4 KiB without a look at any transaction, and
//! every commit is checked, block by block, before it becomes durable. The words are a
//! [`Ledger`](crate::space::ledger), which the allocator reads without a lock. Only this module
//! changes them, under the lock of the log's shared state.

use std::sync::Arc;

use crate::space::ledger::Ledger;
use crate::stores::log::record::{Item, RANGE_BLOCKS, Record, Records, items};
use crate::values::extent::Extent;
use crate::values::op::Op;
use crate::values::plain_bitmap::spans;

/// Words of a range.
pub(super) const RANGE_WORDS: usize = RANGE_BLOCKS as usize / 64;

/// A record that contradicts the state, or itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// The block already has the state that the record would give it.
    Block(u64),
    /// The record names blocks beyond the device, or is malformed; its offset in the bytes.
    Record(usize),
}

/// The committed state of one device.
pub(super) struct Mirror {
    /// The state's words, with room for at least `ranges`.
    ledger: Arc<Ledger>,
    ranges: u32,
    blocks: u64,
    allocated: u64,
}

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror")
            .field("blocks", &self.blocks)
            .field("allocated", &self.allocated)
            .finish_non_exhaustive()
    }
}

impl Mirror {
    /// All free, with room for `ranges`. `None` if there is not enough memory.
    pub(super) fn new(blocks: u64, ranges: u32) -> Option<Self> {
        let words = (ranges as usize).checked_mul(RANGE_WORDS)?;
        let ledger = Arc::new(Ledger::zeros(words).ok()?);
        Some(Self { ledger, ranges, blocks, allocated: 0 })
    }

    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(super) fn allocated(&self) -> u64 {
        self.allocated
    }

    /// The number of ranges that there is room for.
    pub(super) fn ranges(&self) -> u32 {
        self.ranges
    }

    /// The words, shared with the allocator.
    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// One bit per block of the device, and 0 behind the last.
    pub(super) fn words(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.blocks.div_ceil(64) as usize).map(|index| self.ledger.word(index))
    }

    /// The first allocated block from `start` on, also behind the device's end.
    pub(super) fn allocated_from(&self, start: u64) -> Option<u64> {
        let end = u64::from(self.ranges) * RANGE_BLOCKS;
        let rest = Extent::new(start, end.saturating_sub(start));
        self.ledger.first_allocated(rest)
    }

    pub(super) fn range(&self, range: u32) -> [u64; RANGE_WORDS] {
        let start = range as usize * RANGE_WORDS;
        std::array::from_fn(|index| self.ledger.word(start + index))
    }

    /// The words, for a recovery to fill in before they are shared; [`Mirror::set_allocated`] must
    /// follow.
    pub(super) fn words_mut(&mut self) -> &mut [u64] {
        let ledger = Arc::get_mut(&mut self.ledger);
        debug_assert!(ledger.is_some(), "nobody shares it yet");
        ledger.map(Ledger::plain).unwrap_or_default()
    }

    /// Sets the number of blocks that are allocated in the words from [`Mirror::words_mut`].
    pub(super) fn set_allocated(&mut self, blocks: u64) {
        self.allocated = blocks;
    }

    /// Makes room for at least `ranges`, the new ones free. `None` if there is not enough memory.
    pub(super) fn make_room(&mut self, ranges: u32) -> Option<()> {
        if ranges > self.ranges {
            self.ledger.grow(u64::from(ranges) * RANGE_BLOCKS).ok()?;
            self.ranges = ranges;
        }
        Some(())
    }

    /// Sets the number of blocks, for which there must be room. Blocks that are cut off are free.
    pub(super) fn set_blocks(&mut self, blocks: u64) {
        self.blocks = blocks;
    }

    /// Applies the delta and fill records in `bytes`, all or none. Calls `touched` for every range
    /// changed, perhaps more than once.
    pub(super) fn apply(
        &mut self,
        bytes: &[u8],
        mut touched: impl FnMut(u32),
    ) -> Result<(), Misfit> {
        let mut records = Records::new(bytes);
        let mut offset = 0;
        while let Some(record) = records.next() {
            if let Err(misfit) = self.apply_record(record, offset, &mut touched) {
                self.undo(&bytes[..offset]);
                return Err(misfit);
            }
            offset = records.offset();
        }
        Ok(())
    }

    fn apply_record(
        &mut self,
        record: Result<Record<'_>, usize>,
        offset: usize,
        touched: &mut impl FnMut(u32),
    ) -> Result<(), Misfit> {
        match record {
            Ok(Record::Delta { range, items: of }) => {
                touched(range);
                self.apply_items(range, of).map_err(|misfit| match misfit {
                    Misfit::Record(_) => Misfit::Record(offset),
                    block @ Misfit::Block(_) => block,
                })
            }
            Ok(Record::Fill { first, count, op }) => {
                let end = first.checked_add(count).filter(|&end| end <= self.ranges());
                let end = end.ok_or(Misfit::Record(offset))?;
                let whole = Item { start: 0, len: RANGE_BLOCKS as u32, op };
                for range in first..end {
                    touched(range);
                    if let Err(misfit) = self.apply_item(range, whole) {
                        let undo = Item { op: op.inverse(), ..whole };
                        (first..range).for_each(|range| self.force(range, undo));
                        return Err(misfit);
                    }
                }
                Ok(())
            }
            Ok(Record::Commit | Record::Position(_) | Record::Image { .. } | Record::Skipped) => {
                Ok(())
            }
            Err(_) => Err(Misfit::Record(offset)),
        }
    }

    fn apply_items(&mut self, range: u32, of: &[u8]) -> Result<(), Misfit> {
        for (number, item) in items(of).enumerate() {
            let result =
                item.ok_or(Misfit::Record(0)).and_then(|item| self.apply_item(range, item));
            if result.is_err() {
                self.undo_items(range, &of[..4 * number]);
                return result;
            }
        }
        Ok(())
    }

    fn apply_item(&mut self, range: u32, item: Item) -> Result<(), Misfit> {
        if range >= self.ranges() || item.start + item.len > blocks_of(self.blocks, range) {
            return Err(Misfit::Record(0));
        }
        let first = range as usize * RANGE_WORDS;
        apply_item(&mut Shared { ledger: &self.ledger, first }, item)
            .map_err(|block| Misfit::Block(u64::from(range) * RANGE_BLOCKS + u64::from(block)))?;
        self.count(item);
        Ok(())
    }

    /// Applies an item that is known to fit.
    fn force(&mut self, range: u32, item: Item) {
        let done = self.apply_item(range, item);
        debug_assert_eq!(done, Ok(()), "the inverse of what was just done");
    }

    fn count(&mut self, item: Item) {
        let blocks = u64::from(item.len);
        self.allocated = match item.op {
            Op::Allocate => self.allocated + blocks,
            Op::Free => self.allocated - blocks,
        };
    }

    /// Undoes what [`Mirror::apply`] did with `bytes`.
    pub(super) fn undo(&mut self, bytes: &[u8]) {
        for record in Records::new(bytes) {
            match record {
                Ok(Record::Delta { range, items: of }) => self.undo_items(range, of),
                Ok(Record::Fill { first, count, op }) => {
                    let whole = Item { start: 0, len: RANGE_BLOCKS as u32, op: op.inverse() };
                    (first..first + count).for_each(|range| self.force(range, whole));
                }
                _ => {}
            }
        }
    }

    fn undo_items(&mut self, range: u32, of: &[u8]) {
        for item in items(of).rev().flatten() {
            self.force(range, Item { op: item.op.inverse(), ..item });
        }
    }
}

/// Blocks of `range` on a device of `blocks` blocks: fewer than others, or none, at the device's
/// end.
pub(super) fn blocks_of(blocks: u64, range: u32) -> u32 {
    blocks.saturating_sub(u64::from(range) * RANGE_BLOCKS).min(RANGE_BLOCKS) as u32
}

/// The words of one range.
pub(super) trait Words {
    fn word(&self, index: usize) -> u64;
    fn set_word(&mut self, index: usize, word: u64);
}

impl Words for [u64] {
    fn word(&self, index: usize) -> u64 {
        self[index]
    }

    fn set_word(&mut self, index: usize, word: u64) {
        self[index] = word;
    }
}

/// The words of the range that begins with word `first`, as the allocator sees them.
struct Shared<'a> {
    ledger: &'a Ledger,
    first: usize,
}

impl Words for Shared<'_> {
    fn word(&self, index: usize) -> u64 {
        self.ledger.word(self.first + index)
    }

    fn set_word(&mut self, index: usize, word: u64) {
        self.ledger.set_word(self.first + index, word);
    }
}

/// Applies `item` to the words of its range. If a block already has the state that the item would
/// give it, returns that block of the range and changes nothing.
pub(super) fn apply_item<W: Words + ?Sized>(words: &mut W, item: Item) -> Result<(), u32> {
    let spans = || spans(Extent::new(item.start.into(), item.len.into()));
    for (index, mask) in spans() {
        let wrong = match item.op {
            Op::Allocate => words.word(index),
            Op::Free => !words.word(index),
        } & mask;
        if wrong != 0 {
            return Err(64 * index as u32 + wrong.trailing_zeros());
        }
    }
    for (index, mask) in spans() {
        words.set_word(index, words.word(index) ^ mask);
    }
    Ok(())
}

/// Undoes `records` in `words`, the state of `range`. Returns whether they changed anything there.
pub(super) fn undo_in_range(records: &[u8], range: u32, words: &mut [u64]) -> bool {
    let mut any = false;
    let mut undo = |item: Item| {
        any = true;
        let done = apply_item(words, Item { op: item.op.inverse(), ..item });
        debug_assert_eq!(done, Ok(()), "the inverse of what was done");
    };
    for record in Records::new(records).flatten() {
        match record {
            Record::Delta { range: of, items: all } if of == range => {
                items(all).flatten().for_each(&mut undo);
            }
            Record::Fill { first, count, op } if (first..first + count).contains(&range) => {
                undo(Item { start: 0, len: RANGE_BLOCKS as u32, op });
            }
            _ => {}
        }
    }
    any
}

/// Whether `records` name a block from `blocks` on.
pub(super) fn names_from(records: &[u8], blocks: u64) -> bool {
    Records::new(records).flatten().any(|record| match record {
        Record::Delta { range, items: all } => {
            let end =
                |item: Item| u64::from(range) * RANGE_BLOCKS + u64::from(item.start + item.len);
            items(all).flatten().any(|item| end(item) > blocks)
        }
        Record::Fill { first, count, .. } => {
            (u64::from(first) + u64::from(count)) * RANGE_BLOCKS > blocks
        }
        _ => false,
    })
}

/// Free blocks and longest free run of a range, as if all of it were on the device.
pub(super) fn survey(words: &[u64]) -> (u32, u32) {
    let (mut free, mut largest, mut run) = (0, 0, 0);
    for &word in words {
        let mut bits = !word;
        free += bits.count_ones();
        if bits == u64::MAX {
            run += 64;
            continue;
        }
        let mut at = 0;
        loop {
            let ones = (!(bits >> at)).trailing_zeros().min(64 - at);
            run += ones;
            at += ones;
            if at >= 64 {
                break;
            }
            largest = largest.max(run);
            run = 0;
            bits &= u64::MAX << at;
            if bits == 0 {
                break;
            }
            at = bits.trailing_zeros();
        }
    }
    (free, largest.max(run))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn items_change_exactly_their_blocks_or_nothing() {
        let mut words = [0; RANGE_WORDS];
        let item = |start, len, op| Item { start, len, op };
        for (start, len) in [(0, 1), (63, 2), (100, 500), (32767, 1), (1000, 64)] {
            assert_eq!(apply_item(&mut words[..], item(start, len, Op::Allocate)), Ok(()));
        }
        let count: u32 = words.iter().map(|word| word.count_ones()).sum();
        assert_eq!(count, 1 + 2 + 500 + 1 + 64);
        let before = words;
        assert_eq!(apply_item(&mut words[..], item(90, 20, Op::Allocate)), Err(100));
        assert_eq!(apply_item(&mut words[..], item(590, 20, Op::Free)), Err(600));
        assert_eq!(words, before);
        assert_eq!(apply_item(&mut words[..], item(0, 1, Op::Free)), Ok(()));
        let whole = item(0, RANGE_BLOCKS as u32, Op::Allocate);
        assert_eq!(apply_item(&mut [0; RANGE_WORDS][..], whole), Ok(()));
    }

    #[test]
    fn survey_finds_the_longest_run_across_words() {
        let mut words = [u64::MAX; RANGE_WORDS];
        assert_eq!(survey(&words), (0, 0));
        words[3] = u64::MAX >> 10; // 10 at the top
        words[4] = 0;
        words[5] = !0b11_0111; // 3 at the bottom, then 2
        words[511] = 0;
        assert_eq!(survey(&words), (10 + 64 + 5 + 64, 77));
        assert_eq!(survey(&[0; RANGE_WORDS]), (RANGE_BLOCKS as u32, RANGE_BLOCKS as u32));
    }
}
