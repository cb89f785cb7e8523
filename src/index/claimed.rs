//! The result of a claim.

use std::num::NonZeroU64;

use crate::base::word::Word;

/// Blocks that a claim has just taken out of a bitmap. Only this thread knows of them: to drop the
/// value is to lose them.
///
/// In the free space, only [`Space::keep`](crate::space::Space::keep) makes an extent of it that a
/// caller may have. A claim does not end an allocation, since its blocks may lie in a closed
/// region.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the blocks are lost unless they are kept or released"]
pub(crate) struct Claimed {
    start: u64,
    /// Non-zero, so that an `Option` of it goes in two registers.
    len: NonZeroU64,
}

impl Claimed {
    #[inline(always)]
    pub(super) fn new(start: u64, len: u64) -> Self {
        debug_assert!(len > 0);
        Self { start, len: NonZeroU64::new(len).unwrap_or(NonZeroU64::MIN) }
    }

    /// The first block.
    #[inline(always)]
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Number of blocks.
    #[inline(always)]
    pub(crate) fn len(&self) -> u64 {
        self.len.get()
    }

    /// The last block.
    #[inline(always)]
    pub(crate) fn last(&self) -> u64 {
        self.start + (self.len.get() - 1)
    }

    /// The same, known to the compiler to be a single block.
    #[inline(always)]
    pub(crate) fn single(self) -> Self {
        debug_assert_eq!(self.len(), 1);
        Self { len: NonZeroU64::MIN, ..self }
    }

    /// Start and length: for callers that keep the blocks, and for bitmaps of blocks that are not
    /// free.
    #[inline(always)]
    pub(crate) fn into_run(self) -> (u64, u64) {
        (self.start, self.len.get())
    }
}

/// Runs of the same length that one claim took out of one word.
#[derive(Debug)]
#[must_use = "the blocks are lost unless they are kept or released"]
pub(crate) struct ClaimedRuns<W> {
    /// The first block of the word.
    first: u64,
    /// The places in the word where a run begins.
    places: W,
    len: u32,
}

impl<W: Word> ClaimedRuns<W> {
    #[inline(always)]
    pub(super) fn new(first: u64, places: W, len: u32) -> Self {
        Self { first, places, len }
    }

    /// Number of runs.
    #[inline(always)]
    pub(crate) fn count(&self) -> u64 {
        self.places.count_ones().into()
    }

    /// Blocks of all runs.
    #[inline(always)]
    pub(crate) fn blocks(&self) -> u64 {
        self.count() * u64::from(self.len)
    }

    /// The first block of the word.
    #[inline(always)]
    pub(crate) fn word_start(&self) -> u64 {
        self.first
    }

    /// Each run.
    #[inline(always)]
    pub(crate) fn into_each(self) -> impl Iterator<Item = Claimed> {
        let Self { first, places, len } = self;
        places.places().map(move |place| Claimed::new(first + u64::from(place), len.into()))
    }
}
