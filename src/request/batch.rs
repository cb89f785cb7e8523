//! Many extents in one call, with one read-modify-write for each word of the bitmap.

use smallvec::SmallVec;

use crate::base::geometry::{NativeWord, WORD_BLOCKS};
use crate::base::word::{Word, order_above};
use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::space::lanes::LaneId;
use crate::space::release::free_error;
use crate::values::error::{AllocError, FreeError, FreeManyError, on_device};
use crate::values::extent::{Extent, runs_in_word};
use crate::values::request::Request;

/// Groups of a list that need not be found twice.
const KEPT: usize = 64;

impl Core {
    /// Fills `extents` with extents of `len` blocks, or leaves everything as it was.
    pub(crate) fn allocate_many(
        &self,
        cursor: &mut Cursor,
        len: u64,
        extents: &mut [Extent],
    ) -> Result<(), AllocError> {
        Request::new(len).validate(self.bitmap.blocks())?;
        let total = len.saturating_mul(extents.len() as u64);
        if total > self.bitmap.blocks() {
            let error = self.no_room_for(len, total);
            self.count_refused(cursor.lane, &error);
            return Err(error);
        }
        let mut filled = 0;
        while filled < extents.len() {
            let rest = &mut extents[filled..];
            // Of what is closed, one by one.
            if (1..=WORD_BLOCKS).contains(&len) && !self.aside.is_active() {
                let word = cursor.place(len).word;
                let taken =
                    self.bitmap.claim_many_in_word(word, order_above(len), len as u32, rest);
                // All in one word: it does not matter which of its blocks are counted.
                let counted = Extent { start: word as u64 * WORD_BLOCKS, len: taken as u64 * len };
                self.count_allocated(cursor.lane, counted);
                filled += taken;
            }
            if let Some(next) = extents.get_mut(filled) {
                match self.allocate(cursor, len) {
                    Ok(extent) => *next = extent,
                    Err(_) => {
                        self.take_back(cursor.lane, &extents[..filled]);
                        return Err(self.no_room_for(len, total));
                    }
                }
                filled += 1;
            }
        }
        Ok(())
    }

    pub(crate) fn no_room_for(&self, len: u64, total: u64) -> AllocError {
        match self.failure(total, 1) {
            // Single blocks fit wherever they are free: others freed some since the search.
            AllocError::NoContiguous { requested, .. } if len == 1 => {
                AllocError::NoSpace { requested, free: requested - 1 }
            }
            error => error,
        }
    }

    /// Gives back all of `extents`, which it sorts, or none of them if one is no rightful one.
    pub(crate) fn free_many(
        &self,
        cursor: &mut Cursor,
        extents: &mut [Extent],
    ) -> Result<(), FreeManyError> {
        let none = |error| FreeManyError { freed: 0, error };
        self.sort_checked(extents).map_err(none)?;
        if self.committed.is_some() {
            extents.iter().try_for_each(|&e| self.refuse_committed(e)).map_err(none)?;
        }
        let mut kept: SmallVec<[Group; KEPT]> = SmallVec::new();
        for group in Group::all(extents, 0) {
            self.check_allocated(&group).map_err(none)?;
            if kept.len() < KEPT {
                kept.push(group);
            }
        }
        let rest = kept.last().map_or(0, |group| group.end);
        let (mut freed, mut result) = (0, Ok(()));
        for group in kept.into_iter().chain(Group::all(extents, rest)) {
            match self.release_group(cursor.lane, &group) {
                Ok(()) => {
                    let last = &extents[group.end - 1];
                    // Of single blocks, where there is plenty, one is enough to come back.
                    let all = last.len > 1 || cursor.is_mixed() || cursor.place(1).poor;
                    let from = if all { freed } else { group.end - 1 };
                    for &extent in &extents[from..group.end] {
                        self.remember_freed(cursor, extent);
                    }
                    freed = group.end;
                }
                Err(error) => {
                    result = Err(FreeManyError { freed, error });
                    break;
                }
            }
        }
        result
    }

    /// Sorts `extents`, and sees that they lie on the device and apart from each other.
    fn sort_checked(&self, extents: &mut [Extent]) -> Result<(), FreeError> {
        let blocks = self.bitmap.blocks();
        let (mut sorted, mut end) = (true, 0);
        for &extent in &*extents {
            let (start, len) = on_device(extent, blocks)?;
            sorted &= start >= end;
            end = start + len;
        }
        if !sorted {
            extents.sort_unstable_by_key(|extent| extent.start);
            let overlap = |two: &&[Extent]| two[1].start - two[0].start < two[0].len;
            if let Some(two) = extents.windows(2).find(overlap) {
                return Err(FreeError::DoubleFree { block: two[1].start });
            }
        }
        Ok(())
    }

    /// Whether all blocks of `group` are allocated, or the first that is not.
    fn check_allocated(&self, group: &Group) -> Result<(), FreeError> {
        let unowned = match group.part {
            Part::Word(word, mask) => {
                let word = word as usize;
                let mut unowned = self.bitmap.look(word) & mask;
                if self.aside.is_active() {
                    unowned |= self.unowned_in_word(word) & mask;
                }
                if self.quarantine.has_marks()
                    && let Some(block) = self.first_freed(runs_in_word(word, mask))
                {
                    unowned |= NativeWord::bit((block % WORD_BLOCKS) as u32);
                }
                (unowned != NativeWord::ZERO)
                    .then(|| word as u64 * WORD_BLOCKS + u64::from(unowned.trailing_zeros()))
            }
            Part::Words(Extent { start, len }) => {
                let end = start + len;
                let freed = self.quarantine.first_marked(start, end);
                let unowned = self.first_unowned(start, end).min(freed);
                (unowned < start + len).then_some(unowned)
            }
        };
        unowned.map_or(Ok(()), |block| Err(FreeError::DoubleFree { block }))
    }

    fn release_group(&self, lane: LaneId, group: &Group) -> Result<(), FreeError> {
        match group.part {
            Part::Words(extent) => self.release(lane, extent),
            Part::Word(word, mask) if self.aside.is_active() => {
                let mut runs = runs_in_word(word as usize, mask);
                runs.try_for_each(|extent| self.release_looking(lane, extent, true))
            }
            Part::Word(word, mask) => {
                let released = self.bitmap.release_in_word(word as usize, mask);
                released.map_err(|error| free_error(error, 0))?;
                let counted = Extent {
                    start: u64::from(word) * WORD_BLOCKS,
                    len: u64::from(mask.count_ones()),
                };
                self.count_freed(lane, counted);
                Ok(())
            }
        }
    }
}

/// Neighbours in a sorted list of extents that one step can release.
#[derive(Clone, Copy)]
struct Group {
    part: Part,
    /// Index behind the last of them.
    end: usize,
}

#[derive(Clone, Copy)]
enum Part {
    /// All of them in this word, as these bits.
    Word(u32, NativeWord),
    /// One that reaches over several words.
    Words(Extent),
}

impl Group {
    /// Cuts sorted extents, from the `first` on, into groups.
    #[inline]
    fn all(extents: &[Extent], first: usize) -> impl Iterator<Item = Group> {
        let mut next = first;
        std::iter::from_fn(move || {
            let extent = *extents.get(next)?;
            next += 1;
            let word = extent.start / WORD_BLOCKS;
            let Some(mut mask) = mask_in(word, extent) else {
                return Some(Group { part: Part::Words(extent), end: next });
            };
            while let Some(more) = extents.get(next).and_then(|&extent| mask_in(word, extent)) {
                mask |= more;
                next += 1;
            }
            Some(Group { part: Part::Word(word as u32, mask), end: next })
        })
    }
}

/// The bits of `extent` in `word`, if it lies there entirely.
#[inline(always)]
fn mask_in(word: u64, extent: Extent) -> Option<NativeWord> {
    let place = extent.start.wrapping_sub(word * WORD_BLOCKS);
    let inside = place < WORD_BLOCKS && extent.len <= WORD_BLOCKS - place;
    inside.then(|| NativeWord::span(place as u32, extent.len as u32))
}
