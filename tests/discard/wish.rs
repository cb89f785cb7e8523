//! Any limits.

use std::time::Duration;

use freemap::{DiscardLimits, Extent};
use proptest::prelude::*;

/// What a discarder is asked for, and what follows for each extent.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    pub granularity: u64,
    pub alignment: u64,
    pub shortest: u64,
    pub waiting: u64,
    pub batch: (u64, usize),
    pub per_second: u64,
    pub linger: Duration,
}

impl Wish {
    pub fn limits(&self) -> DiscardLimits {
        DiscardLimits::new()
            .granularity(self.granularity)
            .alignment(self.alignment)
            .shortest(self.shortest)
            .waiting(self.waiting)
            .batch(self.batch.0, self.batch.1)
            .blocks_per_second(self.per_second)
            .linger(self.linger)
    }

    /// Blocks of the shortest extent.
    pub fn least(&self) -> u64 {
        self.shortest.max(1).next_multiple_of(self.granularity)
    }

    /// Blocks of a batch, and of a burst.
    pub fn most(&self) -> u64 {
        self.batch.0.max(self.least())
    }

    pub fn is_border(&self, block: u64) -> bool {
        block % self.granularity == self.alignment % self.granularity
    }

    /// What the device is to be told of a run.
    pub fn inside(&self, run: Extent) -> Option<Extent> {
        let end = run.start + run.len;
        let start = (run.start..=end).find(|&block| self.is_border(block))?;
        let end = (start..=end).rev().find(|&block| self.is_border(block))?;
        (end - start >= self.least()).then(|| Extent::new(start, end - start))
    }
}

pub fn wishes() -> impl Strategy<Value = Wish> {
    let granularity = prop_oneof![Just(1u64), 1..20u64, Just(64u64)];
    let per_second = prop_oneof![Just(u64::MAX), 1..2000u64];
    let linger = prop_oneof![
        Just(Duration::ZERO),
        Just(Duration::from_secs(1)),
        Just(Duration::from_secs(60)),
        Just(Duration::MAX)
    ];
    let batch = (0..300u64, 0..6usize);
    (granularity, 0..100u64, 0..70u64, 0..1500u64, batch, per_second, linger).prop_map(
        |(granularity, alignment, shortest, waiting, batch, per_second, linger)| Wish {
            granularity,
            alignment,
            shortest,
            waiting,
            batch,
            per_second,
            linger,
        },
    )
}
