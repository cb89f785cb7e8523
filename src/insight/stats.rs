//! What an allocator knows about itself without reading its bitmap.

use std::time::Duration;

use crate::base::geometry::{Geometry, Native};
use crate::base::place::ShardIndex;
use crate::core::Core;
use crate::index::events::Event;
use crate::space::Space;
use crate::space::survey_records::Surveyed;

/// The answer of [`Allocator::stats`](crate::Allocator::stats): figures of this moment, counts of
/// events, and the results of surveys.
///
/// The figures are read one after another while others allocate and free, so they match each other
/// exactly only while nothing else runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Blocks of the device.
    pub blocks: u64,
    /// Bytes per block.
    pub block_size: u32,
    /// Shards of the device.
    pub shards: usize,
    /// Free blocks, as in [`Allocator::free_blocks`](crate::Allocator::free_blocks).
    ///
    /// While nothing else runs, every block of the device is in exactly one of these figures:
    /// `free_blocks`, `reserved_blocks`, `quarantined_blocks`, `discard_waiting_blocks`,
    /// `discarding_blocks`, `closed_blocks`, `used_blocks`.
    pub free_blocks: u64,
    /// Blocks with an owner: what callers have allocated, and what transactions have freed and is
    /// not durable yet ([`pending_blocks`](Self::pending_blocks)) or is held
    /// ([`held_blocks`](Self::held_blocks)).
    pub used_blocks: u64,
    /// Blocks without an owner that are set aside in closed [`Region`](crate::Region)s: not among
    /// the free ones.
    pub closed_blocks: u64,
    /// Blocks that transactions will free whose commit has begun: they wait for the store, and are
    /// not free yet. Only the transaction itself knows what it frees before it is committed or
    /// frozen.
    pub pending_blocks: u64,
    /// Blocks whose free is durable and which are held until the engine's own record is durable,
    /// too: not free yet. They leave by [`SpaceMapLog::stable`](crate::SpaceMapLog::stable) and
    /// [`HeldFrees::release`](crate::HeldFrees::release); those of a dropped
    /// [`HeldFrees`](crate::HeldFrees) stay until a restart. If all free space of a device is held,
    /// allocations fail for want of space, until the engine makes its records durable and says so.
    pub held_blocks: u64,
    /// Blocks whose free is durable and which wait for older guards: not free yet.
    pub quarantined_blocks: u64,
    /// How long the oldest of them has waited, to the millisecond, as far as calls of `stats` saw;
    /// 0 the first time. `None` if none waits. Blocks leave with later commits, by
    /// [`Allocator::collect`](crate::Allocator::collect), or when space is short. An age that grows
    /// from call to call means that no call lets them out, or that a guard is never dropped.
    pub quarantine_age: Option<Duration>,
    /// Blocks kept for reservations: not among the free ones.
    pub reserved_blocks: u64,
    /// Freed blocks that wait to be [discarded](crate::Discarder): not among the free ones.
    pub discard_waiting_blocks: u64,
    /// Blocks in the [batches](crate::Batch) that the device is discarding now, of all discarders,
    /// also those that have ended: not among the free ones.
    pub discarding_blocks: u64,
    /// Live guards.
    pub guards: u64,
    /// Blocks freed against the rules, in one of two ways. Either a transaction freed them and
    /// another transaction or a plain free did so too, while they were in the quarantine. Or they
    /// were freed without a transaction although their store knows them to be committed, and then
    /// allocated by a transaction that was given up (because of the conflict, as a rule); these
    /// stay allocated, so that no caller is offered them again.
    pub conflicting_frees: u64,
    /// The largest order, up to 9, of which some shard's summary shows an aligned run now: a
    /// request for 2^k blocks will probably find one. `None` if no free block is shown. The summary
    /// may show too much for a moment, never too little.
    pub largest_order: Option<u32>,
    /// Counts of events.
    pub counters: Counters,
    /// The results of surveys, and their age.
    pub surveyed: Surveyed,
}

/// Counts of events since the allocator was made. They are counted where they happen, off the usual
/// path of allocations and frees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Compare-exchanges to take blocks that met another thread's change of the same 64 blocks, and
    /// were retried there or elsewhere.
    pub lost_claims: u64,
    /// Claims of more than one word that found a block taken meanwhile, and gave back the words
    /// before it.
    pub rolled_back_claims: u64,
    /// Summary nodes that showed runs which were gone, repaired by the thread that noticed. Of
    /// several at the same moment, one may be missed.
    pub summary_repairs: u64,
    /// Passes over all runs that might fit a request, made because the summary alone had found
    /// none. These are the expensive searches; every first refusal follows one.
    pub exact_searches: u64,
    /// Allocations for which a handle left its shard.
    pub spills: u64,
    /// Requests refused with [`AllocError::NoSpace`](crate::AllocError::NoSpace).
    pub refused_no_space: u64,
    /// Requests refused with [`AllocError::NoContiguous`](crate::AllocError::NoContiguous).
    pub refused_no_contiguous: u64,
    /// Blocks that the device was told to discard.
    pub discarded_blocks: u64,
    /// Blocks that waited to be discarded and became free without: an allocation needed them, they
    /// belonged to no whole unit of the device, their region was emptied, or the discarder ended.
    /// Blocks that found the queue full did not wait.
    pub skipped_discard_blocks: u64,
    /// Surveys of a shard, each repetition counted.
    pub shard_surveys: u64,
}

/// The answer of [`Allocator::shard_stats`](crate::Allocator::shard_stats).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardStats {
    /// The first block of the shard.
    pub start: u64,
    /// Blocks of the shard.
    pub blocks: u64,
    /// The largest order, up to 9, of which the shard's summary shows an aligned run now.
    pub largest_order: Option<u32>,
    /// The result of the shard's last survey; `None` if there was none.
    pub surveyed: Option<Surveyed>,
}

impl Stats {
    pub(crate) fn of(core: &Core) -> Self {
        let Space { bitmap, quarantine, .. } = &core.space;
        let (blocks, shards) = (bitmap.blocks(), core.space.shard_count());
        let surveyed = core.surveyed.all(shards);
        let orders = ShardIndex::each(core.space.all_shards())
            .map(|shard| core.space.shard_largest_order(shard));
        let space = &core.space;
        let (free, reserved) = (space.free_blocks(), space.escrow.promised());
        let (waiting, discarding) = (space.discards.waiting(), space.discarding_blocks.get());
        let (quarantined, closed) = (quarantine.blocks(), space.closed.held());
        let others = [free, reserved, quarantined, waiting, discarding, closed];
        let used = others.iter().fold(blocks, |left, &figure| left.saturating_sub(figure));
        Self {
            blocks,
            block_size: core.block_size,
            shards,
            free_blocks: free,
            used_blocks: used,
            closed_blocks: closed,
            pending_blocks: core.space.committing.get(),
            held_blocks: core.space.held_blocks.get(),
            quarantined_blocks: quarantined,
            quarantine_age: quarantine.age(),
            reserved_blocks: reserved,
            discard_waiting_blocks: waiting,
            discarding_blocks: discarding,
            guards: quarantine.pinned(),
            conflicting_frees: core.space.conflicts.get(),
            largest_order: largest(orders),
            counters: Counters::of(core),
            surveyed,
        }
    }
}

/// The largest of `orders`; stops at one that cannot be surpassed.
fn largest(orders: impl Iterator<Item = Option<u32>>) -> Option<u32> {
    let mut largest = None;
    for order in orders {
        largest = order.max(largest);
        if largest == Some(Native::MAX_ORDER) {
            break;
        }
    }
    largest
}

impl Counters {
    fn of(core: &Core) -> Self {
        let total = |event| core.space.bitmap.events().total(event);
        Self {
            lost_claims: total(Event::LostClaim),
            rolled_back_claims: total(Event::RolledBackClaim),
            summary_repairs: total(Event::Repair),
            exact_searches: total(Event::ExactSearch),
            spills: core.space.lanes.spills(),
            refused_no_space: total(Event::NoSpace),
            refused_no_contiguous: total(Event::NoContiguous),
            discarded_blocks: core.space.discarded_blocks.get(),
            skipped_discard_blocks: core.space.skipped_discards.get(),
            shard_surveys: total(Event::ShardSurvey),
        }
    }
}

impl ShardStats {
    pub(crate) fn of(core: &Core, index: usize) -> Option<Self> {
        let shard = core.space.shard(index)?;
        let shards = &core.space.shards;
        let start = shards.first_leaf(shard).first_block::<Native>();
        let left = core.space.bitmap.blocks().saturating_sub(start);
        Some(Self {
            start,
            blocks: shards.shard_blocks::<Native>().min(left),
            largest_order: core.space.shard_largest_order(shard),
            surveyed: core.surveyed.shard(shard),
        })
    }
}
