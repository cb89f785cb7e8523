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
pub(crate) mod passes;
pub(crate) mod recent_frees;
pub(crate) mod sequence;
pub(crate) mod single;
pub(crate) mod start;
pub(crate) mod zone;
pub(crate) mod zones;

use crate::base::account::Account;
use crate::base::sync::Counter;
use crate::placement::zone::Zones;

/// What handles share of where they allocate.
#[derive(Debug)]
pub(crate) struct Placer {
    /// Where requests of each class are placed.
    pub(crate) zones: Zones,
    /// Handles made so far, which says where the next one starts.
    pub(crate) handles: Counter,
    /// What they have taken.
    pub(crate) handles_memory: Account,
    /// Leaves that requests for a best fit have seen to, one round after another.
    pub(crate) refreshed: Counter,
}

impl Placer {
    /// Classes go to `zones`.
    pub(crate) fn new(zones: Zones) -> Self {
        let (handles, refreshed) = (Counter::new(0), Counter::new(0));
        Self { zones, handles, handles_memory: Account::default(), refreshed }
    }
}
