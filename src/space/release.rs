//! Ways back into the free space.
//!
//! | verb | what | on its way |
//! |---|---|---|
//! | [`release`](Space::release) | what a caller frees | refused if somebody else frees it or nobody owns it; set aside where closed; to reserves that are owed something; to the discarder |
//! | [`let_out`](Space::let_out) | what comes out of the quarantine, or a transaction gave up | the same, without what is free or committed already |
//! | [`let_out_undiscarded`](Space::let_out_undiscarded) | what comes out of escrow, or from the discarder | the same, past the discarder |
//! | [`give_back`](Space::give_back) | what a request kept, and fails after all | the same: nothing was written there |
//!
//! What a transaction has freed is [retired](crate::transaction::let_go::retire) to the quarantine first.

use crate::index::ReleaseError;
use crate::space::Space;
use crate::space::lanes::LaneId;
use crate::values::error::{FreeError, on_device};
use crate::values::extent::{Extent, ExtentList, Extents};

impl Space {
    /// The same for those who have no cursor.
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

    /// The same for what is on the device and was freed by no transaction.
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

    /// The first block of `extents` that a transaction has freed, and that is not let out yet.
    #[cold]
    pub(crate) fn first_freed(&self, extents: impl IntoIterator<Item = Extent>) -> Option<u64> {
        extents.into_iter().find_map(|Extent { start, len }| {
            let end = start + len;
            Some(self.quarantine.first_marked(start, end)).filter(|&block| block < end)
        })
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
                let mut free = |word, bits| self.free_word(lane, word, bits);
                return self.discards.put(start, len, &mut free);
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
        let released = self.closed.release(&self.bitmap, start, len, moved, release);
        released.map_err(|error| free_error(error, start))
    }

    /// Keeps as much of `start..start + len`, which is being freed, as reserves are owed. What is left.
    pub(crate) fn refill_reserves(&self, start: u64, len: u64) -> (u64, u64) {
        let (mut start, mut len) = (start, len);
        for reserve in &self.class_reserves.0 {
            let part = reserve.refill(&self.closed, &self.escrow, start, len);
            (start, len) = (start + part, len - part);
        }
        (start, len)
    }

    /// Marks `extents` as freed by the caller; those that nobody has freed before, in parts where others have. The
    /// rest is counted as freed twice.
    pub(crate) fn own_frees(&self, extents: Extents) -> Extents {
        let blocks = extents.blocks();
        let own = self.mark_freed(extents);
        self.conflicts.add(blocks - own.blocks());
        own
    }

    /// The same without counting.
    pub(crate) fn mark_freed(&self, extents: impl IntoIterator<Item = Extent>) -> Extents {
        let mut own = Extents::new();
        for extent in extents {
            self.quarantine.mark(extent, |part| own.push(part));
        }
        own
    }

    /// Undoes [`Self::mark_freed`]: they stay allocated.
    pub(crate) fn disown_frees(&self, extents: impl IntoIterator<Item = Extent>) {
        extents.into_iter().for_each(|extent| self.quarantine.unmark(extent));
    }

    /// Undoes [`Self::keep`], of what no caller was told of.
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

    /// The same for all that `list` has behind its first `before` extents.
    pub(crate) fn give_back_from(&self, lane: LaneId, list: &mut impl ExtentList, before: usize) {
        self.give_back(lane, &list.extents()[before..]);
        list.cut(before);
    }
}

/// What to tell about a release from block `start` on that failed.
pub(crate) fn free_error(error: ReleaseError, start: u64) -> FreeError {
    match error {
        ReleaseError::Free { block } => FreeError::DoubleFree { block },
        ReleaseError::Torn { block } => {
            FreeError::Torn { released: Extent::new(start, block - start) }
        }
    }
}
