//! Keys and values: a chunk of the bitmap as RocksDB keeps it.
//!
//! ```text
//! key      number of the chunk, big-endian (8), so that the order of keys is that of blocks
//! value    the chunk's bits, 1 = allocated, as little-endian words; CRC32C of key and bits (4)
//! ```
//! No key means that all is free. RocksDB checksums what it writes; this checksum covers what
//! RocksDB is given: a value copied to another key, or written by other software.

/// Bytes of the checksum at the end of a value.
const CHECKSUM: usize = 4;

/// The number of blocks in a chunk, as a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChunkOrder(u8);

impl ChunkOrder {
    /// 64 blocks: one word.
    pub(super) const MIN: Self = Self(6);
    /// 2^20 blocks: 128 KiB.
    pub(super) const MAX: Self = Self(20);
    /// 2^14 blocks: 2 KiB. `cargo bench --bench rocks -- chunk` tries all sizes: smaller ones take
    /// more room, and longer to scan with operands pending; larger ones gain little more.
    pub(super) const DEFAULT: Self = Self(14);

    /// The order of chunks of `blocks` blocks, if valid.
    pub(super) fn of_blocks(blocks: u64) -> Option<Self> {
        if blocks.is_power_of_two() { Self::new(blocks.ilog2() as u8) } else { None }
    }

    /// The order with the logarithm `order`, if valid.
    pub(super) fn new(order: u8) -> Option<Self> {
        (Self::MIN.0..=Self::MAX.0).contains(&order).then_some(Self(order))
    }

    pub(super) fn get(self) -> u8 {
        self.0
    }

    pub(super) fn blocks(self) -> u64 {
        1 << self.0
    }

    pub(super) fn words(self) -> usize {
        1 << (self.0 - Self::MIN.0)
    }

    /// Bytes of a chunk's bits.
    pub(super) fn bytes(self) -> usize {
        8 * self.words()
    }

    /// Chunks of a device of `blocks` blocks.
    pub(super) fn count(self, blocks: u64) -> u64 {
        blocks.div_ceil(self.blocks())
    }
}

/// The key of chunk `number`.
pub(super) fn key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// The number of the chunk with this key.
pub(super) fn number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.try_into().ok()?))
}

/// Bytes of the value of a chunk of `order`.
pub(super) fn value_len(order: ChunkOrder) -> usize {
    order.bytes() + CHECKSUM
}

/// What is wrong with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// It has this many bytes.
    Length(usize),
    /// Its checksum is that of other bytes or of another key.
    Checksum,
}

/// The value of `words` under `key`.
pub(super) fn encode(key: &[u8], words: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let words = words.into_iter();
    let mut value = Vec::with_capacity(8 * words.size_hint().0 + CHECKSUM);
    words.for_each(|word| value.extend_from_slice(&word.to_le_bytes()));
    value.extend(checksum(key, &value).to_le_bytes());
    value
}

/// The bits of a value under `key`, and its chunk order.
pub(super) fn decode<'v>(key: &[u8], value: &'v [u8]) -> Result<(ChunkOrder, &'v [u8]), Flaw> {
    let (bits, sum) = value.split_last_chunk::<CHECKSUM>().ok_or(Flaw::Length(value.len()))?;
    let order = ChunkOrder::of_blocks(8 * bits.len() as u64).ok_or(Flaw::Length(value.len()))?;
    if checksum(key, bits) == u32::from_le_bytes(*sum) {
        Ok((order, bits))
    } else {
        Err(Flaw::Checksum)
    }
}

/// The words of decoded bits.
pub(super) fn words(bits: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let (words, _) = bits.as_chunks::<8>();
    words.iter().map(|&bytes| u64::from_le_bytes(bytes))
}

fn checksum(key: &[u8], bits: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), bits)
}
