//! What a run came to, as a table or as JSON.

use std::time::Duration;

use comfy_table::{Table, presets};
use freemap::{Extent, Stats};
use hdrhistogram::Histogram;
use serde_json::json;

use super::Options;
use super::start::Start;
use super::worker::Measured;

pub struct Report {
    origin: String,
    threads: u16,
    elapsed: Duration,
    operations: u64,
    refused: u64,
    extents_per_object: f64,
    in_allocator: f64,
    allocate: Histogram<u64>,
    free: Histogram<u64>,
    stats: Stats,
    blocks: u64,
    corrupt_blocks: u64,
    faults: Vec<String>,
}

impl Report {
    pub fn new(
        options: &Options,
        start: &Start,
        workers: Vec<Measured>,
        elapsed: Duration,
    ) -> Self {
        let sum = |of: fn(&Measured) -> u64| workers.iter().map(of).sum::<u64>();
        let merged = |of: fn(&Measured) -> &Histogram<u64>| {
            let mut all = Histogram::new(3).expect("three digits are allowed");
            for worker in &workers {
                all.add(of(worker)).expect("histograms of one kind");
            }
            all
        };
        let written = sum(|w| w.puts + w.overwrites);
        let busy: Duration = workers.iter().map(|worker| worker.in_allocator).sum();
        Self {
            origin: start.origin.clone(),
            threads: options.threads,
            elapsed,
            operations: sum(|w| w.puts + w.overwrites + w.reads + w.deletes),
            refused: sum(|w| w.refused),
            extents_per_object: sum(|w| w.extents) as f64 / written.max(1) as f64,
            in_allocator: busy.as_secs_f64() / (elapsed.as_secs_f64() * f64::from(options.threads)),
            allocate: merged(|w| &w.allocate),
            free: merged(|w| &w.free),
            stats: start.allocator.stats(),
            blocks: start.allocator.blocks(),
            corrupt_blocks: sum(|w| w.corrupt_blocks),
            faults: faults(start, &workers),
        }
    }

    /// Whether every byte read was right and every block accounted for.
    pub fn verified(&self) -> bool {
        self.corrupt_blocks == 0 && self.faults.is_empty()
    }

    fn verdict(&self) -> String {
        if self.verified() {
            return "every byte read back, every block accounted for, index clean".to_string();
        }
        let mut faults = self.faults.clone();
        if self.corrupt_blocks > 0 {
            faults.push(format!("{} blocks held other data than was written", self.corrupt_blocks));
        }
        format!("FAILED: {}", faults.join("; "))
    }

    fn per_second(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    fn in_use(&self) -> f64 {
        100.0 - 100.0 * self.stats.free_blocks as f64 / self.blocks as f64
    }

    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let mut row = |name: &str, value: String| {
            table.add_row([name.to_string(), value]);
        };
        let quantiles = |of: &Histogram<u64>| {
            let at = |q: f64| of.value_at_quantile(q);
            format!("{} / {} / {} ns", at(0.5), at(0.99), at(0.9999))
        };
        row("started from", self.origin.clone());
        row("threads", self.threads.to_string());
        row("operations", format!("{} ({:.0}/s)", self.operations, self.per_second()));
        row("refused for want of space", self.refused.to_string());
        row("time inside the allocator", format!("{:.2} %", 100.0 * self.in_allocator));
        row("allocate p50 / p99 / p99.99", quantiles(&self.allocate));
        row("free p50 / p99 / p99.99", quantiles(&self.free));
        row("extents per object", format!("{:.2}", self.extents_per_object));
        row("in use", format!("{:.1} % of {} blocks", self.in_use(), self.blocks));
        row(
            "free runs",
            format!("{}, largest {} blocks", self.stats.free_runs, self.stats.largest_run),
        );
        row("fragmentation", format!("{:.4}", self.stats.fragmentation()));
        row("verification", self.verdict());
        table.to_string()
    }

    pub fn json(&self) -> serde_json::Value {
        let quantiles = |of: &Histogram<u64>| {
            let at = |q: f64| of.value_at_quantile(q);
            json!({ "p50": at(0.5), "p99": at(0.99), "p99.99": at(0.9999) })
        };
        json!({
            "started_from": self.origin,
            "threads": self.threads,
            "seconds": self.elapsed.as_secs_f64(),
            "operations": self.operations,
            "operations_per_second": self.per_second(),
            "refused": self.refused,
            "allocator_time_share": self.in_allocator,
            "allocate_ns": quantiles(&self.allocate),
            "free_ns": quantiles(&self.free),
            "extents_per_object": self.extents_per_object,
            "in_use_percent": self.in_use(),
            "blocks": self.blocks,
            "free_blocks": self.stats.free_blocks,
            "free_runs": self.stats.free_runs,
            "largest_run": self.stats.largest_run,
            "fragmentation": self.stats.fragmentation(),
            "corrupt_blocks": self.corrupt_blocks,
            "verified": self.verified(),
            "verdict": self.verdict(),
        })
    }
}

/// Blocks owned twice, lost or free though owned, and faults of the index.
fn faults(start: &Start, workers: &[Measured]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut held: Vec<Extent> = workers.iter().flat_map(|worker| worker.held.clone()).collect();
    held.sort_unstable();
    for pair in held.windows(2).filter(|pair| pair[0].overlaps(&pair[1])) {
        faults.push(format!("extents {} and {} overlap", pair[0], pair[1]));
    }
    for extent in held {
        if start.allocator.is_allocated(extent) != Ok(true) {
            faults.push(format!("extent {extent} is owned and free"));
        }
    }
    let owned: u64 = workers.iter().map(|worker| worker.held_blocks).sum();
    let free = start.allocator.free_blocks();
    if owned + free != start.free_blocks {
        faults.push(format!("{} blocks at the start, {owned} + {free} now", start.free_blocks));
    }
    let found = start.allocator.verify();
    if !found.is_clean() || found.free_blocks != free {
        let count = found.differences.iter().filter(|difference| difference.is_fault()).count();
        faults.push(format!("{count} faults in the index, {} free bits", found.free_blocks));
    }
    faults
}
