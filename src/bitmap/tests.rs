//! The index in both word widths against a `Vec<bool>`, at the level of claims and releases.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::{Bitmap, ReleaseError, Search, order_above};
use crate::bitmap::Pack;
use crate::geometry::{Geometry, Narrow, Wide};
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
    index.for_each_word(|word, bits| {
        for place in 0..G::WORD_BLOCKS {
            let block = word * G::WORD_BLOCKS as usize + place as usize;
            let expected = free.get(block).copied().unwrap_or(false);
            assert_eq!(bits & G::Word::bit(place) != G::Word::ZERO, expected, "block {block}");
        }
    });
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
