//! What the writer does on demand: making room, condensing, checkpoints.

use super::pack::Packer;
use super::{MAX_IMAGES, Pace, Window, Writer};
use crate::stores::log::commit_error::CommitError;
use crate::stores::log::fault::{Fault, faulty};
use crate::stores::log::record::push_position;

/// The state at the mark.
struct Snapshot {
    mark: u64,
    allocated: u64,
    /// The ranges whose state no image holds.
    pages: Vec<(u32, Vec<u64>)>,
}

impl Writer {
    pub(super) fn room(&self) -> u64 {
        let from = match faulty(Fault::RingBeforeSuperblock) {
            true => self.tail().position.get(),
            false => self.free_from,
        };
        self.layout.ring_len.saturating_sub(self.head.position - from)
    }

    /// Makes room in the ring for `bytes` of records.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<(), CommitError> {
        // Frames are at least half full, except the first and the last.
        let frames = 2 * bytes.min(self.layout.max_commit()) + 3 * self.layout.max_frame();
        let images = 40 * self.changed.len().min(MAX_IMAGES) as u64;
        let unreserved = faulty(Fault::RingBeforeSuperblock);
        let reserve = if unreserved { 0 } else { self.layout.reserve() };
        // Room to take back transactions that the engine may not have: as much again as they take
        // now.
        let undo = 2 * self.unstable_bytes + if self.keep_unstable { 2 * bytes } else { 0 };
        let undo = if faulty(Fault::NoRoomForUndo) { 0 } else { undo };
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

    /// Condenses until the log begins at `until` or later, as far as unstable transactions allow.
    pub(crate) fn advance(&mut self, until: u64) -> Result<(), CommitError> {
        self.check_failed()?;
        while self.free_from < until {
            let mut window = Window::default();
            self.plan(&mut window, Pace::Until(until));
            if window.writes.is_empty() && window.records.is_empty() {
                return Ok(());
            }
            if !window.records.is_empty() {
                let mut packer = Packer::new(self);
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

    /// Whether any range has changes that no image holds.
    pub(crate) fn has_changes(&self) -> bool {
        !self.shared.state().changed.is_empty()
            || (0..self.ranges.len() as u32).any(|range| self.is_changed(range))
    }

    /// Whether no image holds the state of `range` as of the last window.
    pub(crate) fn is_changed(&self, range: u32) -> bool {
        self.ranges[range as usize].last().is_some_and(|base| base.after.is_some())
    }

    /// Writes images of everything absorbed before the mark, as one transaction.
    pub(crate) fn checkpoint(&mut self) -> Result<(), CommitError> {
        self.check_failed()?;
        self.make_room(self.layout.reserve() / 2)?;
        let mut window = Window::default();
        let Snapshot { mark, allocated, pages } = self.snapshot()?;
        let base = self.head.lsn + 1;
        for (range, page) in pages {
            self.plan_image(&mut window, range, base, page);
        }
        let mut records = std::mem::take(&mut window.records);
        push_position(&mut records, mark);
        // No records of the changes could replace a torn image, so the images are durable before
        // the frame that names them.
        self.write(&mut window)?;
        window.writes.clear();
        let mut packer = Packer::new(self);
        packer.position(mark);
        packer.transaction(&records, allocated);
        window.frames = packer.finish();
        self.write(&mut window)?;
        self.figures.commits += 1;
        self.settle(window);
        self.changed.clear();
        // The checkpoint is durable. What keeps the log from being emptied shows at the next call.
        let _emptied = self.advance(self.head.position);
        Ok(())
    }

    /// Copies what a checkpoint must write. Until the checkpoint is durable, the ranges count as
    /// changed.
    fn snapshot(&mut self) -> Result<Snapshot, CommitError> {
        let shared = self.shared.clone();
        let mut state = shared.state();
        state.check()?;
        let now = self.head.position;
        std::mem::take(&mut state.changed)
            .into_iter()
            .for_each(|range| self.changed_at(range, now));
        let changed = (0..self.ranges.len() as u32).filter(|&range| self.is_changed(range));
        let pages = changed.map(|range| (range, state.mirror.range(range).to_vec())).collect();
        Ok(Snapshot { mark: state.mark(), allocated: state.mirror.allocated(), pages })
    }

    /// One step of condensing when idle: about a sixteenth of the changed ranges.
    pub(crate) fn idle(&mut self) -> Result<bool, CommitError> {
        self.check_failed()?;
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
}
