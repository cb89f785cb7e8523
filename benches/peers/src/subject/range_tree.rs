//! A range tree: the free runs by place and by length, best fit, as file systems keep them (ZFS in
//! a metaslab that is loaded, Ceph BlueStore in its AVL allocator). Ours, of the standard library's
//! B-trees.

use std::collections::{BTreeMap, BTreeSet};

use super::{Limit, Limits, Piece, Subject};
use crate::device::BlockMap;

pub struct RangeTree {
    /// Length by first block.
    by_start: BTreeMap<u64, u64>,
    /// Length and first block.
    by_len: BTreeSet<(u64, u64)>,
}

impl RangeTree {
    fn insert(&mut self, start: u64, len: u64) {
        self.by_start.insert(start, len);
        self.by_len.insert((len, start));
    }

    fn remove(&mut self, start: u64, len: u64) {
        self.by_start.remove(&start);
        self.by_len.remove(&(len, start));
    }

    /// Cuts `len` blocks from the front of a free run.
    fn cut(&mut self, (run_len, start): (u64, u64), len: u64) -> u32 {
        self.remove(start, run_len);
        if run_len > len {
            self.insert(start + len, run_len - len);
        }
        start as u32
    }
}

impl Subject for RangeTree {
    type Held = u32;

    const LIMITS: Limits = Limits {
        free_runs: Limit {
            most: 1 << 26,
            why: "a free run takes 50 bytes, together more than 4 GiB",
        },
        ..Limits::NONE
    };

    fn new(blocks: u64) -> Self {
        let mut new = Self { by_start: BTreeMap::new(), by_len: BTreeSet::new() };
        new.insert(0, blocks);
        new
    }

    fn with_state(map: &BlockMap, blocks: &[u32]) -> (Self, Vec<u32>) {
        let runs = || map.free_runs().map(|run| (u64::from(run.start), run.len() as u64));
        let new = Self {
            by_start: runs().collect(),
            by_len: runs().map(|(start, len)| (len, start)).collect(),
        };
        (new, blocks.to_vec())
    }

    #[inline]
    fn allocate(&mut self, len: u32) -> Option<u32> {
        let len = u64::from(len);
        let &best = self.by_len.range((len, 0)..).next()?;
        Some(self.cut(best, len))
    }

    #[inline]
    fn free(&mut self, held: u32, len: u32) {
        let (mut start, mut len) = (u64::from(held), u64::from(len));
        if let Some(&behind) = self.by_start.get(&(start + len)) {
            self.remove(start + len, behind);
            len += behind;
        }
        if let Some((&before, &before_len)) = self.by_start.range(..start).next_back()
            && before + before_len == start
        {
            self.remove(before, before_len);
            (start, len) = (before, before_len + len);
        }
        self.insert(start, len);
    }

    #[cfg(test)]
    fn block(held: u32) -> u32 {
        held
    }

    /// The longest runs first.
    fn allocate_scattered(&mut self, blocks: u32, pieces: &mut Vec<Piece<u32>>) {
        let mut left = u64::from(blocks);
        while left > 0 {
            let &longest = self.by_len.last().expect("as many are free");
            let len = left.min(longest.0);
            let held = self.cut(longest, len);
            pieces.push(Piece { held, len: len as u32 });
            left -= len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RangeTree;
    use crate::subject::check;
    use crate::subject::locked::Locked;

    #[test]
    fn owns_what_it_hands_out() {
        check::alone::<RangeTree>();
        check::shared::<Locked<RangeTree>>();
    }
}
