//! Where a handle moves when its own shard has nothing that fits.

use crate::base::place::ShardIndex;
use crate::placement::Placer;
use crate::space::Space;

/// Other shards to look at, at most.
const CANDIDATES: usize = 16;

/// Equally good shards whose free blocks are counted, at most.
const COUNTED: usize = 4;

impl Placer {
    /// The shard, other than `own`, to search for an aligned run of `order` before all shards are
    /// searched. Candidates are the next sixteen behind `own` (wrapping round) whose summary shows
    /// such a run. The best one's largest run has the smallest order, so that small requests go
    /// where space is fragmented already, and other shards stay whole for large ones. On a tie, of
    /// the nearest four the one with the most free blocks, so that the handle need not move again
    /// soon. O(candidates x orders).
    pub(crate) fn likely_shard(
        &self,
        space: &Space,
        own: ShardIndex,
        order: u32,
    ) -> Option<ShardIndex> {
        let count = space.shard_count();
        let others =
            (1..count.min(CANDIDATES + 1)).map(|step| ShardIndex::new((own.get() + step) % count));
        let (mut tightest, mut tied) = (u32::MAX, [ShardIndex::FIRST; COUNTED]);
        let mut ties = 0;
        for shard in others {
            match space.bitmap.largest_order_from(space.shards.level(), shard.get(), order) {
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
