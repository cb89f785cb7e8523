//! Where requests of a class are placed.
//!
//! A request goes through the leaves in the order of its class, first by aligned runs and then by
//! any that fit. Only if none is found does a search without regard to classes follow; only that
//! one may refuse the request.

use crate::base::geometry::{Geometry, LEAF_BLOCKS, Native};
use crate::base::place::LeafIndex;
use crate::base::word::order_above;
use crate::index::{Claimed, Pack, Refused, Search, Taken, Wanted};
use crate::placement::Placer;
use crate::placement::cursor::Cursor;
use crate::placement::route::Route;
use crate::placement::zone::Zone;
use crate::space::Space;
use crate::values::request::{Effort, Request};

impl Placer {
    /// Claims a run for `request` in the first zone of its class that has one.
    pub(crate) fn claim_in_zones(
        &self,
        space: &Space,
        cursor: &mut Cursor,
        request: &Request,
        zone: &Zone,
    ) -> Option<Claimed> {
        let &Request { len, align, .. } = request;
        let leaf = self.leaf_in_zones(space, cursor, request, zone);
        let end = space.bitmap.leaf_end();
        let search = Search { least: len, most: len, align, take: |_| len };
        let quick = len <= LEAF_BLOCKS && align <= LEAF_BLOCKS && align.is_power_of_two();
        let order = order_above(len.max(align)).min(Native::MAX_ORDER);
        // Zone by zone, so that an unaligned run comes before the next zone.
        let found = zone.leaves.iter().find_map(|part| {
            let route = || Route::in_part(part, zone.direction, leaf, end);
            let aligned = |leaves| space.bitmap.claim_aligned(order, len, 0, leaves, Pack::Tight);
            let floor = part.start.first_block::<Native>();
            let any = |leaves| space.bitmap.claim_in_leaves(leaves, floor, &search);
            let found = if quick { route().find_map(aligned) } else { None };
            found.or_else(|| route().find_map(any))
        })?;
        self.set_leaf_in_zones(space, cursor, request, found.last());
        Some(found)
    }

    /// Claims pieces for `request`, the longest first in each zone of its class.
    pub(crate) fn gang_in_zones<F: FnMut(Claimed) -> Taken>(
        &self,
        space: &Space,
        cursor: &mut Cursor,
        request: &Request,
        zone: &Zone,
        wanted: &mut Wanted<F>,
        effort: &mut Effort,
    ) -> Result<(), Refused> {
        let leaf = self.leaf_in_zones(space, cursor, request, zone);
        let end = space.bitmap.leaf_end();
        for part in &zone.leaves {
            if wanted.left == 0 {
                break;
            }
            let mut order = order_above(wanted.left).min(Native::MAX_ORDER);
            while wanted.left > 0 && wanted.looks > 0 {
                let route = Route::in_part(part, zone.direction, leaf, end);
                self.claim_pieces_in(space, order, route, wanted, effort)?;
                if order == 0 {
                    break;
                }
                order -= 1;
            }
        }
        Ok(())
    }

    /// The leaf where this handle was last for such requests, or where it begins.
    pub(crate) fn leaf_in_zones(
        &self,
        space: &Space,
        cursor: &mut Cursor,
        request: &Request,
        zone: &Zone,
    ) -> LeafIndex {
        let place = cursor.class_place(request.class.index(), request.len);
        if *place == LeafIndex::NONE {
            *place = self.first_leaf(space, zone);
        }
        *place
    }

    /// Remembers that block `last` was the last of an allocation.
    pub(crate) fn set_leaf_in_zones(
        &self,
        _space: &Space,
        cursor: &mut Cursor,
        request: &Request,
        last: u64,
    ) {
        let leaf = LeafIndex::of_block::<Native>(last);
        *cursor.class_place(request.class.index(), request.len) = leaf;
    }

    /// Where a handle begins in `zone`.
    pub(crate) fn first_leaf(&self, space: &Space, zone: &Zone) -> LeafIndex {
        use crate::values::class::Direction::{Down, Spread, Up};
        let end = space.bitmap.leaf_end();
        let Some(first) = zone.leaves.iter().find(|range| range.start < end) else {
            return LeafIndex::FIRST;
        };
        let end = first.end.min(end);
        match zone.direction {
            Up => first.start,
            Down => end.minus(1),
            Spread => {
                let n = self.handles.fetch_add(1).reverse_bits();
                let count = end.since(first.start) as u128;
                first.start.plus(((u128::from(n) * count) >> 64) as usize)
            }
        }
    }
}
