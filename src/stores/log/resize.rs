//! Growing and shrinking the device while the log is in use.

use crate::allocator::Allocator;
use crate::held::shrink::{self, Shrink, ShrinkFailed};
use crate::stores::log::commit_error::CommitError;
use crate::stores::log::error::LogError;
use crate::stores::log::writer::NewArea;
use crate::stores::log::{Authority, Inner, SpaceMapLog};

impl SpaceMapLog {
    /// Makes the device longer, in the log and then in its `allocator`: `blocks` blocks in all, the
    /// new ones free. Transactions go on; commits wait for up to four flushes. If the log's own
    /// area has no room left, it grows too, by 8 KiB for every 32768 blocks, and by at least a
    /// quarter. The new area is written before the size is, so that no later commit finds the file
    /// system full: 8 MiB and a flush at a time, with commits in between.
    ///
    /// After a crash the device has the old size or the new one: grow again.
    ///
    /// # Errors
    /// [`LogError::Resize`] if it would become shorter, or too long for an allocator, or another
    /// call is changing the size at this moment; [`LogError::Option`] if it is longer than
    /// [`SpaceMapLog::max_blocks`]; [`CommitError::Foreign`] for another allocator;
    /// [`LogError::Config`] without memory; [`CommitError::Write`] if the disk has no room: the
    /// device keeps its size, and the file is no longer than before if it can be cut.
    /// [`CommitError::Sync`]: in this process the size is unchanged, and the log refuses everything
    /// until it is opened again, when it has either size.
    pub fn grow(&self, allocator: &Allocator, blocks: u64) -> Result<(), LogError> {
        if allocator.id() != self.inner.allocator {
            return Err(CommitError::Foreign.into());
        }
        shrink::grow(allocator.core(), blocks, || self.inner.resize(blocks))
    }

    /// Makes the device shorter, in the log and then in its allocator, once no block behind the new
    /// end is owned. Transactions go on; commits wait for up to three flushes (a checkpoint, under
    /// [`Authority::Piggyback`](crate::Authority::Piggyback)). The log's own area keeps its length,
    /// and is used again when the device grows.
    ///
    /// From then on, [`recover_until`](crate::OpenOptions::recover_until) cannot go back to before
    /// the shrink ([`LogError::TooOld`]), except to what the engine has not called stable.
    ///
    /// After a crash the device has the old size or the new one: shrink again. Blocks of a
    /// transaction in doubt are owned until the log is opened again, and held ones until they are
    /// [stable](SpaceMapLog::stable).
    ///
    /// ```
    /// # use freemap::{CreateOptions, FileDisk, OpenOptions, SpaceMapLog};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let disk = FileDisk::open(dir.path().join("free.log"))?;
    /// let device = SpaceMapLog::create(disk, 10_000, &CreateOptions::new())?;
    /// let mut transaction = device.allocator.begin();
    /// let object = transaction.allocate_with(&freemap::Request::new(10).near(9_000))?;
    /// transaction.commit(&device.log)?;
    ///
    /// let shrink = device.allocator.shrink(5_000)?;
    /// let failed = device.log.shrink(shrink).expect_err("an object is there");
    /// let mut transaction = device.allocator.begin(); // move it: the tail is closed
    /// transaction.allocate(10)?;
    /// transaction.free(object[0])?;
    /// transaction.commit(&device.log)?;
    /// device.log.shrink(failed.shrink)?;
    /// assert_eq!((device.log.blocks(), device.allocator.blocks()), (5_000, 5_000));
    ///
    /// device.log.grow(&device.allocator, 1 << 20)?;
    /// assert_eq!(device.allocator.free_blocks(), (1 << 20) - 10);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// With the [`Shrink`], to be tried again or dropped: [`LogError::Resize`] if blocks are in use
    /// ([`ResizeError::InUse`](crate::ResizeError::InUse)), the device has grown meanwhile, or
    /// another call is changing the size at this moment; [`LogError::Unstable`],
    /// [`LogError::Occupied`], [`CommitError::Foreign`] if it is another allocator's,
    /// [`CommitError::Write`]: the size is unchanged. [`CommitError::Sync`]: the log refuses
    /// everything until it is opened again, and has either size then; under
    /// [`Authority::Piggyback`](crate::Authority::Piggyback), whose engine can go on, the blocks to
    /// be cut off are not handed out until then.
    pub fn shrink(&self, shrink: Shrink) -> Result<(), ShrinkFailed<LogError>> {
        if shrink.core().id != self.inner.allocator {
            return Err(ShrinkFailed { shrink, error: CommitError::Foreign.into() });
        }
        let blocks = shrink.blocks();
        // The log refuses then, but an engine with its own log could go on and name blocks that a
        // restart may find behind the end.
        let goes_on = self.inner.authority == Authority::Piggyback;
        let in_doubt =
            |error: &LogError| goes_on && matches!(error, LogError::Commit(CommitError::Sync(_)));
        shrink.finish_with(|| self.inner.resize(blocks), in_doubt)
    }

    /// Blocks of the device. Does not wait for the disk.
    pub fn blocks(&self) -> u64 {
        self.inner.shared.seen().blocks
    }

    /// The longest that the device can become. The log's ring, whose length
    /// [`CreateOptions::limit`](crate::CreateOptions::limit) fixes for good, has a reserve for
    /// every 32768 blocks. 14 TiB of 4 KiB blocks with the smallest default limit, 8 MiB; the
    /// longest allocator with 144 MiB.
    pub fn max_blocks(&self) -> u64 {
        self.inner.shared.seen().max_blocks
    }
}

impl Inner {
    /// Makes the size durable.
    pub(super) fn resize(&self, blocks: u64) -> Result<(), LogError> {
        let mut area = NewArea::default();
        let made = loop {
            // Commits run in between.
            match self.writer().make_area(blocks, &mut area) {
                Ok(false) => {}
                made => break made,
            }
        };
        let mut writer = self.writer();
        let done = match made {
            Err(error) => Err(error.into()),
            Ok(_) if blocks == writer.layout.blocks => Ok(()),
            Ok(_) => writer.resize(blocks),
        };
        if let Err(LogError::Commit(CommitError::Write(_))) = done {
            writer.give_back_area(&area);
        }
        done
    }
}
