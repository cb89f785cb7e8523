//! What can be reported about the space: statistics, surveys, scores, plans for evacuation.
//!
//! Promises: reads only. Nothing here takes a block or blocks another thread.
//! Uses: `core` and all below it.

pub(crate) mod evacuation;
pub(crate) mod fragmentation;
pub(crate) mod free_extents;
pub(crate) mod memory;
pub(crate) mod sink;
pub(crate) mod stats;
pub(crate) mod survey;
