//! How to create and open a log.

use crate::stores::log::authority::Authority;
use crate::stores::log::group::Room;
use crate::stores::log::known::Known;
use crate::values::lsn::Lsn;
use crate::values::settings::{Settings, setters_of_settings};

/// How to create a log.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    pub(super) block_size: Option<u32>,
    pub(super) limit: Option<u64>,
    pub(super) sector: Option<u32>,
    pub(super) authority: Authority,
    pub(super) uuid: Option<[u8; 16]>,
    pub(super) settings: Settings,
    pub(super) overwrite: bool,
    pub(super) sparse: bool,
    pub(super) queue: Room,
    pub(super) hold: bool,
}

impl CreateOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    setters_of_settings!();

    /// Bytes per block: see [`Builder::block_size`](crate::Builder::block_size).
    #[must_use]
    pub fn block_size(mut self, bytes: u32) -> Self {
        self.block_size = Some(bytes);
        self
    }

    /// The live log stays below this many bytes ("L"): a multiple of 4096 from 64 KiB to 1 TiB. By
    /// default four times the cost of all images, from 8 to 256 MiB. Larger means fewer images and
    /// a longer replay. The ring takes one and three quarters as much.
    #[must_use]
    pub fn limit(mut self, bytes: u64) -> Self {
        self.limit = Some(bytes);
        self
    }

    /// What the device writes atomically and without reading first: 4096 (the default) or 512 bytes.
    /// Frames are padded to it.
    #[must_use]
    pub fn sector(mut self, bytes: u32) -> Self {
        self.sector = Some(bytes);
        self
    }

    /// Whose log is right after a crash.
    #[must_use]
    pub fn authority(mut self, authority: Authority) -> Self {
        self.authority = authority;
        self
    }

    /// The device's identity; random by default.
    #[must_use]
    pub fn uuid(mut self, uuid: [u8; 16]) -> Self {
        self.uuid = Some(uuid);
        self
    }

    /// How many transactions may be queued by [`SpaceMapLog::submit`](crate::SpaceMapLog::submit) and not yet be taken to be written: 16384
    /// unless set, at least 1. To be set at each opening.
    #[must_use]
    pub fn max_queued(mut self, transactions: usize) -> Self {
        self.queue.items = transactions;
        self
    }

    /// How many bytes the records of queued transactions may have: 16 MiB unless set. One transaction is always
    /// taken. In memory each takes about 500 bytes more, and 60 for each extent. To be set at each opening.
    #[must_use]
    pub fn max_queued_bytes(mut self, bytes: u64) -> Self {
        self.queue.bytes = bytes;
        self
    }

    /// Holds what every commit frees until [`SpaceMapLog::stable`](crate::SpaceMapLog::stable) names its transaction or a later one,
    /// whichever call committed it: for engines under [`Authority::Log`] whose own metadata becomes durable
    /// after the commit and names extents. Held blocks stay allocated
    /// ([`Stats::held_blocks`](crate::Stats::held_blocks)), and a device of which all free space is held has
    /// none: make the metadata durable, call `stable`, try again. To be set at each opening, which itself
    /// calls everything stable that it finds. Under [`Authority::Engine`] it is always so, under
    /// [`Authority::Piggyback`] never, since there the engine's record comes first.
    #[must_use]
    pub fn hold_until_stable(mut self) -> Self {
        self.hold = true;
        self
    }

    /// Destroy what the disk holds: without this, only a disk is taken on which everything that the log
    /// will write over is zero.
    #[must_use]
    pub fn overwrite(mut self) -> Self {
        self.overwrite = true;
        self
    }

    /// Do not write zeros over the whole area of a new file (for 1 TiB: 316 MiB). Saves time and space
    /// at first, but then a commit can meet a full file system ([`CommitError::Write`](crate::CommitError::Write), as long as there is
    /// no room; growth is always written), and flushes are slower while the file is filling.
    #[must_use]
    pub fn sparse(mut self) -> Self {
        self.sparse = true;
        self
    }
}

/// How to open a log.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    pub(super) blocks: Option<u64>,
    pub(super) lsn: Option<Lsn>,
    pub(super) until: Option<Lsn>,
    pub(super) accept_loss: bool,
    pub(super) also: Vec<Lsn>,
    pub(super) settings: Settings,
    pub(super) queue: Room,
    pub(super) hold: bool,
}

impl OpenOptions {
    /// Whatever is there.
    pub fn new() -> Self {
        Self::default()
    }

    setters_of_settings!();

    /// The device must have this many blocks.
    #[must_use]
    pub fn expect_blocks(mut self, blocks: u64) -> Self {
        self.blocks = Some(blocks);
        self
    }

    /// The engine knows that this transaction was acknowledged: the log must not end before it.
    #[must_use]
    pub fn expect_lsn(mut self, lsn: Lsn) -> Self {
        self.lsn = Some(lsn);
        self
    }

    /// The engine's own log ends with this transaction: later ones are taken back, by a transaction
    /// that undoes them. Under [`Authority::Engine`], that is possible for everything that was not
    /// called [`stable`](crate::SpaceMapLog::stable); otherwise only as far back as the images allow. Opening
    /// again with the same LSN writes nothing more; going back ever further, opening by opening, takes
    /// room each time, which in the end there is not ([`CommitError::Full`](crate::CommitError::Full)).
    ///
    /// An LSN behind the end of the log is [`LogError::Missing`](crate::LogError::Missing).
    ///
    /// When something was taken back ([`Report::taken_back`](crate::Report::taken_back)), the engine has to write into its own log that
    /// everything up to [`SpaceMapLog::last`](crate::SpaceMapLog::last) is decided, then calls [`SpaceMapLog::stable`](crate::SpaceMapLog::stable) with that, and
    /// from then on never asks for an earlier one.
    #[must_use]
    pub fn recover_until(mut self, lsn: Lsn) -> Self {
        self.until = Some(lsn);
        self
    }

    /// Together with [`recover_until`](OpenOptions::recover_until): open the log even though it is damaged behind
    /// that transaction, and give up what was committed there, for good. Without this, such a log is
    /// [`LogError::Damaged`](crate::LogError::Damaged); [`SpaceMapLog::inspect`](crate::SpaceMapLog::inspect) shows the state at any transaction before the
    /// damage, and [`Report::damaged_at`](crate::Report::damaged_at) where that is.
    #[must_use]
    pub fn accept_loss(mut self) -> Self {
        self.accept_loss = true;
        self
    }

    /// Of the transactions after the one of [`recover_until`](OpenOptions::recover_until), the engine's own
    /// log has exactly these: they stay, all others are taken back. In any order; without `recover_until`,
    /// nothing before them is known. What is found is the state of the known transactions, carried out one by
    /// one.
    ///
    /// A transaction that depends on one that is not known is [`LogError::Dependent`](crate::LogError::Dependent): it frees what that
    /// one allocated, or allocates what that one freed. Under [`Authority::Engine`] the latter cannot be, as
    /// long as freed blocks are kept until the mark of [`SpaceMapLog::recorded`](crate::SpaceMapLog::recorded) has passed.
    #[must_use]
    pub fn recover_also(mut self, lsns: impl IntoIterator<Item = Lsn>) -> Self {
        self.also.extend(lsns);
        self
    }

    /// What the engine's own log has, if there is any word of it.
    pub(super) fn known(&self) -> Option<Known> {
        let any = self.until.is_some() || !self.also.is_empty();
        any.then(|| Known::new(self.until.unwrap_or_default(), &self.also))
    }

    /// How many transactions may be queued by [`SpaceMapLog::submit`](crate::SpaceMapLog::submit) and not yet be taken to be written: 16384
    /// unless set, at least 1. To be set at each opening.
    #[must_use]
    pub fn max_queued(mut self, transactions: usize) -> Self {
        self.queue.items = transactions;
        self
    }

    /// How many bytes the records of queued transactions may have: 16 MiB unless set. One transaction is always
    /// taken. In memory each takes about 500 bytes more, and 60 for each extent. To be set at each opening.
    #[must_use]
    pub fn max_queued_bytes(mut self, bytes: u64) -> Self {
        self.queue.bytes = bytes;
        self
    }

    /// Holds what every commit frees until [`SpaceMapLog::stable`](crate::SpaceMapLog::stable) names its transaction or a later one,
    /// whichever call committed it: for engines under [`Authority::Log`] whose own metadata becomes durable
    /// after the commit and names extents. Held blocks stay allocated
    /// ([`Stats::held_blocks`](crate::Stats::held_blocks)), and a device of which all free space is held has
    /// none: make the metadata durable, call `stable`, try again. To be set at each opening, which itself
    /// calls everything stable that it finds. Under [`Authority::Engine`] it is always so, under
    /// [`Authority::Piggyback`] never, since there the engine's record comes first.
    #[must_use]
    pub fn hold_until_stable(mut self) -> Self {
        self.hold = true;
        self
    }
}
