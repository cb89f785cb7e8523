//! Where a stream continues.

use std::ops::Range;

use crate::base::geometry::{Geometry, LEAF_BLOCKS, Native};
use crate::base::place::{LeafIndex, WordIndex};
use crate::base::word::order_above;
use crate::placement::Placer;
use crate::placement::cursor::Cursor;
use crate::placement::route::Route;
use crate::space::Space;
use crate::values::class::Class;
use crate::values::request::Request;

impl Placer {
    /// The block where a stream of `class` begins.
    pub(crate) fn start_of_stream(&self, space: &Space, cursor: &mut Cursor, class: Class) -> u64 {
        let end = space.bitmap.leaf_end();
        let whole = |leaves: Range<LeafIndex>| {
            let found = space.bitmap.next_leaf(Native::MAX_ORDER, leaves.start);
            found.filter(|leaf| leaves.contains(leaf))
        };
        let len = LEAF_BLOCKS;
        let leaf = match self.zones.of(class.index()) {
            Some(zone) => {
                let request = Request::new(len).class(class);
                let home = self.leaf_in_zones(space, cursor, &request, zone);
                Route::in_zone(zone, home, end).find_map(whole).unwrap_or(home)
            }
            None => {
                let home = cursor.place(len).word.leaf::<Native>();
                let mut route = Route::by_shard(&space.shards, home.min(end.minus(1)), end);
                route.find_map(whole).unwrap_or(home)
            }
        };
        leaf.first_block::<Native>()
    }

    /// Makes the next search for `left` blocks begin at block `behind`.
    pub(crate) fn go_on_behind(
        &self,
        space: &Space,
        cursor: &mut Cursor,
        request: &Request,
        left: u64,
        behind: u64,
    ) {
        let block = if behind < space.bitmap.blocks() { behind } else { 0 };
        for len in
            [left, left.min(request.max_extent), 1 << order_above(left).min(Native::MAX_ORDER)]
        {
            cursor.place(len).word = WordIndex::of_block::<Native>(block);
        }
        if self.zones.are_set() {
            let rest = Request { len: left, ..*request };
            self.set_leaf_in_zones(space, cursor, &rest, block);
        }
    }
}
