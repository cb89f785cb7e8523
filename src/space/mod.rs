//! What the device has: free, closed, promised, waiting to be discarded, committed; and what is counted.
//!
//! Promises: who asks for blocks gets them here, and gives them back here, and both are counted once. A block
//! is free, or kept in one of these places, or a caller's.
//! Uses: `base`, `values`, `index`, `quarantine`.

pub(crate) mod class_reserve;
pub(crate) mod closed;
pub(crate) mod committed;
pub(crate) mod discards;
pub(crate) mod escrow;
pub(crate) mod gate;
pub(crate) mod lanes;
pub(crate) mod ledger;
pub(crate) mod release;
pub(crate) mod shard_counts;
pub(crate) mod shards;
pub(crate) mod survey_records;
