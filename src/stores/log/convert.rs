//! A new log with the state of an old one.

use std::sync::Arc;

use crate::stores::log::authority::Authority;
use crate::stores::log::create::Origin;
use crate::stores::log::disk::Disk;
use crate::stores::log::error::LogError;
use crate::stores::log::options::CreateOptions;
use crate::stores::log::recover::Loader;
use crate::stores::log::{Opened, SpaceMapLog};

impl SpaceMapLog {
    /// Makes `new` a log with the state, the numbers and the UUID of the log on `old`, which is
    /// only read and may be of an earlier version of the format. Also for a log that is to have
    /// another [`limit`](CreateOptions::limit), and with it a longer ring.
    ///
    /// Transactions go on with the next LSN, and checkpoints with the engine's position. Everything
    /// committed counts as [`stable`](SpaceMapLog::stable). An engine whose own log is the
    /// authority therefore first opens the old log with
    /// [`recover_until`](crate::OpenOptions::recover_until), if the old version can still be
    /// opened. Block size, authority and UUID are those of the old log, whatever `options` says.
    ///
    /// A crash leaves the old log as it is, and the new one absent or complete.
    ///
    /// # Errors
    /// Those of [`SpaceMapLog::inspect`] for `old`, and of [`SpaceMapLog::create`] for `new`.
    pub fn convert(
        old: impl Disk + 'static,
        new: impl Disk + 'static,
        options: &CreateOptions,
    ) -> Result<Opened, LogError> {
        let loader = Loader::new(Arc::new(old));
        let state = loader.snapshot(None)?.recovered;
        let superblock = &state.superblock;
        let options = options
            .clone()
            .block_size(1 << superblock.block_shift)
            .uuid(superblock.uuid)
            .authority(Authority::decode(superblock.mode).ok_or_else(|| LogError::Features {
                file: loader.name().to_string(),
                features: superblock.mode.into(),
            })?);
        let origin = Origin { lsn: state.head.lsn, engine: state.head.engine };
        let (blocks, words) = (state.mirror.blocks(), state.mirror.words().collect::<Vec<u64>>());
        Self::create_with(Arc::new(new), blocks, Some(&words), &options, origin)
    }
}
