//! Comparing the log on disk with memory, and with the engine's list.

use crate::stores::check::{Discrepancies, check, repair};
use crate::stores::log::commit_error::CommitError;
use crate::stores::log::error::{LogError, Part};
use crate::stores::log::mirror::{Mirror, survey};
use crate::stores::log::recover::Loader;
use crate::stores::log::report::Report;
use crate::stores::log::{Opened, SpaceMapLog};
use crate::values::extent::Extent;
use crate::values::lsn::Lsn;

impl SpaceMapLog {
    /// Reads everything back from the disk and compares it with the state in memory: superblocks,
    /// directory, images, log. Commits wait meanwhile. Writes nothing.
    ///
    /// # Errors
    /// The errors of opening, or [`LogError::Damaged`] where disk and memory differ.
    pub fn verify(&self) -> Result<Report, LogError> {
        let writer = self.inner.writer();
        writer.check_failed()?;
        let loader = Loader::new(writer.disk.clone());
        let state = loader.load(None)?;
        let read = &state.recovered.mirror;
        let now = writer.shared.state();
        if read.blocks() != now.mirror.blocks() {
            return Err(loader.damage(Part::Superblocks, 0));
        }
        let ranges = 0..read.ranges();
        let absorbed =
            |range| writer.piggyback && (now.changed.contains(&range) || writer.is_changed(range));
        if let Some(range) = ranges
            .clone()
            .find(|&range| read.range(range) != now.mirror.range(range) && !absorbed(range))
        {
            let offset = writer.layout.image_offset(range, 0);
            return Err(loader.damage(Part::Image, offset));
        }
        for (range, bases) in ranges.zip(&state.recovered.ranges) {
            let unchanged = bases.last().filter(|base| base.after.is_none());
            let wrong = unchanged.is_some_and(|base| {
                survey(&read.range(range)) != (base.image.free, base.image.largest)
            });
            if wrong {
                let offset = writer.layout.image_offset(range, 0);
                return Err(loader.damage(Part::DirectoryPage, offset));
            }
        }
        Ok(state.report)
    }

    /// The number of blocks of the device, and the committed state as
    /// [`Allocator::from_bitmap`](crate::Allocator::from_bitmap) takes it. Commits wait while it is
    /// copied.
    pub fn committed(&self) -> (u64, Vec<u64>) {
        self.with_mirror(|mirror| (mirror.blocks(), mirror.words().collect()))
    }

    fn with_mirror<T>(&self, look: impl FnOnce(&Mirror) -> T) -> T {
        let writer = self.inner.writer();
        look(&writer.shared.state().mirror)
    }
}

impl Opened {
    /// Compares the committed state with the engine's own list of the extents it uses, in any
    /// order. O(n log n), and O(blocks / 64). Extents of transactions committed meanwhile count as
    /// discrepancies.
    pub fn check(&self, used: impl IntoIterator<Item = Extent>) -> Discrepancies {
        self.log.with_mirror(|mirror| check(mirror.words(), mirror.blocks(), used))
    }

    /// Brings the state to the engine's list: allocates `unprotected` blocks and frees `leaked`
    /// ones, in as many transactions as that takes. Returns the LSN of the last. Overlaps are the
    /// engine's to resolve. Call it before anything else is allocated, and without guards. A log
    /// that holds frees holds these too, until the returned LSN is called
    /// [stable](SpaceMapLog::stable).
    ///
    /// # Errors
    /// [`CommitError`]; what earlier transactions did stays, and another check shows the rest.
    /// [`CommitError::Conflict`] if an unprotected block was allocated in the meantime,
    /// [`CommitError::Mode`] under [`Authority::Piggyback`](crate::Authority::Piggyback), where the
    /// engine's own log must be repaired instead.
    pub fn repair(&self, found: &Discrepancies) -> Result<Lsn, CommitError> {
        self.allocator.collect();
        // An extent takes at most two items and a fill.
        let at_once = (self.log.inner.max_commit / 40).max(1) as usize;
        repair(&self.allocator, &self.log, found, at_once)?;
        Ok(self.log.last())
    }
}
