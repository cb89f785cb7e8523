//! How much may wait for a discarder, what it tells the device of, and how fast.

use std::time::Duration;

use crate::space::units::Units;

/// How much may wait for a [`Discarder`](crate::Discarder), which extents it tells the device of,
/// and how fast. All lengths are in blocks, not bytes.
///
/// Limits that contradict each other are raised to the least with which they work. The shortest
/// extent is rounded up to whole units. A batch, the queue and a burst hold at least one extent of
/// that length.
///
/// ```
/// use std::time::Duration;
///
/// // A device of 4 KiB blocks that discards in units of 1 MiB, of which one begins at 64 KiB.
/// let limits = freemap::DiscardLimits::new()
///     .granularity(256)
///     .alignment(16)
///     .waiting(1 << 20) // 4 GiB
///     .batch(1 << 14, 64)
///     .blocks_per_second(1 << 18)
///     .linger(Duration::from_secs(600));
/// # let _ = limits;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscardLimits {
    granularity: u64,
    alignment: u64,
    shortest: u64,
    waiting: u64,
    batch_blocks: u64,
    pub(super) batch_extents: usize,
    pub(super) per_second: u64,
    pub(super) linger: Duration,
}

impl Default for DiscardLimits {
    fn default() -> Self {
        Self::new()
    }
}

impl DiscardLimits {
    /// Defaults: units of one block, no minimum length; at most 2^18 blocks wait (1 GiB of 4 KiB
    /// blocks), crumbs for a minute; batches of up to 2^14 blocks in 64 extents; unlimited speed.
    pub const fn new() -> Self {
        Self {
            granularity: 1,
            alignment: 0,
            shortest: 1,
            waiting: 1 << 18,
            batch_blocks: 1 << 14,
            batch_extents: 64,
            per_second: u64::MAX,
            linger: Duration::from_secs(60),
        }
    }

    /// The device discards in units of `blocks` blocks: its discard granularity
    /// (`queue/discard_granularity` in Linux' sysfs, divided by the block size). 1 to
    /// [`MAX_BLOCKS`](crate::MAX_BLOCKS); other values are cut to that.
    ///
    /// Every extent that the device is told of consists of whole units. What is left at the ends of
    /// a run, *crumbs*, waits for neighbours that complete the unit: see [`linger`](Self::linger).
    #[must_use]
    pub const fn granularity(mut self, blocks: u64) -> Self {
        self.granularity = blocks;
        self
    }

    /// A unit begins at block `blocks`, and so at every multiple of the granularity from there, in
    /// both directions: the discard alignment (`discard_alignment` in Linux' sysfs, divided by the
    /// block size; "unmap granularity alignment" of SCSI). Any value; counts modulo the
    /// granularity.
    ///
    /// Blocks before the first border and behind the last one belong to no whole unit: they are
    /// always crumbs.
    #[must_use]
    pub const fn alignment(mut self, blocks: u64) -> Self {
        self.alignment = blocks;
        self
    }

    /// Extents shorter than `blocks` are not discarded: many devices ignore them. They are crumbs,
    /// as above. 0 counts as 1. Rounded up to whole units.
    ///
    /// No limit cuts an extent below this length. The rest of a run that does not fit a batch has
    /// it, too, or waits as crumbs if no cut leaves enough on both sides. That happens only if a
    /// batch, or a quarter of the free space, has less than twice this length.
    #[must_use]
    pub const fn shortest(mut self, blocks: u64) -> Self {
        self.shortest = blocks;
        self
    }

    /// At most `blocks` blocks wait, about: threads that free at the same moment may exceed it by
    /// what they free. At least [`shortest`](Self::shortest). An extent that is freed beyond that
    /// is free at once and never discarded.
    #[must_use]
    pub const fn waiting(mut self, blocks: u64) -> Self {
        self.waiting = blocks;
        self
    }

    /// The most blocks and extents of a [`Batch`](crate::Batch). At least
    /// [`shortest`](Self::shortest) blocks, and one extent. While the device is busy with a batch,
    /// its blocks can be neither allocated nor taken back.
    #[must_use]
    pub const fn batch(mut self, blocks: u64, extents: usize) -> Self {
        self.batch_blocks = blocks;
        self.batch_extents = if extents == 0 { 1 } else { extents };
        self
    }

    /// On average at most `blocks` blocks a second, at least 1, in bursts of up to a batch.
    /// [`u64::MAX`] is no limit.
    #[must_use]
    pub const fn blocks_per_second(mut self, blocks: u64) -> Self {
        self.per_second = if blocks == 0 { 1 } else { blocks };
        self
    }

    /// How long crumbs wait for neighbours that complete the unit. Each time so much has passed,
    /// those that are crumbs then become free, undiscarded. So a crumb waits no longer than this,
    /// and may wait less. Zero keeps none; [`Duration::MAX`] keeps them as long as the queue has
    /// room.
    ///
    /// Crumbs also leave when a free finds the queue full, and when an allocation needs them. All
    /// are counted in
    /// [`Counters::skipped_discard_blocks`](crate::Counters::skipped_discard_blocks).
    #[must_use]
    pub const fn linger(mut self, time: Duration) -> Self {
        self.linger = time;
        self
    }

    pub(super) fn units(&self) -> Units {
        Units::new(self.granularity, self.alignment, self.shortest)
    }

    /// The most blocks of a batch, and of a burst.
    pub(super) fn batch_blocks(&self) -> u64 {
        self.batch_blocks.max(self.units().shortest())
    }

    /// The most blocks that wait.
    pub(super) fn waiting_blocks(&self) -> u64 {
        self.waiting.max(self.units().shortest())
    }
}
