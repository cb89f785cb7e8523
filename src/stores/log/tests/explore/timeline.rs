//! What must be found: the state after each transaction that can be asked for.

use std::collections::VecDeque;
use std::ops::Range;

use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use crate::allocator::Allocator;
use crate::stores::check::push_bits;
use crate::stores::log::record::RANGE_BLOCKS;
use crate::values::delta::Delta;
use crate::values::extent::Extent;
use crate::values::extent_set::ExtentSet;
use crate::values::plain_bitmap::{first_set, spans};

/// The longest device that is explored.
pub(super) const MOST_BLOCKS: u64 = 12 * RANGE_BLOCKS;

/// One bit per block, 1 = allocated.
#[derive(Clone, PartialEq)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    /// All free.
    pub(super) fn new() -> Self {
        Self(vec![0; (MOST_BLOCKS / 64) as usize])
    }

    fn flip(&mut self, extents: &[Extent], allocate: bool) {
        for (index, mask) in extents.iter().flat_map(|&extent| spans(extent)) {
            let before = if allocate { 0 } else { mask };
            assert_eq!(self.0[index] & mask, before, "the test itself made a bad delta");
            self.0[index] ^= mask;
        }
    }

    pub(super) fn apply(&mut self, delta: &Delta) {
        self.flip(delta.allocated(), true);
        self.flip(delta.freed(), false);
    }

    /// The state of a device that has `words`.
    pub(super) fn of(words: &[u64]) -> Self {
        let mut bits = Self::new();
        bits.0[..words.len()].copy_from_slice(words);
        bits
    }

    pub(super) fn words(&self) -> &[u64] {
        &self.0
    }

    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    pub(super) fn is_allocated(&self, block: u64) -> bool {
        self.0[(block / 64) as usize] >> (block % 64) & 1 == 1
    }

    /// The extents of allocated blocks in `extent`.
    pub(super) fn parts(&self, extent: Extent) -> Vec<Extent> {
        let mut parts = Vec::new();
        for (index, mask) in spans(extent) {
            push_bits(&mut parts, 64 * index as u64, self.0[index] & mask);
        }
        parts
    }

    /// An extent of allocated blocks on a device of `blocks`, if there is one behind a random place.
    pub(super) fn allocated(&self, blocks: u64, rng: &mut Pcg64Mcg) -> Option<Extent> {
        let start = first_set(&self.0, rng.random_range(0..blocks))?;
        let longest = 1u64 << rng.random_range(0..13);
        let longest = rng.random_range(1..=longest);
        let run = (start..blocks).take(longest as usize);
        let len = run.take_while(|&block| self.is_allocated(block)).count() as u64;
        Some(Extent::new(start, len))
    }

    /// What makes `self` the state `to`.
    pub(super) fn difference(&self, to: &Self) -> Delta {
        let (mut allocated, mut freed) = (Vec::new(), Vec::new());
        for (index, (&now, &then)) in self.0.iter().zip(&to.0).enumerate() {
            push_bits(&mut allocated, 64 * index as u64, then & !now);
            push_bits(&mut freed, 64 * index as u64, now & !then);
        }
        let set = |extents: Vec<Extent>| {
            let mut set = ExtentSet::default();
            extents.into_iter().for_each(|extent| set.insert(extent));
            set.into_extents()
        };
        let (allocated, freed) = (set(allocated), set(freed));
        Delta { allocated, freed, ..Delta::default() }
    }
}

impl std::fmt::Debug for Bits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} blocks", self.count())
    }
}

/// A transaction.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub delta: Delta,
    /// The part of the engine's log that carries it, where there is one.
    pub span: Range<u64>,
    /// That part carries none.
    pub skipped: bool,
}

impl From<Delta> for Entry {
    fn from(delta: Delta) -> Self {
        Self { delta, span: 0..0, skipped: false }
    }
}

/// Transactions by number, from the oldest that can be asked for: those that the log has acknowledged
/// (or taken in), and those of which it is not known.
#[derive(Debug)]
pub(super) struct Timeline {
    old: Bits,
    first: u64,
    /// The end of what the engine's log has up to `first`.
    first_end: u64,
    entries: VecDeque<Entry>,
    /// The state after `acknowledged`.
    now: Bits,
    acknowledged: u64,
}

impl Timeline {
    /// A device begins with this state.
    pub(super) fn new(state: Bits) -> Self {
        Self {
            old: state.clone(),
            first: 0,
            first_end: 0,
            entries: VecDeque::new(),
            now: state,
            acknowledged: 0,
        }
    }

    /// The oldest that can be asked for.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(super) fn now(&self) -> &Bits {
        &self.now
    }

    /// The last that there may be.
    pub(super) fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn index(&self, number: u64) -> usize {
        (number - self.first) as usize
    }

    pub(super) fn entry(&self, number: u64) -> &Entry {
        &self.entries[self.index(number) - 1]
    }

    /// Those that are not acknowledged.
    pub(super) fn pending(&self) -> impl Iterator<Item = &Entry> {
        self.entries.range(self.index(self.acknowledged)..)
    }

    pub(super) fn clone_pending(&self) -> Vec<Entry> {
        self.pending().cloned().collect()
    }

    /// Others instead of those that are not acknowledged.
    pub(super) fn replace_pending(&mut self, pending: Vec<Entry>) {
        self.entries.truncate(self.index(self.acknowledged));
        self.entries.extend(pending);
    }

    /// How far the engine's log goes with `number`.
    pub(super) fn end_of(&self, number: u64) -> u64 {
        if number == self.first { self.first_end } else { self.entry(number).span.end }
    }

    /// The transaction with which the engine's log goes as far as `position`.
    pub(super) fn number_of(&self, position: u64) -> Option<u64> {
        (self.first..=self.end()).find(|&number| self.end_of(number) == position)
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
    }

    /// Takes away what was not acknowledged and cannot be: the `index`-th of those.
    pub(super) fn remove_pending(&mut self, index: usize) {
        let index = self.index(self.acknowledged) + index;
        self.entries.remove(index);
    }

    /// Nothing behind `number` has become of what was not acknowledged.
    pub(super) fn cut(&mut self, number: u64) {
        assert!(number >= self.acknowledged, "acknowledged");
        self.entries.truncate(self.index(number));
    }

    pub(super) fn acknowledge(&mut self, number: u64) {
        for index in self.index(self.acknowledged)..self.index(number) {
            self.now.apply(&self.entries[index].delta);
        }
        self.acknowledged = number;
    }

    /// Nobody asks for what came before `number` any more.
    pub(super) fn forget(&mut self, number: u64) {
        assert!(number <= self.acknowledged, "not there yet");
        self.first_end = self.end_of(number);
        for entry in self.entries.drain(..(number - self.first) as usize) {
            self.old.apply(&entry.delta);
        }
        self.first = number;
    }

    /// After a crash the engine's log was fed in only up to `number`.
    pub(super) fn go_back(&mut self, number: u64) {
        self.now = self.state(number);
        self.acknowledged = number;
    }

    pub(super) fn state(&self, number: u64) -> Bits {
        let (mut state, from) = match number >= self.acknowledged {
            true => (self.now.clone(), self.acknowledged),
            false => (self.old.clone(), self.first),
        };
        for index in self.index(from)..self.index(number) {
            state.apply(&self.entries[index].delta);
        }
        state
    }
}

/// Compares an allocator that nobody has used yet with a state.
pub(super) fn compare(allocator: &Allocator, expected: &Bits) -> Result<(), String> {
    let blocks = allocator.blocks();
    let bitmap = allocator.to_bitmap().map_err(|error| error.to_string())?;
    compare_words(blocks, &bitmap, expected)?;
    let free = blocks - expected.count();
    if allocator.free_blocks() != free {
        return Err(format!("{} free blocks, not {free}", allocator.free_blocks()));
    }
    if !allocator.verify().is_clean() {
        return Err("the index has faults".to_string());
    }
    Ok(())
}

/// Compares the words of a device with a state.
pub(super) fn compare_words(blocks: u64, words: &[u64], expected: &Bits) -> Result<(), String> {
    for (index, (found, expected)) in words.iter().zip(expected.words()).enumerate() {
        if found != expected {
            return Err(format!("blocks from {}: {found:x}, not {expected:x}", 64 * index));
        }
    }
    match first_set(expected.words(), blocks) {
        Some(block) => Err(format!("block {block} was cut off")),
        None => Ok(()),
    }
}
