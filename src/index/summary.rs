//! The tree over the leaves. A node of level 1 shows a number for each leaf (`numbers.rs`), a node
//! above it a word for each order (`node.rs`).

use crate::base::geometry::{Geometry, MOST_ORDERS};
use crate::base::heap::{OutOfMemory, reserved};
use crate::base::mutant::fault;
use crate::base::place::{LeafIndex, NodeIndex, child_of, parent_of, place_in_parent};
use crate::base::segmented::Segmented;
use crate::base::sync::Site;
use crate::base::word::{OrderSet, Word, each, orders_below};
use crate::index::node::{Look, Node, Nodes};
use crate::index::number::Shown;
use crate::index::numbers::{BytePlace, ManyNumbers, Numbers};
use crate::index::tops::Tops;

/// The levels of nodes. Level 1 is over the leaves; the top level is searched linearly.
///
/// A level and a plain number name a child or a node in what climbs the levels, since one variable
/// is first a leaf, then a node of level 1, then one above. Callers that mean a leaf or a node of
/// level 1 have a [`LeafIndex`] or a [`NodeIndex`].
#[derive(Debug)]
pub(crate) struct Summary<G: Geometry> {
    level_one: Segmented<ManyNumbers<G>>,
    /// Level 2, then level 3, and so on.
    upper: Vec<Segmented<Nodes<G>>>,
    tops: Tops,
}

/// The result of a search of the summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A level-1 node that may have children of the order. If it does not, the levels above show a
    /// stale positive.
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
        level_one: ManyNumbers<G>,
        free: &[u32],
        height: usize,
    ) -> Result<Self, OutOfMemory> {
        let mut live = reserved(free.len())?;
        live.extend(free.iter().map(|&free| free > 0));
        let mut new = Self::of(level_one, Vec::new(), height == 1);
        while new.height() < height {
            let mut level = Nodes::<G>::zeroed(live.len().div_ceil(G::FANOUT))?;
            let nodes = level.words_mut().chunks_mut(G::NODE_WORDS).enumerate();
            for (index, node) in
                nodes.filter(|&(index, _)| live[children_of::<G>(index, &live)].contains(&true))
            {
                let mut has = [G::Word::ZERO; MOST_ORDERS];
                for child in children_of::<G>(index, &live).filter(|&child| live[child]) {
                    for order in each(new.orders_of_node(new.height(), child)) {
                        has[order as usize] |= G::Word::bit(place_in_parent::<G>(child));
                    }
                }
                Node::<G>::show(node, |order| has[order as usize]);
            }
            live = live.chunks(G::FANOUT).map(|children| children.contains(&true)).collect();
            new.upper.push(Segmented::new(level));
        }
        for top in (0..live.len()).filter(|&top| live[top]) {
            let mut larger = 0;
            for order in (0..=G::MAX_ORDER).rev() {
                let shown = new.shown_in_top(top, order);
                new.tops.add(top, order, shown - larger);
                larger = if height == 1 { shown } else { 0 };
            }
        }
        Ok(new)
    }

    /// `height` levels over `leaf_count` leaves without free blocks. Touches no node.
    pub(crate) fn without_runs(leaf_count: usize, height: usize) -> Result<Self, OutOfMemory> {
        let mut count = leaf_count.div_ceil(G::FANOUT);
        let level_one = ManyNumbers::<G>::zeroed(count)?;
        let upper = (1..height).map(|_| {
            count = count.div_ceil(G::FANOUT);
            Nodes::<G>::zeroed(count).map(Segmented::new)
        });
        Ok(Self::of(level_one, upper.collect::<Result<_, _>>()?, height == 1))
    }

    fn of(level_one: ManyNumbers<G>, upper: Vec<Segmented<Nodes<G>>>, is_all: bool) -> Self {
        Self { level_one: Segmented::new(level_one), upper, tops: Tops::new(is_all) }
    }

    /// Makes room for the nodes over `leaf_count` leaves. Added nodes show nothing.
    pub(crate) fn grow(&self, leaf_count: usize) -> Result<(), OutOfMemory> {
        let mut count = leaf_count.div_ceil(G::FANOUT);
        self.level_one.grow(count, |range| ManyNumbers::<G>::zeroed(range.len()))?;
        for level in &self.upper {
            count = count.div_ceil(G::FANOUT);
            level.grow(count, |range| Nodes::<G>::zeroed(range.len()))?;
        }
        Ok(())
    }

    /// Number of levels.
    #[inline(always)]
    pub(crate) fn height(&self) -> usize {
        1 + self.upper.len()
    }

    /// Node `node` of level 1.
    #[inline(always)]
    pub(crate) fn over_leaves(&self, node: NodeIndex) -> Numbers<'_, G> {
        Numbers::new(&self.level_one[node.get()])
    }

    /// Node `index` of `level`, above level 1.
    #[inline(always)]
    pub(crate) fn node(&self, level: usize, index: usize) -> Node<'_, G> {
        Node::new(&self.upper[level - 2][index])
    }

    /// The node of `level`, above level 1, over `child`, and the bit of `child` in it.
    #[inline(always)]
    pub(crate) fn parent(&self, level: usize, child: usize) -> (Node<'_, G>, G::Word) {
        (self.node(level, parent_of::<G>(child)), G::Word::bit(place_in_parent::<G>(child)))
    }

    /// The orders that node `index` of `level` shows of any child.
    pub(crate) fn orders_of_node(&self, level: usize, index: usize) -> OrderSet {
        if level == 1 {
            return orders_below(self.over_leaves(NodeIndex::new(index)).largest());
        }
        let node = self.node(level, index);
        let shown = |&order: &u32| node.has(order).load(Site::HasLook) != G::Word::ZERO;
        (0..=G::MAX_ORDER).filter(shown).fold(0, |set, order| set | 1 << order)
    }

    /// What level 1 shows of `leaf`: one load, at a place that follows from the leaf alone.
    #[inline(always)]
    pub(crate) fn shown(&self, leaf: LeafIndex, site: Site) -> Shown {
        let place = BytePlace::of::<G>(leaf);
        place.read(self.level_one.word(place.word).load(site))
    }

    /// Changes what level 1 shows of `leaf` to what `next` makes of it, unless that is `None`;
    /// returns what it showed. Repeats only when another thread changed the word (invariant 5).
    pub(crate) fn change(
        &self,
        leaf: LeafIndex,
        site: Site,
        next: impl Fn(Shown) -> Option<Shown>,
    ) -> Result<Shown, Shown> {
        let place = BytePlace::of::<G>(leaf);
        let changed = self.level_one.word(place.word).update(site, |word| {
            let next = next(place.read(word))?;
            Some(place.write(word, next))
        });
        let before = changed.map_err(|word| place.read(word)).map(|word| place.read(word))?;
        if self.height() == 1 {
            let (top, now) = (leaf.node::<G>().get(), next(before).unwrap_or(before));
            self.tops.renumber(top, before.number(), now.number());
        }
        Ok(before)
    }

    /// Makes sure that every level from `level`, above level 1, to the top shows that `child` may
    /// have `orders`. Works bottom-up and never stops at a bit that is set: the thread that set it
    /// may not have reached the levels above yet [mutant: StopAtFirstSetBit; scenario H9].
    /// O(orders x levels) reads; writes only on 0 -> 1.
    pub(crate) fn ensure(&self, level: usize, child: usize, orders: OrderSet) {
        debug_assert!(orders & !G::ORDERS == 0 && level > 1);
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

    /// Makes the node of `level`, above level 1, over `child`, and no other, show that it may have
    /// `orders`.
    pub(crate) fn set(&self, level: usize, child: usize, orders: OrderSet) {
        let (node, bit) = self.parent(level, child);
        self.set_in(level, parent_of::<G>(child), node, bit, orders);
    }

    /// The same for a caller that has the node.
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
                self.tops.add(index, order, 1);
            }
        }
    }

    /// Makes node `index` of `level`, above level 1, show that `children` have no run of `order`;
    /// returns the word before.
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

    /// How often the top nodes show a run of `order`: what the counts say while nothing else runs.
    pub(crate) fn counted_in_tops(&self, order: u32) -> u64 {
        let tops = self.upper.last().map_or(self.level_one.room(), Segmented::room);
        (0..tops).map(|top| self.shown_in_top(top, order)).sum()
    }

    /// How often top node `top` shows a run of `order`: once, or once for each leaf at level 1.
    fn shown_in_top(&self, top: usize, order: u32) -> u64 {
        if self.height() == 1 {
            let leaves = self.over_leaves(NodeIndex::new(top)).children(order, Look::Quick);
            return leaves.count_ones().into();
        }
        let shown = self.node(self.height(), top).has(order).load(Site::HasLook);
        (shown != G::Word::ZERO).into()
    }

    /// The first level-1 node behind `from` and before `to` that may have a child of `order`. Stops
    /// at the first stale positive, which the caller repairs. O(levels), and at most O(nodes of the
    /// top level).
    pub(crate) fn find_behind(
        &self,
        order: u32,
        from: NodeIndex,
        to: NodeIndex,
        look: Look,
    ) -> Found {
        let (from, to) = (from.get(), to.get());
        // Climb from `from` until a node has a candidate to the right of the path.
        let mut level = 1;
        let mut index = from;
        let (mut level_at, mut child) = loop {
            if level == self.height() {
                let top = (1..level).fold(to, |nodes, _| nodes.div_ceil(G::FANOUT));
                let hit = |&index: &usize| match level {
                    1 => self.over_leaves(NodeIndex::new(index)).any(order, look),
                    _ => self.node(level, index).children(order, look) != G::Word::ZERO,
                };
                match (index + 1..top).find(hit) {
                    Some(hit) => break (level, hit),
                    None => return Found::Nothing,
                }
            }
            let (place, parent) = (place_in_parent::<G>(index), parent_of::<G>(index));
            let word = self.node(level + 1, parent).children(order, look);
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
            let word = self.node(level_at, child).children(order, look);
            if word == G::Word::ZERO {
                return Found::Stale { level: level_at + 1, child };
            }
            child = child_of::<G>(child, word.trailing_zeros());
            level_at -= 1;
        }
        if child < to { Found::Node(NodeIndex::new(child)) } else { Found::Nothing }
    }

    /// The first level-1 node behind the subtree of `child`, a node one level below `level`.
    pub(crate) fn after_subtree(&self, level: usize, child: usize) -> NodeIndex {
        NodeIndex::new((2..level).fold(child + 1, |next, _| child_of::<G>(next, 0)))
    }

    /// Bytes of the nodes and their counts.
    pub(crate) fn bytes(&self) -> usize {
        let nodes = self.upper.iter().map(Segmented::bytes).sum::<usize>();
        let table = self.upper.capacity() * size_of::<Segmented<Nodes<G>>>();
        self.level_one.bytes() + nodes + table + self.tops.bytes()
    }
}

/// The nodes under node `index` of the level above, as far as they exist.
fn children_of<G: Geometry>(index: usize, level: &[bool]) -> std::ops::Range<usize> {
    index * G::FANOUT..((index + 1) * G::FANOUT).min(level.len())
}
