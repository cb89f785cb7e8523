//! The nodes of level 1: what they show of their leaves, a byte each (`number.rs`), in one cache
//! line.
//!
//! Child c has byte c / 8 of word c % 8 (in the geometries that ship). So a mask of children comes
//! of the eight words by shifts alone: neighbours lie in different words.

use crate::base::geometry::{Geometry, WordArray};
use crate::base::lines::Lines;
use crate::base::mutant::{Mutant, mutated};
use crate::base::place::LeafIndex;
use crate::base::sync::{AtomicWord, Site};
use crate::base::word::{OrderSet, Word, orders_below};
use crate::index::node::Look;
use crate::index::number::{Shown, largest_live, largest_number, live_above, shown_above};

/// Nodes that show nothing, in memory that stays untouched until one does.
pub(crate) type ManyNumbers<G> = Lines<<G as Geometry>::Word, <G as Geometry>::NumberWords>;

/// One node of level 1.
#[derive(Debug)]
pub(crate) struct Numbers<'a, G: Geometry>(&'a [AtomicWord<G::Word>]);

impl<G: Geometry> Clone for Numbers<'_, G> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<G: Geometry> Copy for Numbers<'_, G> {}

/// Where the byte of a leaf is.
#[derive(Clone, Copy)]
pub(crate) struct BytePlace {
    /// The word, among the words of all nodes.
    pub(crate) word: usize,
    shift: u32,
}

impl BytePlace {
    /// The place of `leaf`.
    #[inline(always)]
    pub(crate) fn of<G: Geometry>(leaf: LeafIndex) -> Self {
        let place = leaf.place_in_node::<G>() as usize;
        let word = leaf.node::<G>().get() * G::NUMBER_WORDS + place % G::NUMBER_WORDS;
        Self { word, shift: 8 * (place / G::NUMBER_WORDS) as u32 }
    }

    /// Its byte of `word`.
    #[inline(always)]
    pub(crate) fn read<W: Word>(self, word: W) -> Shown {
        Shown::of_bits((word.to_u64() >> self.shift) as u8)
    }

    /// `word` with another byte there.
    #[inline(always)]
    pub(crate) fn write<W: Word>(self, word: W, shown: Shown) -> W {
        let others = word.to_u64() & !(0xff << self.shift);
        W::from_u64(others | u64::from(shown.bits()) << self.shift)
    }
}

/// Writes what is shown of the leaves of one node that is not shared yet: the number of each.
pub(crate) fn write_numbers<G: Geometry>(
    words: &mut [AtomicWord<G::Word>],
    number: impl Fn(usize) -> u32,
) {
    for (place, word) in words.iter_mut().enumerate() {
        let children = (place..G::FANOUT).step_by(G::NUMBER_WORDS).enumerate();
        let bits = children.fold(0, |bits, (byte, child)| {
            bits | u64::from(Shown::unmarked(number(child)).bits()) << (8 * byte)
        });
        *word = AtomicWord::new(G::Word::from_u64(bits));
    }
}

impl<'a, G: Geometry> Numbers<'a, G> {
    /// The node at the beginning of `words`.
    #[inline(always)]
    pub(crate) fn new(words: &'a [AtomicWord<G::Word>]) -> Self {
        Self(words)
    }

    /// The words, each read once, all bytes of it at one moment.
    #[inline(always)]
    fn words(self) -> impl Iterator<Item = u64> {
        let words = G::NumberWords::first_of(self.0).map_or(&[][..], |words| words.words());
        words.iter().map(|word| word.load(Site::HasLook).to_u64())
    }

    /// The children whose byte `pick` picks by its highest bit.
    #[inline(always)]
    fn children_where(self, pick: impl Fn(u64) -> u64) -> G::Word {
        let picked = self.words().enumerate();
        let found = picked.fold(0, |found, (place, word)| found | Self::gather(pick(word), place));
        G::Word::from_u64(found)
    }

    /// The children that `picked` names, the highest bits of bytes of word `place`.
    #[inline(always)]
    fn gather(picked: u64, place: usize) -> u64 {
        if G::NUMBER_WORDS == 8 {
            return picked >> (7 - place);
        }
        // Models have fewer words.
        let child =
            |byte: usize| (picked >> (8 * byte + 7) & 1) << (byte * G::NUMBER_WORDS + place);
        (0..8).fold(0, |children, byte| children | child(byte))
    }

    /// The children that may have a run of `order`; with a thorough look, also those of which a
    /// thread is lowering the number [mutant: SearchIgnoresGuard].
    #[inline(always)]
    pub(crate) fn children(self, order: u32, look: Look) -> G::Word {
        match look.sees_guards() {
            true => self.children_where(|word| live_above(word, order)),
            false => self.children_where(|word| shown_above(word, order)),
        }
    }

    /// The children that show a run of order `low`, and those that show one of `high`, in one pass.
    #[inline(always)]
    pub(crate) fn children_with(self, low: u32, high: u32) -> (G::Word, G::Word) {
        let words = self.words().enumerate();
        let (low, high) = words.fold((0, 0), |(found, higher), (place, word)| {
            let (picked, above) = (shown_above(word, low), shown_above(word, high));
            (found | Self::gather(picked, place), higher | Self::gather(above, place))
        });
        (G::Word::from_u64(low), G::Word::from_u64(high))
    }

    /// Whether there are any of [`Numbers::children`].
    #[inline(always)]
    pub(crate) fn any(self, order: u32, look: Look) -> bool {
        match look.sees_guards() {
            true => self.words().fold(0, |any, word| any | live_above(word, order)) != 0,
            false => self.words().fold(0, |any, word| any | shown_above(word, order)) != 0,
        }
    }

    /// The largest number.
    #[inline]
    pub(crate) fn largest(self) -> u32 {
        largest_number(self.words())
    }

    /// Those of `orders` of which a child may have a run; all of them, if a child has a guard
    /// [mutant: UpIgnoresGuard].
    #[inline]
    pub(crate) fn live_orders(self, orders: OrderSet) -> OrderSet {
        if mutated(Mutant::UpIgnoresGuard) {
            return orders & orders_below(self.largest());
        }
        // Without the lowest order, it has none of the others; mostly that is so.
        let lowest = orders.trailing_zeros();
        if orders == 0 || self.words().fold(0, |any, word| any | live_above(word, lowest)) == 0 {
            return 0;
        }
        if orders == 1 << lowest { orders } else { orders & orders_below(self.largest_live()) }
    }

    /// The largest number; more than any number, if a child has a guard.
    #[inline]
    pub(crate) fn largest_live(self) -> u32 {
        largest_live(self.words())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::geometry::{Narrow, Wide};

    /// All that a node says of its children, against their numbers one by one.
    fn says_what_was_written<G: Geometry>() {
        let mut nodes = ManyNumbers::<G>::zeroed(3).unwrap();
        let number = |leaf: usize| (leaf * 7 + leaf / 5) as u32 % (G::MAX_ORDER + 2);
        for (node, words) in nodes.words_mut().chunks_mut(G::NUMBER_WORDS).enumerate() {
            write_numbers::<G>(words, |child| number(node * G::FANOUT + child));
        }
        let guarded = LeafIndex::new(G::FANOUT + 5);
        let place = BytePlace::of::<G>(guarded);
        let word = &nodes.words_mut()[place.word];
        let raise = |word| Some(place.write(word, place.read(word).raised(1)));
        word.update(Site::HasSet, raise).expect("it has a value");
        for leaf in 0..3 * G::FANOUT {
            let place = BytePlace::of::<G>(LeafIndex::new(leaf));
            let shown = place.read(nodes.words_mut()[place.word].load(Site::HasLook));
            assert_eq!(shown.number(), number(leaf));
            assert_eq!(shown.is_guarded(), leaf == guarded.get());
        }
        for node in 0..3 {
            let leaves = node * G::FANOUT..(node + 1) * G::FANOUT;
            let words = &nodes.words_mut()[node * G::NUMBER_WORDS..];
            let numbers = Numbers::<G>::new(words);
            let naive = |shows: &dyn Fn(usize) -> bool| {
                let children = leaves.clone().filter(|&leaf| shows(leaf));
                children.fold(G::Word::ZERO, |mask, leaf| {
                    mask | G::Word::bit((leaf % G::FANOUT) as u32)
                })
            };
            for order in 0..=G::MAX_ORDER {
                let shown = naive(&|leaf| number(leaf) > order);
                let live = shown | naive(&|leaf| leaf == guarded.get());
                assert_eq!(numbers.children(order, Look::Quick), shown);
                assert_eq!(numbers.children(order, Look::Thorough), live);
                assert_eq!(numbers.any(order, Look::Quick), shown != G::Word::ZERO);
                assert_eq!(numbers.any(order, Look::Thorough), live != G::Word::ZERO);
                let all = naive(&|leaf| number(leaf) > 0);
                assert_eq!(numbers.children_with(0, order), (all, shown));
            }
            assert_eq!(Some(numbers.largest()), leaves.clone().map(number).max());
            let live = if leaves.contains(&guarded.get()) { 15 } else { numbers.largest() };
            for orders in [0, 1, 2, 0b11100, G::ORDERS] {
                assert_eq!(numbers.live_orders(orders), orders & orders_below(live));
            }
            let is_live = |live| live > G::MAX_ORDER + 1 || live == numbers.largest();
            assert!(is_live(numbers.largest_live()));
            assert_eq!(numbers.largest_live() > G::MAX_ORDER + 1, leaves.contains(&guarded.get()));
        }
    }

    #[test]
    fn a_node_says_what_was_written() {
        says_what_was_written::<Wide>();
        says_what_was_written::<Narrow>();
    }
}
