//! What can be said about the space: statistics, surveys, scores, plans for moving what is in the way.
//!
//! Promises: reads only. Nothing here takes a block or stops anybody.
//! Uses: `core` and all below it.

pub(crate) mod evacuation;
pub(crate) mod fragmentation;
pub(crate) mod free_extents;
pub(crate) mod memory;
pub(crate) mod sink;
pub(crate) mod stats;
pub(crate) mod survey;
