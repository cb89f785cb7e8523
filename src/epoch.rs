//! Layer 6: which guards were there before.
//!
//! Epoch-based reclamation (Fraser, 2004) with counters in place of per-thread records: a pin adds
//! one to the counter of the current epoch, in the lane of its thread; the epoch advances from `e`
//! to `e + 1` when nobody is left in `e - 1`. What was retired in epoch `s` may be reused from
//! `s + 2` on. A pin is a number and a lane: any thread may undo it, any number may overlap, and
//! none of them needs a record that could run out.
//!
//! *Why it holds.* A pin counts itself first and then looks whether the epoch is still the one it
//! counted itself in; only then is it valid. So when the epoch has become `e`, every valid pin of
//! `e - 1` has long been counted, and none can be added: a scan of `e - 1` after reading `e` misses
//! nobody. Something retired in epoch `s` is unreachable for pins of epochs above `s`; those of `s`
//! and below have ended before the epoch becomes `s + 2`.

use crossbeam_utils::CachePadded;

use crate::mutant::{Mutant, mutated};
use crate::sync::{AtomicWord, Site};

/// Counters per lane. Pins are valid in two epochs at a time; a pin that lost its epoch between
/// reading it and counting itself disturbs a third for a moment. A power of two.
const GENERATIONS: u64 = 4;

/// How much later than it was retired something may be reused.
const GRACE: u64 = 2;

/// Pins of one group of threads, by epoch modulo [`GENERATIONS`].
#[derive(Debug)]
struct Lane([AtomicWord<u64>; GENERATIONS as usize]);

/// The epoch, and who is pinned in it.
#[derive(Debug)]
pub struct Clock {
    epoch: CachePadded<AtomicWord<u64>>,
    lanes: Vec<CachePadded<Lane>>,
}

/// A pin, to be undone by [`Clock::unpin`] exactly once, on any thread.
#[derive(Debug)]
pub struct Pin {
    lane: usize,
    epoch: u64,
}

impl Clock {
    /// A clock with nobody pinned. Threads that pin through different lanes do not meet; `lanes` is
    /// rounded up to a power of two.
    pub fn new(lanes: usize) -> Self {
        let lane = || Lane(std::array::from_fn(|_| AtomicWord::new(0)));
        Self {
            epoch: CachePadded::new(AtomicWord::new(GRACE)),
            lanes: (0..lanes.next_power_of_two()).map(|_| CachePadded::new(lane())).collect(),
        }
    }

    fn count(&self, lane: usize, epoch: u64) -> &AtomicWord<u64> {
        &self.lanes[lane & (self.lanes.len() - 1)].0[(epoch % GENERATIONS) as usize]
    }

    /// Until the pin is undone, nothing becomes ripe that is retired from now on, or was retired in
    /// this epoch. Repeats only when the epoch advanced in between.
    #[inline]
    pub fn pin(&self, lane: usize) -> Pin {
        loop {
            let epoch = self.epoch.load(Site::EpochLook);
            let count = self.count(lane, epoch);
            count.fetch_add(1, Site::PinCount);
            // Pairs with `try_advance`, which reads the counter after the epoch: either it sees us
            // or we see its successor [mutants: PinWithoutRecheck, WeakPin].
            if self.epoch.load(Site::EpochLook) == epoch || mutated(Mutant::PinWithoutRecheck) {
                return Pin { lane, epoch };
            }
            count.fetch_add(u64::MAX, Site::Unpin);
        }
    }

    /// Undoes a pin. What was read under it was read before whatever its end makes ripe.
    #[inline]
    pub fn unpin(&self, pin: Pin) {
        self.count(pin.lane, pin.epoch).fetch_add(u64::MAX, Site::Unpin);
    }

    /// The epoch.
    #[inline]
    pub fn now(&self) -> u64 {
        self.epoch.load(Site::EpochLook)
    }

    /// The stamp of something that nobody can find any more.
    ///
    /// A read-modify-write, so that whoever pins in a later epoch, and thereby reads what came after
    /// it, sees that the thing cannot be found; a load could overtake the caller's stores
    /// [mutant: StampByLoad].
    #[inline]
    pub fn stamp(&self) -> u64 {
        if mutated(Mutant::StampByLoad) {
            return self.now();
        }
        self.epoch.fetch_add(0, Site::EpochStamp)
    }

    /// Whether whoever was pinned when `stamp` was taken has gone.
    #[inline]
    pub fn is_ripe(&self, stamp: u64) -> bool {
        let grace = if mutated(Mutant::ShortGrace) { GRACE - 1 } else { GRACE };
        stamp + grace <= self.now()
    }

    /// Advances the epoch if nobody is left in the one before. O(lanes).
    pub fn try_advance(&self) -> bool {
        // Pairs with `pin`, as described there [mutant: WeakAdvance].
        let epoch = self.epoch.load(Site::AdvanceLook);
        let held = |lane: &CachePadded<Lane>| {
            lane.0[((epoch - 1) % GENERATIONS) as usize].load(Site::PinLook) != 0
        };
        // A counter that is not zero may be a pin that is about to find that it lost its epoch; it
        // delays the advance and nothing else [mutant: AdvanceUnchecked].
        if self.lanes.iter().any(held) && !mutated(Mutant::AdvanceUnchecked) {
            return false;
        }
        self.epoch.compare_exchange(epoch, epoch + 1, Site::EpochAdvance).is_ok()
    }

    /// Pins that are not undone yet, read one after another.
    pub fn pinned(&self) -> u64 {
        let counts = self.lanes.iter().flat_map(|lane| lane.0.iter());
        counts.fold(0, |sum, count| sum.wrapping_add(count.load(Site::PinLook)))
    }

    /// Bytes of the lanes.
    pub fn bytes(&self) -> usize {
        self.lanes.len() * size_of::<CachePadded<Lane>>()
    }
}
