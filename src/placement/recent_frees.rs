//! Where a handle freed last. A hint: other handles may have used it since.

use crate::base::account::Account;
use crate::base::place::{ShortWord, WordIndex};

/// Words of the bitmap, the newest on top: a stack that forgets its bottom.
#[derive(Clone, Debug)]
pub(crate) struct Freed {
    /// Empty until the first word is pushed.
    words: Vec<ShortWord>,
    room: usize,
    /// Where the next word goes.
    top: usize,
}

impl Freed {
    /// An empty stack for the newest `room` words.
    pub(crate) const fn new(room: usize) -> Self {
        Self { words: Vec::new(), room, top: 0 }
    }

    /// Puts `word` on top. Counts its memory in `account`, from which the owner takes it in the
    /// end.
    #[inline(always)]
    pub(crate) fn push(&mut self, word: WordIndex, account: &Account) {
        if self.words.is_empty() && !self.make_room(account) {
            return;
        }
        self.words[self.top] = ShortWord::of(word);
        self.top = if self.top + 1 < self.words.len() { self.top + 1 } else { 0 };
    }

    #[cold]
    fn make_room(&mut self, account: &Account) -> bool {
        let made = self.words.try_reserve_exact(self.room).is_ok();
        if made {
            self.words.resize(self.room, ShortWord::NONE);
            account.add(self.bytes());
        }
        made
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        self.words.capacity() * size_of::<ShortWord>()
    }

    /// Takes the word on top.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<WordIndex> {
        let last = self.top.checked_sub(1).unwrap_or(self.words.len().wrapping_sub(1));
        let word = self.words.get_mut(last).filter(|word| **word != ShortWord::NONE)?;
        self.top = last;
        Some(std::mem::replace(word, ShortWord::NONE).get())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_was_freed_last_comes_first_and_the_oldest_is_forgotten() {
        let (mut freed, account) = (Freed::new(8), Account::default());
        assert_eq!(freed.pop(), None);
        (0..11).for_each(|word| freed.push(WordIndex::new(word), &account));
        let popped: Vec<_> = std::iter::from_fn(|| freed.pop()).collect();
        assert_eq!(popped, [10, 9, 8, 7, 6, 5, 4, 3].map(WordIndex::new));
        freed.push(WordIndex::new(20), &account);
        assert_eq!((freed.pop(), freed.pop()), (Some(WordIndex::new(20)), None));
        assert_eq!((account.bytes(), freed.bytes()), (32, 32));
    }
}
