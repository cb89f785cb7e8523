//! The tree over the leaves. For each order a node has one word, whose bit i says "child i
//! may have a free run of this order", and for all orders together one guard word, whose bit i says
//! "somebody is in the middle of clearing a bit of child i".

use crate::base::geometry::Geometry;
use crate::base::heap::{OutOfMemory, reserved};
use crate::base::lines::Lines;
use crate::base::mutant::fault;
use crate::base::segmented::{Elements, Segmented};
use crate::base::sync::{AtomicWord, Site};
use crate::base::word::{OrderSet, Word, each};
use crate::index::tops::Tops;

/// Nodes that show nothing, in memory that is not touched before one does.
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

/// The word of a node that is the guard; those of the orders follow.
const GUARD: usize = 0;

impl<'a, G: Geometry> Node<'a, G> {
    /// Has `words`, those of a node that is not shared yet, show the runs of each order that `has` says.
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

    /// The children that somebody is clearing a bit of.
    #[inline(always)]
    pub(crate) fn guard(self) -> &'a AtomicWord<G::Word> {
        &self.0[GUARD]
    }

    /// Which of `orders` the node does not say that the child of `bit` may have.
    ///
    /// The reads pair with the clear in `Summary::clear`: they must not be satisfied before the
    /// release in the leaf is visible [mutant: WeakSetterAfterLeaf], nor before those one level
    /// below [mutant: WeakSetterBetweenLevels].
    #[inline(always)]
    fn lacks(self, bit: G::Word, orders: OrderSet) -> OrderSet {
        let lacks = |order| u32::from(self.has(order).load(Site::HasEnsure) & bit == G::Word::ZERO);
        let low = (0..G::LOW_ORDERS).fold(0, |set, order| set | lacks(order) << order);
        let high = orders >> G::LOW_ORDERS << G::LOW_ORDERS;
        each(high).fold(low & orders, |set, order| set | lacks(order) << order)
    }

    /// The children that a searcher for `order` must not pass by: read the order's word first and
    /// the guard second, or a restore in between is missed [mutant: ReadGuardThenHas].
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
    /// By order words alone: quick, and good enough to find something.
    Quick,
    /// By order and guard words: what an answer of "nothing there" needs.
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

/// The levels of nodes; level 1 is over the leaves, the top level is searched linearly.
#[derive(Debug)]
pub(crate) struct Summary<G: Geometry> {
    /// Level 1, then level 2, and so on.
    levels: Vec<Segmented<Nodes<G>>>,
    tops: Tops,
}

/// What a search of the summary came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A level-1 node that may have children of the order.
    Node(usize),
    /// A stale positive: a node of this level promised something that its child has not.
    Stale {
        /// The level of the node that promised; one more than there are if it was the list of top
        /// nodes itself that changed under the search.
        level: usize,
        /// Index of the child among all children of that level.
        child: usize,
    },
    /// Nothing in the range.
    Nothing,
}

impl<G: Geometry> Summary<G> {
    /// Builds the upper levels over `level_one` by plain writes, `height` levels in all. Nodes that show
    /// nothing, as those do under which no block is `free`, are neither written nor looked at.
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
                        word | G::Word::bit((child % G::FANOUT) as u32)
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

    /// `height` levels over `leaf_count` leaves without free blocks. Nothing of it is touched.
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

    /// Makes room for the nodes over `leaf_count` leaves. Those added show nothing.
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

    /// Node `index` of `level`, counted from 1.
    #[inline(always)]
    pub(crate) fn node(&self, level: usize, index: usize) -> Node<'_, G> {
        Node(&self.levels[level - 1][index])
    }

    /// The node of `level` that `child` hangs from, and the child's bit in it.
    #[inline(always)]
    pub(crate) fn parent(&self, level: usize, child: usize) -> (Node<'_, G>, G::Word) {
        (self.node(level, child / G::FANOUT), G::Word::bit((child % G::FANOUT) as u32))
    }

    /// Makes sure that every level from `level` to the top says that `child` may have `orders`.
    /// Bottom-up, and never stopping at a bit that is set: whoever set it may not have reached the
    /// levels above yet [mutant: StopAtFirstSetBit; scenarios S6, S15, S15b]. O(orders x levels)
    /// reads; writes only on 0 -> 1.
    #[inline(always)]
    pub(crate) fn ensure(&self, level: usize, child: usize, orders: OrderSet) {
        let (mut child, mut orders) = (child, orders);
        for level in level..=self.height() {
            let (node, bit) = self.parent(level, child);
            let unset = node.lacks(bit, orders);
            if unset != 0 {
                self.set_in(level, child / G::FANOUT, node, bit, unset);
            }
            fault!(NoPropagateUp: return);
            fault!(StopAtFirstSetBit: orders = unset);
            child /= G::FANOUT;
        }
    }

    /// Has the node over `child`, and no other, say that it may have `orders`.
    pub(crate) fn set(&self, level: usize, child: usize, orders: OrderSet) {
        let (node, bit) = self.parent(level, child);
        self.set_in(level, child / G::FANOUT, node, bit, orders);
    }

    /// The same for who has found the node already: to find it again costs each such free a tenth.
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

    /// Has node `index` of `level` say that `children` have no run of `order`; what it said before.
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
    /// stale positive, for the caller to repair. O(levels), and O(nodes of the top level) at most.
    #[inline]
    pub(crate) fn find(&self, order: u32, from: usize, to: usize, look: Look) -> Found {
        if from >= to {
            return Found::Nothing;
        }
        if look.read(self.node(1, from), order) != G::Word::ZERO {
            return Found::Node(from);
        }
        self.find_after(order, from, to, look)
    }

    fn find_after(&self, order: u32, from: usize, to: usize, look: Look) -> Found {
        // Climb from `from` until a node has a candidate to the right of where we came from.
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
            let (place, parent) = (index % G::FANOUT, index / G::FANOUT);
            let word = look.read(self.node(level + 1, parent), order);
            let right = if place + 1 < G::FANOUT {
                word & (G::Word::MAX << (place as u32 + 1))
            } else {
                G::Word::ZERO
            };
            if right != G::Word::ZERO {
                break (level, parent * G::FANOUT + right.trailing_zeros() as usize);
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
            child = child * G::FANOUT + word.trailing_zeros() as usize;
            level_at -= 1;
        }
        if child >= to {
            Found::Nothing
        } else if look.read(self.node(1, child), order) != G::Word::ZERO {
            Found::Node(child)
        } else {
            Found::Stale { level: 2, child }
        }
    }

    /// The first level-1 node behind the subtree of `child`, a node one level below `level`.
    pub(crate) fn after_subtree(&self, level: usize, child: usize) -> usize {
        (2..level).fold(child + 1, |next, _| next * G::FANOUT)
    }

    /// Bytes that the nodes and their counts occupy.
    pub(crate) fn bytes(&self) -> usize {
        let nodes: usize = self.levels.iter().map(Segmented::bytes).sum();
        nodes + self.levels.capacity() * size_of::<Segmented<Nodes<G>>>() + self.tops.bytes()
    }
}

/// The nodes under node `index` of the level above, of those that there are.
fn children_of<G: Geometry>(index: usize, level: &[bool]) -> std::ops::Range<usize> {
    index * G::FANOUT..((index + 1) * G::FANOUT).min(level.len())
}
