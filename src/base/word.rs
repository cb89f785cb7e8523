//! Pure functions on one word of the bitmap, generic in its width.
//!
//! A set bit is a free block. An *aligned run of order k* is a group of 2^k set bits that starts
//! at a multiple of 2^k.

use std::fmt::{Binary, Debug};
use std::ops::{BitAnd, BitAndAssign, BitOr, BitOrAssign, Not, Range, Shl, Shr};

/// A set of orders: bit k is order k.
pub(crate) type OrderSet = u32;

/// The orders of a set, ascending.
#[inline(always)]
pub(crate) fn each(orders: OrderSet) -> impl Iterator<Item = u32> {
    let mut rest = orders;
    std::iter::from_fn(move || {
        let order = (rest != 0).then(|| rest.trailing_zeros())?;
        rest &= rest - 1;
        Some(order)
    })
}

/// The smallest order whose aligned run holds `len` blocks.
#[inline(always)]
pub(crate) fn order_above(len: u64) -> u32 {
    debug_assert!(len > 0);
    len.next_power_of_two().trailing_zeros()
}

/// The largest order of which every run of `len` blocks, wherever it begins, contains an aligned
/// run: 2^(j+1) - 1 blocks always contain an aligned run of 2^j.
pub(crate) fn order_within(len: u64) -> u32 {
    debug_assert!(len > 0);
    (len + 1).ilog2() - 1
}

/// An unsigned integer used as 32 or 64 adjacent blocks.
pub(crate) trait Word:
    Copy
    + Eq
    + Debug
    + Binary
    + Send
    + Sync
    + Not<Output = Self>
    + BitAnd<Output = Self>
    + BitOr<Output = Self>
    + BitAndAssign
    + BitOrAssign
    + Shl<u32, Output = Self>
    + Shr<u32, Output = Self>
    + 'static
{
    /// Width in bits.
    const BITS: u32;
    /// No bit set.
    const ZERO: Self;
    /// Bit 0 set.
    const ONE: Self;
    /// All bits set.
    const MAX: Self;
    /// `STARTS[k]` has a bit at every multiple of 2^k.
    const STARTS: &'static [Self];

    /// The word as the low bits of a `u64`.
    fn to_u64(self) -> u64;
    /// The low bits of `bits`.
    fn from_u64(bits: u64) -> Self;
    /// Number of set bits.
    fn count_ones(self) -> u32;
    /// Index of the lowest set bit, or the width.
    fn trailing_zeros(self) -> u32;
    /// Number of unset bits above the highest set one.
    fn leading_zeros(self) -> u32;
    /// The word without its lowest set bit.
    fn without_lowest(self) -> Self;
    /// Copies `run`, a span from bit 0, to each set bit; the set bits are at least as far apart as
    /// `run` is long.
    fn times(self, run: Self) -> Self;

    /// `len` set bits from bit `from` up; `from + len` must not exceed the width.
    #[inline(always)]
    fn span(from: u32, len: u32) -> Self {
        debug_assert!(from + len <= Self::BITS);
        if len == 0 { Self::ZERO } else { (Self::MAX >> (Self::BITS - len)) << from }
    }

    /// The lowest `count` set bits. O(1) if that is all of them or more, else O(the fewer of the
    /// bits kept and the bits dropped).
    #[inline]
    fn lowest(self, count: usize) -> Self {
        let all = self.count_ones() as usize;
        if count < all / 2 {
            let higher = (0..count).fold(self, |rest, _| rest.without_lowest());
            return self & !higher;
        }
        let without_highest = |word: Self| word & !Self::bit(Self::BITS - 1 - word.leading_zeros());
        (count..all).fold(self, |kept, _| without_highest(kept))
    }

    /// Bit `index` alone.
    #[inline(always)]
    fn bit(index: u32) -> Self {
        debug_assert!(index < Self::BITS);
        Self::ONE << index
    }

    /// The places of the set bits, ascending.
    #[inline(always)]
    fn places(self) -> impl Iterator<Item = u32> {
        let mut rest = self;
        std::iter::from_fn(move || {
            let place = (rest != Self::ZERO).then(|| rest.trailing_zeros())?;
            rest = rest.without_lowest();
            Some(place)
        })
    }

    /// Place and length of each run of set bits, ascending.
    #[inline(always)]
    fn runs(self) -> impl Iterator<Item = (u32, u32)> {
        let mut rest = self;
        std::iter::from_fn(move || {
            let place = (rest != Self::ZERO).then(|| rest.trailing_zeros())?;
            let len = (!(rest >> place)).trailing_zeros().min(Self::BITS - place);
            rest &= !Self::span(place, len);
            Some((place, len))
        })
    }

    /// Whether all bits of `mask` are set.
    #[inline(always)]
    fn has_all(self, mask: Self) -> bool {
        self & mask == mask
    }

    /// The first bit of every aligned run of `order`; O(order).
    #[inline(always)]
    fn aligned_runs(self, order: u32) -> Self {
        debug_assert!(1 << order <= Self::BITS, "no word has a run of order {order}");
        let mut runs = self;
        for step in 0..order {
            runs &= runs >> (1 << step);
        }
        runs & Self::STARTS[order as usize]
    }

    /// Whether there is an aligned run of `order`.
    #[inline(always)]
    fn has_order(self, order: u32) -> bool {
        self.aligned_runs(order) != Self::ZERO
    }

    /// The lowest aligned run of `order`.
    #[inline(always)]
    fn first_aligned(self, order: u32) -> Option<u32> {
        let runs = self.aligned_runs(order);
        (runs != Self::ZERO).then(|| runs.trailing_zeros())
    }

    /// The orders of all aligned runs: always those from 0 up to the largest. Without branches,
    /// since a branch predictor cannot learn which orders a word has. O(log width).
    #[inline(always)]
    fn orders(self) -> OrderSet {
        let mut runs = self;
        let mut set = u32::from(self != Self::ZERO);
        for (order, &starts) in Self::STARTS.iter().enumerate().skip(1) {
            runs &= runs >> (1 << (order - 1));
            set |= u32::from(runs & starts != Self::ZERO) << order;
        }
        set
    }

    /// The orders of the entirely set aligned groups around bit `index`, which is set. As for
    /// [`Word::orders`], those from 0 up to the largest, and without branches. O(1).
    #[inline(always)]
    fn orders_around(self, index: u32) -> OrderSet {
        debug_assert!(self & Self::bit(index) != Self::ZERO);
        // An aligned group of 2^k around `index` holds bit i if and only if i ^ index < 2^k. On
        // either side, the nearest unset bit has the smallest logarithm of i ^ index.
        let unset = !self;
        let below = (unset & !(Self::MAX << index)).leading_zeros();
        let above = (unset & (Self::MAX << index)).trailing_zeros();
        // Without an unset bit on its side, `below` or `above` is the width: an i just outside the
        // word.
        let nearest = (index ^ (Self::BITS - 1).wrapping_sub(below)).min(index ^ above);
        (2 << nearest.min(Self::BITS).ilog2()) - 1
    }

    /// The run of set bits around `index`, which is set.
    #[inline(always)]
    fn run_around(self, index: u32) -> Range<u32> {
        debug_assert!(self & Self::bit(index) != Self::ZERO);
        let unset = !self;
        let start = Self::BITS - (unset & !(Self::MAX << index)).leading_zeros();
        start..(unset & (Self::MAX << index)).trailing_zeros()
    }

    /// The places from which `len` set bits follow, where bits beyond the lowest `width` count as
    /// set: where a run of `len` may begin, as far as this word can tell. O(log len).
    #[inline]
    fn run_starts(self, len: u64, width: u32) -> Self {
        debug_assert!(len > 0 && (1..=Self::BITS).contains(&width));
        let inside = Self::span(0, width);
        let outside = !inside;
        let mut starts = self | outside;
        // `starts` marks runs of length `known`; two overlapping runs make a longer one.
        let (mut known, len) = (1, len.min(u64::from(width)) as u32);
        while known < len {
            let step = known.min(len - known);
            starts &= starts >> step | !(Self::MAX >> step);
            known += step;
        }
        starts & inside
    }
}

/// The multiples of 2^k below 64, for k = 0..=6.
const STARTS_64: [u64; 7] = starts();

const fn starts() -> [u64; 7] {
    let mut table = [1; 7];
    let mut order = 0;
    while order < 6 {
        table[order] = u64::MAX / ((1 << (1 << order)) - 1);
        order += 1;
    }
    table
}

/// The multiples of 2^k below 32, for k = 0..=5.
const STARTS_32: [u32; 6] = {
    let mut table = [0; 6];
    let mut order = 0;
    while order < 6 {
        table[order] = STARTS_64[order] as u32;
        order += 1;
    }
    table
};

macro_rules! word {
    ($word:ty, $starts:expr) => {
        impl Word for $word {
            const BITS: u32 = <$word>::BITS;
            const ZERO: Self = 0;
            const ONE: Self = 1;
            const MAX: Self = <$word>::MAX;
            const STARTS: &'static [Self] = &$starts;

            #[inline(always)]
            fn to_u64(self) -> u64 {
                self.into()
            }
            #[inline(always)]
            #[allow(clippy::unnecessary_cast, reason = "one of the widths is 64 bits")]
            fn from_u64(bits: u64) -> Self {
                bits as $word
            }
            #[inline(always)]
            fn count_ones(self) -> u32 {
                <$word>::count_ones(self)
            }
            #[inline(always)]
            fn trailing_zeros(self) -> u32 {
                <$word>::trailing_zeros(self)
            }
            #[inline(always)]
            fn leading_zeros(self) -> u32 {
                <$word>::leading_zeros(self)
            }
            #[inline(always)]
            fn without_lowest(self) -> Self {
                self & self.wrapping_sub(1)
            }
            #[inline(always)]
            fn times(self, run: Self) -> Self {
                self.wrapping_mul(run)
            }
        }
    };
}

word!(u32, STARTS_32);
word!(u64, STARTS_64);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn samples<W: Word>() -> Vec<W> {
        let mut words = vec![W::ZERO, W::MAX];
        // Every pattern of 12 bits, at both ends and across the middle of the word.
        for pattern in 0..1u32 << 12 {
            let word =
                (0..12).fold(W::ZERO, |w, i| if pattern >> i & 1 == 1 { w | W::bit(i) } else { w });
            words.extend([word, word << (W::BITS - 12), word << (W::BITS / 2 - 6), !word]);
        }
        words
    }

    fn bit_at<W: Word>(word: W, index: u32) -> bool {
        word & W::bit(index) != W::ZERO
    }

    fn agrees_with_counting_bits<W: Word>() {
        for word in samples::<W>() {
            for order in 0..W::STARTS.len() as u32 {
                let size = 1 << order;
                let naive = (0..W::BITS)
                    .step_by(size as usize)
                    .find(|&start| (start..start + size).all(|i| bit_at(word, i)));
                assert_eq!(word.first_aligned(order), naive, "{word:b} order {order}");
                assert_eq!(word.has_order(order), naive.is_some());
                assert_eq!(word.orders() >> order & 1 == 1, naive.is_some());
            }
            for index in (0..W::BITS).step_by(5).filter(|&index| bit_at(word, index)) {
                let naive = (0..W::STARTS.len() as u32)
                    .filter(|&order| {
                        let start = index >> order << order;
                        (start..start + (1 << order)).all(|i| bit_at(word, i))
                    })
                    .fold(0, |orders, order| orders | 1 << order);
                assert_eq!(word.orders_around(index), naive, "{word:b} at {index}");
                let run = word.run_around(index);
                let unset = |&place: &u32| !bit_at(word, place);
                let start = (0..index).rfind(unset).map_or(0, |place| place + 1);
                let end = (index..W::BITS).find(unset).unwrap_or(W::BITS);
                assert_eq!(run, start..end, "{word:b} at {index}");
            }
        }
    }

    fn run_starts_agree_with_counting_bits_at<W: Word>(width: u32) {
        for word in samples::<W>() {
            let word = word & W::span(0, width);
            for len in [1, 2, 3, 5, 8, 31, 32, 33, 63, 64, 100] {
                let starts = word.run_starts(len, width);
                for place in 0..width {
                    let naive = (place..width.min(place + len as u32)).all(|i| bit_at(word, i));
                    assert_eq!(bit_at(starts, place), naive, "{word:b} len {len} at {place}");
                }
                assert_eq!(starts & !W::span(0, width), W::ZERO);
            }
        }
    }

    #[test]
    fn aligned_runs_agree_with_counting_bits_in_both_widths() {
        agrees_with_counting_bits::<u32>();
        agrees_with_counting_bits::<u64>();
    }

    #[test]
    fn run_starts_agree_with_counting_bits() {
        run_starts_agree_with_counting_bits_at::<u32>(32);
        run_starts_agree_with_counting_bits_at::<u64>(64);
        run_starts_agree_with_counting_bits_at::<u64>(4);
    }

    fn runs_are_repeated_at_the_lowest_places_at<W: Word>() {
        for word in samples::<W>() {
            for order in 0..=W::BITS.ilog2() {
                let places = word.aligned_runs(order);
                for count in 0..=W::BITS as usize + 1 {
                    let lowest = places.lowest(count);
                    let naive = places.places().take(count).fold(W::ZERO, |all, n| all | W::bit(n));
                    assert_eq!(lowest, naive, "{places:b}, the lowest {count}");
                    for len in [1, 2, 3, 7, 1 << order].into_iter().filter(|&len| len <= 1 << order)
                    {
                        let each = lowest.places().map(|place| W::span(place, len));
                        let naive = each.fold(W::ZERO, |all, run| all | run);
                        assert_eq!(lowest.times(W::span(0, len)), naive, "{lowest:b}, {len} each");
                    }
                }
            }
        }
    }

    #[test]
    fn runs_are_repeated_at_the_lowest_places() {
        runs_are_repeated_at_the_lowest_places_at::<u32>();
        runs_are_repeated_at_the_lowest_places_at::<u64>();
    }

    #[test]
    fn spans_cover_exactly_their_bits() {
        for from in 0..64 {
            for len in 0..=64 - from {
                let span = u64::span(from, len);
                assert_eq!(span.count_ones(), len);
                assert!(len == 0 || span.trailing_zeros() == from);
            }
        }
        assert_eq!(u32::span(0, 32), u32::MAX);
        assert_eq!(u32::span(31, 1), 1 << 31);
    }
}
