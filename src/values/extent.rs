//! Extents, and small lists of them.

use std::fmt::{Display, Formatter};
use std::ops::Deref;

use smallvec::SmallVec;

use crate::base::geometry::{Native, NativeWord};
use crate::base::place::WordIndex;
use crate::base::word::Word;

/// The largest number of blocks of one allocator: 2^36, which is 256 TiB of 4 KiB blocks (less
/// where pointers are too short). Its bitmap takes 8 GiB.
pub const MAX_BLOCKS: u64 = if usize::BITS >= 64 { 1 << 36 } else { 1 << 31 };

/// The blocks `start..start + len` of a device.
///
/// ```
/// let extent = freemap::Extent::new(4096, 16);
/// assert_eq!(extent.end(), Some(4112));
/// assert!(extent.contains(4111) && !extent.contains(4112));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Extent {
    /// The first block.
    pub start: u64,
    /// Number of blocks.
    pub len: u64,
}

impl Extent {
    /// The blocks `start..start + len`.
    pub const fn new(start: u64, len: u64) -> Self {
        Self { start, len }
    }

    /// The first block behind the extent; `None` if that number exceeds a `u64`.
    pub const fn end(&self) -> Option<u64> {
        self.start.checked_add(self.len)
    }

    /// Whether `block` lies in the extent.
    pub const fn contains(&self, block: u64) -> bool {
        block >= self.start && block - self.start < self.len
    }

    /// Whether the two extents have a block in common.
    pub const fn overlaps(&self, other: &Extent) -> bool {
        self.len > 0 && other.len > 0 && (self.contains(other.start) || other.contains(self.start))
    }
}

impl Display for Extent {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}+{}", self.start, self.len)
    }
}

/// The runs of set `bits` of `word` of the bitmap.
pub(crate) fn runs_in_word(word: WordIndex, bits: NativeWord) -> impl Iterator<Item = Extent> {
    let start = move |place| word.block::<Native>(place);
    bits.runs().map(move |(place, len)| Extent { start: start(place), len: len.into() })
}

/// Sum of the lengths, in blocks.
pub(crate) fn blocks_of(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.len).sum()
}

/// How many extents a result holds without the heap.
pub(crate) const INLINE_EXTENTS: usize = 4;

/// The extents of one allocation, in the order in which they were found. Holds four without
/// touching the heap. Dereferences to a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents(SmallVec<[Extent; INLINE_EXTENTS]>);

impl Extents {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sum of the lengths, in blocks.
    pub fn blocks(&self) -> u64 {
        blocks_of(self)
    }

    pub(crate) fn push(&mut self, extent: Extent) {
        self.0.push(extent);
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        if self.0.spilled() { self.0.capacity() * size_of::<Extent>() } else { 0 }
    }

    /// The extents as a slice.
    pub fn as_slice(&self) -> &[Extent] {
        &self.0
    }
}

impl FromIterator<Extent> for Extents {
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> Self {
        Self(extents.into_iter().collect())
    }
}

impl From<SmallVec<[Extent; INLINE_EXTENTS]>> for Extents {
    fn from(list: SmallVec<[Extent; INLINE_EXTENTS]>) -> Self {
        Self(list)
    }
}

impl Deref for Extents {
    type Target = [Extent];

    fn deref(&self) -> &[Extent] {
        &self.0
    }
}

impl IntoIterator for Extents {
    type Item = Extent;
    type IntoIter = smallvec::IntoIter<[Extent; INLINE_EXTENTS]>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Extents {
    type Item = &'a Extent;
    type IntoIter = std::slice::Iter<'a, Extent>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// A list into which a search puts what it claimed.
pub(crate) trait ExtentList {
    /// Appends `extent`; `false` if the process has no memory for it.
    fn append(&mut self, extent: Extent) -> bool;
    /// All extents in the list.
    fn extents(&mut self) -> &mut [Extent];
    /// Keeps only the first `len` extents.
    fn cut(&mut self, len: usize);

    /// Appends `extent`, in extents of at most `max` blocks. If it goes on behind the last extent
    /// (but not one of the first `before`), lengthens that one instead, as far as it may be.
    /// `false` if the process has no memory; the list is unchanged then.
    fn add(&mut self, before: usize, extent: Extent, max: u64) -> bool {
        let Extent { mut start, mut len } = extent;
        let (count, mut joined) = (self.extents().len(), 0);
        if let Some(last) = self.extents()[before..].last_mut()
            && last.start + last.len == start
        {
            joined = len.min(max.saturating_sub(last.len));
            // All of it or nothing, if one extent can be all that is added.
            joined = if len <= max && joined < len { 0 } else { joined };
            last.len += joined;
            (start, len) = (start + joined, len - joined);
        }
        while len > 0 {
            let part = len.min(max);
            if !self.append(Extent { start, len: part }) {
                self.cut(count);
                if let Some(last) = self.extents().last_mut() {
                    last.len -= joined;
                }
                return false;
            }
            (start, len) = (start + part, len - part);
        }
        true
    }
}

impl ExtentList for Extents {
    fn append(&mut self, extent: Extent) -> bool {
        let room = self.0.try_reserve(1).is_ok();
        if room {
            self.0.push(extent);
        }
        room
    }

    fn extents(&mut self) -> &mut [Extent] {
        &mut self.0
    }

    fn cut(&mut self, len: usize) {
        self.0.truncate(len);
    }
}

impl ExtentList for Vec<Extent> {
    fn append(&mut self, extent: Extent) -> bool {
        let room = self.try_reserve(1).is_ok();
        if room {
            self.push(extent);
        }
        room
    }

    fn extents(&mut self) -> &mut [Extent] {
        self
    }

    fn cut(&mut self, len: usize) {
        self.truncate(len);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn extents_have_the_blocks_of_their_range() {
        let small = || (0..5u64).flat_map(|start| (0..4).map(move |len| Extent::new(start, len)));
        for extent in small() {
            let range = extent.start..extent.start + extent.len;
            assert_eq!(extent.end(), Some(range.end));
            assert!((0..10).all(|block| extent.contains(block) == range.contains(&block)));
            for other in small() {
                let common = (0..10).any(|block| extent.contains(block) && other.contains(block));
                assert_eq!(extent.overlaps(&other), common, "{extent} {other}");
            }
        }
        assert_eq!(Extent::new(u64::MAX, 1).end(), None);
        assert_eq!(Extent::new(4096, 16).to_string(), "4096+16");
        #[cfg(target_pointer_width = "64")]
        assert_eq!(MAX_BLOCKS << 12, 256 << 40, "256 TiB of 4 KiB blocks");
    }

    #[test]
    fn runs_in_a_word_are_extents_of_the_device() {
        let runs: Extents = runs_in_word(WordIndex::new(3), 0b1011).collect();
        assert_eq!(runs.as_slice(), [Extent::new(3 * 64, 2), Extent::new(3 * 64 + 3, 1)]);
    }

    #[test]
    fn a_list_has_what_was_pushed_and_leaves_the_stack_after_four() {
        let mut list = Extents::new();
        for count in 1..=9 {
            list.push(Extent::new(100 * count, count));
            assert_eq!(list.blocks(), (1..=count).sum());
            assert!(list.iter().eq(&list) && list.as_slice() == &*list);
            assert_eq!(list.last(), Some(&Extent::new(100 * count, count)));
            let capacity = if count <= 4 { 0 } else { count.next_power_of_two() as usize };
            assert_eq!(list.heap_bytes(), capacity * size_of::<Extent>());
        }
    }

    /// A list with memory for `room` extents.
    struct Limited {
        list: Extents,
        room: usize,
    }

    impl ExtentList for Limited {
        fn append(&mut self, extent: Extent) -> bool {
            self.list.len() < self.room && self.list.append(extent)
        }

        fn extents(&mut self) -> &mut [Extent] {
            self.list.extents()
        }

        fn cut(&mut self, len: usize) {
            self.list.cut(len);
        }
    }

    /// The list after [`ExtentList::add`]: block by block, unless one extent more takes all.
    fn with(list: &[Extent], before: usize, extent: Extent, max: u64) -> Vec<Extent> {
        let mut list = list.to_vec();
        let goes_on = |list: &[Extent], start, len| {
            let last = list[before..].last();
            last.is_some_and(|last| last.start + last.len == start && last.len + len <= max)
        };
        if extent.len <= max && !goes_on(&list, extent.start, extent.len) {
            list.push(extent);
            return list;
        }
        for block in extent.start..extent.start + extent.len {
            if goes_on(&list, block, 1) {
                list.last_mut().expect("it goes on").len += 1;
            } else {
                list.push(Extent::new(block, 1));
            }
        }
        list
    }

    #[test]
    fn adding_lengthens_the_last_extent_or_appends_or_changes_nothing() {
        let cases = (1..5).flat_map(|last| [(last, 0, 0), (last, 0, 1), (last, 2, 0)]);
        for (last, before, gap) in cases {
            let list = [Extent::new(5, 1), Extent::new(10, last)];
            for (len, max) in (1..8).flat_map(|len| (1..5).map(move |max| (len, max))) {
                let extent = Extent::new(10 + last + gap, len);
                let expected = with(&list, before, extent, max);
                let mut plain = list.to_vec();
                assert!(plain.add(before, extent, max));
                assert_eq!(plain, expected, "{before} {extent} {max}");
                for room in list.len()..10 {
                    let mut limited = Limited { list: list.into_iter().collect(), room };
                    let added = limited.add(before, extent, max);
                    assert_eq!(added, expected.len() <= room);
                    let expected = if added { &expected[..] } else { &list };
                    assert_eq!(limited.extents(), expected, "{before} {extent} {max} {room}");
                }
            }
        }
        let mut list = vec![Extent::new(0, 1); 3];
        list.cut(2);
        assert_eq!(list.len(), 2);
    }
}
