//! The newest intact superblock.

use super::loader::Loader;
use crate::stores::log::error::{LogError, Part};
use crate::stores::log::format::{BadSuperblock, PAGE, Superblock, is_later};
use crate::stores::log::layout::{Layout, SECOND_PLACE, slot_offsets};
use crate::stores::log::record::RANGE_BLOCKS;
use crate::stores::log::state::COUNTER_END;

impl Loader {
    /// The newest intact superblock, and the number of damaged slots.
    pub(crate) fn superblock(&self) -> Result<(Superblock, u64), LogError> {
        let file = self.name.clone();
        let len = self.disk.len().map_err(|error| self.io("measure", 0, error))?;
        if len < 2 * PAGE as u64 {
            return Err(LogError::Foreign { file });
        }
        let places = [0, SECOND_PLACE].into_iter().filter(|place| place + 2 * PAGE as u64 <= len);
        let mut slots = Vec::new();
        for place in places {
            let mut pages = vec![0; 2 * PAGE];
            self.read(place, &mut pages)?;
            let offsets = [place, place + PAGE as u64];
            slots.extend(offsets.into_iter().zip(pages.chunks(PAGE)).map(parse_slot));
        }
        for slot in &slots {
            match *slot {
                Err(BadSuperblock::Version { major }) => {
                    return Err(LogError::Version { file, major });
                }
                Err(BadSuperblock::Features { incompatible: features }) => {
                    return Err(LogError::Features { file, features });
                }
                _ => {}
            }
        }
        // A slot of an overwritten version 1 log may have come back.
        let major = slots.iter().flatten().map(|slot| slot.major.get()).max();
        let slots = &slots[..if major == Some(1) { 2 } else { slots.len() }];
        let damaged = slots.iter().filter(|slot| is_damaged(slot)).count() as u64;
        let of_version = slots.iter().flatten().filter(|slot| Some(slot.major.get()) == major);
        let newest = of_version
            .reduce(|a, b| if is_later(b.generation.get(), a.generation.get()) { b } else { a });
        match newest {
            Some(superblock) => Ok((superblock.clone(), damaged)),
            None if damaged == 0 => Err(LogError::Foreign { file }),
            None => Err(self.damage(Part::Superblocks, 0)),
        }
    }

    /// The layout that the superblock describes, if it is valid.
    pub(super) fn layout(&self, superblock: &Superblock) -> Result<Layout, LogError> {
        let layout = Layout::from_superblock(superblock)
            .filter(|layout| is_sound(superblock, layout))
            .ok_or_else(|| self.damage(Part::Superblocks, 0))?;
        let found = self.disk.len().map_err(|error| self.io("measure", 0, error))?;
        if found < layout.len() {
            let (file, expected) = (self.name.clone(), layout.len());
            return Err(LogError::Truncated { file, expected, found });
        }
        Ok(layout)
    }
}

fn parse_slot((offset, page): (u64, &[u8])) -> Result<Superblock, BadSuperblock> {
    // A slot found in another slot's place belongs to a log that begins elsewhere.
    let superblock = Superblock::from_page(page)?;
    let mut offsets = slot_offsets(superblock.generation.get()).into_iter();
    let in_place = offsets.any(|of| of == offset);
    if in_place { Ok(superblock) } else { Err(BadSuperblock::Damaged) }
}

fn is_damaged(slot: &Result<Superblock, BadSuperblock>) -> bool {
    !matches!(slot, Ok(_) | Err(BadSuperblock::Empty | BadSuperblock::Foreign))
}

/// Whether a log can reach the numbers in this superblock.
fn is_sound(superblock: &Superblock, layout: &Layout) -> bool {
    let tail = &superblock.tail;
    let counters = [tail.position, tail.sequence, tail.lsn];
    counters.iter().all(|counter| counter.get() < COUNTER_END)
        && tail.position.get().is_multiple_of(layout.sector)
        && tail.sequence.get() >= 1
        // A device that has shrunk may have had as many blocks as there is room for.
        && tail.allocated.get() <= u64::from(layout.ranges()) * RANGE_BLOCKS
}
