//! Comparing a committed state with the engine's list.

use crate::allocator::Allocator;
use crate::transaction::CommitFailed;
use crate::transaction::store::Store;
use crate::values::error::{self, FreeError, MarkError};
use crate::values::extent::Extent;
use crate::values::extent_set::ExtentSet;
use crate::values::plain_bitmap::on_device;

/// The result of a check; nothing was found if all lists are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Discrepancies {
    /// Allocated, but in none of the engine's extents: lost until repaired.
    pub leaked: Vec<Extent>,
    /// In the engine's extents, but free: could be handed out again.
    pub unprotected: Vec<Extent>,
    /// In two of the engine's extents.
    pub overlapping: Vec<Extent>,
    /// Extents of the engine that are empty or not on the device.
    pub outside: Vec<Extent>,
}

impl Discrepancies {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// Compares `committed`, the words of a device of `blocks` blocks, with the engine's own list of
/// the extents it uses, in any order.
pub(crate) fn check(
    committed: impl Iterator<Item = u64>,
    blocks: u64,
    used: impl IntoIterator<Item = Extent>,
) -> Discrepancies {
    let mut found = Discrepancies::default();
    let mut list: Vec<Extent> = used.into_iter().collect();
    list.sort_unstable();
    let mut claimed = ExtentSet::default();
    let mut overlapping = ExtentSet::default();
    for extent in list {
        if error::on_device(extent, blocks).is_err() {
            found.outside.push(extent);
            continue;
        }
        for (part, twice) in claimed.split(extent) {
            if twice {
                let new = overlapping.split(part).into_iter().filter(|(_, known)| !known);
                new.for_each(|(part, _)| overlapping.insert(part));
            } else {
                claimed.insert(part);
            }
        }
    }
    found.overlapping = overlapping.iter().collect();
    compare(committed, blocks, &claimed, &mut found);
    found
}

/// Allocates `unprotected` blocks and frees `leaked` ones, in transactions of `at_once` extents.
pub(crate) fn repair<S: Store<Error: From<MarkError> + From<FreeError>>>(
    allocator: &Allocator,
    store: &S,
    found: &Discrepancies,
    at_once: usize,
) -> Result<(), S::Error> {
    for extents in found.unprotected.chunks(at_once) {
        let mut transaction = allocator.begin();
        for &extent in extents {
            transaction.mark_allocated(extent)?;
        }
        transaction.commit(store).map_err(CommitFailed::into_error)?;
    }
    for extents in found.leaked.chunks(at_once) {
        let mut transaction = allocator.begin();
        for &extent in extents {
            transaction.free(extent)?;
        }
        transaction.commit(store).map_err(CommitFailed::into_error)?;
    }
    Ok(())
}

/// Walks over the committed state and the engine's extents together.
fn compare(
    committed: impl Iterator<Item = u64>,
    blocks: u64,
    claimed: &ExtentSet,
    found: &mut Discrepancies,
) {
    let mut extents = claimed.iter().peekable();
    for (index, allocated) in committed.enumerate() {
        let start = 64 * index as u64;
        let mut used = 0;
        while let Some(&extent) = extents.peek() {
            let end = extent.start + extent.len;
            let low = extent.start.max(start);
            let high = end.min(start + 64);
            if low < high {
                used |= (u64::MAX >> (64 - (high - low))) << (low - start);
            }
            if end > start + 64 {
                break;
            }
            extents.next();
        }
        let valid = on_device(blocks, index);
        push_bits(&mut found.leaked, start, allocated & !used & valid);
        push_bits(&mut found.unprotected, start, !allocated & used & valid);
    }
}

/// Appends the runs of `bits`, the blocks from `start` on, to an ascending list.
pub(crate) fn push_bits(list: &mut Vec<Extent>, start: u64, mut bits: u64) {
    while bits != 0 {
        let from = bits.trailing_zeros();
        let len = (!(bits >> from)).trailing_zeros();
        let extent = Extent::new(start + u64::from(from), u64::from(len));
        match list.last_mut() {
            Some(last) if last.start + last.len == extent.start => last.len += extent.len,
            _ => list.push(extent),
        }
        if from + len >= 64 {
            break;
        }
        bits &= u64::MAX << (from + len);
    }
}
