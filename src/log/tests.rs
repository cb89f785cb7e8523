//! Tests that need to see inside the log: the simulated disk and what it does to it.

mod crash;
mod damage;
mod errors;
mod modes;
mod sim;

use crate::log::{CreateOptions, Opened, SpaceMapLog};
use sim::SimDisk;
use std::sync::Arc;

/// The smallest log: its ring wraps after three dozen commits.
fn small() -> CreateOptions {
    CreateOptions::new().limit(64 << 10).sector(512).uuid([7; 16]).shards(1)
}

fn create(disk: &Arc<SimDisk>, blocks: u64) -> Opened {
    SpaceMapLog::create_on(disk.clone(), blocks, &small()).expect("an empty disk")
}
