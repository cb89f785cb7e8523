//! Growing and shrinking the device while the freelist is in use.
//!
//! The description alone holds the size of the device, and it is one value: after a crash either
//! size is found. Growth writes nothing else, since no key means that all is free. Before a shrink,
//! the chunks behind the new end, which are all free, lose their keys, so that none is left that
//! the smaller device does not have; until the description changes, that makes no difference.

use std::sync::MutexGuard;

use rocksdb::WriteBatch;

use crate::allocator::Allocator;
use crate::held::shrink::{self, Shrink, ShrinkFailed};
use crate::stores::rocks::error::{RocksError, StageError};
use crate::stores::rocks::family::{self, Mode};
use crate::stores::rocks::meta::{self, Meta};
use crate::stores::rocks::rechunk::STEP_BYTES;
use crate::stores::rocks::scan::{read, read_meta};
use crate::stores::rocks::{Inner, RocksFreelist, chunk, open};
use crate::values::plain_bitmap::{first_set, zeroed};

impl<M: Mode> RocksFreelist<M> {
    /// Makes the device longer, in the freelist and then in its `allocator`: `blocks` blocks in
    /// all, the new ones free. Transactions go on meanwhile. Costs one synced write, and what
    /// [`Allocator::grow`] takes.
    ///
    /// After a crash the device has the old size or the new one: grow again.
    ///
    /// # Errors
    /// [`RocksError::Resize`] if it would become shorter, or too long, or another call is changing
    /// the size at this moment; [`StageError::Foreign`] for another allocator;
    /// [`RocksError::NoFreelist`] if the description is not the one that was opened. Nothing was
    /// written then. [`RocksError::Database`]: in this process the size is unchanged, but may be
    /// the new one after a restart.
    pub fn grow(&self, allocator: &Allocator, blocks: u64) -> Result<(), RocksError> {
        if allocator.id() != self.inner.allocator {
            return Err(StageError::Foreign.into());
        }
        shrink::grow(allocator.core(), blocks, || {
            let mut meta = self.own_meta()?;
            self.change_size(&mut meta, blocks)
        })
    }

    /// Makes the device shorter, in the freelist and then in its allocator, once no block behind
    /// the new end is owned. Transactions go on meanwhile. Reads what is behind the new end,
    /// deletes its keys in steps, then makes one synced write.
    ///
    /// After a crash the device has the old size or the new one: shrink again. Blocks of a
    /// transaction in doubt are owned until a restart.
    ///
    /// # Errors
    /// With the [`Shrink`], to be tried again or dropped: [`RocksError::Resize`] if blocks are in
    /// use ([`ResizeError::InUse`](crate::ResizeError::InUse)), the device has grown meanwhile, or
    /// another call is changing the size at this moment; [`StageError::Foreign`] if it is another
    /// allocator's; [`RocksError::Occupied`]; [`RocksError::NoFreelist`]. [`RocksError::Database`]:
    /// in this process the size is unchanged, but may be the new one if there is a restart before
    /// the next transaction.
    pub fn shrink(&self, shrink: Shrink) -> Result<(), ShrinkFailed<RocksError>> {
        if shrink.core().id != self.inner.allocator {
            return Err(ShrinkFailed { shrink, error: StageError::Foreign.into() });
        }
        let blocks = shrink.blocks();
        let shorten = || {
            let mut meta = self.own_meta()?;
            self.change_size(&mut meta, blocks)
        };
        shrink.finish_with(shorten, |_| false)
    }

    /// Blocks of the device.
    pub fn blocks(&self) -> u64 {
        self.inner.blocks.get()
    }

    /// The description, if it is still the one that was opened: the family may have been dropped
    /// and created again meanwhile.
    fn own_meta(&self) -> Result<MutexGuard<'_, Meta>, RocksError> {
        let (db, family) = (&self.inner.db, &self.inner.family);
        let meta = self.meta();
        let found = read_meta(db, &db.snapshot(), family)?;
        // The size may differ after a failed write.
        if (Meta { blocks: meta.blocks, ..found }) == *meta {
            Ok(meta)
        } else {
            Err(RocksError::NoFreelist { family: family.clone() })
        }
    }

    /// Makes the size durable, unless it is already.
    fn write_size(&self, meta: &mut Meta, blocks: u64) -> Result<(), StageError> {
        let Inner { db, family, failed, unsettled, .. } = &*self.inner;
        if meta.blocks == blocks && unsettled.get() == 0 {
            return Ok(());
        }
        let handle =
            M::family(db, family).ok_or_else(|| StageError::NoFamily { family: family.clone() })?;
        let next = Meta { blocks, ..*meta };
        let mut batch = WriteBatch::default();
        batch.put_cf(&handle, meta::KEY, next.encode());
        let written = db.write_opt(batch, &open::synced()).map_err(StageError::of_write);
        if written.is_ok() {
            *meta = next;
            self.inner.blocks.set(blocks);
            unsettled.set(0);
        } else if written.as_ref().is_err_and(StageError::leaves_doubt) {
            unsettled.set(1);
            failed.set(1);
        }
        written
    }

    fn change_size(&self, meta: &mut Meta, blocks: u64) -> Result<(), RocksError> {
        if blocks < meta.blocks {
            self.clear_from(meta, blocks)?;
        }
        self.write_size(meta, blocks).map_err(|error| match error {
            StageError::Refused(error) | StageError::Doubt(error) => {
                RocksError::of(error, "change the size", &self.inner.family)
            }
            other => other.into(),
        })
    }

    /// After a failed change of the size: makes the size in memory durable, before a transaction
    /// commits blocks that a restart might not know.
    pub(super) fn settle_size(&self) -> Result<(), StageError> {
        let mut meta = self.meta();
        let blocks = meta.blocks;
        self.write_size(&mut meta, blocks).map_err(|error| match error {
            StageError::Doubt(error) => StageError::Refused(error),
            other => other,
        })
    }

    /// Deletes the chunks behind the first `blocks` blocks, which must be all free.
    fn clear_from(&self, meta: &Meta, blocks: u64) -> Result<(), RocksError> {
        let (db, family) = (&self.inner.db, &self.inner.family);
        let handle = family::find(db, family)?;
        let order = meta.chunk;
        let at_once = (STEP_BYTES / order.bytes()).max(1) as u64;
        let snapshot = db.snapshot();
        let (mut first, kept, end) =
            (blocks / order.blocks(), order.count(blocks), order.count(meta.blocks));
        while first < end {
            let until = (first + at_once).min(end);
            let mut words = zeroed((until - first) as usize * order.words())?;
            let mut batch = WriteBatch::default();
            let mut clear = |key: &[u8]| {
                if chunk::number(key).is_some_and(|number| number >= kept) {
                    batch.delete_cf(&handle, key);
                }
            };
            read(db, &snapshot, family, meta, (Some(first), Some(until)), &mut words, &mut clear)?;
            let start = first * order.blocks();
            if let Some(block) = first_set(&words, blocks.saturating_sub(start)) {
                return Err(RocksError::Occupied { family: family.clone(), block: start + block });
            }
            if !batch.is_empty() {
                let failed = |error| RocksError::of(error, "delete chunks", family);
                db.write(batch).map_err(failed)?;
            }
            first = until;
        }
        Ok(())
    }
}
