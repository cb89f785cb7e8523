//! How to create and open a freelist.

use crate::stores::rocks::chunk::ChunkOrder;
use crate::stores::rocks::error::RocksError;
use crate::values::settings::{Settings, setters_of_settings};

/// How to create a freelist.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    pub(super) block_size: Option<u32>,
    pub(super) chunk_blocks: Option<u64>,
    pub(super) uuid: Option<[u8; 16]>,
    pub(super) settings: Settings,
    pub(super) overwrite: bool,
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

    /// Blocks of a chunk, a power of two from 64 to 2^20; 16384 by default, whose values have 2052
    /// bytes. Larger chunks make restarts with pending operands faster, and need a byte more for
    /// each operand. It can be changed later:
    /// [`RocksFreelist::rechunk`](crate::RocksFreelist::rechunk).
    #[must_use]
    pub fn chunk_blocks(mut self, blocks: u64) -> Self {
        self.chunk_blocks = Some(blocks);
        self
    }

    /// The device's UUID; drawn at random by default.
    #[must_use]
    pub fn uuid(mut self, uuid: [u8; 16]) -> Self {
        self.uuid = Some(uuid);
        self
    }

    /// Destroys what the column family holds, whatever it is. The rest of an interrupted creation
    /// is overwritten without this.
    #[must_use]
    pub fn overwrite(mut self) -> Self {
        self.overwrite = true;
        self
    }

    /// The order of the chunks that these options ask for.
    pub(super) fn chunk(&self) -> Result<ChunkOrder, RocksError> {
        self.chunk_blocks.map_or(Ok(ChunkOrder::DEFAULT), chunk_order)
    }
}

/// The order of chunks of `blocks` blocks.
pub(super) fn chunk_order(blocks: u64) -> Result<ChunkOrder, RocksError> {
    let reason = "a power of two from 64 to 2^20";
    let error = RocksError::Option { name: "chunk_blocks", value: blocks, reason };
    ChunkOrder::of_blocks(blocks).ok_or(error)
}

/// How to open a freelist.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    pub(super) blocks: Option<u64>,
    pub(super) settings: Settings,
}

impl OpenOptions {
    /// The defaults: opens what is there.
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
}
