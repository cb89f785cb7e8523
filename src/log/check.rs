//! Comparing the log with itself, with memory, and with what the engine knows.

use crate::error::on_device;
use crate::extent::Extent;
use crate::extent_set::ExtentSet;
use crate::log::error::{CommitError, LogError, Part};
use crate::log::mirror::{Mirror, survey};
use crate::log::recover::{Loader, Report};
use crate::log::{Opened, SpaceMapLog};
use crate::store::Lsn;

/// What [`Opened::check`] found: nothing, if all lists are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Discrepancies {
    /// Allocated, but in none of the engine's extents: lost until repaired.
    pub leaked: Vec<Extent>,
    /// In the engine's extents, but free: would be given to somebody else.
    pub unprotected: Vec<Extent>,
    /// In two of the engine's extents.
    pub overlapping: Vec<Extent>,
    /// Extents of the engine's that are empty or not on the device.
    pub outside: Vec<Extent>,
}

impl Discrepancies {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

impl SpaceMapLog {
    /// Reads everything back from the disk and compares it with the state in memory: superblocks,
    /// directory, images, log. Commits wait meanwhile. Writes nothing.
    ///
    /// # Errors
    /// What opening would answer, or [`LogError::Damaged`] where disk and memory differ.
    pub fn verify(&self) -> Result<Report, LogError> {
        let writer = self.inner.writer();
        writer.check_failed()?;
        let loader = Loader::new(writer.disk.clone());
        let state = loader.load(None)?;
        let read = &state.recovered.mirror;
        let absorbed = writer.piggyback && writer.has_changes();
        let ranges = 0..read.ranges();
        if let Some(range) = ranges
            .clone()
            .find(|&range| !absorbed && read.range(range) != writer.mirror.range(range))
        {
            let offset = writer.layout.image_offset(range, 0);
            return Err(loader.damage(Part::Image, offset));
        }
        for (range, bases) in ranges.zip(&state.recovered.ranges) {
            let unchanged = bases.last().filter(|base| base.after.is_none());
            let wrong = unchanged.is_some_and(|base| {
                let found = survey(read.range(range), read.range_blocks(range));
                // The last range before a growth may have more free blocks now than in its image.
                let grew = writer
                    .layout
                    .regions
                    .iter()
                    .any(|region| region.first_range.get() + region.ranges.get() == range + 1);
                found != (base.image.free, base.image.largest) && !grew
            });
            if wrong {
                let offset = writer.layout.image_offset(range, 0);
                return Err(loader.damage(Part::DirectoryPage, offset));
            }
        }
        Ok(state.report)
    }

    fn with_mirror<T>(&self, look: impl FnOnce(&Mirror) -> T) -> T {
        look(&self.inner.writer().mirror)
    }
}

impl Opened {
    /// Compares the committed state with the engine's own list of the extents it uses, in any order.
    /// O(n log n), and O(blocks / 64). While transactions are committed, their extents count as
    /// discrepancies.
    pub fn check(&self, used: impl IntoIterator<Item = Extent>) -> Discrepancies {
        let mut found = Discrepancies::default();
        let blocks = self.allocator.blocks();
        let mut list: Vec<Extent> = used.into_iter().collect();
        list.sort_unstable();
        let mut claimed = ExtentSet::default();
        let mut overlapping = ExtentSet::default();
        for extent in list {
            if on_device(extent, blocks).is_err() {
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
        self.log.with_mirror(|mirror| compare(mirror, blocks, &claimed, &mut found));
        found
    }

    /// Makes the state what the engine's list says: `unprotected` blocks are allocated, `leaked` ones
    /// freed, in as many transactions as that takes; answers with the last. Overlaps are the engine's
    /// to resolve. To be called before anything else is allocated, and without guards.
    ///
    /// # Errors
    /// [`CommitError`]; what earlier transactions did stays, and another check shows the rest.
    /// [`CommitError::Conflict`] if somebody allocated an unprotected block in the meantime,
    /// [`CommitError::Mode`] under [`Authority::Piggyback`](crate::Authority::Piggyback), where the
    /// engine's own log is what has to be repaired.
    pub fn repair(&self, found: &Discrepancies) -> Result<Lsn, CommitError> {
        self.allocator.collect();
        // An extent takes at most two items and a fill.
        let at_once = (self.log.inner.max_commit / 40).max(1) as usize;
        for extents in found.unprotected.chunks(at_once) {
            let mut transaction = self.allocator.begin();
            for &extent in extents {
                transaction.mark_allocated(extent)?;
            }
            transaction.commit(&self.log)?;
        }
        for extents in found.leaked.chunks(at_once) {
            let mut transaction = self.allocator.begin();
            for &extent in extents {
                transaction.free(extent)?;
            }
            transaction.commit(&self.log)?;
        }
        Ok(self.log.last())
    }
}

/// Walks over the committed state and the engine's extents together.
fn compare(mirror: &Mirror, blocks: u64, claimed: &ExtentSet, found: &mut Discrepancies) {
    let mut extents = claimed.iter().peekable();
    for (index, &allocated) in mirror.words().iter().enumerate() {
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
        let valid = blocks.saturating_sub(start).min(64);
        let valid = if valid == 0 { 0 } else { u64::MAX >> (64 - valid) };
        push_bits(&mut found.leaked, start, allocated & !used & valid);
        push_bits(&mut found.unprotected, start, !allocated & used & valid);
    }
}

fn push_bits(list: &mut Vec<Extent>, start: u64, mut bits: u64) {
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
