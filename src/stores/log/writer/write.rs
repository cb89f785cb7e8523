//! Writing a window, and the state after a failure.

use crate::stores::log::commit_error::CommitError;
use crate::stores::log::disk::Disk;
use crate::stores::log::fault::{Fault, faulty};
use crate::stores::log::frame::HEADER;
use crate::stores::log::io_failure::IoFailure;
use crate::stores::log::state::Mark;
use crate::stores::log::writer::{Window, Writer};
use std::io;
use std::sync::Arc;

impl Writer {
    /// Writes the window and flushes. After an error nothing of it is durable, or the log refuses
    /// from then on.
    pub(super) fn write(&mut self, window: &mut Window) -> Result<(), CommitError> {
        self.write_behind(window).map_err(CommitError::Write)?;
        self.write_frames(window)
    }

    /// Writes images, directory pages and the superblock of a window. After an error any of them
    /// may be on the disk. That does no harm, as long as no frame names the images: by rules 2, 3
    /// and 5 the next window overwrites the same places, and what a page or a superblock says was
    /// durable before.
    pub(super) fn write_behind(&self, window: &Window) -> Result<(), IoFailure> {
        window.writes.iter().try_for_each(|(offset, bytes)| self.put(*offset, bytes))
    }

    /// Writes the window without images, directory pages and superblock if there was no room for
    /// them, in a sparse file: transactions need only the ring. A later window plans them again; if
    /// there is no room then either, the ring is full in the end.
    pub(super) fn put_off(
        &mut self,
        window: &mut Window,
        failure: IoFailure,
    ) -> Result<(), IoFailure> {
        if !failure.is_full() {
            return Err(failure);
        }
        self.abandon(window);
        *window = Window { touched: std::mem::take(&mut window.touched), ..Window::default() };
        Ok(())
    }

    /// Writes the frames of a window and flushes. After an error none of them is durable, or the
    /// log refuses from then on.
    pub(super) fn write_frames(&mut self, window: &mut Window) -> Result<(), CommitError> {
        let start = self.head.position;
        let (needed, free) = (window.frames.bytes.len() as u64, self.room());
        if needed > free && !faulty(Fault::RingBeforeSuperblock) {
            return Err(CommitError::Full { needed, free });
        }
        let frames = std::mem::take(&mut window.frames.bytes);
        if let Err(failure) = self.write_ring(start, &frames) {
            return Err(self.void(&window.frames.marks, &frames, failure));
        }
        window.frames.bytes = frames;
        self.flush()
    }

    pub(super) fn put(&self, offset: u64, bytes: &[u8]) -> Result<(), IoFailure> {
        self.disk.write(offset, bytes).map_err(|error| self.failure("write", offset, error))
    }

    pub(super) fn write_ring(&self, position: u64, bytes: &[u8]) -> Result<(), IoFailure> {
        let offset = self.layout.ring_offset(position);
        let room = self.layout.ring_start + self.layout.ring_len - offset;
        let (first, second) = bytes.split_at(bytes.len().min(room as usize));
        if !first.is_empty() {
            self.put(offset, first)?;
        }
        if !second.is_empty() {
            self.put(self.layout.ring_start, second)?;
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), CommitError> {
        if faulty(Fault::NoFlush) {
            return Ok(());
        }
        self.figures.syncs += 1;
        self.disk.sync().map_err(|error| {
            // After a failed sync the system may have dropped the pages and marked them clean: a
            // second sync would succeed without having written anything.
            let failure = self.failure("sync", 0, error);
            self.failed = Some(failure.clone());
            CommitError::Sync(failure)
        })
    }

    /// A write of frames failed half way, and after a crash its rest may look like a commit: makes
    /// sure that it does not.
    ///
    /// A frame exists if its header does. Where a read shows another header, or none, the frame did
    /// not arrive and will not ([`Disk::write`]), so nothing needs to be written: a file system
    /// without room would not take it. Where a read shows the header, the sector exists, and is
    /// zeroed; then flushed, since otherwise a crash could bring the header back. The rest of a
    /// frame is no frame without its header, which comes back only if the same bytes are written
    /// there once more, with the rest.
    ///
    /// This covers every frame of the window, not only the first: a repeated commit may write the
    /// first again, byte for byte, and the frames behind it would continue it.
    pub(super) fn void(
        &mut self,
        marks: &[Mark],
        frames: &[u8],
        failure: IoFailure,
    ) -> CommitError {
        let start = self.head.position;
        let (mut arrived, mut found) = (Vec::new(), vec![0; self.layout.sector as usize]);
        for position in marks.iter().map(|mark| mark.position.get()) {
            let written = &frames[(position - start) as usize..][..HEADER];
            let read = self.disk.read(self.layout.ring_offset(position), &mut found);
            // A sector that cannot be read may hold the frame.
            if read.is_err() || found.starts_with(written) {
                arrived.push(position);
            }
        }
        let zeros = vec![0; self.layout.sector as usize];
        let zeroed = arrived.iter().all(|&position| self.write_ring(position, &zeros).is_ok());
        if arrived.is_empty() || zeroed && self.flush().is_ok() {
            return CommitError::Write(failure);
        }
        self.failed = Some(failure.clone());
        CommitError::Sync(failure)
    }

    pub(super) fn failure(&self, action: &'static str, offset: u64, error: io::Error) -> IoFailure {
        IoFailure { file: self.disk.name(), action, offset, error: Arc::new(error) }
    }

    /// The window was not written: its images must be planned again, and so must its directory
    /// pages and its superblock, if they may be on the disk.
    pub(super) fn abandon(&mut self, window: &Window) {
        window.first_copies.iter().for_each(|&(index, ..)| {
            self.directory[index].suspect = true;
            self.directory[index].outdated = true;
        });
        self.superblock_suspect |= window.superblock.is_some();
        for &(range, _) in window.images.iter().filter(|_| !faulty(Fault::AbandonForgets)) {
            let newest = self.ranges[range as usize].last();
            if let Some(position) = newest.and_then(|base| base.after) {
                self.requeue(position, range);
            }
        }
    }
}
