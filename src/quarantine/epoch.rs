//! Which readers may still see a freed extent.
//!
//! Epoch-based reclamation (Fraser, 2004) with counters in place of per-thread records. A pin
//! counts itself in the *generation* of the current epoch, in the lane of its thread. A pin is a
//! number: any thread may undo it, any number may overlap, and no records can run out.
//!
//! Fraser's epoch stands still while a pin of the epoch before is left, so that later pins join
//! those that hold it up. Here the epoch moves on whatever is pinned: each epoch has a generation
//! of its own, a set of counters that goes to another epoch only when it is empty. A retired extent
//! gets a *stamp*: the newest epoch of which a pin may still see it. It may be reused when no pin
//! of an epoch up to its stamp is left. So a long reader holds what was retired while it was there,
//! and nothing retired earlier or later.
//!
//! The epoch moves only from an epoch that has pins, and a generation without pins is given to a
//! new epoch. So the number of generations in use follows the number of epochs with live readers,
//! however many commits there are. With more than `GENERATIONS - 1` such epochs, the epoch stands
//! still until a generation is empty; readers that come meanwhile count as one.
//!
//! # Invariants
//! 1. *A valid pin is counted.* A pin counts itself, then checks that the epoch is still the one it
//!    counted itself in; only then is it valid. So a pin of epoch e was counted before the epoch
//!    became e + 1, and no pin becomes valid in an epoch that is over: a look at its counters after
//!    the epoch has moved on misses none. Counts of pins that are not valid only delay.
//! 2. *A generation belongs to one epoch.* From before the word says epoch e and generation g until
//!    the pins of e have gone, `began[g]` is e. It is cleared only by a thread that read a later
//!    epoch in the word, or epoch e with another generation, and then saw that the generation has
//!    no pins. The word says an epoch once, with one generation; so a late compare-exchange from e,
//!    or a late preparation for e, meets no generation that is in use.
//! 3. *A floor stays true.* `oldest` returns f if the word said an epoch of at least f, and no
//!    generation of an epoch before f had pins after that. By 1, no pin of an epoch before f will
//!    ever be valid again.
//! 4. *A stamp covers all pins that may see the extent.* The stamp reads the word in epoch e by a
//!    read-modify-write, after the extent became unreachable. A pin of a later epoch reads the word
//!    after that and so sees that the extent is unreachable. So does a pin of e whose count the
//!    stamp does not see: all these accesses have one order, in which the pin counts itself after
//!    the stamp looked, and reads the word after that. So without a pin in e, only pins of epochs
//!    up to e - 1 may see the extent.
//!
//! *Lock-freedom.* `pin` repeats only after the epoch moved. The only other loop raises `used`, and
//! repeats at most as often as there are generations. A thread that stops anywhere in `stamp` or
//! `floor` leaves at most a generation that is marked and unused, which the next scan in a later
//! epoch takes back. A thread that stops in `pin` is a reader like any other.

use crossbeam_utils::CachePadded;

use crate::base::mutant::{Mutant, fault, mutated, step};
use crate::base::sync::{AtomicWord, Counter, Site};

/// The most epochs whose pins are told apart at a time. The 64 counters of a lane fill eight cache
/// lines, of which a pin touches one. A power of two, since it shares a word with the epoch.
const GENERATIONS: usize = if cfg!(loom) { 3 } else { 64 };

/// Bits of the word for the generation.
const GENERATION_BITS: u32 = 6;

/// The first epoch. 0 marks a generation without an epoch; a stamp may be 0 too.
const FIRST: u64 = 1;

/// `[epoch: 58 | generation: 6]`. At a billion epochs a second it would wrap in nine years.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Now(u64);

impl Now {
    const fn new(epoch: u64, generation: usize) -> Self {
        Self(epoch << GENERATION_BITS | generation as u64)
    }
    const fn epoch(self) -> u64 {
        self.0 >> GENERATION_BITS
    }
    const fn generation(self) -> usize {
        (self.0 & ((1 << GENERATION_BITS) - 1)) as usize
    }
}

/// Pins of one group of threads, by generation.
#[derive(Debug)]
struct Lane([AtomicWord<u64>; GENERATIONS]);

/// The epoch, and the counts of pins.
#[derive(Debug)]
pub(crate) struct Clock {
    /// A [`Now`].
    now: CachePadded<AtomicWord<u64>>,
    /// The epoch whose pins each generation counts, or 0.
    began: CachePadded<[AtomicWord<u64>; GENERATIONS]>,
    /// Generations from this index on were never given to an epoch.
    used: AtomicWord<u64>,
    lanes: Vec<CachePadded<Lane>>,
    /// The latest epoch that stood still although an extent was stamped in it. A statistic: if it
    /// is late, the epoch moves on later.
    overdue: Counter,
}

/// A pin, to be undone by [`Clock::unpin`] exactly once, on any thread.
#[derive(Debug)]
pub(crate) struct Pin {
    lane: usize,
    generation: usize,
}

/// Which pins may see a retired extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Those of this epoch and of earlier epochs.
    pub epoch: u64,
    /// Whether there are any such pins.
    pub held: bool,
    /// No pin of an epoch before this one is left: see [`Clock::floor`].
    pub floor: u64,
}

impl Clock {
    /// A clock without pins. Threads that pin through different lanes do not contend; `lanes` is
    /// rounded up to a power of two.
    pub(crate) fn new(lanes: usize) -> Self {
        let lane = || Lane(std::array::from_fn(|_| AtomicWord::new(0)));
        let began = |generation| AtomicWord::new(if generation == 0 { FIRST } else { 0 });
        Self {
            now: CachePadded::new(AtomicWord::new(Now::new(FIRST, 0).0)),
            began: CachePadded::new(std::array::from_fn(began)),
            used: AtomicWord::new(1),
            lanes: (0..lanes.next_power_of_two()).map(|_| CachePadded::new(lane())).collect(),
            overdue: Counter::new(0),
        }
    }

    fn count(&self, lane: usize, generation: usize) -> &AtomicWord<u64> {
        &self.lanes[lane & (self.lanes.len() - 1)].0[generation]
    }

    /// Pins the current epoch: until the pin is undone, nothing that is retired from now on may be
    /// reused. Repeats only when the epoch moved in between.
    #[inline]
    pub(crate) fn pin(&self, lane: usize) -> Pin {
        loop {
            let now = self.now.load(Site::EpochLook);
            let generation = Now(now).generation();
            let count = self.count(lane, generation);
            count.fetch_add(1, Site::PinCount);
            // Pairs with `stamp` and `oldest`, which read the counter after the epoch: either they
            // see the count, or this load sees their epoch (invariants 1, 4)
            // [mutants: PinWithoutRecheck, WeakPin].
            fault!(PinWithoutRecheck: return Pin { lane, generation });
            if self.now.load(Site::EpochLook) == now {
                return Pin { lane, generation };
            }
            count.fetch_add(u64::MAX, Site::Unpin);
        }
    }

    /// Undoes a pin. Everything read under the pin was read before its end lets anything be reused.
    #[inline]
    pub(crate) fn unpin(&self, pin: Pin) {
        self.count(pin.lane, pin.generation).fetch_add(u64::MAX, Site::Unpin);
    }

    /// The stamp of an extent that became unreachable before the call. Moves the epoch on if it has
    /// pins, so that later pins do not hold the extent.
    /// O(generations + lanes x generations in use).
    ///
    /// A read-modify-write, so that a pin of a later epoch, which reads the word after it, sees
    /// what came before it; a load could overtake the caller's stores [mutant: StampByLoad].
    pub(crate) fn stamp(&self) -> Stamp {
        let now = Now(if mutated(Mutant::StampByLoad) {
            self.now.load(Site::EpochLook)
        } else {
            self.now.fetch_add(0, Site::EpochStamp)
        });
        // Pairs with `pin`, see there [mutants: WeakStamp, StampTooOld].
        let mut current = self.has_pins(now.generation());
        fault!(StampTooOld: current = false);
        let oldest = self.oldest(now);
        if current {
            if !self.advance(now) {
                self.overdue.raise(now.epoch());
            }
            return Stamp { epoch: now.epoch(), held: true, floor: oldest };
        }
        let mut held = oldest < now.epoch();
        fault!(OlderPinsForgotten: held = false);
        Stamp { epoch: now.epoch() - 1, held, floor: oldest }
    }

    /// An epoch before which no pin is left, now and for ever: extents with an earlier stamp may be
    /// reused. Moves the epoch on first if it stood still when an extent was stamped.
    /// O(generations + lanes x generations in use).
    pub(crate) fn floor(&self) -> u64 {
        // Pairs with `pin`, see there [mutant: WeakFloor].
        let mut now = Now(self.now.load(Site::FloorLook));
        if self.overdue.get() >= now.epoch() && self.advance(now) {
            now = Now(self.now.load(Site::FloorLook));
        }
        self.oldest(now)
    }

    /// The oldest epoch before `now` that has pins, or else the epoch of `now`, which the word said
    /// before this call (invariant 3). Frees generations without pins.
    fn oldest(&self, now: Now) -> u64 {
        let mut oldest = now.epoch();
        fault!(FloorWithoutEpoch: oldest = u64::MAX);
        let used = self.used.load(Site::BeganLook) as usize;
        for (generation, word) in self.began.iter().enumerate().take(used) {
            let began = word.load(Site::BeganLook);
            // The current generation stays, and so does one prepared for an epoch to come
            // (invariant 2) [mutants: CurrentIsFreed, PreparedIsFreed].
            let mut current = generation == now.generation();
            fault!(CurrentIsFreed: current = false);
            let mut prepared = began > now.epoch();
            fault!(PreparedIsFreed: prepared = false);
            if began == 0 || current || prepared {
                continue;
            }
            let mut pinned = self.has_pins(generation);
            fault!(PinnedIsFreed: pinned = false);
            if pinned {
                oldest = oldest.min(began);
            } else {
                let _ = word.compare_exchange(began, 0, Site::BeganChange);
            }
        }
        oldest
    }

    fn has_pins(&self, generation: usize) -> bool {
        self.lanes.iter().any(|lane| lane.0[generation].load(Site::PinLook) != 0)
    }

    /// Begins the epoch after `now`, in a free generation. `false` if there is none, or another
    /// thread began it.
    fn advance(&self, now: Now) -> bool {
        let next = now.epoch() + 1;
        let Some(generation) = self.prepare(next) else { return false };
        let new = Now::new(next, generation);
        let advanced = self.now.compare_exchange(now.0, new.0, Site::EpochAdvance).is_ok();
        fault!(BeganAfterAdvance: if advanced { self.began[generation].store(next, Site::BeganChange); });
        advanced
    }

    /// A generation that counts the pins of epoch `next`, which has not begun. It is the first free
    /// one, so that no more are ever used than are in use at a time.
    fn prepare(&self, next: u64) -> Option<usize> {
        let generation = self.began.iter().position(|word| match word.load(Site::BeganLook) {
            0 if mutated(Mutant::BeganAfterAdvance) => true,
            0 => match word.compare_exchange(0, next, Site::BeganChange) {
                Ok(_) => true,
                Err(other) => other == next,
            },
            began => began == next,
        })?;
        // Before the epoch begins, so that every thread that reads the epoch looks here
        // (invariant 3) [mutant: UsedIsNotCounted].
        step!(UsedIsNotCounted: {
            let more = generation as u64 + 1;
            let _ = self.used.update(Site::BeganChange, |used| (used < more).then_some(more));
        });
        Some(generation)
    }

    /// Number of pins not undone yet; the counters are read one after another.
    pub(crate) fn pinned(&self) -> u64 {
        let counts = self.lanes.iter().flat_map(|lane| lane.0.iter());
        counts.fold(0, |sum, count| sum.wrapping_add(count.load(Site::PinLook)))
    }

    /// Bytes of the lanes.
    pub(crate) fn bytes(&self) -> usize {
        self.lanes.len() * size_of::<CachePadded<Lane>>()
    }
}
