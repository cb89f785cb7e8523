//! Blocks kept for promises, none for a particular one.
//!
//! To keep a promise of n blocks, n blocks, any blocks, stay out of the free space: in escrow, as
//! free bits of a second bitmap. A caller that uses the promise allocates like any other, wherever
//! it suits. As many blocks of the escrow then serve no promise: they are *spare*. Only if nothing
//! else is free does the caller get the blocks in escrow. So no other request can break a promise,
//! and requests without a promise pay nothing for it.
//!
//! *Tokens.* Every block in escrow belongs to one token: one that a promise holds, or a spare one.
//! The block is there before the token exists, and no thread takes a block out without first having
//! a token for it. So a thread with a token finds a block, however many others search at the same
//! time.

use crate::base::geometry::Geometry;
use crate::base::heap::OutOfMemory;
use crate::base::mutant::{fault, step};
use crate::base::place::WordIndex;
use crate::base::sync::{AtomicWord, Counter, Site};
use crate::index::{Bitmap, Search, Verification};

/// The blocks kept out of the free space of one index.
#[derive(Debug)]
pub(crate) struct Escrow<G: Geometry> {
    /// A set bit is a block in escrow.
    blocks: Bitmap<G>,
    /// Tokens that no promise holds.
    spare: AtomicWord<u64>,
    /// Blocks put in minus blocks taken out, wrapping: a statistic.
    held: Counter,
}

impl<G: Geometry> Escrow<G> {
    /// For a device of `blocks` blocks, empty. Takes no memory until a block is put in.
    pub(crate) fn new(blocks: u64) -> Result<Self, OutOfMemory> {
        let (spare, held) = (AtomicWord::new(0), Counter::new(0));
        Ok(Self { blocks: Bitmap::none_free(blocks, 1)?, spare, held })
    }

    /// Extends it for a device of `blocks` blocks. For one caller at a time.
    pub(crate) fn lengthen(&self, blocks: u64) -> Result<(), OutOfMemory> {
        self.blocks.lengthen(blocks)
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        self.blocks.bytes()
    }

    /// Verifies the bitmap of these blocks.
    pub(crate) fn verify(&self) -> Verification {
        self.blocks.verify()
    }

    /// Blocks in escrow. Exact while nothing else runs.
    pub(crate) fn held(&self) -> u64 {
        self.held.get()
    }

    /// Tokens that no promise holds.
    pub(crate) fn spare(&self) -> u64 {
        self.spare.load(Site::Spare)
    }

    /// Blocks that promises hold. Exact while nothing else runs.
    pub(crate) fn promised(&self) -> u64 {
        let promised = self.held.get().wrapping_sub(self.spare());
        if promised > u64::MAX / 2 { 0 } else { promised }
    }

    /// Whether it is empty. Exact while nothing else runs.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.get() == 0
    }

    /// Takes `tokens` spare tokens, or returns the number of spare ones.
    pub(crate) fn take_tokens(&self, tokens: u64) -> Result<(), u64> {
        fault!(SpareByStore: {
            let spare = self.spare();
            let left = spare.checked_sub(tokens).ok_or(spare)?;
            self.spare.store(left, Site::Spare);
            return Ok(());
        });
        self.spare.update(Site::Spare, |spare| spare.checked_sub(tokens)).map(|_| ())
    }

    /// Takes all spare tokens except `rest`. Returns their number.
    pub(crate) fn take_all_but(&self, rest: u64) -> u64 {
        let taken = self.spare.update(Site::Spare, |spare| (spare > rest).then_some(rest));
        taken.map_or(0, |spare| spare - rest)
    }

    /// Takes up to `most` of the spare tokens. Returns their number.
    pub(crate) fn take_up_to(&self, most: u64) -> u64 {
        let left = |spare: u64| (spare > 0).then(|| spare.saturating_sub(most));
        self.spare.update(Site::Spare, left).map_or(0, |spare| spare.min(most))
    }

    /// Makes `tokens` spare.
    pub(crate) fn leave_tokens(&self, tokens: u64) {
        self.spare.fetch_add(tokens, Site::Spare);
    }

    /// Takes `blocks` tokens: spare ones, and those of blocks that `fill` puts in, at most as many
    /// as it is told. If there are fewer, returns how many were found.
    ///
    /// The caller holds what it has until it has all, so that no other caller takes it back. When
    /// `fill` finds nothing more, it makes all that it held spare, and takes as many as it needs in
    /// one step. So of several callers that hold parts of what each of them needs, the last one
    /// finds what the others held [mutant: NoLastTake; scenario: e8]. No caller ever holds more than
    /// it asks for, so callers for all of which there is room do not refuse each other
    /// [scenario: e7].
    ///
    /// A token exists only after its block is there: otherwise a thread could have a token and find
    /// no block [mutant: TokenBeforeBlock; scenario: e1].
    pub(crate) fn promise<E>(
        &self,
        blocks: u64,
        mut fill: impl FnMut(u64) -> Result<u64, E>,
    ) -> Result<Result<(), u64>, E> {
        if self.take_tokens(blocks).is_ok() {
            return Ok(Ok(()));
        }
        let mut held = 0;
        while held < blocks {
            let missing = blocks - held;
            let spare = self.take_up_to(missing);
            held += spare;
            if spare > 0 {
                continue;
            }
            fault!(TokenBeforeBlock: {
                self.leave_tokens(missing);
                if let Ok(1..) = fill(missing) {
                    continue;
                }
                return Ok(Err(held));
            });
            let filled = fill(missing);
            let put = *filled.as_ref().unwrap_or(&0);
            debug_assert!(put <= missing);
            held += put;
            if put == 0 {
                self.leave_tokens(held);
                filled?;
                fault!(NoLastTake: return Ok(Err(held)));
                return Ok(self.take_tokens(blocks));
            }
        }
        Ok(Ok(()))
    }

    /// Puts in blocks that the caller owns, and keeps their tokens. Returns how many arrived: all,
    /// unless another thread wrongly frees them at the same moment.
    pub(crate) fn put_blocks(&self, start: u64, len: u64) -> u64 {
        debug_assert!(len > 0);
        let put = self.blocks.add(start, len);
        self.held.add(put);
        put
    }

    /// Takes a run of up to `tokens` blocks, for as many of the caller's tokens. There is one: no
    /// searching thread holds, even for a moment, more blocks than it has tokens for.
    pub(crate) fn take(&self, tokens: u64) -> Option<(u64, u64)> {
        debug_assert!(tokens > 0);
        let search = Search { least: 1, most: tokens, align: 1, take: |run| tokens.min(run) };
        self.claim(&search)
    }

    /// Takes a run of exactly `len` blocks at a multiple of `align`, for as many of the caller's
    /// tokens.
    pub(crate) fn take_run(&self, len: u64, align: u64) -> Option<(u64, u64)> {
        debug_assert!(len > 0 && align > 0);
        let search = Search { least: len, most: len, align, take: |_| len };
        self.claim(&search)
    }

    fn claim<F: Fn(u64) -> u64>(&self, search: &Search<F>) -> Option<(u64, u64)> {
        let (start, len) = self.blocks.claim_exact(0, search).ok()?.into_run();
        self.taken(len);
        Some((start, len))
    }

    fn taken(&self, len: u64) {
        self.held.add(len.wrapping_neg());
    }

    /// Takes the first run of `from..to`, at most `most` blocks of it, if there is any. For a
    /// caller that has just put in as many blocks and keeps no tokens for them.
    pub(crate) fn take_without_tokens(&self, from: u64, to: u64, most: u64) -> Option<(u64, u64)> {
        debug_assert!(from <= to && most > 0);
        let mut from = from;
        loop {
            let start = self.blocks.free_in(from, to);
            if start == to {
                return None;
            }
            let end = self.blocks.run_end(start + 1, to.min(start.saturating_add(most)));
            if let Ok(claimed) = self.blocks.claim(start, end - start) {
                self.taken(claimed.len());
                return Some(claimed.into_run());
            }
            from = start + 1;
        }
    }

    /// Replaces the blocks in escrow of `from..to` by others, as far as `fill` has some: it puts in
    /// at most as many as it is told, with tokens. Passes what came out to `release`.
    ///
    /// Others go in first, so that every token has a block at each moment
    /// [mutant: OutBeforeIn; scenario: e9].
    pub(crate) fn exchange(
        &self,
        from: u64,
        to: u64,
        mut fill: impl FnMut(u64) -> u64,
        mut release: impl FnMut(u64, u64),
    ) {
        let mut at = self.first_in(from, to);
        while at < to {
            let most = self.run_end(at, to).max(at + 1) - at;
            fault!(OutBeforeIn: {
                let Some((start, len)) = self.take_without_tokens(at, to, most) else { return };
                if fill(len) < len {
                    self.put_blocks(start, len);
                    return;
                }
                release(start, len);
                at = self.first_in(at, to);
                continue;
            });
            let put = fill(most);
            if put == 0 {
                return;
            }
            let taken = self.take_without_tokens(at, to, put);
            if let Some((start, len)) = taken {
                release(start, len);
            }
            // If another thread was faster, more blocks went in than came out
            // [mutant: SurplusIsKept].
            step!(SurplusIsKept: self.leave_tokens(put - taken.map_or(0, |(_, len)| len)));
            at = self.first_in(at, to);
        }
    }

    /// The first block of `from..to` that is not in escrow, or `to`.
    pub(crate) fn run_end(&self, from: u64, to: u64) -> u64 {
        self.blocks.run_end(from, to)
    }

    /// The first block of `from..to` in escrow, or `to`.
    pub(crate) fn first_in(&self, from: u64, to: u64) -> u64 {
        self.blocks.free_in(from, to)
    }

    /// The blocks of `word` in escrow.
    pub(crate) fn look(&self, word: WordIndex) -> G::Word {
        self.blocks.look(word)
    }
}
