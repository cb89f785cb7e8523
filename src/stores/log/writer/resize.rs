//! Growing and shrinking the device.
//!
//! Data in the area stays where it is. Growth first makes room at the area's end, if there is not
//! enough: the room is written, so that no later write has to find any, and flushed. Then the size
//! goes into a superblock, which is flushed as well. A shrink is the second half alone. So after a
//! crash either size is found, and the log's frames are valid for both:
//! - no frame names a block behind the end before the superblock has it on the device, since no
//!   transaction can get such a block;
//! - when the device becomes smaller, all blocks behind its new end are free. Frames, images and
//!   directory pages that say otherwise are older than frames that free them. Those ranges remain,
//!   and are condensed in their turn. They can be on the device again, and are free then.
//!
//! After a shrink, going back to an earlier transaction is impossible: the superblock has a
//! *floor*.

use smallvec::SmallVec;

use super::{Directory, Window, Writer};
use crate::stores::log::commit_error::CommitError;
use crate::stores::log::error::LogError;
use crate::stores::log::fault::{Fault, faulty};
use crate::stores::log::layout::{Layout, slot_offsets};
use crate::stores::log::mirror::names_from;
use crate::stores::log::state::{Base, NOTHING, PageFound, empty_page};
use crate::values::error::ConfigError;
use crate::values::lsn::Lsn;

/// Bytes of a new area that are written and flushed at once, while commits wait.
const STEP: u64 = 8 << 20;

/// The progress of making room for more ranges.
#[derive(Debug, Default)]
pub(crate) struct NewArea {
    /// The previous length of the disk, and the end of what is written.
    progress: Option<(u64, u64)>,
}

impl Writer {
    /// Makes room for a device of `blocks` blocks, if there is not enough: one step writes zeros,
    /// flushed, behind all that the log uses. Returns whether there is enough.
    pub(crate) fn make_area(
        &mut self,
        blocks: u64,
        area: &mut NewArea,
    ) -> Result<bool, CommitError> {
        self.check_failed()?;
        let Some(layout) = self.layout.resized(blocks) else { return Ok(true) };
        let (from, end) = (self.layout.len(), layout.len());
        if from == end {
            return Ok(true);
        }
        let size = |error| CommitError::Write(self.failure("grow", end, error));
        if area.progress.is_none() {
            let before = self.disk.len().map_err(size)?;
            area.progress = Some((before, from));
            self.disk.grow(end).map_err(size)?;
        }
        let Some((_, written)) = &mut area.progress else { return Ok(true) };
        let zeros = vec![0; 1 << 20];
        let until = end.min(*written + STEP);
        while *written < until {
            let len = (until - *written).min(zeros.len() as u64);
            self.put(*written, &zeros[..len as usize]).map_err(CommitError::Write)?;
            *written += len;
        }
        if !faulty(Fault::GrowthWithoutFlush) {
            self.flush()?;
        }
        Ok(until == end)
    }

    /// Gives back the room of a failed growth.
    pub(crate) fn give_back_area(&self, area: &NewArea) {
        if let Some((before, _)) = area.progress {
            // A longer file does no harm.
            let _cut = self.disk.cut(before);
        }
    }

    /// Changes the log's device to `blocks` blocks, from 1 to the largest possible number. After an
    /// error the size is unchanged, or the log refuses from then on.
    pub(crate) fn resize(&mut self, blocks: u64) -> Result<(), LogError> {
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
        self.shared.state().mirror.make_room(ranges).ok_or_else(out_of_memory)?;
        self.come_to_rest()?;
        let pages = self.write_new_areas(&layout)?;
        let before = self.directory.len();
        self.directory.extend(pages);
        if let Err(error) = self.write_size(&layout) {
            self.directory.truncate(before);
            return Err(error.into());
        }
        let nothing = || SmallVec::from_slice(&[Base { image: NOTHING, after: None }]);
        self.ranges.resize_with(ranges as usize, nothing);
        self.shared.state().mirror.set_blocks(blocks);
        self.layout = layout;
        Ok(())
    }

    /// Checks that nothing needs the blocks from `blocks` on.
    fn look_behind(&mut self, blocks: u64) -> Result<(), LogError> {
        if faulty(Fault::ShrinkWithoutLook) {
            return Ok(());
        }
        if let Some(block) = self.shared.state().mirror.allocated_from(blocks) {
            return Err(LogError::Occupied { block });
        }
        let needs = |records: &[u8]| names_from(records, blocks);
        if let Some((lsn, ..)) = self.unstable.iter().rfind(|(.., records)| needs(records)) {
            return Err(LogError::Unstable { lsn: Lsn(*lsn) });
        }
        if self.piggyback && self.has_changes() {
            // Otherwise, after a crash, the engine would replay deltas that name them.
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Finishes what earlier windows began with directory pages and superblocks, so that the next
    /// superblock may count the pages.
    fn come_to_rest(&mut self) -> Result<(), CommitError> {
        loop {
            let mut window = Window::default();
            self.plan_unfinished(&mut window);
            if window.writes.is_empty() {
                return Ok(());
            }
            if let Err(error) = self.write(&mut window) {
                self.abandon(&window);
                return Err(error);
            }
            self.settle(window);
        }
    }

    /// Writes and flushes directory pages for the additional ranges of `layout`; the room for them
    /// exists.
    fn write_new_areas(&mut self, layout: &Layout) -> Result<Vec<Directory>, CommitError> {
        let mut pages = Vec::new();
        if layout.ranges() == self.layout.ranges() {
            return Ok(pages);
        }
        for (index, &place) in layout.directory().iter().enumerate().skip(self.directory.len()) {
            let page = empty_page(index, &place, self.superblock.stamp());
            let bytes = page.to_bytes(self.superblock.identity());
            for copy in place.copies {
                self.put(copy, &bytes).map_err(CommitError::Write)?;
            }
            let version = page.version(&bytes);
            let page = PageFound { place, version, newest: 1, whole: true };
            pages.push(Directory::new(&page, false));
        }
        if !faulty(Fault::GrowthWithoutFlush) {
            self.flush()?;
        }
        Ok(pages)
    }

    /// Makes the size durable in a superblock.
    fn write_size(&mut self, layout: &Layout) -> Result<(), CommitError> {
        let mut next = self.superblock.clone();
        layout.describe(&mut next);
        next.clean = 0;
        if layout.blocks < self.layout.blocks && !faulty(Fault::ShrinkWithoutFloor) {
            next.floor = self.stable_lsn().into();
        }
        self.follow(&mut next);
        for offset in slot_offsets(next.generation.get()) {
            if let Err(failure) = self.put(offset, &next.to_page()) {
                // The superblock may or may not be on the disk.
                self.failed = Some(failure.clone());
                return Err(CommitError::Sync(failure));
            }
        }
        if !faulty(Fault::SizeWithoutFlush) {
            self.flush()?;
        }
        self.superblock = next;
        Ok(())
    }
}
