//! Claiming many pieces in one pass.

use std::ops::Range;

use super::visit::Visit;
use super::{Bitmap, Claimed, Pack, Search};
use crate::base::geometry::Geometry;
use crate::base::mutant::fault;
use crate::base::place::{LeafIndex, WordIndex};
use crate::base::sync::Site;
use crate::base::word::Word;
use crate::index::node::Look;
use crate::index::watch::Ticket;

/// What a request in pieces still wants.
#[derive(Debug)]
pub(crate) struct Wanted<F> {
    /// Blocks still wanted; more than 0 to begin with.
    pub left: u64,
    /// Leaves that may still be read.
    pub looks: u64,
    /// Receives every piece that was claimed.
    pub took: F,
}

/// What the receiver did with a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is part of the answer.
    Kept,
    /// It could not be kept; others are still wanted.
    Passed,
    /// It was given back, and no other is wanted.
    Refused,
}

/// The receiver of the pieces wants no more.
#[derive(Debug)]
pub(crate) struct Refused;

impl<F: FnMut(Claimed) -> Taken> Wanted<F> {
    pub(crate) fn take(&mut self, claimed: Claimed) -> Result<(), Refused> {
        let len = claimed.len();
        match (self.took)(claimed) {
            Taken::Kept => self.left -= len,
            Taken::Passed => {}
            Taken::Refused => return Err(Refused),
        }
        Ok(())
    }
}

impl<G: Geometry> Bitmap<G> {
    /// Claims the runs in `leaves` that hold an aligned run of `order`, as far as they are wanted:
    /// one pass over the leaves that may have such runs, with one compare-exchange for all runs
    /// inside one word.
    pub(crate) fn claim_pieces<F: FnMut(Claimed) -> Taken>(
        &self,
        order: u32,
        leaves: Range<LeafIndex>,
        wanted: &mut Wanted<F>,
    ) -> Result<(), Refused> {
        let done = self.visit_leaves(order, leaves, Look::Quick, Pack::First, |leaf| {
            if wanted.looks == 0 {
                return Visit::Done(Ok(()));
            }
            wanted.looks -= 1;
            let mut words = self.leaf(leaf).words_with(order, Site::LeafLook);
            if words == 0 {
                return Visit::Stale;
            }
            while words != 0 {
                let word = leaf.word::<G>(words.trailing_zeros() as usize);
                words &= words - 1;
                match self.claim_pieces_of_word(order, word, wanted) {
                    Ok(()) if wanted.left > 0 => {}
                    done => return Visit::Done(done),
                }
            }
            Visit::From(leaf.next())
        });
        done.unwrap_or(Ok(()))
    }

    /// Claims runs of any length, from block `from` on, until what is wanted was found, or until
    /// there is none: then for certain, with a ticket that shows whether it is still so.
    pub(crate) fn claim_rest<F: FnMut(Claimed) -> Taken>(
        &self,
        from: u64,
        wanted: &mut Wanted<F>,
    ) -> Result<Option<Ticket>, Refused> {
        while wanted.left > 0 {
            let left = wanted.left;
            let search = Search { least: 1, most: left, align: 1, take: |run: u64| run.min(left) };
            fault!(RestByOnePass: {
                let Some(claimed) = self.claim_quick(from, &search) else { return Ok(None) };
                wanted.take(claimed)?;
                continue;
            });
            match self.claim_exact(from, &search) {
                Ok(claimed) => wanted.take(claimed)?,
                Err(ticket) => return Ok(Some(ticket)),
            }
        }
        Ok(None)
    }

    fn claim_pieces_of_word<F: FnMut(Claimed) -> Taken>(
        &self,
        order: u32,
        word: WordIndex,
        wanted: &mut Wanted<F>,
    ) -> Result<(), Refused> {
        let mut free = self.word(word).load(Site::LeafLook);
        let (inside, edges) = loop {
            let (inside, edges) = Self::fitting_runs(free, order.min(G::WORD_ORDER), wanted.left);
            if inside == G::Word::ZERO {
                break (inside, edges);
            }
            match self.take(self.word(word), free, free & !inside) {
                Ok(_) => break (inside, edges),
                Err(now) => free = now,
            }
        };
        let mut rest = inside;
        while rest != G::Word::ZERO {
            let place = rest.trailing_zeros();
            let len = (!(rest >> place)).trailing_zeros();
            rest &= !G::Word::span(place, len);
            let claimed = Claimed::new(word.block::<G>(place), u64::from(len));
            if let Err(refused) = wanted.take(claimed) {
                if rest != G::Word::ZERO {
                    let released = self.release_in_word(word, rest);
                    debug_assert_eq!(released, Ok(()), "blocks we own cannot be free");
                }
                return Err(refused);
            }
        }
        // The runs that may go on in a neighbouring word, one by one.
        for place in edges.places() {
            if wanted.left == 0 {
                break;
            }
            let left = wanted.left;
            let search = Search { least: 1, most: left, align: 1, take: |run: u64| run.min(left) };
            let claimed = self.claim_run_around(word.block::<G>(place), &search);
            if let Some(Ok(claimed)) = claimed {
                wanted.take(claimed)?;
            }
        }
        Ok(())
    }

    /// Of the runs in `free` that hold an aligned run of `order`: those that touch neither end of
    /// the word, up to `most` blocks; and one block of each run that touches an end.
    fn fitting_runs(free: G::Word, order: u32, most: u64) -> (G::Word, G::Word) {
        let groups = free.aligned_runs(order);
        let (mut inside, mut edges, mut left) = (G::Word::ZERO, G::Word::ZERO, most);
        for place in (free & !(free << 1)).places() {
            let len = (!(free >> place)).trailing_zeros();
            if groups & G::Word::span(place, len) == G::Word::ZERO {
                continue;
            }
            if place == 0 || place + len >= G::WORD_BLOCKS {
                edges |= G::Word::bit(place);
            } else {
                let taken = u64::from(len).min(left);
                inside |= G::Word::span(place, taken as u32);
                left -= taken;
            }
        }
        (inside, edges)
    }
}
