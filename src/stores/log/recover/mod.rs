//! From the bytes on disk to the committed state, without writing anything.
//!
//! 1. `superblock`: the newest intact superblock. `directory`: the newest intact copy of each
//!    directory page, which must be what the superblock counts, or newer.
//! 2. `frames`: the log from the tail, as far as magic, checksum, sequence, position, incarnation
//!    and the chain of checksums hold, cut after the last frame that ends a transaction. Torn or
//!    damaged? An intact frame further on which says that the missing ones were durable proves that
//!    acknowledged transactions are lost.
//! 3. `replay`: each range from its newest intact image, then the log's changes to it. All blocks
//!    behind the device's end must be free, and the number of allocated blocks must be what the
//!    last frame says.
//! 4. `rollback`: back to what the engine knows. `mend`: what an opening writes first.

mod directory;
mod frames;
mod loader;
mod mend;
mod replay;
mod rollback;
mod slots;
mod superblock;

use std::sync::atomic::Ordering;

pub(super) use loader::Loader;

use crate::stores::log::authority::Authority;
use crate::stores::log::error::{LogError, Part};
use crate::stores::log::format::Superblock;
use crate::stores::log::known::Tail;
use crate::stores::log::layout::Layout;
use crate::stores::log::report::Report;
use crate::stores::log::state::Recovered;
use crate::values::lsn::Lsn;
use directory::Directory;
use frames::Log;
use replay::Replay;

/// How often a log that changes during the read is read again: superblocks are written once for
/// every thirty-second part of the log's limit.
const SNAPSHOT_TRIES: usize = 16;

/// How often a damaged log is read again before the damage is reported.
const SNAPSHOT_REFUSALS: usize = 3;

/// The result of loading, before anything is written.
pub(super) struct Loaded {
    pub recovered: Recovered,
    pub report: Report,
    /// The transactions behind the requested one.
    pub rollback: Option<Tail>,
}

impl Loader {
    /// As [`Loader::load`], for a log that may be written to meanwhile: a state that it had at some
    /// moment during the call. Frames that the superblock needs are not overwritten while it is the
    /// newest. Everything else has checksums: for example, an image may be overwritten once its
    /// successor is durable, and is then read again.
    pub(super) fn snapshot(&self, until: Option<Lsn>) -> Result<Loaded, LogError> {
        let mut refused = 0;
        for _ in 0..SNAPSHOT_TRIES {
            let loaded = self.load(until);
            let (after, _) = self.superblock()?;
            match loaded {
                Ok(loaded) if loaded.recovered.superblock == after => return Ok(loaded),
                Ok(_) => {}
                Err(error @ LogError::Io(_)) => return Err(error),
                Err(error) if refused == SNAPSHOT_REFUSALS => return Err(error),
                Err(_) => refused += 1,
            }
        }
        Err(LogError::Changing { file: self.name.clone() })
    }

    /// Loads the state after the last transaction, and the way back to `until` if that is an
    /// earlier one.
    pub(super) fn load(&self, until: Option<Lsn>) -> Result<Loaded, LogError> {
        let started = std::time::Instant::now();
        let (superblock, damaged_copies) = self.superblock()?;
        let layout = self.layout(&superblock)?;
        let mut report = Report { damaged_copies, ..Report::default() };
        let directory = self.directory(&layout, &superblock, &mut report)?;
        let log = self.scan(&layout, &superblock)?;
        self.check_end(&layout, &superblock, &log, until)?;
        self.check_images(&directory, &log)?;
        let tail = &superblock.tail;
        report.last = Lsn(log.head.lsn);
        report.replayed = log.head.lsn - tail.lsn.get();
        report.log_bytes = log.head.position - tail.position.get();
        report.cut_frames = log.cut_frames as u64;
        report.damaged_at = log.damaged_at;
        let replay = Replay {
            loader: self,
            layout: &layout,
            log: &log,
            tail_position: tail.position.get(),
            until,
            complete: superblock.mode == Authority::Piggyback.encode(),
        };
        let replayed = replay.run(&directory, &mut report)?;
        let rollback = until.and_then(|until| log.tail_after(until, replayed.before));
        let marks = log.marks(&superblock);
        report.read_bytes = self.read_bytes.load(Ordering::Relaxed);
        report.load_time = started.elapsed();
        let recovered = Recovered {
            disk: self.disk.clone(),
            layout,
            superblock,
            mirror: replayed.mirror,
            head: log.head,
            ranges: replayed.bases,
            pages: directory.pages,
            marks,
        };
        Ok(Loaded { recovered, report, rollback })
    }

    /// Checks that the log does not end too early, and reaches back to `until`.
    fn check_end(
        &self,
        layout: &Layout,
        superblock: &Superblock,
        log: &Log,
        until: Option<Lsn>,
    ) -> Result<(), LogError> {
        let last = log.head.lsn;
        if let Some(offset) = log.damaged_at
            && until.is_none_or(|until| until.0 > last)
        {
            return Err(self.damage(Part::Frame, offset));
        }
        if let Some(expected) = until.filter(|until| until.0 > last) {
            let (file, found) = (self.name.clone(), Lsn(last));
            return Err(LogError::Missing { file, expected, found });
        }
        let floor = superblock.floor.get();
        if floor > last {
            return Err(self.damage(Part::Frame, layout.ring_offset(log.head.position)));
        }
        if let Some(until) = until.filter(|until| until.0 < floor) {
            return Err(LogError::TooOld { file: self.name.clone(), until, oldest: Lsn(floor) });
        }
        Ok(())
    }

    /// Checks that no image contains a transaction that the log does not have.
    fn check_images(&self, directory: &Directory, log: &Log) -> Result<(), LogError> {
        for (entries, range) in directory.entries.iter().zip(0..) {
            if entries.iter().any(|image| image.base > log.head.lsn) {
                return Err(self.damage(Part::DirectoryPage, directory.offset_of(range)));
            }
        }
        Ok(())
    }
}
