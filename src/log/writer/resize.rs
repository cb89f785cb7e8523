//! Another size of the device.
//!
//! What lies in the area stays where it is. Growth first makes room at its end, if there is not enough,
//! flushed; then the size goes into one superblock, and after a flush into the other. A shrink is the
//! second half alone. So after a crash either size is found, and the log's frames are good for both:
//! - no frame names a block behind the end before both superblocks have it on the device, since nobody
//!   has such a block;
//! - when the device becomes smaller, all behind its new end is free. Frames, images and directory pages
//!   that say otherwise are older than frames that free it: those ranges stay what they are, ranges that
//!   are condensed when their time has come. They can be on the device again, and are free then.
//!
//! What nobody can do after a shrink is to go back to a transaction before it: the superblock has a
//! *floor*.

use smallvec::SmallVec;

use super::{Base, Directory, NOTHING, Pace, Window, Writer, empty_page, identity};
use crate::error::ConfigError;
use crate::log::error::{CommitError, LogError};
use crate::log::fault::{Fault, faulty};
use crate::log::format::{PAGE, Superblock};
use crate::log::layout::Layout;
use crate::log::mirror::names_from;
use crate::store::Lsn;

impl Writer {
    /// Makes the log one for a device of `blocks` blocks, from 1 to the most there can be. After an
    /// error the size is as before, or the log refuses from then on.
    pub fn resize(&mut self, blocks: u64) -> Result<(), LogError> {
        self.check_failed()?;
        let refuse = |value, reason| Err(LogError::Option { name: "blocks", value, reason });
        let Some(layout) = self.layout.resized(blocks) else {
            return refuse(blocks, "the log is too short for so many ranges");
        };
        if blocks < self.layout.blocks {
            self.look_behind(blocks)?;
        }
        let ranges = layout.ranges();
        let out_of_memory = || ConfigError::OutOfMemory { bytes: blocks.div_ceil(8) };
        self.mirror.make_room(ranges).ok_or_else(out_of_memory)?;
        self.second_superblock()?;
        let pages = self.write_new_areas(&layout)?;
        self.write_size(&layout)?;
        self.directory.extend(pages);
        let nothing = || SmallVec::from_slice(&[Base { image: NOTHING, after: None }]);
        self.ranges.resize_with(ranges as usize, nothing);
        self.mirror.set_blocks(blocks);
        self.layout = layout;
        Ok(())
    }

    /// Sees to it that nothing needs the blocks from `blocks` on.
    fn look_behind(&mut self, blocks: u64) -> Result<(), LogError> {
        if faulty(Fault::ShrinkWithoutLook) {
            return Ok(());
        }
        if let Some(block) = self.mirror.allocated_from(blocks) {
            return Err(LogError::Occupied { block });
        }
        let needs = |records: &[u8]| names_from(records, blocks);
        if let Some((lsn, ..)) = self.unstable.iter().rfind(|(.., records)| needs(records)) {
            return Err(LogError::Unstable { lsn: Lsn(*lsn) });
        }
        if self.piggyback && self.has_changes() {
            // Otherwise the engine would feed in again, after a crash, what names them.
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Finishes what an earlier window began with the superblocks.
    fn second_superblock(&mut self) -> Result<(), CommitError> {
        if self.superblock_half {
            let mut window = Window::default();
            self.plan_superblock(&mut window, Pace::Until(0));
            self.write(&mut window)?;
            self.settle(window);
        }
        Ok(())
    }

    /// Makes room for the ranges that `layout` has more, flushed.
    fn write_new_areas(&mut self, layout: &Layout) -> Result<Vec<Directory>, CommitError> {
        let mut pages = Vec::new();
        if layout.ranges() == self.layout.ranges() {
            return Ok(pages);
        }
        let size = |error| CommitError::Write(self.failure("grow", layout.len(), error));
        self.disk.grow(layout.len()).map_err(size)?;
        for (index, &place) in layout.directory().iter().enumerate().skip(self.directory.len()) {
            let bytes = empty_page(index, &place).to_bytes(identity(&self.superblock));
            for copy in place.copies {
                self.put(copy, &bytes).map_err(CommitError::Write)?;
            }
            pages.push(Directory { place, sequence: 1, newest: 1, outdated: false, half: None });
        }
        if !faulty(Fault::GrowthWithoutFlush) {
            self.flush()?;
        }
        Ok(pages)
    }

    /// Writes the size first into one superblock, then into the other.
    fn write_size(&mut self, layout: &Layout) -> Result<(), CommitError> {
        let mut next = self.superblock.clone();
        layout.describe(&mut next);
        next.clean = 0;
        if layout.blocks < self.layout.blocks && !faulty(Fault::ShrinkWithoutFloor) {
            next.floor = self.stable_lsn().into();
        }
        for _ in 0..2 {
            next.generation = (next.generation.get() + 1).into();
            if let Err(failure) = self.put_superblock(&next) {
                // One may speak of the new size and the other of the old one.
                self.failed = Some(failure.clone());
                return Err(CommitError::Sync(failure));
            }
            if !faulty(Fault::SizeWithoutFlush) && !faulty(Fault::SizeInBothSlots) {
                self.flush()?;
            }
        }
        if faulty(Fault::SizeInBothSlots) {
            self.flush()?;
        }
        self.superblock = next;
        Ok(())
    }

    fn put_superblock(&self, superblock: &Superblock) -> Result<(), crate::log::IoFailure> {
        self.put(superblock.generation.get() % 2 * PAGE as u64, &superblock.to_page())
    }
}
