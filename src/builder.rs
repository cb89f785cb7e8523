//! Settings of an allocator, and how its parts are made.

use crate::base::geometry::{Geometry, Native};
use crate::base::place::WordIndex;
use crate::base::sync::Counter;
use crate::base::word::Word;
use crate::core::Core;
use crate::index::{Bitmap, OutOfMemory};
use crate::placement::Placer;
use crate::placement::zone::Zones;
use crate::request::reserve;
use crate::space::Space;
use crate::space::ledger::Ledger;
use crate::space::shards::Shards;
use crate::space::survey_records::SurveyRecords;
use crate::values::class::{Class, Placement};
use crate::values::error::ConfigError;
use crate::values::extent::MAX_BLOCKS;
use crate::values::plain_bitmap::expect_count;
use crate::values::settings::Settings;

/// Default number of shards per hardware thread, if the device is large enough.
pub(super) const SHARDS_PER_THREAD: usize = 4;

pub(super) static ALLOCATORS: Counter = Counter::new(0);

/// Settings of a new [`Allocator`](crate::Allocator).
///
/// ```
/// # fn main() -> Result<(), freemap::ConfigError> {
/// let allocator = freemap::Allocator::builder(1 << 24).block_size(8192).shards(32).build()?;
/// assert!(allocator.shards() >= 32);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    pub(crate) blocks: u64,
    pub(crate) block_size: u32,
    pub(crate) settings: Settings,
}

impl Builder {
    /// Bytes per block, a power of two from 512 to 1 MiB; 4096 by default. The allocator counts in
    /// blocks and only remembers this.
    #[must_use]
    pub fn block_size(mut self, bytes: u32) -> Self {
        self.block_size = bytes;
        self
    }

    /// At least this many shards, if the device is large enough (a shard has at least 32768
    /// blocks). The default is four per hardware thread. With more shards, more handles can work
    /// without meeting, and a search that finds nothing takes longer.
    #[must_use]
    pub fn shards(mut self, count: usize) -> Self {
        self.settings.shards = Some(count);
        self
    }

    /// Where requests of `class` are placed. By default, each goes where its handle is.
    #[must_use]
    pub fn placement(mut self, class: Class, placement: Placement) -> Self {
        self.settings.placements[class.index()] = Some(placement);
        self
    }

    /// Lets [`Allocator::free`](crate::Allocator::free), `free_many`, `mark_free` and the like free
    /// blocks that the store knows to be committed, as if there were no store. (Without this they
    /// return [`FreeError::Committed`](crate::FreeError::Committed).) For engines that free this
    /// way and tell the store by other means.
    ///
    /// The risk: the blocks are reused at once, under readers and before any free of them is
    /// durable. The store still considers them allocated, so a transaction that gets them cannot be
    /// committed, and a restart finds them allocated. Without a store this changes nothing.
    #[must_use]
    pub fn allow_plain_frees(mut self) -> Self {
        self.settings.plain_frees = true;
        self
    }

    pub(crate) fn with_settings(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }

    pub(crate) fn core_from_ledger(self, ledger: &Ledger) -> Result<Core, ConfigError> {
        let words = self.blocks.div_ceil(64);
        self.core_from(|word| if word < words { ledger.word(word as usize) } else { u64::MAX })
    }

    /// The zones for these sizes, or an error if the settings are invalid.
    pub(crate) fn validate(&self) -> Result<Zones, ConfigError> {
        let Self { blocks, block_size, .. } = *self;
        if blocks == 0 {
            return Err(ConfigError::NoBlocks);
        }
        if blocks > MAX_BLOCKS {
            return Err(ConfigError::TooManyBlocks { blocks, max: MAX_BLOCKS });
        }
        if !block_size.is_power_of_two() || !(512..=1 << 20).contains(&block_size) {
            return Err(ConfigError::BlockSize { bytes: block_size });
        }
        Zones::new(&self.settings.placements, blocks)
    }

    pub(crate) fn core_from_bitmap(self, allocated: &[u64]) -> Result<Core, ConfigError> {
        expect_count(self.blocks, allocated)?;
        self.core_from(|word| allocated.get(word as usize).copied().unwrap_or(u64::MAX))
    }

    /// `allocated` yields the words of the bitmap, and all ones behind the last.
    fn core_from(self, allocated: impl Fn(u64) -> u64 + Sync) -> Result<Core, ConfigError> {
        self.core_from_words(|word| {
            let block = word.first_block::<Native>();
            <Native as Geometry>::Word::from_u64(!(allocated(block / 64) >> (block % 64)))
        })
    }

    pub(crate) fn core_from_words(
        self,
        free: impl Fn(WordIndex) -> <Native as Geometry>::Word + Sync,
    ) -> Result<Core, ConfigError> {
        self.core_of(|blocks, shards| {
            Bitmap::counted_from_words(blocks, shards.height(), shards.shard_leaves(), free)
        })
    }

    /// Builds a core around what `index` makes: the index, and the number of free blocks of each
    /// shard.
    pub(crate) fn core_of(
        self,
        index: impl FnOnce(u64, &Shards) -> Result<(Bitmap<Native>, Vec<u64>), OutOfMemory>,
    ) -> Result<Core, ConfigError> {
        let zones = self.validate()?;
        let Self { blocks, block_size, settings } = self;
        let Settings { shards, placements, .. } = settings;
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let wanted = shards.unwrap_or(threads * SHARDS_PER_THREAD);
        let shards = Shards::new::<Native>(blocks, wanted);
        let memory = |OutOfMemory { bytes }| ConfigError::OutOfMemory { bytes: bytes as u64 };
        let (bitmap, at_start) = index(blocks, &shards).map_err(memory)?;
        let surveyed = SurveyRecords::new(shards.count(bitmap.leaf_count())).map_err(memory)?;
        let space = Space::new(bitmap, shards, at_start, threads).map_err(memory)?;
        let id = ALLOCATORS.fetch_add(1);
        let placer = Placer::new(zones);
        let core = Core { space, placer, gate: None, surveyed, block_size, id };
        for (class, placement) in placements.iter().enumerate() {
            if let Some(Placement { reserve: blocks @ 1.., .. }) = *placement {
                let mut cursor =
                    core.placer.new_cursor(&core.space, |_| core.space.lanes.shared(0));
                reserve::make_reserve(&core, &mut cursor, class, blocks);
            }
        }
        Ok(core)
    }
}
