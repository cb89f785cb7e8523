//! Where a handle goes on when its own shard has nothing that fits.

use crate::placement::Placer;
use crate::space::Space;

/// Other shards that are looked at, at most.
const CANDIDATES: usize = 16;

/// Of those that do equally well, the number of which the free blocks are counted.
const COUNTED: usize = 4;

impl Placer {
    /// The shard, other than `own`, to look for an aligned run of `order` in before the search of all of
    /// them: one of the next sixteen behind `own` (wrapping round) that says it has such a run. Of these
    /// the one whose largest run is of the smallest order, so that small requests go where
    /// everything is in pieces already and other shards stay whole for large ones; if several, of the
    /// nearest four the one with the most free blocks, so that the handle need not move again soon.
    /// O(candidates x orders).
    pub(crate) fn likely_shard(&self, space: &Space, own: usize, order: u32) -> Option<usize> {
        let count = space.shard_count();
        let others = (1..count.min(CANDIDATES + 1)).map(|step| (own + step) % count);
        let (mut tightest, mut tied) = (u32::MAX, [0; COUNTED]);
        let mut ties = 0;
        for shard in others {
            match space.bitmap.largest_order_from(space.shards.level(), shard, order) {
                Some(largest) if largest <= tightest => {
                    if largest < tightest {
                        (tightest, ties) = (largest, 0);
                    }
                    if ties < COUNTED {
                        tied[ties] = shard;
                        ties += 1;
                    }
                }
                _ => {}
            }
        }
        match &tied[..ties] {
            [] => None,
            [only] => Some(*only),
            several => several.iter().rev().copied().max_by_key(|&shard| space.shard_free(shard)),
        }
    }
}
