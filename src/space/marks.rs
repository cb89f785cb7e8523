//! Which leaves are closed: one bit per leaf.

use std::marker::PhantomData;
use std::ops::Range;

use crate::base::geometry::Geometry;
use crate::base::heap::OutOfMemory;
use crate::base::place::LeafIndex;
use crate::base::segmented::Segmented;
use crate::base::sync::{AtomicWord, Site};
use crate::base::word::Word;

/// Leaves per word of marks.
const MARKS: usize = u64::BITS as usize;

/// A mark for each leaf of a device: closed.
#[derive(Debug)]
pub(super) struct Marks<G> {
    words: Segmented<Vec<AtomicWord<u64>>>,
    geometry: PhantomData<G>,
}

/// A part of a range: leaves that are all closed or all open.
pub(super) struct Part {
    pub start: u64,
    pub len: u64,
    pub closed: bool,
}

impl<G: Geometry> Marks<G> {
    /// For a device of `blocks` blocks, with nothing closed.
    pub(super) fn new(blocks: u64) -> Result<Self, OutOfMemory> {
        let words = Segmented::new(AtomicWord::zeros(words_for::<G>(blocks))?);
        Ok(Self { words, geometry: PhantomData })
    }

    /// Extends them for a device of `blocks` blocks. For one caller at a time.
    pub(super) fn lengthen(&self, blocks: u64) -> Result<(), OutOfMemory> {
        self.words.grow(words_for::<G>(blocks), |range| AtomicWord::zeros(range.len()))
    }

    /// Bytes on the heap.
    pub(super) fn bytes(&self) -> usize {
        self.words.bytes()
    }

    /// Whether `leaf`, which is on the device, is closed.
    pub(super) fn is_closed(&self, leaf: LeafIndex) -> bool {
        let leaf = leaf.get();
        self.words[leaf / MARKS].load(Site::Closed) >> (leaf % MARKS) & 1 == 1
    }

    /// The first closed leaf of `leaves`.
    pub(super) fn first_of(&self, leaves: &Range<LeafIndex>) -> Option<LeafIndex> {
        masks(leaves).find_map(|(word, mask)| {
            let closed = self.words[word].load(Site::Closed) & mask;
            let first = word * MARKS + closed.trailing_zeros() as usize;
            (closed != 0).then(|| LeafIndex::new(first))
        })
    }

    /// Marks `leaves` as closed.
    pub(super) fn set(&self, leaves: &Range<LeafIndex>) {
        for (word, mask) in masks(leaves) {
            self.words[word].fetch_or(mask, Site::Closed);
        }
    }

    /// Marks `leaves`, which one caller has closed, as open.
    pub(super) fn clear(&self, leaves: &Range<LeafIndex>) {
        for (word, mask) in masks(leaves) {
            let before = self.words[word].fetch_and(!mask, Site::Closed);
            debug_assert_eq!(before & mask, mask, "one call has closed all of them");
        }
    }

    /// Cuts `start..start + len` where closed leaves meet open ones. Reads each mark once.
    pub(super) fn parts(&self, start: u64, len: u64) -> impl Iterator<Item = Part> {
        let end = start + len;
        let leaves = LeafIndex::each(LeafIndex::of_blocks::<G>(start..end));
        let mut leaves = leaves.map(|leaf| (leaf, self.is_closed(leaf))).peekable();
        std::iter::from_fn(move || {
            let (first, closed) = leaves.next()?;
            let mut last = first;
            while let Some((leaf, _)) = leaves.next_if(|&(_, next)| next == closed) {
                last = leaf;
            }
            let from = start.max(first.first_block::<G>());
            let to = end.min(last.next().first_block::<G>());
            Some(Part { start: from, len: to - from, closed })
        })
    }
}

/// Words of marks for a device of `blocks` blocks.
fn words_for<G: Geometry>(blocks: u64) -> usize {
    LeafIndex::end_of_blocks::<G>(blocks).get().div_ceil(MARKS)
}

/// The words of marks that `leaves` touch, with their bits in each.
fn masks(leaves: &Range<LeafIndex>) -> impl Iterator<Item = (usize, u64)> + use<> {
    let (start, end) = (leaves.start.get(), leaves.end.get());
    (start / MARKS..end.div_ceil(MARKS)).map(move |word| {
        let low = start.saturating_sub(word * MARKS);
        let high = (end - word * MARKS).min(MARKS);
        (word, u64::span(low as u32, (high - low) as u32))
    })
}
