//! Which run to take: the position of a handle, the runs it knows, the zones of the classes.
//!
//! Promises: hints only. All of them may be lost or wrong at any time; what fits is found without
//! them, more slowly. Uses: all below `space`, and `space`.

pub(crate) mod cursor;
pub(crate) mod cuts;
pub(crate) mod fit;
pub(crate) mod known_runs;
pub(crate) mod nearby;
pub(crate) mod neighbour;
pub(crate) mod pace;
pub(crate) mod passes;
pub(crate) mod recent_frees;
pub(crate) mod route;
pub(crate) mod sequence;
pub(crate) mod single;
pub(crate) mod start;
#[cfg(all(test, not(loom)))]
mod tests;
pub(crate) mod zone;
pub(crate) mod zones;

use crate::base::account::Account;
use crate::base::sync::Counter;
use crate::placement::zone::Zones;

/// The placement state that handles share.
#[derive(Debug)]
pub(crate) struct Placer {
    /// Where requests of each class are placed.
    pub(crate) zones: Zones,
    /// Number of handles made so far, which decides where the next one starts.
    pub(crate) handles: Counter,
    /// Memory of the handles.
    pub(crate) handles_memory: Account,
}

impl Placer {
    /// A placer with these zones.
    pub(crate) fn new(zones: Zones) -> Self {
        Self { zones, handles: Counter::new(0), handles_memory: Account::default() }
    }
}
