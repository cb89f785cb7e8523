//! An array that grows while other threads read it. Its elements never move, so a reader needs
//! neither lock nor guard, and nothing is ever reclaimed.

use std::ops::{Index, Range};

use crate::base::heap::OutOfMemory;
use crate::base::sync::Slot;

/// The most parts that can be added: each is as long as all parts before it, so the number of bits
/// of an index is enough.
const PARTS: usize = usize::BITS as usize;

/// One part of an array.
pub(crate) trait Elements {
    /// What a reader gets for an element.
    type Element: ?Sized;
    /// Number of elements.
    fn count(&self) -> usize;
    /// Bytes that the part occupies on the heap.
    fn bytes(&self) -> usize;
    /// Element `index`, if there is one.
    fn element(&self, index: usize) -> Option<&Self::Element>;
}

impl<T> Elements for Vec<T> {
    type Element = T;

    fn count(&self) -> usize {
        self.len()
    }

    fn bytes(&self) -> usize {
        self.capacity() * size_of::<T>()
    }

    #[inline(always)]
    fn element(&self, index: usize) -> Option<&T> {
        self.get(index)
    }
}

/// An array in parts: the first, and the added ones.
#[derive(Debug)]
pub(crate) struct Segmented<P> {
    /// Never changes, and is the only part until the array grows. Reading it costs as much as
    /// reading a slice.
    pub(crate) first: P,
    /// Part 0 fills `first` up to a power of two, `base`; part n holds the next `base << (n - 1)`.
    added: Box<[Slot<P>]>,
}

impl<P: Elements> Segmented<P> {
    /// An array of the elements of `first`.
    pub(crate) fn new(first: P) -> Self {
        Self { first, added: (0..PARTS).map(|_| Slot::default()).collect() }
    }

    /// The first part, before the array is shared.
    pub(crate) fn first_mut(&mut self) -> &mut P {
        &mut self.first
    }

    /// Bytes that all parts occupy on the heap.
    pub(crate) fn bytes(&self) -> usize {
        let added = self.added.iter().filter_map(Slot::get);
        self.first.bytes() + size_of_val(&*self.added) + added.map(P::bytes).sum::<usize>()
    }

    /// Number of elements that all parts have room for. Only these can be read.
    pub(crate) fn room(&self) -> usize {
        let parts = self.added.iter().enumerate();
        let there = parts.filter_map(|(part, slot)| slot.get().map(|_| self.end(part))).max();
        there.unwrap_or(self.first.count())
    }

    /// Whether there is room for element `index`.
    pub(crate) fn has(&self, index: usize) -> bool {
        index < self.first.count() || self.added[self.part(index)].get().is_some()
    }

    /// Makes room for at least `len` elements, in parts as long as all parts before; `part` makes
    /// the elements of a range. Without memory, nothing changes. If several callers grow at the
    /// same time, each makes the parts that it misses, and one caller's parts are kept.
    pub(crate) fn grow(
        &self,
        len: usize,
        part: impl Fn(Range<usize>) -> Result<P, OutOfMemory>,
    ) -> Result<(), OutOfMemory> {
        let missing = |&part: &usize| self.start(part) < len && self.added[part].get().is_none();
        let parts = (0..PARTS).filter(missing);
        let parts = parts.map(|index| Ok((index, part(self.start(index)..self.end(index))?)));
        for (index, elements) in parts.collect::<Result<Vec<_>, _>>()? {
            self.added[index].set(elements);
        }
        Ok(())
    }

    fn base(&self) -> usize {
        self.first.count().next_power_of_two()
    }

    fn start(&self, part: usize) -> usize {
        if part == 0 { self.first.count() } else { self.end(part - 1) }
    }

    fn end(&self, part: usize) -> usize {
        self.base().saturating_mul(1 << part)
    }

    /// The added part that holds element `index`.
    fn part(&self, index: usize) -> usize {
        (index / self.base()).checked_ilog2().map_or(0, |part| part as usize + 1)
    }

    #[cold]
    pub(crate) fn added(&self, index: usize) -> &P::Element {
        let part = self.part(index);
        let elements = self.added[part].get();
        let there = elements.and_then(|elements| elements.element(index - self.start(part)));
        there.expect("nobody is told of an index before its part is there")
    }
}

impl<P: Elements> Index<usize> for Segmented<P> {
    type Output = P::Element;

    #[inline(always)]
    fn index(&self, index: usize) -> &P::Element {
        match self.first.element(index) {
            Some(element) => element,
            None => self.added(index),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::heap::zeroed;

    #[test]
    fn elements_keep_their_index_however_the_array_grew() {
        for first in 1..=9 {
            for steps in [&[10usize, 11, 40][..], &[100], &[9, 9, 8, 33, 64, 65]] {
                let array = Segmented::new((0..first).collect::<Vec<usize>>());
                assert_eq!(array.room(), first);
                for &step in steps {
                    array.grow(step, |range| Ok(range.collect())).unwrap();
                    let len = array.room();
                    assert!(len >= step && len <= first.max(2 * step), "{first} {step} {len}");
                    assert!((0..len).all(|index| array[index] == index));
                }
            }
        }
    }

    #[test]
    fn nothing_moves() {
        let array = Segmented::new(vec![1, 2, 3]);
        array.grow(5, |range| zeroed(range.len())).unwrap();
        let before: Vec<*const i32> =
            (0..array.room()).map(|i| std::ptr::from_ref(&array[i])).collect();
        array.grow(1000, |range| zeroed(range.len())).unwrap();
        assert!(
            before.iter().enumerate().all(|(i, &place)| place == std::ptr::from_ref(&array[i]))
        );
    }

    #[test]
    fn no_memory_is_an_error() {
        let array = Segmented::new(vec![0u64]);
        assert!(array.grow(1 << 60, |range| zeroed(range.len())).is_err());
        assert_eq!(array.room(), 1);
    }
}
