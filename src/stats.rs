//! Free space by run length.

use rayon::prelude::*;

use crate::bitmap::Bitmap;
use crate::core::Native;

/// What [`Allocator::stats`](crate::Allocator::stats) counted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Free blocks.
    pub free_blocks: u64,
    /// Maximal free runs.
    pub free_runs: u64,
    /// `runs_by_order[k]` counts the maximal free runs of 2^k to 2^(k+1) - 1 blocks, wherever they
    /// start.
    pub runs_by_order: [u64; 37],
    /// Blocks in the longest run.
    pub largest_run: u64,
    /// Blocks whose free is durable and which wait for older guards: not free yet.
    pub quarantined_blocks: u64,
    /// Guards alive.
    pub guards: u64,
    /// Blocks freed by a transaction and, against the rules, by somebody else too while they were
    /// in the quarantine.
    pub conflicting_frees: u64,
}

impl Stats {
    /// How far the free space is from being one run, from 0 to 1: the part of it that lies outside
    /// the longest run.
    pub fn fragmentation(&self) -> f64 {
        if self.free_blocks == 0 {
            return 0.0;
        }
        1.0 - self.largest_run as f64 / self.free_blocks as f64
    }

    const NONE: Stats = Stats {
        free_blocks: 0,
        free_runs: 0,
        runs_by_order: [0; 37],
        largest_run: 0,
        quarantined_blocks: 0,
        guards: 0,
        conflicting_frees: 0,
    };

    fn count(&mut self, run: u64) {
        self.free_blocks += run;
        self.free_runs += 1;
        self.runs_by_order[run.ilog2() as usize] += 1;
        self.largest_run = self.largest_run.max(run);
    }

    fn merge(mut self, other: Stats) -> Stats {
        self.free_blocks += other.free_blocks;
        self.free_runs += other.free_runs;
        for (mine, theirs) in self.runs_by_order.iter_mut().zip(other.runs_by_order) {
            *mine += theirs;
        }
        self.largest_run = self.largest_run.max(other.largest_run);
        self
    }

    /// Each part counts the runs that begin in it, which may end in a later part.
    pub(crate) fn of(bitmap: &Bitmap<Native>) -> Stats {
        const PART: u64 = 1 << 20;
        let blocks = bitmap.blocks();
        (0..blocks.div_ceil(PART))
            .into_par_iter()
            .map(|part| {
                let (start, end) = (part * PART, ((part + 1) * PART).min(blocks));
                let mut stats = Stats::NONE;
                let cut = start > 0 && bitmap.is_free(start - 1, 1);
                let mut at = if cut { bitmap.run_end(start, end) } else { start };
                while at < end {
                    let run = bitmap.free_in(at, end);
                    if run == end {
                        break;
                    }
                    at = bitmap.run_end(run + 1, blocks);
                    stats.count(at - run);
                }
                stats
            })
            .reduce(|| Stats::NONE, Stats::merge)
    }
}
