//! Going through the leaves that may have a run.

use crate::base::geometry::Geometry;
use crate::base::place::{LeafIndex, NodeIndex};
use crate::base::sync::Site;
use crate::base::word::{Word, order_within};
use crate::index::Bitmap;
use crate::index::node::Look;
use crate::index::summary::Found;
use std::ops::Range;

/// Which leaves of a level-1 node a search prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pack {
    /// The first leaf.
    First,
    /// The first leaf that has no run of the next order, if the node has such a leaf.
    Tight,
}

/// What to do after a leaf was read.
pub(super) enum Visit<T> {
    Done(T),
    /// The leaf has no run of the order at all.
    Stale,
    /// Go on with the first leaf at or after this one, which lies behind the leaf just read.
    From(LeafIndex),
}

/// What to do after a run was shown.
pub(super) enum Next<T> {
    Done(T),
    /// Go on at this block.
    From(u64),
}

/// The leaves under one node that a search may go to.
#[derive(Clone, Copy)]
pub(super) struct Candidates<W> {
    all: W,
    /// Of these, those to go to first.
    preferred: W,
}

impl<W: Word> Candidates<W> {
    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.all == W::ZERO
    }
}

/// The result of a visit to the leaves under one node.
pub(super) struct Visited<T, W> {
    pub(super) taken: Option<T>,
    /// The children that had no run of the order at all.
    stale: W,
    /// The leaf to go on with.
    next: LeafIndex,
}

impl<G: Geometry> Bitmap<G> {
    /// Visits the leaves of the range that may have a run of `order`, ascending from node to node,
    /// until `visit` is done. Repairs the stale positives it meets (invariant 3).
    pub(super) fn visit_leaves<T>(
        &self,
        order: u32,
        leaves: Range<LeafIndex>,
        look: Look,
        pack: Pack,
        mut visit: impl FnMut(LeafIndex) -> Visit<T>,
    ) -> Option<T> {
        let mut next = leaves.start;
        let node_end = NodeIndex::end_of_leaves::<G>(leaves.end);
        while next < leaves.end {
            let mut node = next.node::<G>();
            let mut todo = self.candidates(order, node, next..leaves.end, look, pack);
            if todo.is_empty() {
                match self.summary.find_behind(order, node, node_end, look) {
                    Found::Nothing => return None,
                    Found::Stale { level, child } => {
                        self.repair_up(level, child, 1 << order);
                        next = self.summary.after_subtree(level, child).first_leaf::<G>();
                        continue;
                    }
                    Found::Node(found) => node = found,
                }
                next = node.first_leaf::<G>();
                todo = self.candidates(order, node, next..leaves.end, look, pack);
                if todo.is_empty() {
                    // Stale, unless its leaves lie behind the range: a repair sees which.
                    self.repair_up(2, node.get(), 1 << order);
                    next = node.next().first_leaf::<G>();
                    continue;
                }
            }
            let found = self.visit_children(node, todo, |leaf| {
                let visited = visit(leaf);
                // A search that may have to answer "no" repairs at once. A later repair could meet a
                // release, undo itself above level 1, lift the watch, and make us search again.
                if look == Look::Thorough && matches!(visited, Visit::Stale) {
                    self.repair(node, G::Word::bit(leaf.place_in_node::<G>()), order);
                }
                visited
            });
            // Repair all of them together, so that the levels above are repaired once.
            if look == Look::Quick && found.stale != G::Word::ZERO {
                self.repair(node, found.stale, order);
            }
            if found.taken.is_some() {
                return found.taken;
            }
            next = found.next;
        }
        None
    }

    /// Shows `see` the runs of at least `least` blocks that touch `leaves` and start no lower than
    /// `floor`, start and end, until `see` is done, or `looks` leaves were read, which it counts
    /// down. Measures runs up to `most` blocks from where they are shown, at least `least`. A run
    /// that touches several leaves may be shown again from within.
    ///
    /// Does not miss a run that is free during the whole call. O(leaves that show the order which
    /// every such run contains).
    pub(super) fn visit_runs<T>(
        &self,
        leaves: Range<LeafIndex>,
        floor: u64,
        least: u64,
        most: u64,
        looks: &mut u64,
        mut see: impl FnMut(u64, u64) -> Next<T>,
    ) -> Option<T> {
        debug_assert!(least > 0);
        let order = order_within(least).min(G::MAX_ORDER);
        // A fitting run with a group of `order` in a leaf begins at most this far before the leaf.
        let reach = least - 1;
        let done = self.visit_leaves(order, leaves, Look::Thorough, Pack::First, |leaf| {
            let Some(left) = looks.checked_sub(1) else { return Visit::Done(None) };
            *looks = left;
            if !self.leaf(leaf).has_order(order, Site::LeafLook) {
                return Visit::Stale;
            }
            let leaf_start = leaf.first_block::<G>();
            let leaf_end = leaf.next().first_block::<G>().min(self.blocks());
            let lowest = floor.max(leaf_start.saturating_sub(reach));
            let mut at =
                if lowest < leaf_start { self.run_start(leaf_start, lowest) } else { lowest };
            while at < leaf_end {
                let start = self.run_start_in(at, leaf_end, least);
                if start == leaf_end {
                    break;
                }
                let limit = self.blocks().min(start.saturating_add(most.max(least)));
                match see(start, self.run_end(start, limit)) {
                    Next::Done(done) => return Visit::Done(Some(done)),
                    // Another thread may have taken the block at `start` since it was found.
                    Next::From(block) => at = block.max(start + 1),
                }
            }
            // A run that began before this leaf and is gone by now leaves `at` behind.
            Visit::From(leaf.next().max(LeafIndex::of_block::<G>(at)))
        });
        done.flatten()
    }

    /// Visits the leaves under `node` that `todo` names, until `visit` is done.
    #[inline(always)]
    pub(super) fn visit_children<T>(
        &self,
        node: NodeIndex,
        todo: Candidates<G::Word>,
        mut visit: impl FnMut(LeafIndex) -> Visit<T>,
    ) -> Visited<T, G::Word> {
        let first = node.first_leaf::<G>();
        let end = first.plus(G::FANOUT);
        let mut next = end;
        let Candidates { all: mut todo, preferred: tight } = todo;
        let mut stale = G::Word::ZERO;
        while todo != G::Word::ZERO {
            let preferred = todo & tight;
            let pick = if preferred != G::Word::ZERO { preferred } else { todo };
            let child = pick.trailing_zeros();
            todo &= !G::Word::bit(child);
            match visit(node.leaf::<G>(child)) {
                Visit::Done(taken) => return Visited { taken: Some(taken), stale, next },
                Visit::Stale => stale |= G::Word::bit(child),
                Visit::From(resume) => {
                    // Leaves before `child` are still to come if `child` was preferred.
                    let skipped = resume.min(end).since(node.leaf::<G>(child));
                    todo &= !G::Word::span(child, skipped as u32);
                    next = next.max(resume);
                }
            }
        }
        Visited { taken: None, stale, next }
    }

    /// The children of `node` in `leaves`, which do not begin before the node.
    #[inline(always)]
    pub(super) fn candidates(
        &self,
        order: u32,
        node: NodeIndex,
        leaves: Range<LeafIndex>,
        look: Look,
        pack: Pack,
    ) -> Candidates<G::Word> {
        let first = node.first_leaf::<G>();
        let until = leaves.end.get().saturating_sub(first.get()).min(G::FANOUT);
        let from = leaves.start.since(first);
        if from >= until {
            return Candidates { all: G::Word::ZERO, preferred: G::Word::ZERO };
        }
        let wanted = G::Word::span(from as u32, (until - from) as u32);
        let numbers = self.summary.over_leaves(node);
        let all = numbers.children(order, look) & wanted;
        // A second pass over the node is for those that have a choice.
        if pack == Pack::Tight && order < G::MAX_ORDER && all.without_lowest() != G::Word::ZERO {
            let roomy = numbers.children(order + 1, Look::Quick);
            return Candidates { all, preferred: all & !roomy };
        }
        Candidates { all, preferred: all }
    }
}
