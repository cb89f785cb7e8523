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

/// The orders below `number`: those of a leaf or node with this number (see `index/number.rs`).
#[inline(always)]
pub(crate) fn orders_below(number: u32) -> OrderSet {
    debug_assert!(number < OrderSet::BITS);
    (1 << number) - 1
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
            let len = (!(rest >> place)).trailing_zeros();
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

    /// Whether the aligned group of 2^order places around `index` has an unset bit. Places beyond
    /// the width are unset up to 64, and set from there on. Without branches: two look-ups and a
    /// shift. `order` is below 16.
    #[inline(always)]
    fn lacks_around(self, index: u32, order: u32) -> bool {
        let group = &GROUPS[order as usize];
        !self.to_u64() >> (index & group.start) & group.places != 0
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

/// An aligned group of places, for each order: as a mask, if it starts at place 0; and as the bits of
/// a place that say where the group around it starts.
struct Group {
    places: u64,
    start: u32,
}

/// The groups of each order that a leaf may have; those longer than 64 places end there.
const GROUPS: [Group; 16] = {
    let mut groups = [const { Group { places: u64::MAX, start: 0 } }; 16];
    let mut order = 0;
    while order < 6 {
        groups[order] = Group { places: (1 << (1 << order)) - 1, start: 63 >> order << order };
        order += 1;
    }
    groups
};

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
mod tests;
