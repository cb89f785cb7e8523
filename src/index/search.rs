//! Finding free space and claiming it.
//!
//! There are two searches. The *aligned* search descends the summary to a leaf that has an aligned
//! run of the rounded-up order. It is quick, and may fail although an unaligned run would fit. The
//! *exact* search visits every leaf that can hold part of a fitting run and widens what it finds to
//! both sides. Only the exact search may answer "no".

use std::ops::Range;

use super::{Bitmap, Claimed};
use crate::base::geometry::Geometry;
use crate::base::place::{LeafIndex, WordIndex, place_in_word};
use crate::base::sync::Site;
use crate::index::Pack;
use crate::index::events::Event;
use crate::index::node::Look;
use crate::index::visit::{Next, Visit};
use crate::index::watch::Ticket;

/// What the exact search looks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search<F> {
    /// The shortest run to consider, in blocks; at least 1.
    pub least: u64,
    /// The most blocks that `take` ever returns.
    pub most: u64,
    /// Every claim starts at a multiple of this; at least 1.
    pub align: u64,
    /// How many blocks to take of an aligned run of this length; 0 to skip it.
    pub take: F,
}

impl<G: Geometry> Bitmap<G> {
    /// In how many words the leaf of `word` has an aligned run of `order`.
    #[inline]
    pub(crate) fn words_with(&self, word: WordIndex, order: u32) -> u32 {
        self.leaf(word.leaf::<G>()).words_with(order, Site::LeafLook).count_ones()
    }

    /// Claims `len` blocks at the start of an aligned run of `order`, in the leaf of block `from`
    /// and not before that block. One attempt at each run.
    #[inline]
    pub(crate) fn claim_in_leaf(&self, order: u32, len: u64, from: u64) -> Option<Claimed> {
        match self.visit_leaf(order, len, from) {
            Visit::Done(claimed) => Some(claimed),
            _ => None,
        }
    }

    #[inline]
    fn visit_leaf(&self, order: u32, len: u64, from: u64) -> Visit<Claimed> {
        let first = WordIndex::of_block::<G>(from);
        let leaf = first.leaf::<G>();
        let mut words = self.leaf(leaf).words_with(order, Site::LeafLook);
        if words == 0 {
            return Visit::Stale;
        }
        words &= u32::MAX << first.place_in_leaf::<G>();
        while words != 0 {
            let word = leaf.word::<G>(words.trailing_zeros() as usize);
            words &= words - 1;
            let place = if word > first { 0 } else { place_in_word::<G>(from) };
            let claimed = if order <= G::WORD_ORDER {
                self.claim_in_word(word, order, len as u32, place)
            } else {
                let whole = (place == 0).then(|| self.claim(word.first_block::<G>(), len).ok());
                whole.flatten()
            };
            if let Some(claimed) = claimed {
                return Visit::Done(claimed);
            }
        }
        Visit::From(leaf.next())
    }

    /// Claims `len` blocks at the start of an aligned run of `order` in one of `leaves`, at or
    /// after block `from`. One pass over the candidates: O(levels) for each.
    pub(crate) fn claim_aligned(
        &self,
        order: u32,
        len: u64,
        from: u64,
        leaves: Range<LeafIndex>,
        pack: Pack,
    ) -> Option<Claimed> {
        self.visit_leaves(order, leaves, Look::Quick, pack, |leaf| {
            self.visit_leaf(order, len, from.max(leaf.first_block::<G>()))
        })
    }

    /// The same in the leaves behind `leaf` under the same node. Leaves stale positives to the
    /// search that comes when the node is done, which repairs all of them at once.
    #[inline]
    pub(crate) fn claim_behind(
        &self,
        order: u32,
        len: u64,
        leaf: LeafIndex,
        pack: Pack,
    ) -> Option<Claimed> {
        let node = leaf.node::<G>();
        let behind = leaf.next()..self.leaf_end();
        let todo = self.candidates(order, node, behind, Look::Quick, pack);
        let visit = |leaf: LeafIndex| self.visit_leaf(order, len, leaf.first_block::<G>());
        self.visit_children(node, todo, visit).taken
    }

    /// Claims the part that `search` wants of the run around block `inside`: see `claim_of_run`.
    pub(super) fn claim_run_around<F: Fn(u64) -> u64>(
        &self,
        inside: u64,
        search: &Search<F>,
    ) -> Option<Result<Claimed, u64>> {
        let end = self.run_end(inside, self.blocks().min(inside.saturating_add(search.most)));
        let start = self.run_start(inside, end.saturating_sub(search.most));
        self.claim_of_run(start, end, search)
    }

    /// Claims the part that `search` wants of the run `start..end`. `None` if it wants none; the
    /// block in conflict if another thread was quicker.
    fn claim_of_run<F: Fn(u64) -> u64>(
        &self,
        start: u64,
        end: u64,
        search: &Search<F>,
    ) -> Option<Result<Claimed, u64>> {
        let start = start.checked_next_multiple_of(search.align)?;
        let run = end.checked_sub(start)?;
        let len = if run < search.least { 0 } else { (search.take)(run) };
        (len > 0).then(|| self.claim(start, len).map_err(|conflict| conflict.block))
    }

    /// The exact search: claims the part of a run that `search` wants, beginning at block `from`
    /// and wrapping round. "No" is truthful (invariant 4), and stays true until the watch is
    /// lifted: see [`Bitmap::still_none`].
    ///
    /// Repeats only if a run that could matter was completed meanwhile (invariant 5). O(leaves that
    /// show the order which every fitting run contains).
    pub(crate) fn claim_exact<F: Fn(u64) -> u64>(
        &self,
        from: u64,
        search: &Search<F>,
    ) -> Result<Claimed, Ticket> {
        debug_assert!(0 < search.least && search.least <= search.most && search.align > 0);
        loop {
            self.events.count(Event::ExactSearch, LeafIndex::of_block::<G>(from).get());
            let ticket = self.watch.register(search.least);
            if let Some(claimed) = self.claim_quick(from, search) {
                return Ok(claimed);
            }
            if self.watch.undisturbed(ticket) {
                return Err(ticket);
            }
        }
    }

    /// One pass of the exact search without a registration, for callers that expect to find
    /// something.
    pub(crate) fn claim_quick<F: Fn(u64) -> u64>(
        &self,
        from: u64,
        search: &Search<F>,
    ) -> Option<Claimed> {
        let first = LeafIndex::of_block::<G>(from);
        let found = self.claim_in_runs(first..self.leaf_end(), from, search);
        if found.is_some() || from == 0 {
            return found;
        }
        // The pass above cut any run that starts below `from`. The group by which the summary shows
        // such a run may lie behind `from`, in any leaf that the shortest run from `from - 1` on
        // reaches.
        let last = LeafIndex::of_block::<G>(from - 1 + search.least - 1);
        let end = self.leaf_end().min(last.next());
        self.claim_in_runs(LeafIndex::FIRST..end, 0, search)
    }

    /// One pass over the runs that touch `leaves` and start no lower than block `floor`.
    pub(crate) fn claim_in_leaves<F: Fn(u64) -> u64>(
        &self,
        leaves: Range<LeafIndex>,
        floor: u64,
        search: &Search<F>,
    ) -> Option<Claimed> {
        self.claim_in_runs(leaves, floor, search)
    }

    /// Whether any leaf shows a run of `order`. Not good enough to answer "no" (see `tops.rs`).
    /// O(1).
    #[inline(always)]
    pub(crate) fn shows(&self, order: u32) -> bool {
        self.summary.tops().any(order)
    }

    /// Registers for runs of `len` blocks: [`Bitmap::still_none`] says whether one was completed
    /// since.
    pub(crate) fn expect_runs_of(&self, len: u64) -> Ticket {
        self.watch.register(len)
    }

    /// Whether the "no" that came with `ticket` still holds. O(1).
    pub(crate) fn still_none(&self, ticket: Ticket) -> bool {
        self.watch.undisturbed(ticket)
    }

    /// One pass over the runs that touch `leaves` and start no lower than `floor`.
    fn claim_in_runs<F: Fn(u64) -> u64>(
        &self,
        leaves: Range<LeafIndex>,
        floor: u64,
        search: &Search<F>,
    ) -> Option<Claimed> {
        let most = search.most.saturating_add(search.align - 1);
        self.visit_runs(leaves, floor, search.least, most, &mut { u64::MAX }, |start, end| {
            let mut end = end;
            // If a block is in conflict, the run before it may still be enough, and may have been
            // free all the time. The end falls each time, so the loop ends.
            while let Some(claimed) = self.claim_of_run(start, end, search) {
                match claimed {
                    Ok(claimed) => return Next::Done(claimed),
                    Err(block) => end = block,
                }
            }
            Next::From(end)
        })
    }
}
