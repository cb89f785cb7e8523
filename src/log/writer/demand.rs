//! What the writer does on demand: making room, condensing, checkpoints, growth.

use smallvec::SmallVec;

use super::pack::Packer;
use super::{Base, Directory, MAX_IMAGES, NOTHING, Pace, Window, Writer, empty_page, identity};
use crate::log::error::CommitError;
use crate::log::fault::{Fault, faulty};
use crate::log::format::PAGE;
use crate::log::layout::Layout;
use crate::log::record::push_position;

impl Writer {
    pub(super) fn room(&self) -> u64 {
        let from = match faulty(Fault::RingBeforeSuperblock) {
            true => self.tail().position.get(),
            false => self.free_from,
        };
        self.layout.ring_len.saturating_sub(self.head.position - from)
    }

    /// Sees to it that `bytes` of records find room in the ring.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<(), CommitError> {
        // Frames are left at most half empty, but for the first and the last.
        let frames = 2 * bytes.min(self.layout.max_commit()) + 3 * self.layout.max_frame();
        let images = 40 * self.changed.len().min(MAX_IMAGES) as u64;
        let unreserved = faulty(Fault::RingBeforeSuperblock);
        let reserve = if unreserved { 0 } else { self.layout.reserve() };
        // Taking back what the engine may not have: as much again as it takes now.
        let undo = 2 * self.unstable_bytes + if self.keep_unstable { 2 * bytes } else { 0 };
        let needed = frames + images + reserve + undo;
        if self.room() >= needed {
            return Ok(());
        }
        let until = (self.free_from + self.layout.ring_len / 2).min(self.head.position);
        self.advance(until)?;
        if self.room() < needed {
            self.advance(self.head.position)?;
        }
        let free = self.room();
        if free < needed { Err(CommitError::Full { needed, free }) } else { Ok(()) }
    }

    /// Condenses until the log begins at `until` or later, as far as the engine's word allows.
    pub fn advance(&mut self, until: u64) -> Result<(), CommitError> {
        self.check_failed()?;
        while self.free_from < until {
            let mut window = Window::default();
            self.plan(&mut window, Pace::Until(until));
            if window.writes.is_empty() && window.records.is_empty() {
                return Ok(());
            }
            if !window.records.is_empty() {
                let allocated = self.mirror.allocated();
                let mut packer = Packer::new(self, allocated);
                packer.images(&window.records);
                window.frames = packer.finish();
            }
            if let Err(error) = self.write(&mut window) {
                self.abandon(&window);
                return Err(error);
            }
            self.settle(window);
        }
        Ok(())
    }

    /// Whether there is anything that no image holds.
    pub fn has_changes(&self) -> bool {
        self.ranges.iter().any(|bases| bases.last().is_some_and(|base| base.after.is_some()))
    }

    /// Takes in a transaction that is durable elsewhere.
    pub fn absorb(&mut self, records: &[u8], position: u64) -> Result<(), CommitError> {
        self.check_failed()?;
        let mut touched = Vec::new();
        self.mirror.apply(records, |range| touched.push(range))?;
        let now = self.head.position;
        touched.into_iter().for_each(|range| self.changed_at(range, now));
        self.absorbed = position;
        Ok(())
    }

    /// Images of everything absorbed, as one transaction.
    pub fn checkpoint(&mut self) -> Result<(), CommitError> {
        self.make_room(self.layout.reserve() / 2)?;
        let mut window = Window::default();
        let changed: Vec<u32> = (0..self.mirror.ranges())
            .filter(|&range| {
                self.ranges[range as usize].last().is_some_and(|base| base.after.is_some())
            })
            .collect();
        let base = self.head.lsn + 1;
        changed.iter().for_each(|&range| self.plan_image(&mut window, range, base));
        let mut records = std::mem::take(&mut window.records);
        push_position(&mut records, self.absorbed);
        let allocated = self.mirror.allocated();
        // No records of the changes could stand in for a torn image, so the images are durable before
        // the frame that names them.
        self.write(&mut window)?;
        window.writes.clear();
        let mut packer = Packer::new(self, allocated);
        packer.position(self.absorbed);
        packer.transaction(&records, allocated);
        window.frames = packer.finish();
        self.write(&mut window)?;
        self.figures.commits += 1;
        self.settle(window);
        self.changed.clear();
        // It is durable: what keeps the log from being emptied shows at the next call.
        let _emptied = self.advance(self.head.position);
        Ok(())
    }

    /// One step of condensing while nothing else happens: about a sixteenth of the changed ranges.
    pub fn idle(&mut self) -> Result<bool, CommitError> {
        if self.is_clean() {
            return Ok(false);
        }
        let before = self.free_from;
        let share = self.changed.len() / 16;
        let until =
            self.changed.get(share).map_or(self.head.position, |&(position, _)| position + 1);
        self.advance(until.min(self.head.position))?;
        Ok(self.free_from > before)
    }

    /// Makes the log one of `layout`: first the new areas, then one superblock, then the other.
    pub fn grow(&mut self, layout: Layout) -> Result<(), CommitError> {
        self.check_failed()?;
        if self.superblock_half {
            let mut window = Window::default();
            self.plan_superblock(&mut window, Pace::Until(0));
            self.write(&mut window)?;
            self.settle(window);
        }
        let size = |error| CommitError::Write(self.failure("grow", layout.len(), error));
        self.disk.grow(layout.len()).map_err(size)?;
        let old = self.directory.len();
        let places = layout.directory();
        let mut pages = Vec::new();
        for (index, place) in places.iter().enumerate().skip(old) {
            let page = empty_page(index, place);
            for copy in place.copies {
                let bytes = page.to_bytes(identity(&self.superblock));
                self.put(copy, &bytes).map_err(CommitError::Write)?;
            }
            pages.push(Directory {
                place: *place,
                sequence: 1,
                newest: 1,
                outdated: false,
                half: None,
            });
        }
        if !faulty(Fault::GrowthWithoutFlush) {
            self.flush()?;
        }
        let mut superblock = self.superblock.clone();
        layout.describe(&mut superblock);
        superblock.clean = 0;
        for _ in 0..2 {
            superblock.generation = (superblock.generation.get() + 1).into();
            let slot = superblock.generation.get() % 2;
            if let Err(failure) = self.put(slot * PAGE as u64, &superblock.to_page()) {
                // One slot may speak of the new size and the other of the old one.
                self.failed = Some(failure.clone());
                return Err(CommitError::Sync(failure));
            }
            self.flush()?;
        }
        self.superblock = superblock;
        self.directory.extend(pages);
        let nothing = || SmallVec::from_slice(&[Base { image: NOTHING, after: None }]);
        self.ranges.resize_with(layout.ranges() as usize, nothing);
        self.mirror.grow(layout.blocks);
        self.layout = layout;
        Ok(())
    }
}
