//! Measured runs against a `Vec<bool>`, in both word widths.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::*;
use crate::base::geometry::{Narrow, Wide};

/// A device and its free blocks.
struct Device<G: Geometry> {
    index: Bitmap<G>,
    free: Vec<bool>,
}

impl<G: Geometry> Device<G> {
    fn of(free: Vec<bool>) -> Self {
        let index = Bitmap::<G>::none_free(free.len() as u64, 2).expect("memory");
        let mut start = 0;
        for run in free.chunk_by(|a, b| a == b) {
            if run[0] {
                let len = run.len() as u64;
                assert_eq!(index.add(start, len), len);
            }
            start += run.len() as u64;
        }
        Self { index, free }
    }

    /// Runs of all lengths over a little more than three nodes, the shorter ones more often.
    fn random(seed: u64) -> Self {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let blocks = 3 * G::FANOUT * G::LEAF_BLOCKS + 700;
        let mut free = Vec::new();
        while free.len() < blocks {
            for is_free in [true, false] {
                let most = 1usize << rng.random_range(0..=if is_free { 15 } else { 6 });
                free.extend(std::iter::repeat_n(is_free, rng.random_range(1..=most)));
            }
            // Many short runs between the long ones.
            let short = rng.random_range(0..800);
            free.extend((0..short).map(|_| rng.random_range(0..3) > 0));
        }
        free.truncate(blocks);
        Self::of(free)
    }

    fn is_free(&self, block: u64) -> bool {
        self.free.get(block as usize).copied().unwrap_or(false)
    }

    /// Where the run that ends before `to` begins, not below `floor`.
    fn start(&self, to: u64, floor: u64) -> u64 {
        (floor..to).rev().take_while(|&block| self.is_free(block)).last().unwrap_or(to)
    }

    /// The end of the run from `from` on, not above `to`.
    fn end(&self, from: u64, to: u64) -> u64 {
        (from..to).find(|&block| !self.is_free(block)).unwrap_or(to)
    }

    fn begins(&self, block: u64) -> bool {
        self.is_free(block) && (block == 0 || !self.is_free(block - 1))
    }

    fn blocks_of(word: WordIndex) -> Range<u64> {
        word.first_block::<G>()..word.next().first_block::<G>()
    }

    fn words(&self) -> impl Iterator<Item = WordIndex> + use<G> {
        WordIndex::each(WordIndex::FIRST..self.index.word_end())
    }

    /// The run that begins at `start`, up to `most` blocks of it.
    fn run(&self, start: u64, most: u64) -> (u64, u64) {
        (start, self.end(start, start + most) - start)
    }

    fn is_whole(&self, leaf: usize) -> bool {
        let start = leaf as u64 * G::LEAF_BLOCKS as u64;
        self.run(start, G::LEAF_BLOCKS as u64).1 == G::LEAF_BLOCKS as u64
    }

    /// What [`Bitmap::runs_under`] shows and returns.
    fn runs_under(&self, node: usize, from: u32, most: u64) -> (Vec<(u64, u64)>, Option<u32>) {
        let leaf_blocks = G::LEAF_BLOCKS as u64;
        let (first, end) = (node * G::FANOUT, (node + 1) * G::FANOUT);
        let mut shown = Vec::new();
        let leaves: Vec<usize> = (first..end.min(self.index.leaf_count())).collect();
        let groups = leaves.chunk_by(|&a, &b| self.is_whole(a) == self.is_whole(b));
        let whole = groups.filter(|group| from == 0 && self.is_whole(group[0])).take(GROUPS);
        for group in whole {
            let group_start = group[0] as u64 * leaf_blocks;
            let start = self.start(group_start, group_start.saturating_sub(leaf_blocks));
            let mut behind = group[group.len() - 1] + 1;
            if behind == end {
                behind = (end..end + G::FANOUT)
                    .find(|&leaf| !self.is_whole(leaf))
                    .unwrap_or(end + G::FANOUT);
            }
            if start == 0 || start + leaf_blocks > group_start {
                shown.push((start, behind as u64 * leaf_blocks - start));
            }
        }
        let mut count = 0;
        for (place, &leaf) in leaves.iter().enumerate().skip(from as usize) {
            let blocks = leaf as u64 * leaf_blocks..(leaf + 1) as u64 * leaf_blocks;
            if self.is_whole(leaf) || !blocks.clone().any(|block| self.is_free(block)) {
                continue;
            }
            if count >= RUNS {
                return (shown, Some(place as u32));
            }
            let words = |block: u64| block / u64::from(G::WORD_BLOCKS);
            for start in blocks.filter(|&block| self.begins(block)) {
                if self.is_free(start + 1) || words(start) != words(start + 1) {
                    shown.push(self.run(start, most));
                    count += 1;
                }
            }
        }
        (shown, None)
    }

    fn node_shows_the_runs(&self, node: usize, most: u64) {
        let mut next = Some(0);
        while let Some(from) = next {
            let mut shown = Vec::new();
            next = self.index.runs_under(NodeIndex::new(node), from, most, |start, len| {
                shown.push((start, len));
            });
            assert_eq!((shown, next), self.runs_under(node, from, most), "node {node} from {from}");
        }
    }
}

fn words_agree_with_a_vector<G: Geometry>(seed: u64) {
    let device = Device::<G>::random(seed);
    for word in device.words() {
        let blocks = Device::<G>::blocks_of(word);
        let starts = || blocks.clone().filter(|&block| device.begins(block));
        for (least, most) in [(1, 64), (2, 64), (3, 1000), (40, 1000), (100, 100), (101, 100)] {
            let runs = starts().map(|start| device.run(start, most));
            let shortest = runs.filter(|&(_, len)| len >= least).min_by_key(|&(_, len)| len);
            assert_eq!(device.index.run_in_word(word, least, most), shortest, "{word:?} {least}");
        }
        let beyond = device.start(blocks.end, blocks.start);
        let beyond = (beyond < blocks.end).then_some(beyond);
        assert_eq!(device.index.run_beyond_word(word), beyond, "{word:?}");
    }
    for word in [device.index.word_end(), device.index.word_end().plus(5)] {
        assert_eq!(device.index.run_in_word(word, 1, 64), None);
        assert_eq!(device.index.run_beyond_word(word), None);
    }
}

fn runs_around_agree_with_a_vector<G: Geometry>(seed: u64) {
    let device = Device::<G>::random(seed);
    let blocks = device.free.len() as u64;
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    for _ in 0..20_000 {
        let start = rng.random_range(0..blocks);
        let end = device.end(start, blocks.min(start + rng.random_range(1..100)));
        if start == end {
            continue;
        }
        let reach = rng.random_range(64..600);
        let from = device.start(start, start.saturating_sub(reach));
        let run = (from, device.end(end, blocks.min(end + reach)) - from);
        let found = device.index.run_around(start, end - start, reach);
        assert_eq!(found, run, "{start}..{end} reach {reach}");
    }
}

#[test]
fn runs_in_and_around_words_agree_with_a_vector() {
    for seed in 0..3 {
        words_agree_with_a_vector::<Wide>(seed);
        words_agree_with_a_vector::<Narrow>(seed);
        runs_around_agree_with_a_vector::<Wide>(seed);
        runs_around_agree_with_a_vector::<Narrow>(seed);
    }
}

fn nodes_agree_with_a_vector<G: Geometry>() {
    for seed in 0..8 {
        let device = Device::<G>::random(seed);
        for node in 0..=3 {
            device.node_shows_the_runs(node, 1000);
            device.node_shows_the_runs(node, 64);
        }
    }
    // Leaves entirely free or nearly, in all patterns over the border of two nodes.
    let (leaf_blocks, fanout) = (G::LEAF_BLOCKS, G::FANOUT);
    for pattern in 0..1 << 6 {
        let mut free = vec![false; 3 * fanout * leaf_blocks];
        free[..3 * leaf_blocks].fill(true);
        free[2 * fanout * leaf_blocks..].fill(pattern & 1 == 1);
        for place in (0..6).filter(|place| pattern >> place & 1 == 1) {
            let start = (fanout - 3 + place) * leaf_blocks;
            free[start..start + leaf_blocks].fill(true);
            free[start - 1] = true;
        }
        let device = Device::<G>::of(free);
        (0..3).for_each(|node| device.node_shows_the_runs(node, 1000));
    }
}

#[test]
fn runs_under_nodes_agree_with_a_vector() {
    nodes_agree_with_a_vector::<Wide>();
    nodes_agree_with_a_vector::<Narrow>();
}

fn broken_leaves_are_repaired<G: Geometry>() {
    let (leaf_blocks, fanout) = (G::LEAF_BLOCKS, G::FANOUT);
    let mut device = Device::<G>::of(vec![true; 2 * fanout * leaf_blocks]);
    let is_whole = |device: &Device<G>, node| device.index.is_whole(NodeIndex::new(node));
    assert!(is_whole(&device, 0) && is_whole(&device, 1));
    // A claim leaves the summary as it was.
    for leaf in 0..3 {
        let block = leaf * leaf_blocks + 7;
        device.free[block] = false;
        let _ = device.index.claim(block as u64, 1).expect("free");
        assert!(is_whole(&device, 0));
    }
    device.node_shows_the_runs(0, 1000);
    assert!(!is_whole(&device, 0) && is_whole(&device, 1));
    assert!(device.index.verify().is_clean());
}

#[test]
fn leaves_that_only_seem_to_be_free_are_shown_as_they_are_and_repaired() {
    broken_leaves_are_repaired::<Wide>();
    broken_leaves_are_repaired::<Narrow>();
}
