//! The functions on a word against counting bits one by one.

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
            for order in 0..16 {
                let start = index >> order << order;
                let naive = (start..64.min(start + (1 << order)))
                    .any(|place| word.to_u64() >> place & 1 == 0);
                assert_eq!(word.lacks_around(index, order), naive, "{word:b} at {index}");
            }
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
                for len in [1, 2, 3, 7, 1 << order].into_iter().filter(|&len| len <= 1 << order) {
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

#[test]
fn orders_of_a_length_agree_with_trying_every_place() {
    for len in 1..=130 {
        let above = (0..).find(|&order| 1 << order >= len);
        assert_eq!(Some(order_above(len)), above, "{len}");
        let has_aligned =
            |start: u64, size: u64| start.next_multiple_of(size) + size <= start + len;
        let within = (0..8).rfind(|&order| (0..256).all(|start| has_aligned(start, 1 << order)));
        assert_eq!(Some(order_within(len)), within, "{len}");
    }
}

#[test]
fn a_set_of_orders_lists_its_bits() {
    for orders in (0..1 << 8).chain([OrderSet::MAX, 1 << 31]) {
        assert!(each(orders).eq((0..32).filter(|order| orders >> order & 1 == 1)), "{orders:b}");
    }
}

fn runs_agree_with_counting_bits_in<W: Word>() {
    for word in samples::<W>() {
        let bits: Vec<u32> = (0..W::BITS).filter(|&index| bit_at(word, index)).collect();
        let runs = bits.chunk_by(|bit, next| bit + 1 == *next);
        assert!(word.runs().eq(runs.map(|run| (run[0], run.len() as u32))), "{word:b}");
    }
}

#[test]
fn runs_agree_with_counting_bits() {
    runs_agree_with_counting_bits_in::<u32>();
    runs_agree_with_counting_bits_in::<u64>();
}

#[test]
fn a_word_has_all_bits_of_its_subsets() {
    for (word, mask) in (0..1u32 << 6).flat_map(|word| (0..1 << 6).map(move |mask| (word, mask))) {
        let naive = (0..6).all(|index| !bit_at(mask, index) || bit_at(word, index));
        assert_eq!(word.has_all(mask), naive, "{word:b} {mask:b}");
    }
}
