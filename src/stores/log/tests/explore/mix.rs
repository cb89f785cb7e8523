//! What a seed does how often.

use rand::RngExt;
use rand_pcg::Pcg64Mcg;

use crate::stores::log::Authority;

/// One thing that an engine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Commits a few transactions with one flush.
    Group,
    /// Queues a transaction.
    Submit,
    /// Has what is queued written, as a flusher does.
    Flush,
    Idle,
    Condense,
    Verify,
    Grow,
    Shrink,
    /// The device will refuse a call.
    Refuse,
    /// The engine's own log is durable.
    Stable,
    /// Writes a transaction to the engine's own log.
    Write,
    /// Hands over one of those.
    Absorb,
    Checkpoint,
}

/// Drawn anew for each seed, so that some seeds do only a few things, and those often.
#[derive(Clone, Debug)]
pub(super) struct Mix {
    steps: Vec<(Step, u32)>,
    /// Power failures come within so many writes and flushes.
    pub within: u64,
    /// Steps before the process ends at the latest.
    pub longest: u32,
    /// One in so many operations is looked at; none if 0.
    pub probes: u32,
    /// Whether the ring has no room to spare.
    pub tight: bool,
    /// One in so many transactions takes more than a frame.
    pub large: u32,
}

impl Mix {
    pub(super) fn draw(authority: Authority, rng: &mut Pcg64Mcg) -> Self {
        let common = [
            (Step::Idle, 4),
            (Step::Condense, 1),
            (Step::Verify, 1),
            (Step::Grow, 2),
            (Step::Shrink, 6),
            (Step::Refuse, 1),
        ];
        let own: &[(Step, u32)] = match authority {
            Authority::Piggyback => &[(Step::Write, 30), (Step::Absorb, 20), (Step::Checkpoint, 8)],
            Authority::Engine => {
                &[(Step::Group, 30), (Step::Submit, 10), (Step::Flush, 4), (Step::Stable, 8)]
            }
            _ => &[(Step::Group, 30), (Step::Submit, 10), (Step::Flush, 4)],
        };
        let mut steps: Vec<(Step, u32)> = common
            .into_iter()
            .map(|(step, weight)| (step, weight * [0, 1, 1, 4][rng.random_range(0..4)]))
            .collect();
        steps.extend(own.iter().map(|&(step, weight)| (step, weight * rng.random_range(1..4))));
        Self {
            steps,
            within: [10, 40, 120, 400][rng.random_range(0..4)],
            longest: [20, 60, 150][rng.random_range(0..3)],
            probes: 3,
            tight: authority != Authority::Engine && rng.random(),
            large: [5, 20, 60][rng.random_range(0..3)],
        }
    }

    /// The device refuses nothing, and nobody looks at it meanwhile.
    pub(super) fn be_healthy(&mut self) {
        self.steps.retain(|(step, _)| ![Step::Refuse, Step::Verify].contains(step));
        self.probes = 0;
    }

    pub(super) fn step(&self, rng: &mut Pcg64Mcg) -> Step {
        let total: u32 = self.steps.iter().map(|(_, weight)| weight).sum();
        let mut at = rng.random_range(0..total);
        for &(step, weight) in &self.steps {
            if at < weight {
                return step;
            }
            at -= weight;
        }
        Step::Idle
    }
}
