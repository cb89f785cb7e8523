//! The description of a freelist, under a key of its own behind all chunks.
//!
//! ```text
//! magic (8), version (2), logarithm of the block size (1), order of the chunks (1),
//! features (4), blocks (8), UUID (16), order that the chunks are being brought to or 0 (1),
//! zeros (7), units brought there (8), zeros (4), CRC32C of all that (4)
//! ```
//! All numbers are little-endian.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::stores::rocks::chunk::ChunkOrder;
use crate::stores::rocks::error::{Place, RocksError};
use crate::values::extent::MAX_BLOCKS;

/// Not eight bytes long as the keys of chunks are, and greater than they are.
pub(super) const KEY: &[u8] = b"meta";

const MAGIC: [u8; 8] = *b"fm-rocks";
const VERSION: u16 = 1;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct Page {
    magic: [u8; 8],
    version: U16,
    block_shift: u8,
    chunk_order: u8,
    features: U32,
    blocks: U64,
    uuid: [u8; 16],
    target_order: u8,
    zeros: [u8; 7],
    units_done: U64,
    zeros_too: U32,
    checksum: U32,
}

/// The description of a freelist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub blocks: u64,
    pub block_size: u32,
    pub chunk: ChunkOrder,
    pub uuid: [u8; 16],
    pub rechunking: Option<Rechunking>,
}

/// An unfinished change of the chunk size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rechunking {
    pub target: ChunkOrder,
    /// How many of the larger chunks are done.
    pub units: u64,
}

impl Meta {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut page = Page::new_zeroed();
        page.magic = MAGIC;
        page.version = VERSION.into();
        page.block_shift = self.block_size.ilog2() as u8;
        page.chunk_order = self.chunk.get();
        page.blocks = self.blocks.into();
        page.uuid = self.uuid;
        if let Some(rechunking) = self.rechunking {
            page.target_order = rechunking.target.get();
            page.units_done = rechunking.units.into();
        }
        page.checksum = checksum(&page).into();
        page.as_bytes().to_vec()
    }

    /// Decodes `bytes`, found in `family`.
    pub(super) fn decode(bytes: &[u8], family: &str) -> Result<Self, RocksError> {
        let family = || family.to_string();
        if !bytes.starts_with(&MAGIC) {
            return Err(RocksError::Foreign { family: family() });
        }
        if let Some(&version) = bytes.get(8..10).and_then(|bytes| bytes.first_chunk::<2>())
            && u16::from_le_bytes(version) != VERSION
        {
            let version = u16::from_le_bytes(version);
            return Err(RocksError::Version { family: family(), version });
        }
        let damaged = || RocksError::Damaged { family: family(), place: Place::Meta };
        let page = Page::read_from_bytes(bytes).map_err(|_| damaged())?;
        if checksum(&page) != page.checksum.get() {
            return Err(damaged());
        }
        if page.features != 0 {
            return Err(RocksError::Features { family: family(), features: page.features.get() });
        }
        let blocks = page.blocks.get();
        let chunk = ChunkOrder::new(page.chunk_order).ok_or_else(damaged)?;
        let target = ChunkOrder::new(page.target_order);
        if !(9..=20).contains(&page.block_shift)
            || !(1..=MAX_BLOCKS).contains(&blocks)
            || (target.is_none() && (page.target_order != 0 || page.units_done != 0))
            || target.is_some_and(|target| {
                target == chunk || page.units_done.get() >= chunk.max(target).count(blocks)
            })
        {
            return Err(damaged());
        }
        Ok(Self {
            blocks,
            block_size: 1 << page.block_shift,
            chunk,
            uuid: page.uuid,
            rechunking: target.map(|target| Rechunking { target, units: page.units_done.get() }),
        })
    }
}

fn checksum(page: &Page) -> u32 {
    let bytes = page.as_bytes();
    crc32c::crc32c(&bytes[..bytes.len() - size_of::<U32>()])
}
