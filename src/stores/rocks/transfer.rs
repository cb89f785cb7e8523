//! From a space-map log to a freelist in RocksDB and back.

use std::sync::Arc;

use rocksdb::DBWithThreadMode;

use crate::stores::log::{self, Disk, SpaceMapLog};
use crate::stores::rocks::error::RocksError;
use crate::stores::rocks::family::Mode;
use crate::stores::rocks::scan::scan;
use crate::stores::rocks::{CreateOptions, Opened, RocksFreelist};

impl<M: Mode> RocksFreelist<M> {
    /// Makes the column family `family` a freelist with the committed state of `log`, and compares
    /// the two. Block size and UUID are the log's, whatever `options` say. Commits to the log wait
    /// while its state is copied; later ones are not in the freelist.
    ///
    /// # Errors
    /// As [`RocksFreelist::create_from_bitmap`]; [`RocksError::Differs`] if what is read back is
    /// not what was written.
    pub fn import(
        db: Arc<DBWithThreadMode<M>>,
        family: &str,
        log: &log::Opened,
        options: &CreateOptions,
    ) -> Result<Opened<M>, RocksError> {
        let (blocks, words) = log.log.committed();
        let options = options.clone().block_size(log.allocator.block_size()).uuid(log.log.uuid());
        let opened = Self::create_from_bitmap(db, family, blocks, &words, &options)?;
        let written = opened.allocator.committed_bitmap()?.unwrap_or_default();
        same(family, &words, &written)?;
        Ok(opened)
    }

    /// Makes `disk` a space-map log with the state of this freelist at this moment, and compares
    /// the two. Block size and UUID are the freelist's, whatever `options` say. Runs beside
    /// commits; later ones are not in the log.
    ///
    /// # Errors
    /// As opening the freelist, and as [`SpaceMapLog::create_from_bitmap`]; [`RocksError::Differs`]
    /// if what is read back is not what was written.
    pub fn export(
        &self,
        disk: impl Disk + 'static,
        options: &log::CreateOptions,
    ) -> Result<log::Opened, RocksError> {
        let scanned = scan(&self.inner.db, &self.inner.family)?;
        let (blocks, block_size) = (scanned.meta.blocks, scanned.meta.block_size);
        let options = options.clone().block_size(block_size).uuid(scanned.meta.uuid);
        let opened = SpaceMapLog::create_from_bitmap(disk, blocks, &scanned.words, &options)?;
        same(&self.inner.family, &scanned.words, &opened.log.committed().1)?;
        Ok(opened)
    }
}

fn same(family: &str, one: &[u64], other: &[u64]) -> Result<(), RocksError> {
    let differing = |index: usize| {
        let word = |words: &[u64]| words.get(index).copied().unwrap_or(0);
        word(one) ^ word(other)
    };
    match (0..one.len().max(other.len())).find(|&index| differing(index) != 0) {
        None => Ok(()),
        Some(index) => {
            let block = 64 * index as u64 + u64::from(differing(index).trailing_zeros());
            Err(RocksError::Differs { family: family.to_string(), block })
        }
    }
}
