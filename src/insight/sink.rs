//! Handing figures to the engine's monitoring.

use crate::insight::stats::Stats;

/// Receives the figures of [`Stats::report`]. Names follow Prometheus' conventions, units last; the
/// first word is always `freemap`. An engine with several allocators adds labels of its own.
///
/// Prometheus' text format:
///
/// ```
/// use std::fmt::Write;
///
/// struct Text(String);
///
/// impl Text {
///     fn head(&mut self, name: &str, help: &str, kind: &str) {
///         writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").unwrap();
///     }
/// }
///
/// impl freemap::Sink for Text {
///     fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
///         self.head(name, help, "counter");
///         writeln!(self.0, "{name} {value}").unwrap();
///     }
///
///     fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
///         self.head(name, help, "gauge");
///         writeln!(self.0, "{name} {value}").unwrap();
///     }
///
///     fn gauges(
///         &mut self,
///         name: &'static str,
///         help: &'static str,
///         label: &'static str,
///         values: &[f64],
///     ) {
///         self.head(name, help, "gauge");
///         for (index, value) in values.iter().enumerate() {
///             writeln!(self.0, "{name}{{{label}=\"{index}\"}} {value}").unwrap();
///         }
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let allocator = freemap::Allocator::new(1000)?;
/// allocator.allocate(100)?;
/// allocator.survey().finish();
///
/// let mut text = Text(String::new());
/// allocator.stats().report(&mut text);
/// assert!(text.0.contains("\nfreemap_free_blocks 900\n"));
/// assert!(text.0.contains("\nfreemap_free_runs{order=\"9\"} 1\n"));
/// assert!(text.0.contains("\nfreemap_spills_total 0\n"));
/// # Ok(())
/// # }
/// ```
pub trait Sink {
    /// A figure that only grows while the allocator lives.
    fn counter(&mut self, name: &'static str, help: &'static str, value: u64);

    /// A figure that grows and shrinks.
    fn gauge(&mut self, name: &'static str, help: &'static str, value: f64);

    /// Several gauges of one name: `values[i]` belongs to the value `i` of `label`.
    fn gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: &[f64],
    );
}

impl Stats {
    /// Passes every figure to `sink`. Leaves out survey results until there was a survey, and the
    /// age of the quarantine while it is empty.
    pub fn report(&self, sink: &mut impl Sink) {
        let mut gauge = |name, help, value: u64| sink.gauge(name, help, value as f64);
        gauge("freemap_blocks", "Blocks of the device.", self.blocks);
        gauge("freemap_block_size_bytes", "Bytes per block.", self.block_size.into());
        gauge("freemap_shards", "Shards of the device.", self.shards as u64);
        gauge("freemap_free_blocks", "Free blocks.", self.free_blocks);
        gauge("freemap_used_blocks", "Blocks with an owner.", self.used_blocks);
        gauge(
            "freemap_closed_blocks",
            "Blocks set aside in closed regions, not among the free ones.",
            self.closed_blocks,
        );
        gauge(
            "freemap_pending_blocks",
            "Blocks to be freed by transactions that are being committed.",
            self.pending_blocks,
        );
        gauge(
            "freemap_held_blocks",
            "Blocks freed durably that are held until the engine's own record is durable.",
            self.held_blocks,
        );
        gauge(
            "freemap_quarantined_blocks",
            "Blocks freed durably that wait for older guards.",
            self.quarantined_blocks,
        );
        gauge(
            "freemap_reserved_blocks",
            "Blocks kept for reservations, not among the free ones.",
            self.reserved_blocks,
        );
        gauge(
            "freemap_discard_waiting_blocks",
            "Freed blocks that wait to be discarded, not among the free ones.",
            self.discard_waiting_blocks,
        );
        gauge(
            "freemap_discarding_blocks",
            "Blocks that the device is being told to discard.",
            self.discarding_blocks,
        );
        gauge("freemap_guards", "Read guards alive.", self.guards);
        gauge(
            "freemap_largest_shown_run_blocks",
            "Blocks of the largest aligned run, up to 512, that the summary shows now.",
            self.largest_order.map_or(0, |order| 1 << order),
        );
        if let Some(age) = self.quarantine_age {
            sink.gauge(
                "freemap_quarantine_age_seconds",
                "For how long, as far as was seen, the same blocks have waited in the quarantine.",
                age.as_secs_f64(),
            );
        }
        self.report_surveyed(sink);
        self.report_counters(sink);
    }

    fn report_surveyed(&self, sink: &mut impl Sink) {
        let surveyed = &self.surveyed;
        sink.gauge(
            "freemap_surveyed_shards",
            "Shards that the figures of surveys are about.",
            surveyed.shards as f64,
        );
        let Some(age) = surveyed.age else { return };
        let runs = &surveyed.runs;
        let mut gauge = |name, help, value| sink.gauge(name, help, value);
        gauge("freemap_survey_age_seconds", "Age of the oldest of them.", age.as_secs_f64());
        gauge(
            "freemap_surveyed_free_blocks",
            "Free blocks, as surveyed.",
            surveyed.free_blocks as f64,
        );
        gauge(
            "freemap_largest_run_blocks",
            "Blocks in the longest free run, as surveyed.",
            runs.largest() as f64,
        );
        gauge(
            "freemap_fragmentation_ratio",
            "Mean share of the free space that contiguous requests cannot use, as surveyed.",
            runs.fragmentation(),
        );
        gauge(
            "freemap_ceph_fragmentation_ratio",
            "Fragmentation as Ceph's BlueStore scores it, as surveyed.",
            runs.ceph_score(self.block_size),
        );
        let orders = self.blocks.checked_ilog2().map_or(0, |order| order as usize + 1);
        let by_order = &runs.by_order()[..orders.min(runs.by_order().len())];
        let mut gauges = |name, help, values: Vec<f64>| sink.gauges(name, help, "order", &values);
        gauges(
            "freemap_free_runs",
            "Maximal free runs of 2^order to 2^(order+1) - 1 blocks, as surveyed.",
            by_order.iter().map(|order| order.runs as f64).collect(),
        );
        gauges(
            "freemap_aligned_free_runs",
            "Those of them that contain an aligned run of their order, as surveyed.",
            by_order.iter().map(|order| order.aligned as f64).collect(),
        );
        gauges(
            "freemap_free_run_blocks",
            "Blocks in maximal free runs of each order, as surveyed.",
            by_order.iter().map(|order| order.blocks as f64).collect(),
        );
    }

    fn report_counters(&self, sink: &mut impl Sink) {
        let counters = &self.counters;
        let mut counter = |name, help, value| sink.counter(name, help, value);
        counter(
            "freemap_conflicting_free_blocks_total",
            "Blocks freed by somebody else while they were in the quarantine.",
            self.conflicting_frees,
        );
        counter(
            "freemap_lost_claims_total",
            "Attempts to take blocks that met another thread's.",
            counters.lost_claims,
        );
        counter(
            "freemap_rolled_back_claims_total",
            "Claims of several words that found one taken and gave back the others.",
            counters.rolled_back_claims,
        );
        counter(
            "freemap_summary_repairs_total",
            "Nodes of the summary that promised too much, put right.",
            counters.summary_repairs,
        );
        counter(
            "freemap_exact_searches_total",
            "Passes over all runs that might fit a request.",
            counters.exact_searches,
        );
        counter(
            "freemap_spills_total",
            "Allocations for which a handle left its shard.",
            counters.spills,
        );
        counter(
            "freemap_refused_no_space_total",
            "Requests refused since fewer blocks were free.",
            counters.refused_no_space,
        );
        counter(
            "freemap_refused_no_contiguous_total",
            "Requests refused since no run fitted.",
            counters.refused_no_contiguous,
        );
        counter(
            "freemap_discarded_blocks_total",
            "Blocks that the device was told to discard.",
            counters.discarded_blocks,
        );
        counter(
            "freemap_skipped_discard_blocks_total",
            "Blocks that waited to be discarded and became free without.",
            counters.skipped_discard_blocks,
        );
        counter("freemap_shard_surveys_total", "Surveys of a shard.", counters.shard_surveys);
    }
}
