//! Devices that become longer and shorter meanwhile.

use rand::RngExt;

use super::world::World;
use crate::held::shrink::{Shrink, ShrinkFailed};
use crate::stores::log::record::RANGE_BLOCKS;
use crate::stores::log::{Authority, LogError};
use crate::values::error::ResizeError;
use crate::values::extent::Extent;
use crate::values::request::Request;

impl World {
    pub(super) fn grow(&mut self) -> Result<(), String> {
        if self.blocks.0 >= 10 * RANGE_BLOCKS {
            return Ok(());
        }
        let blocks = self.blocks.0 + self.rng.random_range(1..RANGE_BLOCKS);
        if blocks > self.opened().log.max_blocks() {
            return Ok(());
        }
        self.blocks.1 = blocks;
        let grown = self.act(|opened| opened.log.grow(&opened.allocator, blocks))?;
        let Err(error) = grown else {
            self.blocks.0 = blocks;
            return Ok(());
        };
        // A region ends where it ends.
        let full = matches!(&error, LogError::Commit(crate::stores::log::CommitError::Write(failure))
            if failure.error.kind() == std::io::ErrorKind::StorageFull);
        if !(full && self.disk.is_region()) {
            self.excuse_log(&error)?;
        }
        self.not_resized();
        Ok(())
    }

    /// The device has the size that it had, and if that is not certain, perhaps the other.
    fn not_resized(&mut self) {
        if !self.is_over() {
            self.blocks.1 = self.blocks.0;
        }
    }

    pub(super) fn shrink(&mut self) -> Result<(), String> {
        let Some(begun) = self.shrink.take() else {
            let blocks = self.blocks.0;
            let less = self.rng.random_range(0..blocks.min(RANGE_BLOCKS));
            self.shrink = self.opened().allocator.shrink(blocks - less).ok();
            return Ok(());
        };
        if self.rng.random_ratio(1, 8) {
            return Ok(()); // given up
        }
        self.move_out(&begun)?;
        if self.is_over() {
            return Ok(());
        }
        self.finish_shrink(begun)
    }

    /// Moves some of what is behind the new end.
    fn move_out(&mut self, shrink: &Shrink) -> Result<(), String> {
        if !self.settle_all()? {
            return Ok(());
        }
        let opened = self.opened();
        opened.allocator.collect();
        let mut transaction = opened.allocator.begin();
        // Beside what is in use there may be blocks that wait for the engine's word.
        let live = shrink.live_extents().flat_map(|extent| self.line.now().parts(extent));
        let live: Vec<Extent> = live.take(self.rng.random_range(1..500)).collect();
        for extent in live {
            transaction.free(extent).map_err(|error| format!("moving {extent}: {error}"))?;
            if opened.allocator.free_blocks() > opened.allocator.blocks() / 8 {
                let request = Request::new(extent.len).scattered().partial();
                drop(transaction.allocate_with(&request));
            }
        }
        let frozen = transaction.freeze();
        if frozen.delta().is_empty() { Ok(()) } else { self.commit(frozen) }
    }

    /// Has nothing under way; `false` if that did not come to be.
    fn settle_all(&mut self) -> Result<bool, String> {
        self.settle(None)?;
        while !self.own.in_flight.is_empty() && !self.is_over() {
            self.absorb()?;
        }
        self.kept.clear();
        Ok(!self.is_over())
    }

    fn finish_shrink(&mut self, shrink: Shrink) -> Result<(), String> {
        self.blocks.1 = shrink.blocks();
        self.begin_checkpoint();
        let done = self.act(|opened| opened.log.shrink(shrink))?;
        let Err(ShrinkFailed { shrink, error }) = done else {
            self.blocks.0 = self.blocks.1;
            return Ok(());
        };
        match error {
            LogError::Resize(ResizeError::InUse { .. }) => self.shrink = Some(shrink),
            // It has grown meanwhile.
            LogError::Resize(ResizeError::Length { .. }) => {}
            LogError::Unstable { .. }
                if self.authority == Authority::Engine
                    && self.line.first() < self.line.acknowledged() =>
            {
                self.stable();
                self.shrink = Some(shrink);
            }
            error => drop(self.excuse_log(&error)?),
        }
        self.not_resized();
        Ok(())
    }
}
