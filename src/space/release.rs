//! Ways back into the free space.
//!
//! | verb | what | on its way |
//! |---|---|---|
//! | [`release`](Space::release) | what a caller frees | refused if another caller frees it or it has no owner; set aside where closed; to reserves that are owed blocks; to the discarder |
//! | [`let_out`](Space::let_out) | what comes out of the quarantine, or a transaction gave up | the same, but skips what is free or committed already |
//! | [`let_out_undiscarded`](Space::let_out_undiscarded) | what comes out of escrow, or from the discarder, or out of the quarantine for a request that needs it | the same, but not to the discarder |
//! | [`give_back`](Space::give_back) | what a request kept that then failed | as `let_out_undiscarded`: no data was written there |
//!
//! What a transaction has freed first goes to the quarantine, by
//! [`retire`](crate::transaction::let_go::retire).

use crate::index::ReleaseError;
use crate::space::Space;
use crate::space::lanes::LaneId;
use crate::values::error::{FreeError, on_device};
use crate::values::extent::{Extent, ExtentList, Extents};
use crate::values::extent_set::ExtentSet;

impl Space {
    /// Frees `extent`, or says why not.
    #[inline(always)]
    pub(crate) fn release(&self, lane: LaneId, extent: Extent) -> Result<(), FreeError> {
        let (start, len) = on_device(extent, self.bitmap.blocks())?;
        if self.quarantine.has_marks()
            && let Some(block) = self.first_freed([extent])
        {
            return Err(FreeError::DoubleFree { block });
        }
        self.release_owned(lane, start, len)
    }

    /// Frees blocks on the device, without asking whether a transaction has freed them.
    #[inline(always)]
    pub(super) fn release_owned(
        &self,
        lane: LaneId,
        start: u64,
        len: u64,
    ) -> Result<(), FreeError> {
        if self.closed.is_active() {
            return self.release_looking(lane, Extent { start, len }, true);
        }
        self.release_now(lane, start, len).map_err(|error| free_error(error, start))
    }

    /// The first block of `extents` that a transaction has freed and that has not been let out yet.
    #[cold]
    pub(crate) fn first_freed(&self, extents: impl IntoIterator<Item = Extent>) -> Option<u64> {
        extents.into_iter().find_map(|Extent { start, len }| {
            let end = start + len;
            Some(self.quarantine.first_marked(start, end)).filter(|&block| block < end)
        })
    }

    /// Releases blocks to the bitmap, and counts those that were not free.
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

    /// Frees `extent` while some of the device is closed, a reserve is owed blocks, or there is a
    /// discarder, which gets it only if `discard`.
    #[cold]
    pub(crate) fn release_looking(
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
            if discard && self.discards.has_room(len) {
                let mut free = |word, bits| self.skip_word(lane, word, bits);
                return self.discards.put(start, len, &mut free);
            }
            self.release_now(lane, start, len)
        };
        let release = |start, len| {
            let (rest, left) = self.refill_reserves(start, len);
            let released = match left {
                0 => Ok(()),
                _ => self
                    .discards
                    .noting_runs(&self.bitmap, (rest, left), || release_rest(rest, left)),
            };
            match released {
                // The blocks kept for a reserve were freed by us all the same.
                Err(ReleaseError::Free { .. }) if rest > start => {
                    Err(ReleaseError::Torn { block: rest })
                }
                released => released,
            }
        };
        let moved = &mut self.moved(lane);
        let released = self.closed.release(&self.bitmap, start, len, moved, release);
        released.map_err(|error| free_error(error, start))
    }

    /// Keeps as much of `start..start + len`, which is being freed, as reserves are owed. Returns
    /// the rest.
    pub(crate) fn refill_reserves(&self, start: u64, len: u64) -> (u64, u64) {
        debug_assert!(len > 0);
        let (mut start, mut len) = (start, len);
        for reserve in &self.class_reserves.0 {
            let part = reserve.refill(&self.closed, &self.escrow, start, len);
            (start, len) = (start + part, len - part);
        }
        (start, len)
    }

    /// Marks `extents` as freed by the caller. Returns those that no other caller has freed before,
    /// in parts where others have. Counts the rest as freed twice.
    pub(crate) fn own_frees(&self, extents: Extents) -> Extents {
        let blocks = extents.blocks();
        let own = self.mark_freed(extents);
        self.conflicts.add(blocks - own.blocks());
        own
    }

    /// As [`Self::own_frees`], without counting.
    pub(crate) fn mark_freed(&self, extents: impl IntoIterator<Item = Extent>) -> Extents {
        let mut own = Extents::new();
        for extent in extents {
            self.quarantine.mark(extent, |part| own.push(part));
        }
        own
    }

    /// Marks all of `extents` as freed by the caller, or none of them if another caller has freed
    /// one: that block is the error.
    pub(crate) fn own_all_frees(&self, extents: &Extents) -> Result<(), u64> {
        let own = self.mark_freed(extents.iter().copied());
        let other = first_missing(extents.iter().copied(), &own);
        other.map_or(Ok(()), |block| {
            self.disown_frees(own);
            Err(block)
        })
    }

    /// Undoes [`Self::mark_freed`]: the extents stay allocated.
    pub(crate) fn disown_frees(&self, extents: impl IntoIterator<Item = Extent>) {
        extents.into_iter().for_each(|extent| self.quarantine.unmark(extent));
    }

    /// Undoes [`Self::keep`], for extents that no caller has received.
    pub(crate) fn give_back(&self, lane: LaneId, extents: &[Extent]) {
        for &extent in extents {
            if self.closed.is_active() {
                self.let_out_undiscarded(lane, extent);
            } else {
                let released = self.release_now(lane, extent.start, extent.len);
                debug_assert_eq!(released, Ok(()), "blocks we own cannot be free");
            }
        }
    }

    /// Gives back all extents of `list` behind its first `before`, and removes them from it.
    pub(crate) fn give_back_from(&self, lane: LaneId, list: &mut impl ExtentList, before: usize) {
        self.give_back(lane, &list.extents()[before..]);
        list.cut(before);
    }
}

/// The first block of `all` that is not in `some`, which are parts of them.
pub(crate) fn first_missing(all: impl Iterator<Item = Extent>, some: &[Extent]) -> Option<u64> {
    let mut known = ExtentSet::default();
    some.iter().for_each(|&part| known.insert(part));
    let mut parts = all.flat_map(|extent| known.split(extent));
    parts.find(|(_, known)| !known).map(|(part, _)| part.start)
}

/// The error to report for a failed release from block `start` on.
pub(crate) fn free_error(error: ReleaseError, start: u64) -> FreeError {
    match error {
        ReleaseError::Free { block } => FreeError::DoubleFree { block },
        ReleaseError::Torn { block } => {
            FreeError::Torn { released: Extent::new(start, block - start) }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::sync::meanwhile;
    use crate::{Allocator, Region};

    const BLOCKS: u64 = 1 << 14;

    /// All that is counted agrees with the blocks, of which `free` are free.
    fn check(allocator: &Allocator, free: u64) {
        let found = allocator.verify();
        assert!(found.is_clean(), "{found:?}");
        assert_eq!((allocator.free_blocks(), found.free_blocks), (free, free));
        let shards = (0..allocator.shards()).filter_map(|shard| allocator.shard_free_blocks(shard));
        assert_eq!(shards.sum::<u64>(), free);
    }

    /// Frees `extent` while another thread wrongly frees block `theirs` of it, at each moment at
    /// which the other can come, with what `close` closes. Returns how many of these tore it.
    fn torn(extent: Extent, theirs: u64, close: impl Fn(&Allocator) -> Option<Region>) -> u32 {
        let mut torn = 0;
        for moment in 0.. {
            let builder = Allocator::builder(BLOCKS).shards(4);
            let allocator = builder.build_allocated().expect("memory");
            let region = close(&allocator);
            let (mut handle, mut other) = (allocator.handle(), allocator.handle());
            let meanwhile = meanwhile::after(moment, move || other.free(Extent::new(theirs, 1)));
            let mine = handle.free(extent);
            let Some(other) = meanwhile.result() else { return torn };
            let end = extent.start + extent.len;
            let mut left = match (mine, other) {
                (Ok(()), Err(FreeError::DoubleFree { block })) => {
                    assert_eq!(block, theirs);
                    Vec::new()
                }
                (Err(FreeError::DoubleFree { block }), Ok(())) => {
                    assert_eq!(block, theirs);
                    vec![extent.start..theirs, theirs + 1..end]
                }
                (Err(FreeError::Torn { released }), Ok(())) => {
                    torn += 1;
                    assert_eq!(released.start, extent.start);
                    let rest = extent.start + released.len;
                    assert!(released.len > 0 && rest <= theirs, "{released} before {theirs}");
                    vec![rest..theirs, theirs + 1..end]
                }
                (mine, other) => panic!("{mine:?} {other:?}"),
            };
            left.retain(|part| !part.is_empty());
            let parts = left.iter().map(|part| Extent::new(part.start, part.end - part.start));
            for part in parts.clone() {
                assert_eq!(allocator.is_allocated(part), Ok(true), "{part} is the caller's");
            }
            let ours: u64 = parts.clone().map(|part| part.len).sum();
            if region.is_none() {
                check(&allocator, extent.len - ours);
            }
            parts.for_each(|part| assert_eq!(handle.free(part), Ok(())));
            drop(region);
            check(&allocator, extent.len);
        }
        torn
    }

    #[test]
    fn what_a_torn_free_released_is_free_and_the_rest_is_the_callers() {
        let none = |_: &Allocator| None;
        assert!(torn(Extent::new(70, 200), 140, none) > 0);
        assert!(torn(Extent::new(4000, 300), 4200, none) > 0, "in two shards");
        let other = |allocator: &Allocator| allocator.close(Extent::new(8192, 1)).ok();
        assert!(torn(Extent::new(70, 200), 140, other) > 0, "while another leaf is closed");
        let second = |allocator: &Allocator| allocator.close(Extent::new(512, 512)).ok();
        assert!(torn(Extent::new(400, 300), 640, second) > 0, "half of it in a closed leaf");
    }
}
