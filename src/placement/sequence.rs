//! Where a stream continues.

use crate::base::geometry::{Geometry, LEAF_BLOCKS, Native, WORD_BLOCKS};
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
        let count = space.bitmap.leaf_count();
        let whole = |leaves: std::ops::Range<usize>| {
            let found = space.bitmap.next_leaf(Native::MAX_ORDER, leaves.start);
            found.filter(|leaf| leaves.contains(leaf))
        };
        let len = LEAF_BLOCKS;
        let leaf = match self.zones.of(class.index()) {
            Some(zone) => {
                let request = Request::new(len).class(class);
                let home = self.leaf_in_zones(space, cursor, &request, zone);
                Route::in_zone(zone, home, count).find_map(whole).unwrap_or(home)
            }
            None => {
                let home = cursor.place(len).word / Native::LEAF_WORDS;
                let mut route = Route::by_shard(&space.shards, home.min(count - 1), count);
                route.find_map(whole).unwrap_or(home)
            }
        };
        leaf as u64 * LEAF_BLOCKS
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
            cursor.place(len).word = (block / WORD_BLOCKS) as usize;
        }
        if self.zones.are_set() {
            let rest = Request { len: left, ..*request };
            self.set_leaf_in_zones(space, cursor, &rest, block);
        }
    }
}
