//! Blocks that the device is discarding.

use std::sync::Arc;

use crate::core::Core;
use crate::request::thread_cursor;
use crate::values::extent::{Extent, Extents};

/// Extents to tell the device about, from [`Discarder::next`](crate::Discarder::next). No
/// allocation gets their blocks until the batch is dropped; then they are free.
///
/// A batch borrows nothing. It may go to another thread, several may be under way, they may be
/// dropped in any order, and all of them may outlive the discarder and any
/// [`Allocator`](crate::Allocator) value. Keep a batch with the request that it became, and drop it
/// when the device has answered: with success or with an error, since a discard that failed leaves
/// blocks that may be written as before.
///
/// While a batch exists, its blocks are neither free nor allocated, like those that wait: see
/// [`Region`](crate::Region) for what that means. To free one of them is a double free. They count
/// in [`Stats::discarding_blocks`](crate::Stats::discarding_blocks). A region or a
/// [`Shrink`](crate::Shrink) over them is not empty before they come back; if their region is still
/// closed then, they are set aside there.
///
/// A batch that is leaked ([`std::mem::forget`]) keeps its blocks until a restart. After a crash
/// they are free: no store knows of them.
#[derive(Debug)]
#[must_use = "its blocks are free once it is dropped"]
pub struct Batch {
    core: Arc<Core>,
    extents: Extents,
}

impl Batch {
    /// `extents`, which were taken out of what waits, are with the device from now on.
    pub(super) fn new(core: Arc<Core>, extents: Extents) -> Self {
        debug_assert!(!extents.is_empty());
        // So that frees look: to free what is with the device is a double free.
        core.space.closed.activate();
        core.space.discarding_blocks.add(extents.blocks());
        core.space.discarded_blocks.add(extents.blocks());
        Self { core, extents }
    }

    /// The extents: at least one, without overlap, ascending except for at most one step back to
    /// the beginning of the device. Each consists of whole units of
    /// [`DiscardLimits::granularity`](crate::DiscardLimits::granularity), and has at least
    /// [`DiscardLimits::shortest`](crate::DiscardLimits::shortest) blocks. O(1).
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Blocks of all extents. O(extents).
    pub fn blocks(&self) -> u64 {
        self.extents.blocks()
    }
}

/// Frees the blocks, whether they were discarded or not. O(blocks / 64).
impl Drop for Batch {
    fn drop(&mut self) {
        let space = &self.core.space;
        thread_cursor::with_lane(&self.core, |lane| {
            let free = |start, len| space.let_out_undiscarded(lane, Extent { start, len });
            self.extents.iter().for_each(|extent| {
                space.discards.give_back(extent.start, extent.len, free);
            });
        });
        // After that: what is counted twice for a moment makes the next batch smaller, never too
        // large.
        space.discarding_blocks.add(self.extents.blocks().wrapping_neg());
        space.closed.deactivate();
    }
}
