//! What is measured, one file each.

pub mod bulk;
pub mod churn;
pub mod contiguous;
pub mod hopeless;
pub mod latency;
pub mod mixed;
pub mod race;
pub mod rebuild;
pub mod scattered;
pub mod threads;

use crate::report::section::Section;
use crate::settings::{Settings, Workload};

/// Runs one workload.
pub fn run(workload: Workload, settings: &Settings) -> Vec<Section> {
    match workload {
        Workload::Bulk => bulk::run(settings),
        Workload::Churn => churn::run(settings),
        Workload::Mixed => mixed::run(settings),
        Workload::NearlyFull => churn::run_nearly_full(settings),
        Workload::Contiguous => contiguous::run(settings),
        Workload::Hopeless => hopeless::run(settings),
        Workload::Scattered => scattered::run(settings),
        Workload::Threads => threads::run(settings),
        Workload::Latency => latency::run(settings),
        Workload::Rebuild => rebuild::run(settings),
    }
}

/// The size of a device as a title has it.
fn size(blocks: u64) -> String {
    format!("2^{} blocks", blocks.ilog2())
}

/// A number of threads as a title has it.
fn threads(count: usize) -> String {
    if count == 1 { "1 thread".to_owned() } else { format!("{count} threads") }
}
