//! Who takes part, in the order of the tables.

use ::bitmap_allocator::{BitAlloc, BitAlloc16M, BitAlloc256M};
use ::hibitset::{AtomicBitSet, BitSet};

use super::batch::Batch;
use super::bitmap_allocator::BitmapAllocator;
use super::buddy::Buddy;
use super::floor::Floor;
use super::freemap::Freemap;
use super::hibitset::Hibitset;
use super::locked::Locked;
use super::offset_allocator::OffsetAllocator;
use super::range_alloc::RangeAlloc;
use super::range_tree::RangeTree;
use super::roaring::Roaring;
use super::two_level::TwoLevel;
use super::{Shared, Subject};

/// The subject that the others are compared with.
pub const FLOOR: &str = "floor";
/// The subject that all this is about.
pub const FREEMAP: &str = "freemap";
const FREEMAP_BATCH: &str = "freemap-batch";
/// The simplest of the peers.
pub const TWO_LEVEL: &str = "two-level";
const TWO_LEVEL_LOCKED: &str = "two-level-locked";

/// Something to be done for each subject that one thread uses.
pub trait Visitor {
    fn visit<S: Subject>(&mut self, name: &'static str);
}

/// Something to be done for each subject that threads share.
pub trait SharedVisitor {
    fn visit<S: Shared>(&mut self, name: &'static str);
}

/// Visits the subjects made for one thread, each as `$Used` uses it.
macro_rules! visit_single_threaded {
    ($visitor:ident, $blocks:ident, $Used:ident) => {
        $visitor.visit::<$Used<Hibitset<BitSet>>>("hibitset");
        $visitor.visit::<$Used<Hibitset<AtomicBitSet>>>("hibitset-atomic");
        if $blocks <= BitAlloc16M::CAP as u64 {
            $visitor.visit::<$Used<BitmapAllocator<BitAlloc16M>>>("bitmap-allocator");
        } else {
            $visitor.visit::<$Used<BitmapAllocator<BitAlloc256M>>>("bitmap-allocator");
        }
        $visitor.visit::<$Used<OffsetAllocator>>("offset-allocator");
        $visitor.visit::<$Used<Buddy>>("buddy");
        $visitor.visit::<$Used<RangeTree>>("range-tree");
        $visitor.visit::<$Used<RangeAlloc>>("range-alloc");
        $visitor.visit::<$Used<Roaring>>("roaring");
    };
}

/// A subject without a lock.
type Bare<S> = S;

/// The subjects as one thread uses them, without a lock where they need none for that.
pub fn for_each(blocks: u64, visitor: &mut impl Visitor) {
    visitor.visit::<Floor>(FLOOR);
    visitor.visit::<Freemap>(FREEMAP);
    visitor.visit::<Batch>(FREEMAP_BATCH);
    visitor.visit::<TwoLevel>(TWO_LEVEL);
    visitor.visit::<Locked<TwoLevel>>(TWO_LEVEL_LOCKED);
    visit_single_threaded!(visitor, blocks, Bare);
}

/// The subjects as threads share them.
pub fn for_each_shared(blocks: u64, visitor: &mut impl SharedVisitor) {
    visitor.visit::<Floor>(FLOOR);
    visitor.visit::<Freemap>(FREEMAP);
    visitor.visit::<Batch>(FREEMAP_BATCH);
    visitor.visit::<Locked<TwoLevel>>(TWO_LEVEL_LOCKED);
    visit_single_threaded!(visitor, blocks, Locked);
}

/// The names of all subjects.
pub fn names() -> Vec<&'static str> {
    struct Names(Vec<&'static str>);
    impl Visitor for Names {
        fn visit<S: Subject>(&mut self, name: &'static str) {
            self.0.push(name);
        }
    }
    let mut names = Names(Vec::new());
    for_each(0, &mut names);
    names.0
}
