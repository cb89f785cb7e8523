//! Many extents in one call, with one read-modify-write for each word of the bitmap.

use smallvec::SmallVec;

use crate::base::geometry::{LEAF_BLOCKS, Native, NativeWord, WORD_BLOCKS};
use crate::base::place::{WordIndex, place_in_word};
use crate::base::word::{Word, order_above};
use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::request::{allocate, refusal};
use crate::space::lanes::LaneId;
use crate::space::release::free_error;
use crate::values::error::{AllocError, FreeError, FreeManyError, on_device};
use crate::values::extent::{Extent, runs_in_word};
use crate::values::request::Request;

/// Groups that the check keeps for the release, so that they need not be found twice.
const KEPT: usize = 64;

/// Fills `extents` with extents of `len` blocks, or leaves everything as it was.
pub(crate) fn allocate_many(
    core: &Core,
    cursor: &mut Cursor,
    len: u64,
    extents: &mut [Extent],
) -> Result<(), AllocError> {
    Request::new(len).check_len(core.space.bitmap.blocks())?;
    let total = len.saturating_mul(extents.len() as u64);
    if total > core.space.bitmap.blocks() {
        let error = refusal::failure(core, total, 1);
        refusal::count_refused(core, cursor.lane, &error);
        return Err(error);
    }
    let mut filled = 0;
    while filled < extents.len() {
        let rest = &mut extents[filled..];
        if (1..=WORD_BLOCKS).contains(&len) {
            let (word, order) = (cursor.place(len).word, order_above(len));
            let claimed = core.space.bitmap.claim_many_in_word(word, order, len as u32, rest.len());
            filled += claimed.map_or(0, |claimed| core.space.keep_runs(cursor.lane, claimed, rest));
        }
        if let Some(next) = extents.get_mut(filled) {
            match allocate::allocate(core, cursor, len) {
                Ok(extent) => *next = extent,
                Err(_) => {
                    core.space.give_back(cursor.lane, &extents[..filled]);
                    return Err(match len {
                        // All that is free was found.
                        1 => AllocError::NoSpace { requested: total, free: filled as u64 },
                        _ => refusal::failure(core, total, 1),
                    });
                }
            }
            filled += 1;
        }
    }
    Ok(())
}

/// Frees all of `extents`, which it sorts, or none of them if one may not be freed.
pub(crate) fn free_many(
    core: &Core,
    cursor: &mut Cursor,
    extents: &mut [Extent],
) -> Result<(), FreeManyError> {
    let none = |error| FreeManyError { freed: 0, error };
    sort_checked(core, extents).map_err(none)?;
    if core.space.committed.is_some() {
        extents.iter().try_for_each(|&e| core.space.refuse_committed(e)).map_err(none)?;
    }
    debug_assert!(extents.windows(2).all(|two| two[0].start + two[0].len <= two[1].start));
    let mut kept: SmallVec<[Group; KEPT]> = SmallVec::new();
    let (mut begin, mut touched) = (0, 0);
    for group in Group::all(extents, 0) {
        touch_ahead(core, extents, begin, &mut touched);
        begin = group.end;
        check_allocated(core, &group).map_err(none)?;
        if kept.len() < KEPT {
            kept.push(group);
        }
    }
    let rest = kept.last().map_or(0, |group| group.end);
    let (mut freed, mut result) = (0, Ok(()));
    for group in kept.into_iter().chain(Group::all(extents, rest)) {
        match release_group(core, cursor.lane, &group) {
            Ok(()) => {
                let last = &extents[group.end - 1];
                // Of single blocks, where there is plenty, one is enough as a place to return to.
                let all = last.len > 1 || cursor.is_mixed() || cursor.place(1).poor;
                let from = if all { freed } else { group.end - 1 };
                for &extent in &extents[from..group.end] {
                    core.placer.remember_freed(&core.space, cursor, extent);
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

/// Extents whose memory is read together. As many as a core has misses under way would do; more
/// are no slower.
const AHEAD: usize = 64;

/// If the extents from `begin` on were not `touched` yet, reads what checks and releases of the next
/// few will read: then these wait for memory together, and not one after the other.
#[inline(always)]
fn touch_ahead(core: &Core, extents: &[Extent], begin: usize, touched: &mut usize) {
    if begin < *touched {
        return;
    }
    *touched = extents.len().min(begin + AHEAD);
    let ahead = &extents[begin..*touched];
    let [first, .., last] = ahead else { return };
    // What lies close together is fetched together without being asked.
    if last.start - first.start > ahead.len() as u64 * LEAF_BLOCKS {
        let words = ahead.iter().map(|extent| WordIndex::of_block::<Native>(extent.start));
        words.for_each(|word| core.space.bitmap.touch(word));
    }
}

/// Sorts `extents`, and checks that they lie on the device and do not overlap.
fn sort_checked(core: &Core, extents: &mut [Extent]) -> Result<(), FreeError> {
    let blocks = core.space.bitmap.blocks();
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

/// Checks that all blocks of `group` are allocated; otherwise names the first that is not.
fn check_allocated(core: &Core, group: &Group) -> Result<(), FreeError> {
    let unowned = match group.part {
        Part::Word(word, mask) => {
            let mut unowned = core.space.bitmap.look(word) & mask;
            if core.space.closed.is_active() {
                unowned |= core.space.unowned_in_word(word) & mask;
            }
            if core.space.quarantine.has_marks()
                && let Some(block) = core.space.first_freed(runs_in_word(word, mask))
            {
                unowned |= NativeWord::bit(place_in_word::<Native>(block));
            }
            (unowned != NativeWord::ZERO).then(|| word.block::<Native>(unowned.trailing_zeros()))
        }
        Part::Words(Extent { start, len }) => {
            let end = start + len;
            let freed = core.space.quarantine.first_marked(start, end);
            let unowned = core.space.first_unowned(start, end).min(freed);
            (unowned < start + len).then_some(unowned)
        }
    };
    unowned.map_or(Ok(()), |block| Err(FreeError::DoubleFree { block }))
}

fn release_group(core: &Core, lane: LaneId, group: &Group) -> Result<(), FreeError> {
    match group.part {
        Part::Words(extent) => core.space.release(lane, extent),
        Part::Word(word, mask) if core.space.closed.is_active() => {
            let mut runs = runs_in_word(word, mask);
            runs.try_for_each(|extent| core.space.release_looking(lane, extent, true))
        }
        Part::Word(word, mask) => {
            let released = core.space.bitmap.release_in_word(word, mask);
            released.map_err(|error| free_error(error, 0))?;
            let (start, len) = (word.first_block::<Native>(), mask.count_ones().into());
            core.space.count_freed(lane, Extent { start, len });
            Ok(())
        }
    }
}

/// Adjacent entries of a sorted list of extents that one step can release.
#[derive(Clone, Copy)]
struct Group {
    part: Part,
    /// Index behind the last entry.
    end: usize,
}

#[derive(Clone, Copy)]
enum Part {
    /// All of them in this word, as these bits.
    Word(WordIndex, NativeWord),
    /// One extent that reaches over several words.
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
            let word = WordIndex::of_block::<Native>(extent.start);
            let Some(mut mask) = mask_in(word, extent) else {
                return Some(Group { part: Part::Words(extent), end: next });
            };
            while let Some(more) = extents.get(next).and_then(|&extent| mask_in(word, extent)) {
                mask |= more;
                next += 1;
            }
            Some(Group { part: Part::Word(word, mask), end: next })
        })
    }
}

/// The bits of `extent` in `word`, if it lies there entirely.
#[inline(always)]
fn mask_in(word: WordIndex, extent: Extent) -> Option<NativeWord> {
    let place = extent.start.wrapping_sub(word.first_block::<Native>());
    let inside = place < WORD_BLOCKS && extent.len <= WORD_BLOCKS - place;
    inside.then(|| NativeWord::span(place as u32, extent.len as u32))
}
