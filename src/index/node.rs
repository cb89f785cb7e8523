//! The nodes above level 1: one word for each order, whose bit i says "child i may have a free run
//! of this order", and one guard word for all orders, whose bit i says "a repair is clearing a bit
//! of child i".

use crate::base::geometry::Geometry;
use crate::base::lines::Lines;
use crate::base::mutant::{Mutant, fault, mutated};
use crate::base::sync::{AtomicWord, Site};
use crate::base::word::{OrderSet, Word, each};

/// Nodes that show nothing, in memory that stays untouched until one does.
pub(crate) type Nodes<G> = Lines<<G as Geometry>::Word, <G as Geometry>::NodeWords>;

/// One node: 11 words in two cache lines (in the geometries that ship).
#[derive(Debug)]
pub(crate) struct Node<'a, G: Geometry>(&'a [AtomicWord<G::Word>]);

impl<G: Geometry> Clone for Node<'_, G> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<G: Geometry> Copy for Node<'_, G> {}

/// Index of the guard word in a node; the words of the orders follow it.
const GUARD: usize = 0;

impl<'a, G: Geometry> Node<'a, G> {
    /// The node at the beginning of `words`.
    #[inline(always)]
    pub(crate) fn new(words: &'a [AtomicWord<G::Word>]) -> Self {
        Self(words)
    }

    /// Sets the order words of `words`, a node not shared yet, to `has(order)`.
    pub(crate) fn show(words: &mut [AtomicWord<G::Word>], has: impl Fn(u32) -> G::Word) {
        for (word, order) in words[GUARD + 1..].iter_mut().zip(0..=G::MAX_ORDER) {
            *word = AtomicWord::new(has(order));
        }
    }

    /// The children that may have a run of `order`.
    #[inline(always)]
    pub(crate) fn has(self, order: u32) -> &'a AtomicWord<G::Word> {
        &self.0[GUARD + 1 + order as usize]
    }

    /// The orders that the node shows for the child of `bit`.
    pub(crate) fn shown(self, bit: G::Word) -> OrderSet {
        let shown = |&order: &u32| self.has(order).load(Site::HasLook) & bit != G::Word::ZERO;
        (0..=G::MAX_ORDER).filter(shown).fold(0, |set, order| set | 1 << order)
    }

    /// The children of which a repair is clearing a bit.
    #[inline(always)]
    pub(crate) fn guard(self) -> &'a AtomicWord<G::Word> {
        &self.0[GUARD]
    }

    /// The orders among `orders` that the node does not show for the child of `bit`.
    ///
    /// The reads pair with the clear in `Summary::clear`: they must not happen before those one
    /// level below [mutant: WeakSetterBetweenLevels].
    pub(crate) fn lacks(self, bit: G::Word, orders: OrderSet) -> OrderSet {
        let lacks = |&order: &u32| self.has(order).load(Site::HasEnsure) & bit == G::Word::ZERO;
        each(orders).filter(lacks).fold(0, |set, order| set | 1 << order)
    }

    /// The children that a search for `order` must not skip. Reads the word of the order first and
    /// the guard second; the other way round it would miss a restore in between
    /// [mutant: ReadGuardThenHas].
    #[inline(always)]
    pub(crate) fn may_have(self, order: u32) -> G::Word {
        fault!(ReadGuardThenHas: {
            let guard = self.guard().load(Site::GuardLook);
            return self.has(order).load(Site::HasLook) | guard;
        });
        let has = self.has(order).load(Site::HasLook);
        has | self.guard().load(Site::GuardLook)
    }

    /// The children that a search for `order` goes to.
    #[inline(always)]
    pub(crate) fn children(self, order: u32, look: Look) -> G::Word {
        if look.sees_guards() {
            return self.may_have(order);
        }
        self.has(order).load(Site::HasLook)
    }
}

/// How a search reads the summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Reads only what is shown: quick, and good enough to find something.
    Quick,
    /// Reads the guards, too: what the answer "nothing there" needs.
    Thorough,
}

impl Look {
    /// Whether a child counts of which a thread is changing what is shown.
    #[inline(always)]
    pub(crate) fn sees_guards(self) -> bool {
        !mutated(Mutant::SearchIgnoresGuard) && self == Look::Thorough
    }
}
