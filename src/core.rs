//! Layer 5: where requests become claims. One `Core` is shared by an allocator and its handles; a
//! `Cursor` is what each of them keeps for itself.

use std::fmt::{Debug, Formatter};
use std::ops::Range;

use crossbeam_utils::CachePadded;

use crate::aside::{Aside, Moved};
use crate::bitmap::{Bitmap, Lost, Pack, ReleaseError, Search, order_above};
use crate::class::{Class, Zones};
use crate::cursor::{Cursor, Nothing};
use crate::error::{AllocError, FreeError, MarkError, RangeError, RequestError, on_device};
use crate::escrow::Escrow;
use crate::events::Event;
use crate::extent::{Extent, ExtentList, Extents};
use crate::geometry::Geometry;
use crate::lanes::{LaneId, Lanes};
use crate::ledger::Ledger;
use crate::pending::Pending;
use crate::plan::plan;
use crate::quarantine::Quarantine;
use crate::request::{Effort, Request};
use crate::reserves::Reserves;
use crate::shard::Shards;
use crate::shard_counts::ShardCounts;
use crate::surveyed::SurveyRecords;
use crate::sync::{Claim, Counter};

/// The geometry of this machine.
#[cfg(target_has_atomic = "64")]
pub type Native = crate::geometry::Wide;
/// The geometry of this machine.
#[cfg(not(target_has_atomic = "64"))]
pub type Native = crate::geometry::Narrow;

/// Blocks of one word of the bitmap.
pub const WORD_BLOCKS: u64 = Native::WORD_BLOCKS as u64;
pub const LEAF_BLOCKS: u64 = Native::LEAF_BLOCKS as u64;

/// A word of the bitmap.
pub type NativeWord = <Native as Geometry>::Word;

/// Leaves that each request for a best fit sees to.
const REFRESHED: u64 = 4096;

/// A leaf in which at least so many words have a run of the wanted order is worth going through in
/// sequence: for single blocks, about what a device has that is 98 % full at random.
const RICH: u32 = 6;

pub struct Core {
    pub bitmap: Bitmap<Native>,
    /// Blocks that are neither free nor in use, and the closed regions.
    pub aside: Aside<Native>,
    /// Blocks that are kept for promises.
    pub escrow: Escrow<Native>,
    /// Freed blocks that wait to be discarded.
    pub pending: Pending<Native>,
    /// Held by the discarder, if there is one.
    pub discarder: Claim,
    /// Blocks that the device is being told of.
    pub discarding_blocks: Counter,
    /// Blocks that it was told of, and blocks that waited in vain.
    pub discarded_blocks: Counter,
    pub skipped_discards: Counter,
    /// Held while regions are closed or the device changes its length: one caller at a time.
    pub administration: Claim,
    /// Where requests of each class are placed.
    pub zones: Zones,
    /// What is kept for each class.
    pub reserves: Reserves,
    pub shards: Shards,
    pub lanes: Lanes,
    pub shard_counts: ShardCounts,
    pub quarantine: Quarantine,
    /// Blocks that transactions will free whose commit has begun.
    pub committing: CachePadded<Counter>,
    /// What surveys have found.
    pub surveyed: SurveyRecords,
    /// What frozen transactions will have done, where the store needs it.
    pub ledger: Option<Ledger>,
    /// Blocks that were free already when the quarantine let them out: freed behind its back.
    pub conflicts: Counter,
    pub block_size: u32,
    /// Handles made so far, which says where the next one starts.
    pub handles: Counter,
    /// Leaves that requests for a best fit have seen to, one round after another.
    pub refreshed: Counter,
    /// Tells allocators of one process apart.
    pub id: u64,
}

/// In short: the bitmap of a TiB would take hundreds of megabytes.
impl Debug for Core {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("blocks", &self.bitmap.blocks())
            .field("free_blocks", &self.free_blocks())
            .field("quarantined_blocks", &self.quarantine.blocks())
            .finish_non_exhaustive()
    }
}

impl Core {
    /// A cursor for a new handle, in a shard of its own while there are enough.
    pub fn cursor(&self, lane: impl FnOnce(u64) -> LaneId) -> Cursor {
        let n = self.handles.fetch_add(1);
        match self.zones.of(0) {
            None => Cursor::new(self.home(n), lane(n)),
            Some(zone) => {
                let word = self.first_leaf(zone) * Native::LEAF_WORDS;
                Cursor::new(word, lane(n)).with_classes()
            }
        }
    }

    /// Number of shards.
    pub fn shard_count(&self) -> usize {
        self.shards_of(self.bitmap.blocks())
    }

    /// Number of shards of `blocks` blocks.
    pub fn shards_of(&self, blocks: u64) -> usize {
        self.shards.count(blocks.div_ceil(LEAF_BLOCKS) as usize)
    }

    /// Free blocks of shard `index`, which must exist, exact while nothing else runs. O(lanes).
    pub fn shard_free(&self, index: usize) -> u64 {
        self.shard_counts.free(index)
    }

    /// The largest order of which shard `index`, which must exist, may have an aligned run; nothing if it
    /// has no free block. May promise too much, never too little. O(orders).
    pub fn shard_largest_order(&self, index: usize) -> Option<u32> {
        self.bitmap.largest_order_under(self.shards.level(), index)
    }

    /// The word where the `n`-th handle begins.
    fn home(&self, n: u64) -> usize {
        self.shards.home(n, self.bitmap.leaf_count()) * Native::LEAF_WORDS
    }

    /// Free blocks: exact while nothing runs, and never more than the device has.
    pub fn free_blocks(&self) -> u64 {
        let free = self.bitmap.free_at_start().wrapping_add(self.lanes.sum());
        // Lanes are read one after another: a block freed through a lane read late and allocated
        // through one read early counts as two.
        let free = if free > u64::MAX / 2 { 0 } else { free };
        (free + self.escrow.spare()).min(self.bitmap.blocks())
    }

    /// `len` blocks in one extent.
    #[inline(always)]
    pub fn allocate(&self, cursor: &mut Cursor, len: u64) -> Result<Extent, AllocError> {
        if len == 1
            && let Some(start) = self.claim_one(cursor)
            && self.keeps(cursor.lane, Extent { start, len })
        {
            let extent = Extent { start, len };
            self.count_allocated(cursor.lane, extent);
            return Ok(extent);
        }
        self.allocate_elsewhere(cursor, len)
    }

    /// One block of the word at hand, or else, in a poor neighbourhood, of where one was just freed.
    #[inline(always)]
    fn claim_one(&self, cursor: &mut Cursor) -> Option<u64> {
        let place = cursor.place(1);
        match self.bitmap.claim_one_in(place.word) {
            Ok(None) if place.poor => {
                place.word = place.reuse()?;
                self.bitmap.claim_one_in(place.word).ok()?
            }
            Ok(claimed) => claimed,
            Err(Lost) => {
                place.crowded = true;
                None
            }
        }
    }

    /// The same when the word at hand has nothing.
    #[inline(never)]
    fn allocate_elsewhere(&self, cursor: &mut Cursor, len: u64) -> Result<Extent, AllocError> {
        let request = Request::new(len);
        request.validate(self.bitmap.blocks())?;
        let mut result = self.contiguous(cursor, &request);
        while self.may_retry(cursor, &result, true) {
            result = self.contiguous(cursor, &request);
        }
        result = result.or_else(|error| self.one_of_reserve(cursor, &request, error));
        result.inspect_err(|error| self.count_refused(cursor.lane, error))
    }

    /// Appends the extents of `request` to `list`.
    #[inline]
    pub fn allocate_into(
        &self,
        cursor: &mut Cursor,
        request: &Request,
        list: &mut impl ExtentList,
    ) -> Result<Effort, AllocError> {
        let mut result = self.allocate_unreserved(cursor, request, list, true);
        if let Err(error) = result {
            result = self.allocate_of_reserve(cursor, request, list, error);
        }
        result.inspect_err(|error| self.count_refused(cursor.lane, error))
    }

    /// The same without what is kept for the class of `request`; and without what is spare in escrow, unless
    /// `spare`.
    #[inline]
    pub fn allocate_unreserved(
        &self,
        cursor: &mut Cursor,
        request: &Request,
        list: &mut impl ExtentList,
        spare: bool,
    ) -> Result<Effort, AllocError> {
        request.validate(self.bitmap.blocks())?;
        let mut effort = Effort::default();
        let mut result = self.allocate_now(cursor, request, list, &mut effort);
        while self.may_retry(cursor, &result, spare) {
            result = self.allocate_now(cursor, request, list, &mut effort);
        }
        result.map(|()| effort)
    }

    #[inline]
    pub fn allocate_now(
        &self,
        cursor: &mut Cursor,
        request: &Request,
        list: &mut impl ExtentList,
        effort: &mut Effort,
    ) -> Result<(), AllocError> {
        if request.scattered {
            return if request.takes_any_pieces() {
                self.gang(cursor, request, list, effort)
            } else {
                self.scattered(cursor, request, list, effort)
            };
        }
        let extent = self.contiguous(cursor, request)?;
        if !list.append(extent) {
            self.give_back(extent);
            self.count_freed(cursor.lane, extent);
            return Err(AllocError::OutOfMemory);
        }
        Ok(())
    }

    /// Gives `extent` back, or says why not.
    #[inline(always)]
    pub fn free(&self, cursor: &mut Cursor, extent: Extent) -> Result<(), FreeError> {
        self.release(cursor.lane, extent)?;
        if extent.len > 1 {
            self.saw_freed(cursor, extent.start, extent.len);
        }
        cursor.freed(extent.start, extent.len);
        Ok(())
    }

    /// The same for those who have no cursor.
    #[inline(always)]
    pub fn release(&self, lane: LaneId, extent: Extent) -> Result<(), FreeError> {
        let (start, len) = on_device(extent, self.bitmap.blocks())?;
        if self.aside.is_active() {
            return self.release_looking(lane, extent, true);
        }
        self.release_now(lane, start, len).map_err(|error| free_error(error, start))
    }

    /// Frees blocks and counts those that were not free.
    #[inline(always)]
    fn release_now(&self, lane: LaneId, start: u64, len: u64) -> Result<(), ReleaseError> {
        let released = self.bitmap.release(start, len);
        match released {
            Ok(()) => self.count_freed(lane, Extent { start, len }),
            Err(ReleaseError::Torn { block }) => {
                self.count_freed(lane, Extent { start, len: block - start });
            }
            Err(ReleaseError::Free { .. }) => {}
        }
        released
    }

    /// The same while some of the device is closed, or freed blocks are discarded.
    #[cold]
    pub fn release_looking(
        &self,
        lane: LaneId,
        extent: Extent,
        discard: bool,
    ) -> Result<(), FreeError> {
        let Extent { start, len } = extent;
        let block = self.first_unowned(start, start + len);
        if block < start + len {
            return Err(FreeError::DoubleFree { block });
        }
        let release_rest = |start, len| {
            if discard && self.pending.has_room(len) {
                let mut free = |word, bits| self.free_word(lane, word, bits);
                return self.pending.put(start, len, &mut free);
            }
            self.release_now(lane, start, len)
        };
        let release = |start, len| {
            let (rest, left) = self.refill_reserves(start, len);
            let released = if left == 0 { Ok(()) } else { release_rest(rest, left) };
            match released {
                // What is kept for a reserve was freed by us all the same.
                Err(ReleaseError::Free { .. }) if rest > start => {
                    Err(ReleaseError::Torn { block: rest })
                }
                released => released,
            }
        };
        let moved = &mut self.moved(lane);
        let released = self.aside.release(&self.bitmap, start, len, moved, release);
        released.map_err(|error| free_error(error, start))
    }

    /// Whether a claim of `extent` may be kept: not if a part of it is closed. Asked after the claim, so
    /// that it either began before the region was closed or sees it. A claim that is not kept has left
    /// nothing free in the closed leaves that it met, so what repeats it gets on.
    #[inline(always)]
    pub fn keeps(&self, lane: LaneId, extent: Extent) -> bool {
        !self.aside.is_active() || self.keeps_looking(lane, extent)
    }

    #[cold]
    fn keeps_looking(&self, lane: LaneId, extent: Extent) -> bool {
        self.aside.keeps(&self.bitmap, extent.start, extent.len, &mut self.moved(lane))
    }

    /// Counts what goes between the free space and what is set aside.
    pub fn moved(&self, lane: LaneId) -> impl FnMut(Moved, u64, u64) {
        move |moved, start, len| match moved {
            Moved::Freed => self.count_freed(lane, Extent { start, len }),
            Moved::Taken => self.count_allocated(lane, Extent { start, len }),
        }
    }

    /// Every claim that somebody is told of is counted here, and every free in
    /// [`Core::count_freed`].
    #[inline(always)]
    pub fn count_allocated(&self, lane: LaneId, extent: Extent) {
        self.lanes.allocated(lane, extent.len);
        self.shard_counts.allocated(lane, extent);
    }

    #[inline(always)]
    pub fn count_freed(&self, lane: LaneId, extent: Extent) {
        self.lanes.freed(lane, extent.len);
        self.shard_counts.freed(lane, extent);
    }

    /// Counts what happened off the usual path; see [`Events::count`](crate::events::Events::count).
    pub fn count(&self, event: Event, place: usize) {
        self.bitmap.events().count(event, place);
    }

    /// Every refusal that somebody is told of is counted here.
    #[cold]
    pub fn count_refused(&self, lane: LaneId, error: &AllocError) {
        let event = match error {
            AllocError::NoSpace { .. } => Event::NoSpace,
            AllocError::NoContiguous { .. } => Event::NoContiguous,
            _ => return,
        };
        self.count(event, lane.index());
    }

    /// Takes exactly `extent`.
    pub fn mark_allocated(&self, lane: LaneId, extent: Extent) -> Result<(), MarkError> {
        let (start, len) = on_device(extent, self.bitmap.blocks())?;
        if let Err(conflict) = self.bitmap.claim(start, len) {
            let closed = self.aside.held_in(conflict.block, conflict.block + 1) == conflict.block;
            return Err(match conflict.block {
                block if closed => MarkError::Closed { block },
                block => MarkError::AlreadyAllocated { block },
            });
        }
        if !self.keeps(lane, extent) {
            let block = self.aside.held_in(start, start + len);
            return Err(MarkError::Closed {
                block: if block < start + len { block } else { start },
            });
        }
        self.count_allocated(lane, extent);
        Ok(())
    }

    /// Quarantines `extents`, whose free is durable, and lets out a little more than came in.
    pub fn retire(&self, lane: LaneId, extents: Extents) {
        self.quarantine.retire(extents);
        self.quarantine.collect(4, |extent| self.let_out(lane, extent));
    }

    /// Lets out of the quarantine whatever the guards allow; the number of blocks.
    pub fn collect(&self, lane: LaneId) -> u64 {
        self.quarantine.collect_all(|extent| self.let_out(lane, extent))
    }

    /// Whether an allocation failed for want of space, and there was some elsewhere that is free now: in the
    /// quarantine, in escrow, or waiting to be discarded. So whoever tries again does so because others
    /// freed something.
    #[inline]
    fn may_retry<T>(&self, cursor: &Cursor, result: &Result<T, AllocError>, spare: bool) -> bool {
        let failed = result.as_ref().is_err_and(AllocError::is_want_of_space);
        let waiting = |core: &Self| core.quarantine.blocks() > 0 && core.collect(cursor.lane) > 0;
        let escrow =
            |core: &Self| spare && core.escrow.spare() > 0 && core.collect_escrow(cursor.lane) > 0;
        let undiscarded =
            |core: &Self| core.pending.waiting() > 0 && core.skip_discards(cursor.lane) > 0;
        // All of them: what one of them has may not be enough.
        failed && waiting(self) | escrow(self) | undiscarded(self)
    }

    /// Frees what comes out of the quarantine: all of it but the blocks that are free already.
    pub fn let_out(&self, lane: LaneId, extent: Extent) {
        self.let_out_by(extent, |part| self.release(lane, part));
    }

    /// The same past the discarder.
    pub fn let_out_undiscarded(&self, lane: LaneId, extent: Extent) {
        self.let_out_by(extent, |part| self.release_looking(lane, part, false));
    }

    /// The same for what was allocated and counted, but not told of.
    pub fn take_back(&self, lane: LaneId, extents: &[Extent]) {
        extents.iter().for_each(|&extent| self.let_out_undiscarded(lane, extent));
    }

    fn let_out_by(&self, extent: Extent, release: impl Fn(Extent) -> Result<(), FreeError>) {
        let Extent { mut start, len } = extent;
        let end = start + len;
        while start < end {
            match release(Extent { start, len: end - start }) {
                Ok(()) => return,
                Err(FreeError::DoubleFree { block }) => {
                    if block > start && release(Extent { start, len: block - start }).is_err() {
                        self.conflicts.add(block - start);
                    }
                    self.conflicts.add(1);
                    start = block + 1;
                }
                Err(FreeError::Torn { released }) => start += released.len,
                Err(FreeError::Range(_)) => {
                    debug_assert!(false, "{extent} was checked when it was freed");
                    return;
                }
            }
        }
    }

    fn contiguous(&self, cursor: &mut Cursor, request: &Request) -> Result<Extent, AllocError> {
        let &Request { len, align, near, .. } = request;
        if self.known_to_fail(cursor, len, align) {
            return Err(self.failure(len, align));
        }
        loop {
            let from = near.unwrap_or_else(|| self.place_of(cursor, len));
            let found = self.claim_contiguous(cursor, request, from);
            let (start, len) = found.ok_or_else(|| self.failure(len, align))?;
            if near.is_none() {
                self.go_on(cursor, request, len, start + len - 1);
            }
            let extent = Extent { start, len };
            if self.keeps(cursor.lane, extent) {
                self.count_allocated(cursor.lane, extent);
                return Ok(extent);
            }
        }
    }

    fn claim_contiguous(
        &self,
        cursor: &mut Cursor,
        request: &Request,
        from: u64,
    ) -> Option<(u64, u64)> {
        let &Request { len, align, near, best_fit, class, .. } = request;
        let placed = near.is_none() && !best_fit;
        let zone = self.zones.of(class.index()).filter(|_| placed);
        let quick = match zone {
            Some(zone) => self.claim_in_zones(cursor, request, zone),
            None => self.aligned(cursor, request, from),
        };
        if quick.is_some() {
            return quick;
        }
        let search = Search { least: len, most: len, align, take: |_| len };
        if len > LEAF_BLOCKS
            && let Some(taken) = self.bitmap.claim_quick(from, &search)
        {
            return Some(taken);
        }
        let found = self.bitmap.claim_exact(from, &search);
        found.map_err(|ticket| self.remember(cursor, Nothing { ticket, least: len, align })).ok()
    }

    /// The block where `cursor` looks for runs of `len` blocks first.
    pub fn place_of(&self, cursor: &mut Cursor, len: u64) -> u64 {
        let block = cursor.place(len).word as u64 * WORD_BLOCKS;
        // It lies behind the end if the device was made shorter.
        if block < self.bitmap.blocks() { block } else { 0 }
    }

    /// The handle's next run of the class of `len` blocks is looked for from block `last` on. If placements
    /// are set, only requests without a class go by that, and only where they are at home.
    #[inline(always)]
    pub fn go_on(&self, cursor: &mut Cursor, request: &Request, len: u64, last: u64) {
        if self.zones.are_set() && !(request.class == Class::BULK && self.is_for_bulk(last)) {
            return;
        }
        let word = (last / WORD_BLOCKS) as usize;
        let before = std::mem::replace(&mut cursor.place(len).word, word);
        if !self.shards.same(before / Native::LEAF_WORDS, word / Native::LEAF_WORDS) {
            self.count(Event::Spill, cursor.lane.index());
        }
    }

    /// The quick way: the beginning of an aligned run of the rounded-up order.
    #[inline]
    pub fn aligned(&self, cursor: &mut Cursor, request: &Request, from: u64) -> Option<(u64, u64)> {
        let &Request { len, align, near, best_fit, .. } = request;
        if len > LEAF_BLOCKS || align > LEAF_BLOCKS || !align.is_power_of_two() {
            return None;
        }
        let order = order_above(len.max(align));
        let claimed = |start| (start, len);
        if best_fit {
            self.refresh_some();
            return (order..=Native::MAX_ORDER).find_map(|class| {
                let search = Search { least: len, most: len, align, take: |_| len };
                self.search_order(request, from).into_iter().find_map(|leaves| {
                    self.bitmap.claim_around(class, leaves, Pack::OnlyTight, &search)
                })
            });
        }
        let Some(near) = near else {
            if len > 1
                && align == 1
                && let Some(start) = self.claim_fitting(cursor, len)
            {
                return Some((start, len));
            }
            return self.around_cursor(cursor, order, len).map(claimed);
        };
        // Only the first part holds blocks below `near`, which come last in the order.
        let floors = [near, 0, 0, 0];
        self.search_order(request, from)
            .into_iter()
            .zip(floors)
            .find_map(|(leaves, floor)| {
                self.bitmap.claim_aligned(order, len, floor, leaves, Pack::Tight)
            })
            .map(claimed)
    }

    /// Repairs what the summary says of the next leaves in turn. A best fit goes by what leaves do
    /// *not* have, and that is where the summary lags behind.
    fn refresh_some(&self) {
        let leaves = self.bitmap.leaf_count() as u64;
        let some = leaves.min(REFRESHED);
        let first = self.refreshed.fetch_add(some) % leaves;
        (first..first + some).for_each(|leaf| self.bitmap.refresh((leaf % leaves) as usize));
    }

    /// The beginning of an aligned run of `order`: in the leaf at hand, or where this handle has just
    /// freed one, or as near as the summary can say.
    fn around_cursor(&self, cursor: &mut Cursor, order: u32, len: u64) -> Option<u64> {
        let place = cursor.place(len);
        if place.look_now() {
            place.poor = self.is_poor(place.word, order);
        }
        if place.word >= self.bitmap.leaf_count() * Native::LEAF_WORDS {
            place.word = 0;
        }
        let crowded = std::mem::take(&mut place.crowded);
        if crowded {
            // Not where it happened: counting there costs those that lose nothing.
            self.count(Event::LostClaim, place.word);
        }
        if crowded && self.shard_count() > 1 {
            // Somebody else works here. Two handles that go through the same leaves in step fail
            // each other's claims and pull each other's cache lines: one of them has to leave.
            place.word = self.home(self.handles.fetch_add(1));
        } else if place.poor {
            while let Some(word) = place.reuse() {
                let claimed = self.bitmap.claim_in_leaf(order, len, word as u64 * WORD_BLOCKS);
                if claimed.is_some() {
                    return claimed;
                }
            }
        } else {
            let claimed = self.bitmap.claim_in_leaf(order, len, place.word as u64 * WORD_BLOCKS);
            if claimed.is_some() {
                return claimed;
            }
        }
        let leaf = place.word / Native::LEAF_WORDS;
        let found = self.bitmap.claim_behind(order, len, leaf, Pack::Tight).or_else(|| {
            let node = leaf / Native::FANOUT * Native::FANOUT;
            let leaf_count = self.bitmap.leaf_count();
            let [behind, before, rest @ ..] = self.shards.search_order(node, leaf_count);
            let claim = |leaves| self.bitmap.claim_aligned(order, len, 0, leaves, Pack::Tight);
            let likely = || {
                let shard = self.likely_shard(self.shards.of(leaf), order)?;
                claim(self.shards.leaves(shard, leaf_count))
            };
            let own = claim(behind).or_else(|| claim(before));
            own.or_else(likely).or_else(|| rest.into_iter().find_map(claim))
        })?;
        place.poor = self.is_poor((found / WORD_BLOCKS) as usize, order);
        Some(found)
    }

    /// Whether the leaf of `word` has little to offer for runs of `order`.
    fn is_poor(&self, word: usize, order: u32) -> bool {
        // Runs longer than a word can begin in few words.
        let most = Native::LEAF_WORDS as u32 >> order.saturating_sub(Native::WORD_ORDER);
        self.bitmap.words_with(word, order) < RICH.min(most)
    }

    /// The leaves in the order in which `request` should look at them, beginning at block `from`.
    #[inline]
    pub fn search_order(&self, request: &Request, from: u64) -> [Range<usize>; 4] {
        let leaf = (from / LEAF_BLOCKS) as usize;
        if request.near.is_some() {
            let end = self.bitmap.leaf_count();
            return [leaf..end, 0..(leaf + 1).min(end), 0..0, 0..0];
        }
        self.shards.search_order(leaf, self.bitmap.leaf_count())
    }

    pub fn known_to_fail(&self, cursor: &Cursor, least: u64, align: u64) -> bool {
        cursor.known_to_fail(least, align, |ticket| self.bitmap.still_none(ticket))
    }

    pub fn remember(&self, cursor: &mut Cursor, nothing: Nothing) {
        cursor.remember(nothing, |ticket| self.bitmap.still_none(ticket));
    }

    pub fn failure(&self, requested: u64, align: u64) -> AllocError {
        // One block fits wherever it is free: do not let the counters contradict the search.
        let free = if (requested, align) == (1, 1) { 0 } else { self.free_blocks() };
        if free < requested {
            AllocError::NoSpace { requested, free }
        } else {
            AllocError::NoContiguous { requested, free }
        }
    }

    fn scattered(
        &self,
        cursor: &mut Cursor,
        request: &Request,
        list: &mut impl ExtentList,
        effort: &mut Effort,
    ) -> Result<(), AllocError> {
        let before = list.extents().len();
        let mut left = request.len;
        let mut order = u32::MAX;
        while let Some(extent) = self.piece(cursor, request, left, &mut order) {
            if !self.keeps(cursor.lane, extent) {
                continue;
            }
            effort.leaves += 1;
            if effort.leaves >= request.effort && order > order_above(request.min_extent) {
                order = order_above(request.min_extent);
                effort.gave_up = true;
            }
            if request.near.is_none() {
                let last = extent.start + extent.len - 1;
                self.go_on(cursor, request, left.min(request.max_extent), last);
            }
            if !add(list, before, extent, request.max_extent) {
                self.give_back(extent);
                self.give_back_from(list, before);
                return Err(AllocError::OutOfMemory);
            }
            left -= extent.len;
        }
        let enough = left == 0 || (request.partial && left < request.len);
        if !enough {
            self.give_back_from(list, before);
            if request.min_extent == 1 || request.partial {
                return Err(self.failure(request.len, request.align));
            }
            self.planned(cursor.lane, request, list)?;
        }
        for &extent in &list.extents()[before..] {
            self.count_allocated(cursor.lane, extent);
        }
        Ok(())
    }

    /// The next extent of a scattered request that still wants `left` blocks: of the largest order
    /// to be had, which `order` carries from one extent to the next.
    fn piece(
        &self,
        cursor: &mut Cursor,
        request: &Request,
        left: u64,
        order: &mut u32,
    ) -> Option<Extent> {
        let &Request { min_extent: least, max_extent, align, near, .. } = request;
        let most = left.min(max_extent);
        if most < least || self.known_to_fail(cursor, least, align) {
            return None;
        }
        let from = near.unwrap_or_else(|| self.place_of(cursor, most));
        let search = Search { least, most, align, take: |run| share(request, left, run) };
        let extent = |(start, len)| Extent { start, len };
        let whole = order_above(most).min(Native::MAX_ORDER);
        if *order == u32::MAX && share(request, left, most) == most {
            let one = Request { len: most, scattered: false, ..*request };
            if let Some(taken) = self.aligned(cursor, &one, from) {
                return Some(extent(taken));
            }
        }
        *order = whole.min(*order);
        while 1 << *order >= least {
            let taken = self
                .search_order(request, from)
                .into_iter()
                .find_map(|leaves| self.bitmap.claim_around(*order, leaves, Pack::Tight, &search));
            if let Some(taken) = taken {
                return Some(extent(taken));
            }
            if *order == 0 {
                break;
            }
            *order -= 1;
        }
        match self.bitmap.claim_exact(from, &search) {
            Ok(taken) => Some(extent(taken)),
            Err(ticket) => {
                // Only if every run is welcome does "nothing to take" mean "no such run".
                if share(request, left, least) > 0 {
                    self.remember(cursor, Nothing { ticket, least, align });
                }
                None
            }
        }
    }

    /// The last resort of a scattered request with a lower bound on its extents: lists all runs,
    /// chooses, and claims the choice; from the beginning if somebody was quicker.
    #[cold]
    fn planned(
        &self,
        lane: LaneId,
        request: &Request,
        list: &mut impl ExtentList,
    ) -> Result<(), AllocError> {
        let &Request { len, min_extent: min, max_extent: max, align, .. } = request;
        let before = list.extents().len();
        let per_run = if align == 1 { u64::MAX } else { 1 };
        loop {
            let ticket = self.bitmap.expect_runs_of(min);
            let mut runs = Vec::new();
            let mut lens = Vec::new();
            let mut from = 0;
            while let Some(start) = self.bitmap.next_free(from) {
                let end = self.bitmap.run_end(start, self.bitmap.blocks());
                let aligned = start.next_multiple_of(align);
                if aligned < end && end - aligned >= min {
                    if runs.try_reserve(1).is_err() || lens.try_reserve(1).is_err() {
                        return Err(AllocError::OutOfMemory);
                    }
                    runs.push(aligned);
                    lens.push(end - aligned);
                }
                from = end + 1;
            }
            let Some(cuts) = plan(&lens, len, min, max, per_run) else {
                if self.bitmap.still_none(ticket) {
                    return Err(self.failure(len, align));
                }
                continue;
            };
            let mut extents = cuts.iter().flat_map(|cut| {
                let (each, more) = (cut.blocks / cut.pieces, cut.blocks % cut.pieces);
                let mut start = runs[cut.run];
                (0..cut.pieces).map(move |piece| {
                    let extent = Extent::new(start, each + u64::from(piece < more));
                    start += extent.len;
                    extent
                })
            });
            let mut memory = true;
            let claimed = extents.all(|extent| {
                let claimed =
                    self.bitmap.claim(extent.start, extent.len).is_ok() && self.keeps(lane, extent);
                if claimed && !list.append(extent) {
                    self.give_back(extent);
                    memory = false;
                }
                claimed && memory
            });
            if claimed {
                return Ok(());
            }
            self.give_back_from(list, before);
            if !memory {
                return Err(AllocError::OutOfMemory);
            }
        }
    }

    /// Undoes a claim of this thread that nobody was told about.
    pub fn give_back(&self, extent: Extent) {
        let released = self.bitmap.release(extent.start, extent.len);
        debug_assert_eq!(released, Ok(()), "blocks we own cannot be free");
    }

    pub fn give_back_from(&self, list: &mut impl ExtentList, before: usize) {
        for &extent in &list.extents()[before..] {
            self.give_back(extent);
        }
        list.cut(before);
    }

    /// Free blocks of `extent`, checked to be on the device, all free?
    pub fn is_free(&self, extent: Extent) -> Result<bool, RangeError> {
        let (start, len) = on_device(extent, self.bitmap.blocks())?;
        Ok(self.bitmap.is_free(start, len))
    }

    pub fn is_allocated(&self, extent: Extent) -> Result<bool, RangeError> {
        let (start, len) = on_device(extent, self.bitmap.blocks())?;
        Ok(self.first_unowned(start, start + len) == start + len)
    }

    /// The first block of `start..end` that nobody owns, or `end`: free, set aside, in escrow, or waiting to
    /// be discarded.
    pub fn first_unowned(&self, start: u64, end: u64) -> u64 {
        let kept = self.aside.held_in(start, end).min(self.escrow.first_in(start, end));
        self.bitmap.free_in(start, end).min(self.pending.first_in(start, end)).min(kept)
    }

    /// Whether there may be blocks that nobody owns and that are not free either.
    #[inline]
    pub fn has_unowned(&self) -> bool {
        self.aside.is_active() || !self.escrow.is_empty()
    }

    /// Blocks of word `word` that nobody owns and that are not free either.
    pub fn unowned_in_word(&self, word: usize) -> NativeWord {
        self.aside.held_in_word(word) | self.escrow.look(word) | self.pending.look(word)
    }
}

/// What to tell about a release from block `start` on that failed.
pub fn free_error(error: ReleaseError, start: u64) -> FreeError {
    match error {
        ReleaseError::Free { block } => FreeError::DoubleFree { block },
        ReleaseError::Torn { block } => {
            FreeError::Torn { released: Extent::new(start, block - start) }
        }
    }
}

/// How much a scattered request that wants `left` blocks takes of a run, so that extents within its
/// bounds can make up the rest; 0 if there is no such length.
fn share(request: &Request, left: u64, run: u64) -> u64 {
    let most = run.min(request.max_extent).min(left);
    let rest = left - most;
    let take = if request.partial || request.divisible(rest) {
        most
    } else {
        // The next larger rest that can be made up: as many of the shortest extents.
        left.saturating_sub(rest.div_ceil(request.max_extent) * request.min_extent)
    };
    if take >= request.min_extent { take } else { 0 }
}

/// Appends `extent`, or lengthens the last extent behind `before` by it if they are neighbours.
pub fn add(list: &mut impl ExtentList, before: usize, extent: Extent, max: u64) -> bool {
    if let Some(last) = list.extents()[before..].last_mut()
        && last.start + last.len == extent.start
        && last.len + extent.len <= max
    {
        last.len += extent.len;
        return true;
    }
    list.append(extent)
}

const _: () = assert!(size_of::<RequestError>() <= 32);
