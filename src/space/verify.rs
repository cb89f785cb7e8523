//! Compares the places where blocks are with each other, and the figures with the blocks.

use crate::base::geometry::{Native, NativeWord};
use crate::base::place::ShardIndex;
use crate::base::word::Word;
use crate::index::{Bitmap, Difference, Verification};
use crate::space::Space;
use crate::values::extent::runs_in_word;

impl Space {
    /// Verifies the bitmap of the free blocks and those of the kept ones; that no block is in two
    /// places; and that the figures are what the bitmaps say. Meaningful while nothing else runs.
    /// O(blocks).
    pub(crate) fn verify(&self) -> Verification {
        let mut found = self.bitmap.verify();
        let (closed, escrow) = (self.closed.verify(), self.escrow.verify());
        let [waiting, with_device] = self.discards.verify();
        let kept = [&closed, &escrow, &waiting].map(|kept| kept.free_blocks);
        let mut figures = self.figures(found.free_blocks, kept);
        let discarding = self.discarding_blocks.get();
        figures.push(("blocks that the device discards", discarding, with_device.free_blocks));
        for kept in [closed, escrow, waiting, with_device] {
            found.differences.extend(kept.differences);
        }
        self.in_two_places(&mut found.differences);
        found.differences.extend(figures.into_iter().filter_map(|(figure, told, counted)| {
            (told != counted).then_some(Difference::Figure { figure, told, counted })
        }));
        found
    }

    /// Each figure: its name, what it says, and what it should say if so many blocks are free, and
    /// so many are set aside, in escrow, and waiting to be discarded.
    fn figures(&self, free: u64, kept: [u64; 3]) -> Vec<(&'static str, u64, u64)> {
        let [closed, escrow, discards] = kept;
        let blocks = self.bitmap.blocks();
        let told = self.bitmap.free_at_start().wrapping_add(self.lanes.sum());
        let spare = self.escrow.spare();
        let marked = self.quarantine.count_marked(blocks);
        let mut figures = vec![
            ("free blocks", told, free),
            ("blocks set aside in closed regions", self.closed.held(), closed),
            ("blocks in escrow", self.escrow.held(), escrow),
            ("spare blocks in escrow, at most", spare, spare.min(escrow)),
            ("blocks that wait to be discarded", self.discards.waiting(), discards),
            ("blocks freed by transactions", self.quarantine.marked(), marked),
        ];
        let shards = ShardIndex::FIRST..ShardIndex::new(self.shard_count());
        figures.extend(ShardIndex::each(shards).map(|shard| {
            let leaves = self.shards.leaves(shard, self.bitmap.leaf_end());
            let [start, end] =
                [leaves.start, leaves.end].map(|leaf| leaf.first_block::<Native>().min(blocks));
            let free = self.bitmap.free_blocks_in(start, end);
            ("free blocks of a shard", self.shard_free(shard), free)
        }));
        figures
    }

    /// Finds blocks that are in two of these places: free, set aside, in escrow, waiting to be
    /// discarded, with the device, freed by a transaction.
    fn in_two_places(&self, differences: &mut Vec<Difference>) {
        for (word, _) in Bitmap::<Native>::words_of(0, self.bitmap.blocks()) {
            let free = self.bitmap.look(word);
            let [waiting, with_device] = self.discards.places(word);
            let (aside, escrow) = (self.closed.held_in_word(word), self.escrow.look(word));
            let places = [aside, escrow, waiting, with_device];
            let (any, twice) =
                places.iter().fold((free, NativeWord::ZERO), |(any, twice), place| {
                    (any | place, twice | any & place)
                });
            let mut report = |block| differences.push(Difference::Twice { block });
            runs_in_word(word, twice)
                .flat_map(|run| run.start..run.start + run.len)
                .for_each(&mut report);
            for run in runs_in_word(word, any & !twice) {
                let end = run.start + run.len;
                let mut block = self.quarantine.first_marked(run.start, end);
                while block < end {
                    report(block);
                    block = self.quarantine.first_marked(block + 1, end);
                }
            }
        }
    }
}
