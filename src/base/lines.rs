//! Arrays of cache lines in memory that stays untouched until it is written.
//!
//! The system gives zeroed memory for nothing, page by page as it is written to, but aligned to 16
//! bytes; memory with more alignment is written with zeros first. So the elements begin at the
//! first boundary in a little more memory than they take.

use std::marker::PhantomData;

use crate::base::geometry::WordArray;
use crate::base::heap::OutOfMemory;
use crate::base::segmented::{Elements, Segmented};
use crate::base::sync::{Atom, AtomicWord};

/// Elements of a few atomic words each, aligned to their size, which is a power of two.
#[derive(Debug)]
pub(crate) struct Lines<W: Atom, A> {
    /// Nothing follows the last element.
    words: Vec<AtomicWord<W>>,
    /// Words before the first element.
    skip: usize,
    elements: PhantomData<fn() -> A>,
}

impl<W: Atom, A: WordArray<W>> Lines<W, A> {
    /// `count` elements of zeros.
    pub(crate) fn zeroed(count: usize) -> Result<Self, OutOfMemory> {
        let spare = if cfg!(loom) { 0 } else { A::LEN - 1 };
        let len = count.checked_mul(A::LEN).and_then(|len| len.checked_add(spare));
        let mut words = AtomicWord::zeros(len.ok_or(OutOfMemory { bytes: usize::MAX })?)?;
        #[cfg(not(loom))]
        let skip = words.as_ptr().align_offset(size_of::<A>()).min(spare);
        #[cfg(loom)]
        let skip = 0;
        words.truncate(skip + count * A::LEN);
        Ok(Self { words, skip, elements: PhantomData })
    }

    /// The words of all elements, before they are shared.
    pub(crate) fn words_mut(&mut self) -> &mut [AtomicWord<W>] {
        &mut self.words[self.skip..]
    }
}

impl<W: Atom, A: WordArray<W>> Elements for Lines<W, A> {
    /// The words of the element and of all elements behind it: cutting those off would cost one
    /// more comparison for each read.
    type Element = [AtomicWord<W>];

    fn count(&self) -> usize {
        (self.words.len() - self.skip) / A::LEN
    }

    fn bytes(&self) -> usize {
        self.words.capacity() * size_of::<AtomicWord<W>>()
    }

    #[inline(always)]
    fn element(&self, index: usize) -> Option<&[AtomicWord<W>]> {
        let start = self.skip + index * A::LEN;
        if start < self.words.len() { Some(&self.words[start..]) } else { None }
    }
}

impl<W: Atom, A: WordArray<W>> Segmented<Lines<W, A>> {
    /// Word `index`, counted over all elements.
    #[inline(always)]
    pub(crate) fn word(&self, index: usize) -> &AtomicWord<W> {
        match self.first.words.get(self.first.skip + index) {
            Some(word) => word,
            None => &self.added(index / A::LEN)[index % A::LEN],
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::sync::Site;

    #[test]
    fn elements_are_aligned_and_apart() {
        type Element = [AtomicWord<u64>; 8];
        for count in [0, 1, 2, 100, 100_000] {
            let mut lines = Lines::<u64, Element>::zeroed(count).unwrap();
            assert_eq!(lines.words_mut().len(), 8 * count);
            for (index, word) in lines.words_mut().iter_mut().enumerate() {
                *word = AtomicWord::new(index as u64);
            }
            assert_eq!(lines.count(), count);
            for index in 0..count {
                let element = lines.element(index).unwrap();
                assert_eq!(element.as_ptr().addr() % 64, 0);
                assert_eq!(element[3].load(Site::LeafLook), 8 * index as u64 + 3);
            }
            assert!(lines.element(count).is_none() && lines.element(count + 1).is_none());
        }
        assert!(Lines::<u64, Element>::zeroed(usize::MAX).is_err());
    }
}
