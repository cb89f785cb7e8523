//! When to write images. A range pays for its own image in equal instalments while its age is
//! between half and all of the log's limit L, age being the bytes logged since it first changed
//! after its last image. The money goes to the oldest range that changed, if it is older than L/2,
//! and is dropped otherwise.
//!
//! So the live log stays below L (a range that changed L bytes ago has been paid for, and the
//! oldest is served first). At most one image per range and L/2 bytes of log is written, whatever
//! the workload: amplification is at most 1 + 2C/L, C being the cost of all images. Paying from age
//! 0 would let the overpayment compound; a rate that follows the number of changed ranges
//! overshoots.

use crate::stores::log::layout::IMAGE_COST;

/// Slots of the ring of counters: ages up to L in steps of L/64.
const SLOTS: u64 = 64;

/// The payments of all changed ranges.
#[derive(Debug)]
pub(super) struct Payments {
    limit: u64,
    /// Ranges that first changed while the log grew through a slot, by slot modulo [`SLOTS`].
    changed: [u32; SLOTS as usize],
    /// The slot that the log is growing through.
    now: u64,
    /// Bytes of images that may be written.
    money: f64,
}

impl Payments {
    pub(super) fn new(limit: u64, position: u64) -> Self {
        Self { limit, changed: [0; SLOTS as usize], now: position / (limit / SLOTS), money: 0.0 }
    }

    /// Counts a range that first changed after its last image when the log was at `position`.
    pub(super) fn changed(&mut self, position: u64) {
        self.advance(position);
        self.changed[(self.now % SLOTS) as usize] += 1;
    }

    /// Collects the payments for the growth of the log from `from` to `to`.
    pub(super) fn earn(&mut self, from: u64, to: u64) {
        self.advance(to);
        let paying: u64 = (SLOTS / 2..SLOTS)
            .filter_map(|age| self.now.checked_sub(age))
            .map(|slot| u64::from(self.changed[(slot % SLOTS) as usize]))
            .sum();
        let rate = 2.0 * IMAGE_COST as f64 / self.limit as f64;
        self.money += (to - from) as f64 * rate * paying as f64;
    }

    /// Whether an image can be afforded for a range that changed at `position`.
    pub(super) fn afford(&self, position: u64, now: u64) -> bool {
        self.money >= IMAGE_COST as f64 && now - position >= self.limit / 2
    }

    /// Pays for an image.
    pub(super) fn spend(&mut self) {
        self.money -= IMAGE_COST as f64;
    }

    /// Drops the money: no range is old enough for it.
    pub(super) fn drop_money(&mut self) {
        self.money = 0.0;
    }

    fn advance(&mut self, position: u64) {
        let slot = position / (self.limit / SLOTS);
        while self.now < slot {
            // After a jump of more than a whole ring every slot is empty.
            self.now = (self.now + 1).max(slot.saturating_sub(SLOTS));
            self.changed[(self.now % SLOTS) as usize] = 0;
        }
    }
}
