//! Comparing every level with the one below.

use super::Bitmap;
use crate::base::geometry::Geometry;
use crate::base::place::{LeafIndex, WordIndex};
use crate::base::sync::Site;
use crate::base::word::{Word, each, orders_below};

/// A difference between two things that the allocator knows. Those that name a level or an order
/// are of a summary: that of the free blocks, or of the blocks kept in one of the other places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// The child has a run of this order that the node does not show: searches would miss free
    /// space.
    Hidden {
        /// Level of the node, from 1.
        level: usize,
        /// Index of the child among all nodes (for level 1: leaves) of the level below.
        child: usize,
        /// The order.
        order: u32,
    },
    /// The node shows a run of this order that the child does not have. Legal: the next search that
    /// meets it repairs it.
    Stale {
        /// Level of the node, from 1.
        level: usize,
        /// Index of the child among all nodes (for level 1: leaves) of the level below.
        child: usize,
        /// The order.
        order: u32,
    },
    /// A thread holds the guard of this child: an operation is in flight.
    Guarded {
        /// Level of the node, from 1.
        level: usize,
        /// Index of the child among all nodes (for level 1: leaves) of the level below.
        child: usize,
    },
    /// The count of top nodes that show a run of this order (of leaves, if the nodes over the leaves
    /// are the top nodes) is wrong: quick searches would look for it and find nothing, or not look
    /// at all.
    Miscounted {
        /// The order.
        order: u32,
        /// The count.
        counted: u64,
        /// How many show one.
        showing: u64,
    },
    /// A block beyond the end of the device is marked free.
    BeyondEnd {
        /// The block.
        block: u64,
    },
    /// A block is in two places: free, set aside in a closed region, kept for a promise or a
    /// reserve, waiting to be discarded, being discarded, or freed by a transaction and not let out
    /// yet. Two callers could get it.
    Twice {
        /// The block.
        block: u64,
    },
    /// A figure is not what the blocks say.
    Figure {
        /// What it counts.
        figure: &'static str,
        /// What it says.
        told: u64,
        /// What it should say.
        counted: u64,
    },
}

impl Difference {
    /// Whether this is a fault while nothing else runs. A stale positive is not.
    pub fn is_fault(&self) -> bool {
        !matches!(self, Difference::Stale { .. })
    }
}

/// What [`Allocator::verify`](crate::Allocator::verify) found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification {
    /// Free blocks counted in the leaves.
    pub free_blocks: u64,
    /// Differences, lowest level first.
    pub differences: Vec<Difference>,
}

impl Verification {
    /// Whether no difference is a fault. Meaningful while nothing else runs.
    pub fn is_clean(&self) -> bool {
        !self.differences.iter().any(Difference::is_fault)
    }
}

impl<G: Geometry> Bitmap<G> {
    /// Compares every level with the one below. O(bitmap).
    pub(crate) fn verify(&self) -> Verification {
        let mut found =
            Verification { free_blocks: self.count_free(), differences: self.beyond_end() };
        let mut children = self.leaf_count();
        for level in 1..=self.summary.height() {
            for child in 0..children {
                self.verify_child(level, child, &mut found.differences);
            }
            children = children.div_ceil(G::FANOUT);
        }
        found.differences.extend(self.miscounted());
        found
    }

    fn verify_child(&self, level: usize, child: usize, differences: &mut Vec<Difference>) {
        let (below, shown, guarded) = match level {
            1 => {
                let leaf = LeafIndex::new(child);
                let shown = self.summary.shown(leaf, Site::HasLook);
                let orders = self.leaf(leaf).orders(Site::LeafLook);
                (orders, orders_below(shown.number()), shown.is_marked())
            }
            _ => {
                let (node, bit) = self.summary.parent(level, child);
                let orders = self.summary.orders_of_node(level - 1, child);
                let guard = node.guard().load(Site::GuardLook);
                (orders, node.shown(bit), guard & bit != G::Word::ZERO)
            }
        };
        let hidden = |order| Difference::Hidden { level, child, order };
        let stale = |order| Difference::Stale { level, child, order };
        differences.extend(each(below & !shown).map(hidden));
        differences.extend(each(shown & !below).map(stale));
        if guarded {
            differences.push(Difference::Guarded { level, child });
        }
    }

    fn miscounted(&self) -> impl Iterator<Item = Difference> {
        (0..=G::MAX_ORDER).filter_map(|order| {
            let counted = self.summary.tops().count(order);
            let showing = self.summary.counted_in_tops(order);
            (counted != showing).then_some(Difference::Miscounted { order, counted, showing })
        })
    }

    /// Looks at all of the memory, which may be longer than the device.
    fn beyond_end(&self) -> Vec<Difference> {
        let (blocks, room) = (self.blocks(), LeafIndex::new(self.leaves.room()));
        let words = WordIndex::of_block::<G>(blocks)..room.first_word::<G>();
        let free = WordIndex::each(words)
            .flat_map(|word| self.look(word).places().map(move |place| word.block::<G>(place)));
        free.filter(|&block| block >= blocks).map(|block| Difference::BeyondEnd { block }).collect()
    }
}
