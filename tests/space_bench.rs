//! What the benchmark of ageing measures with: Ceph's score, and the allocators it compares with.

#[path = "../benches/space/baseline.rs"]
mod baseline;
#[path = "../benches/space/score.rs"]
mod score;

use baseline::{FirstFit, RangeTree, Space};
use freemap::Extent;
use proptest::prelude::*;

#[test]
fn the_score_is_that_of_ceph() {
    // A GiB of free space in pieces of so many blocks.
    let cases =
        [(1, 1.0), (16, 0.8367), (256, 0.4979), (1024, 0.2763), (4096, 0.0926), (16384, 0.0)];
    for (piece, expected) in cases {
        let score = score::ceph(&vec![piece; ((1 << 18) / piece) as usize]);
        assert!((score - expected).abs() < 5e-5, "{piece}: {score}");
    }
}

/// The runs of a map in which `true` is a free block.
fn runs(map: &[bool]) -> Vec<u64> {
    map.chunk_by(|a, b| a == b).filter(|run| run[0]).map(|run| run.len() as u64).collect()
}

fn keeps_its_runs(mut space: impl Space, lowest: bool, script: &[(u64, usize)]) {
    let mut map = vec![true; 3000];
    let mut held: Vec<Vec<Extent>> = Vec::new();
    for &(len, victim) in script {
        let before = runs(&map);
        let mut extents = Vec::new();
        let fits = before.iter().any(|&run| run >= len);
        let enough = before.iter().sum::<u64>() >= len;
        assert_eq!(space.allocate(len, &mut extents), enough);
        for extent in &extents {
            let blocks = extent.start as usize..(extent.start + extent.len) as usize;
            if fits {
                let mut from = 0;
                let start = map.chunk_by(|a, b| a == b).find_map(|run| {
                    from += run.len();
                    let wanted = if lowest {
                        run.len() as u64 >= len
                    } else {
                        before.iter().filter(|&&run| run >= len).min() == Some(&(run.len() as u64))
                    };
                    (run[0] && wanted).then(|| from - run.len())
                });
                assert_eq!(Some(extent.start as usize), start);
            }
            assert!(map[blocks.clone()].iter().all(|&free| free));
            map[blocks].fill(false);
        }
        assert_eq!(
            extents.iter().map(|extent| extent.len).sum::<u64>(),
            if enough { len } else { 0 }
        );
        assert!(extents.len() <= 1 || !fits);
        held.push(extents);
        if victim % 4 > 0 || !enough {
            for extent in held.swap_remove(victim % held.len()) {
                space.free(extent);
                map[extent.start as usize..(extent.start + extent.len) as usize].fill(true);
            }
        }
        assert_eq!(space.runs(), runs(&map));
    }
}

proptest! {
    #[test]
    fn the_baselines_keep_to_their_rules(script in prop::collection::vec((1..400u64, any::<usize>()), 1..80)) {
        keeps_its_runs(FirstFit::new(3000), true, &script);
        keeps_its_runs(RangeTree::new(3000), false, &script);
    }
}
