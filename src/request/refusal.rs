//! The error when nothing fits.

use crate::core::Core;
use crate::index::events::Event;
use crate::space::lanes::LaneId;
use crate::values::error::AllocError;

pub(crate) fn failure(core: &Core, requested: u64, align: u64) -> AllocError {
    // One block fits wherever it is free: the counters must not contradict the search.
    let free = if (requested, align) == (1, 1) { 0 } else { core.space.free_blocks() };
    if free < requested {
        AllocError::NoSpace { requested, free }
    } else {
        AllocError::NoContiguous { requested, free }
    }
}

/// Counts a refusal that a caller is told of.
#[cold]
pub(crate) fn count_refused(core: &Core, lane: LaneId, error: &AllocError) {
    let event = match error {
        AllocError::NoSpace { .. } => Event::NoSpace,
        AllocError::NoContiguous { .. } => Event::NoContiguous,
        _ => return,
    };
    core.space.count(event, lane.index());
}
