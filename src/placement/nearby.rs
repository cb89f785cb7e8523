//! Where a request for one extent searches.

use crate::base::geometry::{Geometry, LEAF_BLOCKS, Native};
use crate::base::place::{LeafIndex, WordIndex};
use crate::base::word::order_above;
use crate::index::events::Event;
use crate::index::{Claimed, Pack, Search};
use crate::placement::Placer;
use crate::placement::cursor::{Cursor, Nothing};
use crate::placement::route::Route;
use crate::space::Space;
use crate::values::class::Class;
use crate::values::request::Request;

/// Recently freed places that one request tries, at most: other handles may have used them since.
const REUSED: usize = 8;

/// Words with a run of the wanted order that make a leaf worth going through in sequence: for
/// single blocks, about what a device has that is 98 % full at random.
const RICH: u32 = 6;

impl Placer {
    pub(crate) fn claim_contiguous(
        &self,
        space: &Space,
        cursor: &mut Cursor,
        request: &Request,
        from: u64,
    ) -> Option<Claimed> {
        let &Request { len, align, near, class, .. } = request;
        let zone = self.zones.of(class.index()).filter(|_| near.is_none());
        let quick = match zone {
            Some(zone) => self.claim_in_zones(space, cursor, request, zone),
            None => self.aligned(space, cursor, request, from),
        };
        if quick.is_some() {
            return quick;
        }
        let search = Search { least: len, most: len, align, take: |_| len };
        if len > LEAF_BLOCKS
            && let Some(claimed) = space.bitmap.claim_quick(from, &search)
        {
            return Some(claimed);
        }
        let found = space.bitmap.claim_exact(from, &search);
        found
            .map_err(|ticket| self.remember(space, cursor, Nothing { ticket, least: len, align }))
            .ok()
    }

    /// The block from which `cursor` first searches for runs of `len` blocks.
    pub(crate) fn place_of(&self, space: &Space, cursor: &mut Cursor, len: u64) -> u64 {
        let block = cursor.place(len).word.first_block::<Native>();
        // It lies behind the end if the device was made shorter.
        if block < space.bitmap.blocks() { block } else { 0 }
    }

    /// Makes the handle search for the next run of the class of `len` blocks from block `last` on.
    /// If placements are set, only for requests without a class, and only where those belong.
    #[inline(always)]
    pub(crate) fn go_on(
        &self,
        space: &Space,
        cursor: &mut Cursor,
        request: &Request,
        len: u64,
        last: u64,
    ) {
        if self.zones.are_set() && !(request.class == Class::BULK && self.is_for_bulk(last)) {
            return;
        }
        let word = WordIndex::of_block::<Native>(last);
        let before = std::mem::replace(&mut cursor.place(len).word, word);
        if !space.shards.same(before.leaf::<Native>(), word.leaf::<Native>()) {
            space.lanes.spilled(cursor.lane);
        }
    }

    /// The same after an allocation in pieces, also where placements are set.
    pub(crate) fn go_on_behind_pieces(
        &self,
        space: &Space,
        cursor: &mut Cursor,
        request: &Request,
        len: u64,
        last: u64,
    ) {
        if request.near.is_none() {
            self.go_on(space, cursor, request, len, last);
            if self.zones.are_set() {
                self.set_leaf_in_zones(space, cursor, request, last);
            }
        }
    }

    /// The quick search: claims the beginning of an aligned run of the rounded-up order.
    #[inline]
    pub(crate) fn aligned(
        &self,
        space: &Space,
        cursor: &mut Cursor,
        request: &Request,
        from: u64,
    ) -> Option<Claimed> {
        let &Request { len, align, near, .. } = request;
        if len > LEAF_BLOCKS || align > LEAF_BLOCKS || !align.is_power_of_two() {
            return None;
        }
        let order = order_above(len.max(align));
        if !space.bitmap.shows(order) {
            return None;
        }
        let Some(near) = near else {
            return self.around_cursor(space, cursor, order, len);
        };
        // The first range begins with blocks below `near`; those come last.
        self.route(space, request, from).zip([near, 0]).find_map(|(leaves, floor)| {
            space.bitmap.claim_aligned(order, len, floor, leaves, Pack::Tight)
        })
    }

    /// Claims the beginning of an aligned run of `order`: in the current leaf, or where this handle
    /// has just freed one, or as near as the summary can say.
    fn around_cursor(
        &self,
        space: &Space,
        cursor: &mut Cursor,
        order: u32,
        len: u64,
    ) -> Option<Claimed> {
        let place = cursor.place(len);
        if place.look_now() {
            place.poor = self.is_poor(space, place.word, order);
        }
        if place.word >= space.bitmap.word_end() {
            place.word = WordIndex::FIRST;
        }
        let crowded = std::mem::take(&mut place.crowded);
        if crowded {
            // Counted here and not where it happened: counting there costs handles that lose
            // nothing.
            space.count(Event::LostClaim, place.word.get());
        }
        if crowded && space.shard_count() > 1 {
            // Another handle works here. Two handles that go through the same leaves in step fail
            // each other's claims and pull each other's cache lines, so one of them has to leave.
            place.word = self.home(space, self.handles.fetch_add(1));
        } else if place.poor {
            for word in std::iter::from_fn(|| place.reuse()).take(REUSED) {
                let from = word.first_block::<Native>();
                let claimed = space.bitmap.claim_in_leaf(order, len, from);
                if claimed.is_some() {
                    return claimed;
                }
            }
        } else {
            let from = place.word.first_block::<Native>();
            let claimed = space.bitmap.claim_in_leaf(order, len, from);
            if claimed.is_some() {
                return claimed;
            }
        }
        let leaf = place.word.leaf::<Native>();
        let found = space.bitmap.claim_behind(order, len, leaf, Pack::Tight).or_else(|| {
            let first = leaf.node::<Native>().first_leaf::<Native>();
            let (shards, end) = (&space.shards, space.bitmap.leaf_end());
            let [mut own, mut others] = Route::own_and_other_shards(shards, first, end);
            let claim = |leaves| space.bitmap.claim_aligned(order, len, 0, leaves, Pack::Tight);
            let likely = || {
                let shard = self.likely_shard(space, shards.of(leaf), order)?;
                claim(shards.leaves(shard, end))
            };
            own.find_map(claim).or_else(likely).or_else(|| others.find_map(claim))
        })?;
        let word = WordIndex::of_block::<Native>(found.start());
        place.poor = self.is_poor(space, word, order);
        Some(found)
    }

    /// Whether the leaf of `word` has few runs of `order`.
    fn is_poor(&self, space: &Space, word: WordIndex, order: u32) -> bool {
        // Runs longer than a word can begin in few words only.
        let most = Native::LEAF_WORDS as u32 >> order.saturating_sub(Native::WORD_ORDER);
        space.bitmap.words_with(word, order) < RICH.min(most)
    }

    /// The word where the `n`-th handle begins.
    pub(crate) fn home(&self, space: &Space, n: u64) -> WordIndex {
        space.shards.home(n, space.bitmap.leaf_count()).first_word::<Native>()
    }

    /// The route of `request`, which begins at block `from`.
    #[inline]
    pub(crate) fn route(&self, space: &Space, request: &Request, from: u64) -> Route {
        let (leaf, end) = (LeafIndex::of_block::<Native>(from), space.bitmap.leaf_end());
        match request.near {
            Some(_) => Route::near(leaf, end),
            None => Route::by_shard(&space.shards, leaf, end),
        }
    }

    pub(crate) fn known_to_fail(
        &self,
        space: &Space,
        cursor: &Cursor,
        least: u64,
        align: u64,
    ) -> bool {
        cursor.known_to_fail(least, align, |ticket| space.bitmap.still_none(ticket))
    }

    pub(crate) fn remember(&self, space: &Space, cursor: &mut Cursor, nothing: Nothing) {
        cursor.remember(nothing, |ticket| space.bitmap.still_none(ticket));
    }
}
