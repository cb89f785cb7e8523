//! The index in both word widths against a `Vec<bool>`, at the level of claims and releases.

mod races;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::{Bitmap, Difference, ReleaseError, Search};
use crate::base::geometry::{Geometry, Narrow, Wide};
use crate::base::place::{LeafIndex, NodeIndex, WordIndex};
use crate::base::sync::Site;
use crate::base::word::{Word, order_above};
use crate::index::Pack;
use crate::index::number::Shown;

fn agrees_with_a_vector<G: Geometry>(blocks: u64, height: usize, seed: u64) {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let index = Bitmap::<G>::from_words(blocks, height, |_| G::FULL).unwrap();
    let mut free = vec![true; blocks as usize];
    for _ in 0..3000 {
        let len = (1u64 << rng.random_range(0..11)).min(blocks);
        let len = rng.random_range(1..=len);
        let start = rng.random_range(0..=blocks - len);
        let range = start as usize..(start + len) as usize;
        match rng.random_range(0..4) {
            0 => {
                let taken = free[range.clone()].iter().position(|&free| !free);
                let conflict = index.claim(start, len).err().map(|conflict| conflict.block);
                assert_eq!(conflict, taken.map(|at| start + at as u64));
                if taken.is_none() {
                    free[range].fill(false);
                }
            }
            1 | 2 => {
                let freed = free[range.clone()].iter().position(|&free| free);
                let expected =
                    freed.map_or(Ok(()), |at| Err(ReleaseError::Free { block: start + at as u64 }));
                assert_eq!(index.release(start, len), expected);
                if freed.is_none() {
                    free[range].fill(true);
                }
            }
            _ => {
                let fits =
                    free.chunk_by(|a, b| a == b).any(|run| run[0] && run.len() as u64 >= len);
                let order = order_above(len);
                let leaves = index.all_leaves();
                let quick = (order <= G::MAX_ORDER)
                    .then(|| index.claim_aligned(order, len, 0, leaves, Pack::Tight))
                    .flatten();
                let search = Search { least: len, most: len, align: 1, take: |_| len };
                let found = quick.or_else(|| index.claim_exact(start, &search).ok());
                let found = found.map(|claimed| claimed.start());
                assert_eq!(found.is_some(), fits);
                if let Some(found) = found {
                    let range = found as usize..(found + len) as usize;
                    assert!(free[range.clone()].iter().all(|&free| free));
                    free[range].fill(false);
                }
            }
        }
    }
    let found = index.verify();
    assert!(found.is_clean(), "{:?}", found.differences);
    assert_eq!(found.free_blocks, free.iter().filter(|&&free| free).count() as u64);
    for word in WordIndex::each(WordIndex::FIRST..index.word_end()) {
        for place in 0..G::WORD_BLOCKS {
            let block = word.block::<G>(place);
            let expected = free.get(block as usize).copied().unwrap_or(false);
            let found = index.look(word) & G::Word::bit(place) != G::Word::ZERO;
            assert_eq!(found, expected, "block {block}");
        }
    }
}

#[test]
fn both_widths_agree_with_a_vector() {
    for (seed, &(blocks, height)) in
        [(1, 1), (63, 1), (700, 1), (33_000, 1), (40_000, 2), (70_000, 3)].iter().enumerate()
    {
        agrees_with_a_vector::<Wide>(blocks, height, seed as u64);
        agrees_with_a_vector::<Narrow>(blocks, height, seed as u64);
    }
}

/// A thread stopped in the middle of a repair, holding the guard of a leaf, under a stale positive one
/// level up. Everybody who came by cleared that bit, took the guard for a sign of life, restored the
/// bit and lifted the watch, although nothing had been freed: what was remembered was forgotten, and
/// searches in vain began again, for as long as the thread stood there.
#[test]
fn a_guard_alone_does_not_lift_the_watch() {
    let index = Bitmap::<Wide>::from_words(40_000, 2, |_| 0).unwrap();
    let leaf = LeafIndex::new(70);
    let take = |shown: Shown| Some(shown.raised(0));
    index.summary.change(leaf, Site::GuardChange, take).expect("it has a value");
    index.summary.set(2, leaf.node::<Wide>().get(), 1);
    let ticket = index.expect_runs_of(1);
    for _ in 0..3 {
        let found = index.claim_aligned(0, 1, 0, index.all_leaves(), Pack::First);
        assert_eq!(found, None);
        assert!(index.still_none(ticket), "the watch was lifted although nothing was freed");
    }
    // Stale positives are for whoever comes by once nobody is in the way.
    index.release_guard(leaf);
    assert_eq!(index.claim_aligned(0, 1, 0, index.all_leaves(), Pack::First), None);
    assert!(index.still_none(ticket));
    assert_eq!(index.verify().differences, []);
}

/// Two leaves, of which the second has less than is shown and the first nothing: the search that meets
/// them repairs both, and the levels above.
#[test]
fn a_search_repairs_all_that_it_meets() {
    let mut words = [0u64; 16];
    words[8] = 0xffff;
    for height in 1..4 {
        let index = Bitmap::<Wide>::from_words(1024, height, |word| words[word.get()]).unwrap();
        for leaf in [0, 1].map(LeafIndex::new) {
            index.show(leaf, 6);
            index.show(leaf, 3);
            assert_eq!(index.summary.shown(leaf, Site::HasLook), Shown::unmarked(6));
        }
        assert_eq!(index.verify().differences.len(), 7);
        assert_eq!(index.claim_aligned(5, 32, 0, index.all_leaves(), Pack::First), None);
        assert_eq!(index.verify().differences, []);
    }
}

/// What is shown of a leaf while one thread has its guard and another raises its number: the holder
/// goes through the levels above once more before it lets go.
#[test]
fn a_want_is_served_before_the_guard_is_released() {
    let index = Bitmap::<Wide>::from_words(1024, 3, |_| 0).unwrap();
    let leaf = LeafIndex::new(1);
    for number in [1, 4] {
        let raise = |shown: Shown| Some(shown.raised(number));
        index.summary.change(leaf, Site::HasSet, raise).expect("it has a value");
    }
    let differences = index.verify().differences;
    assert!(differences.contains(&Difference::Guarded { level: 1, child: 1 }), "{differences:?}");
    assert!(differences.contains(&Difference::Hidden { level: 2, child: 0, order: 3 }));
    index.release_guard(leaf);
    assert_eq!(index.summary.shown(leaf, Site::HasLook), Shown::unmarked(4));
    assert!(index.verify().is_clean(), "{:?}", index.verify());
    index.refresh(leaf);
    assert_eq!(index.verify().differences, []);
}

#[test]
fn of_what_was_cut_off_nothing_is_shown() {
    let index = Bitmap::<Wide>::from_words(1 << 17, 1, |_| u64::MAX).unwrap();
    for block in ((1 << 16)..1 << 17).step_by(64) {
        assert!(index.claim(block, 64).is_ok());
    }
    assert_eq!(index.summary.tops().count(0), 256);
    index.shorten(1 << 16);
    assert_eq!(index.verify().differences, []);
    assert!((0..=Wide::MAX_ORDER).all(|order| index.summary.tops().count(order) == 128));
}

/// To restore what was cleared by mistake is no news for those who wait for longer runs.
#[test]
fn a_restored_order_lifts_the_watch_for_those_alone_who_search_by_it() {
    for (awaited, lifted) in [(1, true), (6, true), (14, true), (15, false), (512, false)] {
        let index = Bitmap::<Wide>::from_words(1024, 2, |_| 0).unwrap();
        let ticket = index.expect_runs_of(awaited);
        index.restore_for_test(NodeIndex::FIRST, 1 << 2);
        assert_eq!(!index.still_none(ticket), lifted, "{awaited}");
    }
}

/// A release lifts the watch if and only if the run that it is part of now is as long as somebody waits
/// for, wherever the run lies in its words.
fn lifts_for_long_enough_runs<G: Geometry>(seed: u64) {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    const BLOCKS: u64 = 700;
    let mut lifts = 0;
    for _ in 0..4000 {
        let used = rng.random_range(1..40);
        let words: Vec<u64> = (0..BLOCKS.div_ceil(32))
            .map(|_| {
                (0..32).fold(0, |word, _| word << 1 | u64::from(rng.random_range(0..used) > 0))
            })
            .collect();
        let index = Bitmap::<G>::from_words(BLOCKS, 1, |word| {
            let part = |nth: usize| words.get(nth).copied().unwrap_or(0);
            let per_word = G::WORD_BLOCKS as usize / 32;
            G::Word::from_u64(
                (0..per_word)
                    .fold(0, |all, nth| all | part(word.get() * per_word + nth) << (32 * nth)),
            )
        });
        let index = index.unwrap();
        let len = rng.random_range(1..=3 * u64::from(G::WORD_BLOCKS)).min(BLOCKS);
        let start = rng.random_range(0..=BLOCKS - len);
        // Of which some is free, and some is not.
        for (word, mask) in Bitmap::<G>::words_of(start, len) {
            index.take_in_word(word, mask);
        }
        let awaited = rng.random_range(1..=120);
        let ticket = index.expect_runs_of(awaited);
        index.release(start, len).unwrap();
        let run = index.run_end(start, BLOCKS) - index.run_start(start, 0);
        assert_eq!(index.still_none(ticket), run < awaited, "{start}+{len}: {run} of {awaited}");
        lifts += u32::from(run >= awaited);
    }
    assert!((500..3500).contains(&lifts), "{lifts}");
}

#[test]
fn the_watch_is_lifted_for_runs_that_are_long_enough() {
    lifts_for_long_enough_runs::<Wide>(1);
    lifts_for_long_enough_runs::<Narrow>(2);
}
