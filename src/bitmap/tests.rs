//! The index in both word widths against a `Vec<bool>`, at the level of claims and releases.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::{Bitmap, ReleaseError, Search, order_above};
use crate::bitmap::Pack;
use crate::geometry::{Geometry, Narrow, Wide};
use crate::sync::Site;
use crate::word::Word;

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
                let expected = freed
                    .map_or(Ok(()), |at| Err(ReleaseError::Free { block: start + at as u64 }));
                assert_eq!(index.release(start, len), expected);
                if freed.is_none() {
                    free[range].fill(true);
                }
            }
            _ => {
                let fits = free.chunk_by(|a, b| a == b).any(|run| run[0] && run.len() as u64 >= len);
                let order = order_above(len);
                let leaves = 0..index.leaf_count();
                let quick = (order <= G::MAX_ORDER)
                    .then(|| index.claim_aligned(order, len, 0, leaves, Pack::Tight))
                    .flatten();
                let search = Search { least: len, most: len, align: 1, take: |_| len };
                let found = quick.or_else(|| index.claim_exact(start, &search).ok().map(|t| t.0));
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
    for word in 0..index.leaf_count() * G::LEAF_WORDS {
        for place in 0..G::WORD_BLOCKS {
            let block = word * G::WORD_BLOCKS as usize + place as usize;
            let expected = free.get(block).copied().unwrap_or(false);
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
    let (leaf, node) = (70, 1);
    let (lower, held) = index.summary.parent(1, leaf);
    let (upper, stale) = index.summary.parent(2, node);
    lower.guard().fetch_or(held, Site::GuardChange);
    upper.has(0).fetch_or(stale, Site::HasSet);
    let ticket = index.expect_runs_of(1);
    for _ in 0..3 {
        let found = index.claim_aligned(0, 1, 0, 0..index.leaf_count(), Pack::First);
        assert_eq!(found, None);
        assert!(index.still_none(ticket), "the watch was lifted although nothing was freed");
    }
    // Stale positives are for whoever comes by once nobody is in the way.
    lower.guard().fetch_and(!held, Site::GuardChange);
    assert_eq!(index.claim_aligned(0, 1, 0, 0..index.leaf_count(), Pack::First), None);
    assert!(index.still_none(ticket));
    assert_eq!(index.verify().differences, []);
}
