//! What to run, and how long.

use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Parser, ValueEnum};
use serde::Serialize;

use crate::subject::roster;

/// freemap beside the allocators one could use instead
#[derive(Parser)]
pub struct Arguments {
    /// Small devices and few rounds: to see that it works, not for figures
    #[arg(long)]
    quick: bool,
    /// Only this workload; may be given several times
    #[arg(long, value_name = "WORKLOAD")]
    only: Vec<Workload>,
    /// Only these subjects, and the floor
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(roster::names()))]
    subjects: Vec<String>,
    /// Sizes of the device; workloads other than churn, nearly-full, contiguous and hopeless have
    /// the first of them only
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(17..=31))]
    blocks_log2: Vec<u32>,
    /// Numbers of threads; by default powers of two up to the number of cores
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Vec<u16>,
    /// Rounds of each subject in each workload
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    Bulk,
    Churn,
    Mixed,
    NearlyFull,
    Contiguous,
    Hopeless,
    Scattered,
    Threads,
    Latency,
    Rebuild,
}

/// The arguments with everything filled in.
#[derive(Serialize)]
pub struct Settings {
    pub quick: bool,
    pub workloads: Vec<Workload>,
    /// All if empty.
    pub subjects: Vec<String>,
    /// The device of workloads that have only one.
    pub blocks: u64,
    /// The devices of churn and of the search for runs.
    pub churn_blocks: Vec<u64>,
    /// The devices that are nearly full.
    pub nearly_full_blocks: Vec<u64>,
    /// The device that is rebuilt.
    pub rebuild_blocks: u64,
    pub threads: Vec<usize>,
    pub rounds: usize,
    /// The most time that a subject takes for what is measured in one round.
    pub round: Duration,
    /// The most time that a subject takes to reach the steady state.
    pub warm_up: Duration,
    /// The most operations of a round.
    pub round_operations: usize,
}

impl Settings {
    pub fn new(arguments: Arguments) -> Self {
        let Arguments { quick, only, subjects, blocks_log2, threads, rounds } = arguments;
        let sizes = |defaults: &[u64]| match blocks_log2.as_slice() {
            [] => defaults.to_vec(),
            logs => logs.iter().map(|&log| 1 << log).collect(),
        };
        let fast = |yes: u64, no: u64| if quick { yes } else { no };
        let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
        let all_cores: Vec<usize> =
            std::iter::successors(Some(1), |count| Some(count * 2).filter(|&n| n <= cores))
                .collect();
        Self {
            quick,
            workloads: if only.is_empty() { Workload::value_variants().to_vec() } else { only },
            subjects,
            blocks: sizes(&[fast(1 << 20, 1 << 24)])[0],
            churn_blocks: sizes(&[fast(1 << 20, 1 << 24)]),
            nearly_full_blocks: sizes(&[fast(1 << 20, 1 << 24), fast(1 << 22, 1 << 28)]),
            rebuild_blocks: fast(1 << 24, 1 << 28),
            threads: if threads.is_empty() {
                all_cores
            } else {
                threads.into_iter().map(usize::from).collect()
            },
            rounds: rounds.map_or(fast(3, 5) as usize, usize::from),
            round: Duration::from_millis(fast(15, 250)),
            warm_up: Duration::from_millis(fast(30, 1000)),
            round_operations: fast(1 << 17, 1 << 21) as usize,
        }
    }

    /// Whether the subject takes part. The floor always does.
    pub fn includes(&self, subject: &str) -> bool {
        self.subjects.is_empty()
            || subject == roster::FLOOR
            || self.subjects.iter().any(|wanted| wanted == subject)
    }
}
