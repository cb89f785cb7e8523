//! Which run to take: where a handle is, what it has seen, where classes of requests go.
//!
//! Promises: hints only. All of them may be lost or wrong at any time; what fits is found without them, more
//! slowly.
//! Uses: all below `space`, and `space`.

pub(crate) mod cursor;
pub(crate) mod cuts;
pub(crate) mod fit;
pub(crate) mod known_runs;
pub(crate) mod nearby;
pub(crate) mod neighbour;
pub(crate) mod pace;
pub(crate) mod recent_frees;
pub(crate) mod start;
pub(crate) mod zones;
