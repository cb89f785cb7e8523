//! How to create and open a log.

use crate::stores::log::authority::Authority;
use crate::stores::log::group::Room;
use crate::stores::log::known::Known;
use crate::values::lsn::Lsn;
use crate::values::settings::{Settings, setters_of_settings};

/// The methods of both kinds of options about the queue and about held frees.
macro_rules! setters_of_queue {
    () => {
        /// The limit of transactions queued by [`SpaceMapLog::submit`](crate::SpaceMapLog::submit)
        /// and not yet taken to be written: 16384 by default, at least 1. Set it at each opening.
        #[must_use]
        pub fn max_queued(mut self, transactions: usize) -> Self {
            self.queue.items = transactions;
            self
        }

        /// The limit of the queued transactions' records in bytes: 16 MiB by default. One
        /// transaction is always taken. In memory each takes about 500 bytes more, and 60 for each
        /// extent. Set it at each opening.
        #[must_use]
        pub fn max_queued_bytes(mut self, bytes: u64) -> Self {
            self.queue.bytes = bytes;
            self
        }

        /// Holds what every commit frees until [`SpaceMapLog::stable`](crate::SpaceMapLog::stable)
        /// names its transaction or a later one, whichever call committed it. For engines under
        /// [`Authority::Log`] whose own metadata names extents and becomes durable after the
        /// commit. Held blocks stay allocated ([`Stats::held_blocks`](crate::Stats::held_blocks));
        /// a device whose free space is all held has none: make the metadata durable, call
        /// `stable`, try again. Set it at each opening; an opening makes everything that it finds
        /// stable. Always on under [`Authority::Engine`], never under [`Authority::Piggyback`],
        /// where the engine's record comes first.
        #[must_use]
        pub fn hold_until_stable(mut self) -> Self {
            self.hold = true;
            self
        }
    };
}

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
    setters_of_queue!();

    /// Bytes per block: see [`Builder::block_size`](crate::Builder::block_size).
    #[must_use]
    pub fn block_size(mut self, bytes: u32) -> Self {
        self.block_size = Some(bytes);
        self
    }

    /// The limit of the live log in bytes ("L"): a multiple of 4096 from 64 KiB to 1 TiB. By
    /// default four times the cost of all images, from 8 to 256 MiB. A larger limit means fewer
    /// images and a longer replay. The ring is one and three quarters as long.
    #[must_use]
    pub fn limit(mut self, bytes: u64) -> Self {
        self.limit = Some(bytes);
        self
    }

    /// What the device writes atomically and without reading first: 4096 (the default) or 512
    /// bytes. Frames are padded to it.
    #[must_use]
    pub fn sector(mut self, bytes: u32) -> Self {
        self.sector = Some(bytes);
        self
    }

    /// Which log decides after a crash.
    #[must_use]
    pub fn authority(mut self, authority: Authority) -> Self {
        self.authority = authority;
        self
    }

    /// The device's UUID; random by default.
    #[must_use]
    pub fn uuid(mut self, uuid: [u8; 16]) -> Self {
        self.uuid = Some(uuid);
        self
    }

    /// Destroys what the disk holds. Without this, the disk must be zero wherever the log will
    /// write.
    #[must_use]
    pub fn overwrite(mut self) -> Self {
        self.overwrite = true;
        self
    }

    /// Does not write zeros over the whole area of a new file (for 1 TiB: 316 MiB). Saves time and
    /// space at first, but then a commit can meet a full file system
    /// ([`CommitError::Write`](crate::CommitError::Write), as long as there is no room; growth is
    /// always written), and flushes are slower while the file fills.
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
    /// The defaults: opens what is there.
    pub fn new() -> Self {
        Self::default()
    }

    setters_of_settings!();
    setters_of_queue!();

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

    /// The engine's own log ends with this transaction. Later ones are taken back by a transaction
    /// that undoes them. Under [`Authority::Engine`] that is possible for everything that was not
    /// called [`stable`](crate::SpaceMapLog::stable); otherwise only as far back as the images
    /// allow. Opening again with the same LSN writes nothing more. Going back further at each
    /// opening takes room each time, which runs out in the end
    /// ([`CommitError::Full`](crate::CommitError::Full)).
    ///
    /// An LSN behind the end of the log is [`LogError::Missing`](crate::LogError::Missing).
    ///
    /// When something was taken back ([`Report::taken_back`](crate::Report::taken_back)), the
    /// engine must write into its own log that everything up to
    /// [`SpaceMapLog::last`](crate::SpaceMapLog::last) is decided, then call
    /// [`SpaceMapLog::stable`](crate::SpaceMapLog::stable) with that LSN, and never ask for an
    /// earlier one again.
    #[must_use]
    pub fn recover_until(mut self, lsn: Lsn) -> Self {
        self.until = Some(lsn);
        self
    }

    /// Together with [`recover_until`](OpenOptions::recover_until): opens the log even though it is
    /// damaged behind that transaction, and discards for good what was committed there. Without
    /// this, such a log is [`LogError::Damaged`](crate::LogError::Damaged);
    /// [`SpaceMapLog::inspect`](crate::SpaceMapLog::inspect) shows the state at any transaction
    /// before the damage, and [`Report::damaged_at`](crate::Report::damaged_at) where that is.
    #[must_use]
    pub fn accept_loss(mut self) -> Self {
        self.accept_loss = true;
        self
    }

    /// The transactions after the one of [`recover_until`](OpenOptions::recover_until) that the
    /// engine's own log has: exactly these stay, all others are taken back. In any order. Without
    /// `recover_until`, no transaction before them is known. The state found is that of the known
    /// transactions, carried out one by one.
    ///
    /// A known transaction that depends on an unknown one is
    /// [`LogError::Dependent`](crate::LogError::Dependent): it frees what the unknown one
    /// allocated, or allocates what it freed. Under [`Authority::Engine`] the latter cannot happen,
    /// as long as freed blocks are kept until the mark of
    /// [`SpaceMapLog::recorded`](crate::SpaceMapLog::recorded) has passed.
    #[must_use]
    pub fn recover_also(mut self, lsns: impl IntoIterator<Item = Lsn>) -> Self {
        self.also.extend(lsns);
        self
    }

    /// The transactions that the engine's own log has, if the options name any.
    pub(super) fn known(&self) -> Option<Known> {
        let any = self.until.is_some() || !self.also.is_empty();
        any.then(|| Known::new(self.until.unwrap_or_default(), &self.also))
    }
}
