//! What a run came to, as a table or as JSON.

use std::time::Duration;

use comfy_table::{Table, presets};
use freemap::{Runs, Stats};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::Options;
use super::durable::{Figures, Flushes, Recovery};
use super::service::Served;
use super::store::Store;
use super::worker::Measured;

/// What is known of a run while it goes on.
pub struct Run {
    origin: String,
    pub recovery: Option<Recovery>,
    pub workers: Vec<Measured>,
    pub served: Served,
    pub elapsed: Duration,
    pub corrupt_blocks: u64,
    pub faults: Vec<String>,
    /// What was made durable while the workers worked.
    pub figures: Figures,
}

impl Run {
    pub fn new(origin: String, store: &Store) -> Self {
        let figures = store.figures();
        Self {
            origin,
            recovery: None,
            workers: Vec::new(),
            served: Served::default(),
            elapsed: Duration::ZERO,
            corrupt_blocks: 0,
            faults: Vec::new(),
            figures: figures.since(&figures),
        }
    }

    /// Whether nothing wrong has been found so far.
    pub fn is_right(&self) -> bool {
        self.corrupt_blocks == 0 && self.faults.is_empty()
    }
}

pub struct Report {
    run: Run,
    threads: u16,
    operations: u64,
    refused: u64,
    extents_per_object: f64,
    in_allocator: f64,
    allocate: Histogram<u64>,
    durable: Histogram<u64>,
    stats: Stats,
    runs: Runs,
    blocks: u64,
    objects: usize,
    corrupt_blocks: u64,
}

/// `count` per `unit`, 0 if there is none.
fn per(count: u64, unit: f64) -> f64 {
    if unit > 0.0 { count as f64 / unit } else { 0.0 }
}

/// How many shared a flush.
fn shared(flushes: &Flushes) -> f64 {
    per(flushes.asked, flushes.made as f64)
}

impl Report {
    pub fn new(options: &Options, store: &Store, run: Run) -> Self {
        let workers = &run.workers;
        let sum = |of: fn(&Measured) -> u64| workers.iter().map(of).sum::<u64>();
        let merged = |of: fn(&Measured) -> &Histogram<u64>| {
            let mut all = Histogram::new(3).expect("three digits are allowed");
            for worker in workers {
                all.add(of(worker)).expect("histograms of one kind");
            }
            all
        };
        let busy: Duration = workers.iter().map(|worker| worker.in_allocator).sum();
        let seconds = run.elapsed.as_secs_f64() * f64::from(options.threads);
        Self {
            threads: options.threads,
            operations: sum(|w| w.puts + w.overwrites + w.reads + w.deletes),
            refused: sum(|w| w.refused),
            extents_per_object: per(sum(|w| w.extents), sum(|w| w.puts + w.overwrites) as f64),
            in_allocator: if seconds > 0.0 { busy.as_secs_f64() / seconds } else { 0.0 },
            allocate: merged(|w| &w.allocate),
            durable: merged(|w| &w.durable),
            stats: store.allocator().stats(),
            runs: store.allocator().survey().finish(),
            blocks: store.allocator().blocks(),
            objects: store.objects().len(),
            corrupt_blocks: run.corrupt_blocks + sum(|w| w.corrupt_blocks),
            run,
        }
    }

    /// Whether every byte read was right and every block accounted for.
    pub fn verified(&self) -> bool {
        self.corrupt_blocks == 0 && self.run.faults.is_empty()
    }

    fn verdict(&self) -> String {
        if self.verified() {
            return format!(
                "every byte of {} objects read back, every block owned once, free count exact, \
                 index and durable state clean",
                self.objects
            );
        }
        let mut faults = self.run.faults.clone();
        if self.corrupt_blocks > 0 {
            faults.push(format!("{} blocks held other data than was written", self.corrupt_blocks));
        }
        format!("FAILED: {}", faults.join("; "))
    }

    fn per_second(&self, count: u64) -> f64 {
        per(count, self.run.elapsed.as_secs_f64())
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
        let quantiles = |of: &Histogram<u64>, unit: &str| {
            let at = |q: f64| of.value_at_quantile(q);
            format!("{} / {} / {} {unit}", at(0.5), at(0.99), at(0.9999))
        };
        let run = &self.run;
        row("started from", run.origin.clone());
        if let Some(recovery) = &run.recovery {
            row("recovery", format!("{:.1} ms", 1e3 * recovery.took.as_secs_f64()));
            row("recovered", format!("{} objects, {}", recovery.objects, recovery.account));
        }
        if self.operations > 0 {
            let operations = self.operations;
            row("threads", self.threads.to_string());
            row("operations", format!("{operations} ({:.0}/s)", self.per_second(operations)));
            let Figures { commits, flushes } = &run.figures;
            row("commits", format!("{commits} ({:.0}/s)", self.per_second(*commits)));
            let shared =
                flushes.map(|flushes| format!("{:.2} {}", shared(&flushes), flushes.place));
            row("commits per fdatasync", shared.join(", "));
            row("durable p50 / p99 / p99.99", quantiles(&self.durable, "us"));
            row("refused for want of space", self.refused.to_string());
            row("time allocating", format!("{:.3} %", 100.0 * self.in_allocator));
            row("allocate p50 / p99 / p99.99", quantiles(&self.allocate, "ns"));
            row("extents per object", format!("{:.2}", self.extents_per_object));
        }
        run.served.rows().into_iter().for_each(|(name, value)| row(name, value));
        row("in use", format!("{:.1} % of {} blocks", self.in_use(), self.blocks));
        row("free runs", format!("{}, largest {} blocks", self.runs.count(), self.runs.largest()));
        row("fragmentation", format!("{:.4}", self.runs.fragmentation()));
        row("verification", self.verdict());
        table.to_string()
    }

    pub fn json(&self) -> Value {
        let quantiles = |of: &Histogram<u64>| {
            let at = |q: f64| of.value_at_quantile(q);
            json!({ "p50": at(0.5), "p99": at(0.99), "p99.99": at(0.9999) })
        };
        let run = &self.run;
        let recovery = run.recovery.as_ref().map(|recovery| {
            json!({
                "seconds": recovery.took.as_secs_f64(),
                "objects": recovery.objects,
                "replayed": recovery.replayed,
                "taken_back": recovery.taken_back,
                "torn_bytes": recovery.torn_bytes,
            })
        });
        let mut result = json!({
            "started_from": run.origin,
            "recovery": recovery,
            "threads": self.threads,
            "seconds": run.elapsed.as_secs_f64(),
            "operations": self.operations,
            "operations_per_second": self.per_second(self.operations),
            "commits": run.figures.commits,
            "commits_per_second": self.per_second(run.figures.commits),
            "durable_us": quantiles(&self.durable),
            "refused": self.refused,
            "allocator_time_share": self.in_allocator,
            "allocate_ns": quantiles(&self.allocate),
            "extents_per_object": self.extents_per_object,
            "objects": self.objects,
            "in_use_percent": self.in_use(),
            "blocks": self.blocks,
            "free_blocks": self.stats.free_blocks,
            "free_runs": self.runs.count(),
            "largest_run": self.runs.largest(),
            "fragmentation": self.runs.fragmentation(),
            "corrupt_blocks": self.corrupt_blocks,
            "verified": self.verified(),
            "verdict": self.verdict(),
        });
        if let Value::Object(served) = run.served.json() {
            served.into_iter().for_each(|(name, value)| result[name] = value);
        }
        for flushes in &run.figures.flushes {
            result[flushes.key] = json!(shared(flushes));
        }
        result
    }
}
