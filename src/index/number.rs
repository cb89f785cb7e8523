//! What a node of level 1 shows of one leaf: a byte.
//!
//! The orders of a leaf's runs are all those from 0 up to the largest, so one *number* names them
//! all: how many there are. Two marks go with it:
//!
//! - the *guard*: a thread is lowering the number, or has raised it and not finished the levels
//!   above;
//! - *want*: the number was raised while another thread held the guard, which therefore has to
//!   finish the levels above once more before it releases the guard. Want implies guard.
//!
//! All of a byte changes in one step, so whoever reads it sees one moment of it. The steps are here;
//! `publish` and `repair` take them.

use crate::base::mutant::fault;
use crate::base::word::{OrderSet, orders_below};

/// Bits 0 to 3: the number.
const NUMBER: u8 = 0x0f;
/// Bit 4: the guard.
const GUARD: u8 = 0x10;
/// Bit 5: want.
const WANT: u8 = 0x20;

/// The same bit or bits in each byte of a word.
const EACH: u64 = 0x0101_0101_0101_0101;
/// The number of each byte of a word.
const NUMBERS: u64 = NUMBER as u64 * EACH;
/// The number and the guard of each byte of a word.
const LIVE: u64 = (NUMBER | GUARD) as u64 * EACH;
/// The highest bit of each byte of a word, by which the functions below pick bytes.
const PICKED: u64 = 0x80 * EACH;

/// What a node shows of one leaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown(u8);

impl Shown {
    /// A number without marks.
    #[inline(always)]
    pub(crate) fn unmarked(number: u32) -> Self {
        debug_assert!(number <= NUMBER.into());
        Self(number as u8)
    }

    /// The byte.
    #[inline(always)]
    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    /// What `bits` mean.
    #[inline(always)]
    pub(crate) fn of_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// One more than the largest order of which the leaf may have a run; 0 for none.
    #[inline(always)]
    pub(crate) fn number(self) -> u32 {
        (self.0 & NUMBER).into()
    }

    /// Whether a thread holds the guard.
    #[inline(always)]
    pub(crate) fn is_guarded(self) -> bool {
        self.0 & GUARD != 0
    }

    /// Whether the thread that holds the guard has to finish the levels above once more.
    #[inline(always)]
    pub(crate) fn is_wanted(self) -> bool {
        self.0 & WANT != 0
    }

    /// Whether a mark is set.
    pub(crate) fn is_marked(self) -> bool {
        self.0 & (GUARD | WANT) != 0
    }

    /// Whether the levels above show the orders below `number`, too, so that a release may stop
    /// here [mutant: FastIgnoresGuard].
    #[inline(always)]
    pub(crate) fn settles(self, number: u32) -> bool {
        fault!(FastIgnoresGuard: return self.number() >= number);
        self.number() >= number && !self.is_guarded()
    }

    /// The step of a release: raises the number to `number`, and takes the guard, or leaves a want
    /// to the thread that has it [mutant: NoWant].
    pub(crate) fn raised(self, number: u32) -> Self {
        let mut mark = if self.is_guarded() { WANT } else { GUARD };
        fault!(NoWant: mark = GUARD);
        Self(Self::unmarked(self.number().max(number)).0 | self.0 & !NUMBER | mark)
    }

    /// The first step of a repair: lowers the number to `number` and takes the guard. `None` if
    /// the guard is taken [mutant: GuardNotExclusive], or if the number is not above `number`.
    pub(crate) fn lowered(self, number: u32) -> Option<Self> {
        let mut taken = self.is_guarded();
        fault!(GuardNotExclusive: taken = false);
        let mut mark = GUARD;
        fault!(NoGuard: mark = 0);
        (!taken && number < self.number())
            .then(|| Self(Self::unmarked(number).0 | self.0 & !NUMBER | mark))
    }

    /// The last step of a repair: raises the number to `number` again, and releases the guard
    /// unless there is a want [mutant: RestoreForgetsWant]. Does not lower what a release raised
    /// meanwhile [mutant: RestoreOverwrites].
    pub(crate) fn restored(self, number: u32) -> Self {
        let mut right = self.number().max(number);
        fault!(RestoreOverwrites: right = number);
        let mut marks = if self.is_wanted() { GUARD | WANT } else { 0 };
        fault!(RestoreForgetsWant: marks = 0);
        Self(Self::unmarked(right).0 | marks)
    }

    /// The step of a holder of the guard that has finished the levels above: releases the guard; or
    /// takes the want away, and keeps the guard to serve it [mutant: WantForgotten].
    pub(crate) fn released(self) -> Self {
        fault!(WantForgotten: return Self(self.0 & NUMBER));
        if self.is_wanted() { Self(self.0 & !WANT) } else { Self(self.0 & !GUARD) }
    }

    /// The orders below the number, but not those below `kept`.
    pub(crate) fn orders_from(self, kept: u32) -> OrderSet {
        orders_below(self.number()) & !orders_below(kept)
    }
}

/// Picks the bytes of `word` whose number is above `order`: the highest bit of each.
#[inline(always)]
pub(crate) fn shown_above(word: u64, order: u32) -> u64 {
    live_above(word & NUMBERS, order)
}

/// The same, and the bytes with a guard, which is worth more than all orders.
#[inline(always)]
pub(crate) fn live_above(word: u64, order: u32) -> u64 {
    debug_assert!(word & !((NUMBER | GUARD | WANT) as u64 * EACH) == 0 && order < NUMBER.into());
    // No byte overflows into the next: 0x3f + 0x7f is less than 0x100.
    (word + u64::from(0x7f - order) * EACH) & PICKED
}

/// The largest number in `words`; more than any number, if a byte has a guard.
#[inline(always)]
pub(crate) fn largest_live(words: impl Iterator<Item = u64>) -> u32 {
    let largest = words.fold(0, |largest, word| larger_bytes(largest, word & LIVE));
    let halved = |largest, half| larger_bytes(largest, largest >> half);
    (halved(halved(halved(largest, 32), 16), 8) & 0xff) as u32
}

/// The larger of `one` and `other`, byte by byte. All bytes are below 0x80.
#[inline(always)]
fn larger_bytes(one: u64, other: u64) -> u64 {
    // Bit 7 of the bytes in which `one` is not the larger; no byte borrows from the next.
    let picked = ((other | PICKED) - one) & PICKED;
    let of_other = picked - (picked >> 7);
    one & !of_other | other & of_other
}

/// The largest number in `words`, whatever their guards.
#[inline(always)]
pub(crate) fn largest_number(words: impl Iterator<Item = u64>) -> u32 {
    largest_live(words.map(|word| word & NUMBERS))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// All bytes that there may be: a want goes with a guard.
    fn all() -> impl Iterator<Item = Shown> {
        let marks = [0, GUARD, GUARD | WANT];
        marks.into_iter().flat_map(|marks| (0..=NUMBER).map(move |number| Shown(number | marks)))
    }

    #[test]
    fn a_release_raises_and_marks() {
        for shown in all() {
            for number in 0..=NUMBER.into() {
                let raised = shown.raised(number);
                assert_eq!(raised.number(), shown.number().max(number));
                assert!(raised.is_guarded());
                assert_eq!(raised.is_wanted(), shown.is_guarded(), "the holder may be almost done");
                assert_eq!(shown.settles(number), shown.bits() == shown.number().max(number) as u8);
            }
        }
    }

    #[test]
    fn a_repair_lowers_with_the_guard_and_never_below_what_came_meanwhile() {
        for shown in all() {
            for number in 0..=NUMBER.into() {
                let lowered = shown.lowered(number);
                assert_eq!(lowered.is_some(), !shown.is_guarded() && number < shown.number());
                let Some(lowered) = lowered else { continue };
                assert_eq!(lowered, Shown(number as u8 | GUARD));
                assert_eq!(shown.orders_from(number).count_ones(), shown.number() - number);
                for meanwhile in 0..=NUMBER.into() {
                    let restored = lowered.restored(meanwhile);
                    assert_eq!(restored, Shown::unmarked(number.max(meanwhile)));
                    let wanted = lowered.raised(meanwhile).restored(number);
                    assert!(wanted.is_wanted() && wanted.number() == number.max(meanwhile));
                    let served = wanted.released();
                    assert!(served.is_guarded() && !served.is_wanted());
                    assert_eq!(served.released(), Shown::unmarked(wanted.number()));
                }
            }
        }
    }

    #[test]
    fn bytes_are_picked_each_by_itself() {
        let bytes: Vec<Shown> = all().collect();
        for (nth, &middle) in bytes.iter().enumerate() {
            let pick = |by: usize| bytes[(nth * by + by) % bytes.len()];
            let eight: [Shown; 8] = std::array::from_fn(|i| if i == 3 { middle } else { pick(i) });
            let word = u64::from_le_bytes(eight.map(Shown::bits));
            for order in 0..u32::from(NUMBER) {
                let naive = |picks: fn(Shown, u32) -> bool| {
                    let bits = eight.map(|shown| if picks(shown, order) { 0x80 } else { 0 });
                    u64::from_le_bytes(bits)
                };
                assert_eq!(shown_above(word, order), naive(|shown, order| shown.number() > order));
                let live = |shown: Shown, order| shown.number() > order || shown.is_guarded();
                assert_eq!(live_above(word, order), naive(live));
            }
            let number = eight.iter().map(|shown| shown.number()).max();
            assert_eq!(Some(largest_number([0, word].into_iter())), number);
            let guarded = eight.iter().any(|shown| shown.is_guarded());
            let live = largest_live([word, 0].into_iter());
            assert!(if guarded { live > NUMBER.into() } else { Some(live) == number });
        }
    }
}
