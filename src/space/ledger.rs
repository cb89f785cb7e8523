//! The committed state, one bit per block, as the store and its allocator both see it. The index
//! cannot replace it: there, a block is taken from the moment it is reserved until its quarantine
//! is over.
//!
//! Two kinds of stores keep a ledger. The space-map log changes it itself, under its writer's lock,
//! when it commits: plain loads and stores. Other stores cannot check a transaction before it is
//! durable, since several threads at once tell them only "set" and "clear". For those the ledger is
//! the state that the store will have once every frozen transaction is committed. A transaction
//! enters its changes when it is frozen, and takes them back if it is given up. Every bit it
//! changes must change: a block that it allocates is free here, and one that it frees is allocated.
//! So of two transactions that free the same block, one is refused before anything of it is
//! written. Bits change in one locked instruction per word; no thread waits.

use std::sync::Arc;

use crate::base::heap::OutOfMemory;
use crate::base::mutant::fault;
use crate::base::segmented::Segmented;
use crate::base::sync::{AtomicWord, Site};
use crate::values::extent::Extent;
use crate::values::op::Op;
use crate::values::plain_bitmap::spans;

/// One bit per block, 1 = allocated.
#[derive(Debug)]
pub(crate) struct Ledger {
    words: Segmented<Vec<AtomicWord<u64>>>,
}

impl Ledger {
    /// A ledger whose initial state is `allocated`.
    pub(crate) fn new(allocated: Vec<u64>) -> Self {
        // Converted in place: the words do not move.
        Self { words: Segmented::new(allocated.into_iter().map(AtomicWord::new).collect()) }
    }

    /// A ledger of `words` words, all free, in untouched memory.
    pub(crate) fn zeros(words: usize) -> Result<Self, OutOfMemory> {
        Ok(Self { words: Segmented::new(AtomicWord::zeros(words)?) })
    }

    /// The initial words, before the ledger is shared.
    pub(crate) fn plain(&mut self) -> &mut [u64] {
        AtomicWord::plain(self.words.first_mut())
    }

    /// Makes room for a device of `blocks` blocks; those added are free. For one caller at a time.
    pub(crate) fn grow(&self, blocks: u64) -> Result<(), OutOfMemory> {
        self.words.grow(blocks.div_ceil(64) as usize, |range| AtomicWord::zeros(range.len()))
    }

    /// Word `index`: blocks from 64 * `index` on.
    pub(crate) fn word(&self, index: usize) -> u64 {
        self.words[index].load(Site::Ledger)
    }

    /// Overwrites word `index`. The caller must be the only writer.
    pub(crate) fn set_word(&self, index: usize, word: u64) {
        self.words[index].put(word);
    }

    /// The first allocated block of `extent`, for which there is room. O(len / 64).
    pub(crate) fn first_allocated(&self, extent: Extent) -> Option<u64> {
        spans(extent).find_map(|(index, mask)| {
            let allocated = self.words[index].peek() & mask;
            (allocated != 0).then(|| 64 * index as u64 + u64::from(allocated.trailing_zeros()))
        })
    }

    /// Cuts `extent`, for which there is room, into free parts (`false`) and allocated parts
    /// (`true`), in order and not always of maximal length. O(len / 64 + parts).
    pub(crate) fn split(&self, extent: Extent, mut each: impl FnMut(Extent, bool)) {
        for (index, mask) in spans(extent) {
            let allocated = self.words[index].peek();
            let mut rest = mask;
            while rest != 0 {
                let first = rest.trailing_zeros();
                let is_allocated = allocated >> first & 1 == 1;
                let same = if is_allocated { allocated } else { !allocated } & rest;
                let len = (same >> first).trailing_ones();
                each(Extent::new(64 * index as u64 + u64::from(first), len.into()), is_allocated);
                rest &= u64::MAX.checked_shl(first + len).unwrap_or(0);
            }
        }
    }

    /// Bytes that it occupies.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.words.bytes()
    }

    /// Words that there is room for.
    #[cfg(test)]
    pub(crate) fn word_count(&self) -> usize {
        self.words.room()
    }

    /// Enters `changes`, whose extents are on the device and have no block in common: all of them
    /// or none. If none, the error names a block whose state does not match its change. Other
    /// blocks of a refused transaction are entered for a moment.
    ///
    /// O(blocks / 64).
    pub(crate) fn enter(
        &self,
        changes: impl Iterator<Item = (Extent, Op)> + Clone,
    ) -> Result<(), u64> {
        for (entered, (extent, change)) in changes.clone().enumerate() {
            if let Err(block) = self.change(extent, change) {
                self.leave(changes.take(entered));
                return Err(block);
            }
        }
        Ok(())
    }

    /// Takes back what was entered, then has `let_out` release the allocated blocks. In the reverse
    /// order, the next owner would find the blocks taken here. [mutant: LetOutBeforeLeave]
    pub(crate) fn give_up(
        &self,
        changes: impl Iterator<Item = (Extent, Op)>,
        let_out: impl FnOnce(),
    ) {
        fault!(LetOutBeforeLeave: {
            let_out();
            return self.leave(changes);
        });
        self.leave(changes);
        let_out();
    }

    /// Takes back what was entered, unless another transaction has changed it. That is a mistake: a
    /// transaction that frees what another has only frozen.
    pub(crate) fn leave(&self, changes: impl Iterator<Item = (Extent, Op)>) {
        for (extent, change) in changes {
            for (index, mask) in spans(extent) {
                self.change_word(index, mask, change.inverse());
            }
        }
    }

    fn change(&self, extent: Extent, change: Op) -> Result<(), u64> {
        for (index, mask) in spans(extent) {
            let wrong = self.change_word(index, mask, change);
            if wrong != 0 {
                let block = 64 * index as u64 + u64::from(wrong.trailing_zeros());
                self.change_word(index, mask & !wrong, change.inverse());
                for (before, mask) in spans(extent).take_while(|&(before, _)| before < index) {
                    self.change_word(before, mask, change.inverse());
                }
                return Err(block);
            }
        }
        Ok(())
    }

    /// Changes the bits of `mask`. Returns those that already had the new value.
    fn change_word(&self, index: usize, mask: u64, change: Op) -> u64 {
        let word = &self.words[index];
        fault!(EnterByLook: {
            let before = word.load(Site::Ledger);
            let (wrong, after) = match change {
                Op::Allocate => (mask & before, before | mask),
                Op::Free => (mask & !before, before & !mask),
            };
            word.store(after, Site::Ledger);
            return wrong;
        });
        match change {
            Op::Allocate => mask & word.fetch_or(mask, Site::Ledger),
            Op::Free => mask & !word.fetch_and(!mask, Site::Ledger),
        }
    }
}

/// The writer of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// Transactions, when they are frozen or given up.
    Transactions,
    /// The store, when it commits.
    Store,
}

/// What an allocator knows about the committed state.
#[derive(Debug)]
pub(crate) struct Committed {
    /// The committed state.
    pub ledger: Arc<Ledger>,
    /// The writer of the ledger.
    pub keeper: Keeper,
    /// Whether committed blocks may be freed without a transaction.
    pub plain_frees: bool,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use Op::{Allocate, Free};

    fn state(ledger: &Ledger) -> Vec<u64> {
        (0..ledger.word_count()).map(|index| ledger.word(index)).collect()
    }

    #[test]
    fn changes_are_entered_whole_or_not_at_all() {
        let ledger = Ledger::new(vec![0b1111, 0, 0, u64::MAX]);
        let changes = [(Extent::new(60, 100), Allocate), (Extent::new(1, 2), Free)];
        assert_eq!(ledger.enter(changes.into_iter()), Ok(()));
        let entered = [0b1001 | 0b1111 << 60, u64::MAX, u64::MAX >> 32, u64::MAX];
        assert_eq!(state(&ledger), entered);

        for (extent, change, block) in [
            (Extent::new(2, 3), Allocate, 3),
            (Extent::new(160, 40), Allocate, 192),
            (Extent::new(120, 100), Free, 160),
            (Extent::new(0, 1), Allocate, 0),
        ] {
            // A change that fits comes first, and is taken back.
            let refused = [(Extent::new(32, 8), Allocate), (extent, change)];
            assert_eq!(ledger.enter(refused.into_iter()), Err(block));
            assert_eq!(state(&ledger), entered, "{extent}, {change:?}");
        }
        ledger.leave(changes.into_iter());
        assert_eq!(state(&ledger), [0b1111, 0, 0, u64::MAX]);
    }

    #[test]
    fn an_extent_is_cut_where_its_state_changes() {
        let ledger = Ledger::new(vec![0b1111 << 60 | 0b101, u64::MAX, 0, 1 << 63]);
        for (start, len) in [(0, 256), (0, 1), (1, 1), (63, 66), (60, 4), (128, 64), (3, 250)] {
            let extent = Extent::new(start, len);
            let mut next = start;
            ledger.split(extent, |part, allocated| {
                assert_eq!(part.start, next, "in order, without gaps");
                next += part.len;
                for block in part.start..next {
                    let bit = ledger.word((block / 64) as usize) >> (block % 64) & 1;
                    assert_eq!(bit == 1, allocated, "block {block}");
                }
            });
            assert_eq!(next, start + len);
            let blocks = start..start + len;
            let first =
                blocks.into_iter().find(|&b| ledger.word((b / 64) as usize) >> (b % 64) & 1 == 1);
            assert_eq!(ledger.first_allocated(extent), first);
        }
    }

    #[test]
    fn room_for_more_leaves_everything_where_it_is() {
        let mut ledger = Ledger::zeros(3).expect("24 bytes");
        ledger.plain()[2] = 7;
        ledger.set_word(0, 5);
        ledger.grow(64 * 1000).expect("8 KB");
        assert!(ledger.word_count() >= 1000);
        assert_eq!([0, 1, 2, 3, 999].map(|index| ledger.word(index)), [5, 0, 7, 0, 0]);
    }
}
