//! The tree over the leaves. A node has one word for each order, whose bit i says "child i may have
//! a free run of this order", and one guard word for all orders, whose bit i says "a repair is
//! clearing a bit of child i".

use crate::base::geometry::Geometry;
use crate::base::heap::{OutOfMemory, reserved};
use crate::base::lines::Lines;
use crate::base::mutant::fault;
use crate::base::place::{LeafIndex, NodeIndex, child_of, parent_of, place_in_parent};
use crate::base::segmented::{Elements, Segmented};
use crate::base::sync::{AtomicWord, Site};
use crate::base::word::{OrderSet, Word, each};
use crate::index::tops::Tops;

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

    /// The children of which a repair is clearing a bit.
    #[inline(always)]
    pub(crate) fn guard(self) -> &'a AtomicWord<G::Word> {
        &self.0[GUARD]
    }

    /// The orders among `orders` that the node does not show for the child of `bit`.
    ///
    /// The reads pair with the clear in `Summary::clear`: they must not happen before the release
    /// in the leaf is visible [mutant: WeakSetterAfterLeaf], nor before those one level below
    /// [mutant: WeakSetterBetweenLevels].
    #[inline(always)]
    fn lacks(self, bit: G::Word, orders: OrderSet) -> OrderSet {
        let lacks = |order| u32::from(self.has(order).load(Site::HasEnsure) & bit == G::Word::ZERO);
        let low = (0..G::LOW_ORDERS).fold(0, |set, order| set | lacks(order) << order);
        let high = orders >> G::LOW_ORDERS << G::LOW_ORDERS;
        each(high).fold(low & orders, |set, order| set | lacks(order) << order)
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
}

/// How a search reads the summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Reads only the order words: quick, and good enough to find something.
    Quick,
    /// Reads order and guard words: what the answer "nothing there" needs.
    Thorough,
}

impl Look {
    #[inline(always)]
    pub(crate) fn read<G: Geometry>(self, node: Node<'_, G>, order: u32) -> G::Word {
        fault!(SearchIgnoresGuard: return node.has(order).load(Site::HasLook));
        match self {
            Look::Thorough => node.may_have(order),
            _ => node.has(order).load(Site::HasLook),
        }
    }
}

/// The levels of nodes. Level 1 is over the leaves; the top level is searched linearly.
///
/// A level and a plain number name a child or a node in what climbs the levels, since one variable
/// is first a leaf, then a node of level 1, then one above. Callers that mean a leaf or a node of
/// level 1 have a [`LeafIndex`] or a [`NodeIndex`].
#[derive(Debug)]
pub(crate) struct Summary<G: Geometry> {
    /// Level 1, then level 2, and so on.
    levels: Vec<Segmented<Nodes<G>>>,
    tops: Tops,
}

/// The result of a search of the summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A level-1 node that may have children of the order.
    Node(NodeIndex),
    /// A stale positive: a node of this level shows what its child does not have.
    Stale {
        /// The level of the node that shows it; one more than there are if the list of top nodes
        /// itself changed under the search.
        level: usize,
        /// Index of the child among all children of that level.
        child: usize,
    },
    /// Nothing in the range.
    Nothing,
}

impl<G: Geometry> Summary<G> {
    /// Builds the upper levels over `level_one` by plain writes, `height` levels in all. Nodes
    /// under which no block is `free` show nothing: they are neither written nor read.
    pub(crate) fn new(
        level_one: Nodes<G>,
        free: &[u32],
        height: usize,
    ) -> Result<Self, OutOfMemory> {
        let mut live = reserved(free.len())?;
        live.extend(free.iter().map(|&free| free > 0));
        let mut levels = vec![level_one];
        while levels.len() < height {
            let below = &levels[levels.len() - 1];
            let mut level = Nodes::<G>::zeroed(live.len().div_ceil(G::FANOUT))?;
            let nodes = level.words_mut().chunks_mut(G::NODE_WORDS).enumerate();
            for (index, node) in
                nodes.filter(|&(index, _)| live[children_of::<G>(index, &live)].contains(&true))
            {
                Node::<G>::show(node, |order| {
                    let shows = |&child: &usize| {
                        let has = |child| Node::<G>(child).has(order).load(Site::HasLook);
                        live[child]
                            && below.element(child).is_some_and(|child| has(child) != G::Word::ZERO)
                    };
                    let children = children_of::<G>(index, &live).filter(shows);
                    children.fold(G::Word::ZERO, |word, child| {
                        word | G::Word::bit(place_in_parent::<G>(child))
                    })
                });
            }
            live = live.chunks(G::FANOUT).map(|children| children.contains(&true)).collect();
            levels.push(level);
        }
        let new = Self::of(levels);
        if live.contains(&true) {
            for order in 0..=G::MAX_ORDER {
                new.tops_with(order).for_each(|top| new.tops.add(top, order));
            }
        }
        Ok(new)
    }

    /// `height` levels over `leaf_count` leaves without free blocks. Touches no node.
    pub(crate) fn without_runs(leaf_count: usize, height: usize) -> Result<Self, OutOfMemory> {
        let mut count = leaf_count;
        let levels = (0..height).map(|_| {
            count = count.div_ceil(G::FANOUT);
            Nodes::<G>::zeroed(count)
        });
        Ok(Self::of(levels.collect::<Result<_, _>>()?))
    }

    fn of(levels: Vec<Nodes<G>>) -> Self {
        let levels = levels.into_iter().map(Segmented::new).collect();
        Self { levels, tops: Tops::default() }
    }

    /// Makes room for the nodes over `leaf_count` leaves. Added nodes show nothing.
    pub(crate) fn grow(&self, leaf_count: usize) -> Result<(), OutOfMemory> {
        let mut count = leaf_count;
        for level in &self.levels {
            count = count.div_ceil(G::FANOUT);
            level.grow(count, |range| Nodes::<G>::zeroed(range.len()))?;
        }
        Ok(())
    }

    /// Number of levels.
    #[inline(always)]
    pub(crate) fn height(&self) -> usize {
        self.levels.len()
    }

    /// Node `node` of level 1.
    #[inline(always)]
    pub(crate) fn over_leaves(&self, node: NodeIndex) -> Node<'_, G> {
        self.node(1, node.get())
    }

    /// The node over `leaf`, and the bit of `leaf` in it.
    #[inline(always)]
    pub(crate) fn over_leaf(&self, leaf: LeafIndex) -> (Node<'_, G>, G::Word) {
        self.parent(1, leaf.get())
    }

    /// Node `index` of `level`, counted from 1.
    #[inline(always)]
    pub(crate) fn node(&self, level: usize, index: usize) -> Node<'_, G> {
        Node(&self.levels[level - 1][index])
    }

    /// The node of `level` above `child`, and the bit of `child` in it.
    #[inline(always)]
    pub(crate) fn parent(&self, level: usize, child: usize) -> (Node<'_, G>, G::Word) {
        (self.node(level, parent_of::<G>(child)), G::Word::bit(place_in_parent::<G>(child)))
    }

    /// Makes sure that every level from `level` to the top shows that `child` may have `orders`.
    /// Works bottom-up and never stops at a bit that is set: the thread that set it may not have
    /// reached the levels above yet [mutant: StopAtFirstSetBit; scenarios S6, S15, S15b].
    /// O(orders x levels) reads; writes only on 0 -> 1.
    #[inline(always)]
    pub(crate) fn ensure(&self, level: usize, child: usize, orders: OrderSet) {
        debug_assert!(orders & !G::ORDERS == 0 && level > 0);
        let (mut child, mut orders) = (child, orders);
        for level in level..=self.height() {
            let (node, bit) = self.parent(level, child);
            let unset = node.lacks(bit, orders);
            if unset != 0 {
                self.set_in(level, parent_of::<G>(child), node, bit, unset);
            }
            fault!(NoPropagateUp: return);
            fault!(StopAtFirstSetBit: orders = unset);
            child = parent_of::<G>(child);
        }
    }

    /// The same for a leaf, from level 1 on.
    #[inline(always)]
    pub(crate) fn ensure_leaf(&self, leaf: LeafIndex, orders: OrderSet) {
        self.ensure(1, leaf.get(), orders);
    }

    /// Makes the node over `child`, and no other, show that it may have `orders`.
    pub(crate) fn set(&self, level: usize, child: usize, orders: OrderSet) {
        let (node, bit) = self.parent(level, child);
        self.set_in(level, parent_of::<G>(child), node, bit, orders);
    }

    /// The same for a caller that has the node: finding it again costs each such free a tenth.
    #[inline]
    fn set_in(
        &self,
        level: usize,
        index: usize,
        node: Node<'_, G>,
        bit: G::Word,
        orders: OrderSet,
    ) {
        for order in each(orders) {
            let before = node.has(order).fetch_or(bit, Site::HasSet);
            let mut first = before == G::Word::ZERO;
            fault!(CountTopWithEveryChild: first = true);
            if first && level == self.height() {
                self.tops.add(index, order);
            }
        }
    }

    /// Makes node `index` of `level` show that `children` have no run of `order`; returns the word
    /// before.
    #[inline]
    pub(crate) fn clear(
        &self,
        level: usize,
        index: usize,
        children: G::Word,
        order: u32,
    ) -> G::Word {
        let before = self.node(level, index).has(order).fetch_and(!children, Site::HasClear);
        let last = before != G::Word::ZERO && before & !children == G::Word::ZERO;
        if last && level == self.height() {
            self.tops.remove(index, order);
        }
        before
    }

    /// How many top nodes show runs of each order: see `tops.rs`.
    #[inline(always)]
    pub(crate) fn tops(&self) -> &Tops {
        &self.tops
    }

    /// The top nodes that show a run of `order`.
    pub(crate) fn tops_with(&self, order: u32) -> impl Iterator<Item = usize> {
        let level = self.height();
        let shows = move |&top: &usize| {
            self.node(level, top).has(order).load(Site::HasLook) != G::Word::ZERO
        };
        (0..self.levels[level - 1].room()).filter(shows)
    }

    /// The first level-1 node in `from..to` that may have a child of `order`. Stops at the first
    /// stale positive, which the caller repairs. O(levels), and at most O(nodes of the top level).
    #[inline]
    pub(crate) fn find(&self, order: u32, from: NodeIndex, to: NodeIndex, look: Look) -> Found {
        if from >= to {
            return Found::Nothing;
        }
        if look.read(self.over_leaves(from), order) != G::Word::ZERO {
            return Found::Node(from);
        }
        self.find_after(order, from.get(), to.get(), look)
    }

    fn find_after(&self, order: u32, from: usize, to: usize, look: Look) -> Found {
        // Climb from `from` until a node has a candidate to the right of the path.
        let mut level = 1;
        let mut index = from;
        let (mut level_at, mut child) = loop {
            if level == self.height() {
                let top = (1..level).fold(to, |nodes, _| nodes.div_ceil(G::FANOUT));
                let hit = (index + 1..top)
                    .find(|&i| look.read(self.node(level, i), order) != G::Word::ZERO);
                match hit {
                    Some(hit) => break (level, hit),
                    None => return Found::Nothing,
                }
            }
            let (place, parent) = (place_in_parent::<G>(index), parent_of::<G>(index));
            let word = look.read(self.node(level + 1, parent), order);
            let right = if (place as usize) + 1 < G::FANOUT {
                word & (G::Word::MAX << (place + 1))
            } else {
                G::Word::ZERO
            };
            if right != G::Word::ZERO {
                break (level, child_of::<G>(parent, right.trailing_zeros()));
            }
            index = parent;
            level += 1;
        };
        // Descend along the lowest candidates.
        while level_at > 1 {
            let word = look.read(self.node(level_at, child), order);
            if word == G::Word::ZERO {
                return Found::Stale { level: level_at + 1, child };
            }
            child = child_of::<G>(child, word.trailing_zeros());
            level_at -= 1;
        }
        if child >= to {
            Found::Nothing
        } else if look.read(self.node(1, child), order) != G::Word::ZERO {
            Found::Node(NodeIndex::new(child))
        } else {
            Found::Stale { level: 2, child }
        }
    }

    /// The first level-1 node behind the subtree of `child`, a node one level below `level`.
    pub(crate) fn after_subtree(&self, level: usize, child: usize) -> NodeIndex {
        NodeIndex::new((2..level).fold(child + 1, |next, _| child_of::<G>(next, 0)))
    }

    /// Bytes of the nodes and their counts.
    pub(crate) fn bytes(&self) -> usize {
        let nodes: usize = self.levels.iter().map(Segmented::bytes).sum();
        nodes + self.levels.capacity() * size_of::<Segmented<Nodes<G>>>() + self.tops.bytes()
    }
}

/// The nodes under node `index` of the level above, as far as they exist.
fn children_of<G: Geometry>(index: usize, level: &[bool]) -> std::ops::Range<usize> {
    index * G::FANOUT..((index + 1) * G::FANOUT).min(level.len())
}
