//! A leaf is one cache line of the bitmap, and the only source of truth for its blocks.

use crate::base::geometry::{Geometry, WordArray};
use crate::base::lines::Lines;
use crate::base::sync::{AtomicWord, Site};
use crate::base::word::{OrderSet, Word};

/// Leaves without free blocks, in memory that stays untouched until a block becomes free.
pub(crate) type Leaves<G> = Lines<<G as Geometry>::Word, <G as Geometry>::LeafWords>;

/// 512 blocks in one cache line (in the geometries that ship).
#[derive(Debug)]
pub(crate) struct Leaf<'a, G: Geometry>(&'a [AtomicWord<G::Word>]);

impl<'a, G: Geometry> Leaf<'a, G> {
    /// The leaf at the beginning of `words`, 1 = free.
    #[inline(always)]
    pub(crate) fn new(words: &'a [AtomicWord<G::Word>]) -> Self {
        Self(words)
    }

    /// The words, lowest blocks first.
    #[inline(always)]
    pub(crate) fn words(&self) -> &'a [AtomicWord<G::Word>] {
        G::LeafWords::first_of(self.0).map_or(&[], |words| words.words())
    }

    /// The words for which `holds` is true: bit i is word i. One pass, without branches.
    #[inline(always)]
    fn words_where(&self, site: Site, holds: impl Fn(G::Word) -> bool) -> u32 {
        self.words()
            .iter()
            .enumerate()
            .fold(0, |found, (i, word)| found | u32::from(holds(word.load(site))) << i)
    }

    /// The words in which an aligned run of `order` begins: bit i is word i.
    #[inline]
    pub(crate) fn words_with(&self, order: u32, site: Site) -> u32 {
        if order == 0 {
            self.words_where(site, |word| word != G::Word::ZERO)
        } else if order <= G::WORD_ORDER {
            self.words_where(site, |word| word.has_order(order))
        } else {
            self.full_words(site).aligned_runs(order - G::WORD_ORDER)
        }
    }

    /// The entirely free words: bit i is word i.
    #[inline]
    fn full_words(&self, site: Site) -> u32 {
        self.words_where(site, |word| word == G::FULL)
    }

    /// Whether the leaf holds an aligned run of `order`.
    #[inline]
    pub(crate) fn has_order(&self, order: u32, site: Site) -> bool {
        self.words_with(order, site) != 0
    }

    /// The orders of all aligned runs in the leaf: always those from 0 up to the largest. One pass
    /// over the words, most of which are empty where space is short.
    #[inline]
    pub(crate) fn orders(&self, site: Site) -> OrderSet {
        let mut orders = 0;
        let mut full = 0u32;
        for (i, word) in self.words().iter().enumerate() {
            let word = word.load(site);
            if word == G::Word::ZERO {
                continue;
            }
            full |= u32::from(word == G::FULL) << i;
            orders |= word.orders();
        }
        orders | full.orders() << G::WORD_ORDER
    }

    /// How many orders these are.
    #[inline]
    pub(crate) fn number(&self, site: Site) -> u32 {
        self.orders(site).count_ones()
    }

    /// The orders wider than a word that have an entirely free aligned group touching the words
    /// `first..=last`.
    #[inline]
    pub(crate) fn orders_over_words(&self, first: usize, last: usize, site: Site) -> OrderSet {
        let full = self.full_words(site);
        let mut orders = 0;
        for order in 1..=G::MAX_ORDER - G::WORD_ORDER {
            let runs = full.aligned_runs(order);
            let group = |word: usize| (word >> order << order) as u32;
            let touched = u32::span(group(first), group(last) - group(first) + (1 << order));
            if runs & touched == 0 {
                break;
            }
            orders |= 1 << (order + G::WORD_ORDER);
        }
        orders
    }

    /// Number of free blocks.
    #[inline]
    pub(crate) fn count_free(&self) -> u32 {
        self.words().iter().map(|word| word.load(Site::LeafLook).count_ones()).sum()
    }
}
