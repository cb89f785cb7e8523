//! The header of a frame, byte by byte.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::stores::log::format::FRAME_MAGIC;

/// The first 64 bytes of a frame. Records follow, then a CRC32C of all of it, then zeros up to a
/// multiple of the sector.
#[derive(
    FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq,
)]
#[repr(C)]
pub(super) struct FrameHeader {
    pub magic: U32,
    /// Bytes with padding.
    pub len: U32,
    /// One more than that of the frame before.
    pub sequence: U64,
    /// Bytes ever written to the ring before this frame.
    pub position: U64,
    /// The last transaction that ended before this frame.
    pub lsn: U64,
    /// Every frame up to this sequence number was known to be durable when this one was written.
    pub durable: U64,
    /// Blocks allocated after the last transaction that ends in or before this frame.
    pub allocated: U64,
    /// CRC of the frame before.
    pub previous: U32,
    pub incarnation: U32,
    /// Bytes of records.
    pub records: U32,
    pub flags: U32,
}

/// Flag: no transaction is unfinished at the end of the frame.
pub(super) const BOUNDARY: u32 = 1;

/// Flag: the frame begins inside a transaction. The log may begin with such a frame.
pub(super) const CONTINUED: u32 = 2;

pub(super) const HEADER: usize = size_of::<FrameHeader>();

const _: () = assert!(size_of::<FrameHeader>() == 64);

impl FrameHeader {
    /// Appends the frame as it is written, and returns its CRC.
    pub(super) fn seal(&self, records: &[u8], frames: &mut Vec<u8>) -> u32 {
        let start = frames.len();
        frames.reserve(self.len.get() as usize);
        frames.extend_from_slice(self.as_bytes());
        frames.extend_from_slice(records);
        let crc = crc32c::crc32c(&frames[start..]);
        frames.extend_from_slice(&crc.to_le_bytes());
        frames.resize(start + self.len.get() as usize, 0);
        crc
    }

    /// The header in `bytes` if its fields are consistent.
    pub(super) fn parse(bytes: &[u8], sector: u64, max_len: u64) -> Option<Self> {
        let (header, _) = Self::read_from_prefix(bytes).ok()?;
        let len = u64::from(header.len.get());
        let sound = header.magic.get() == FRAME_MAGIC
            && len <= max_len
            && len > 0
            && len.is_multiple_of(sector)
            && HEADER as u64 + u64::from(header.records.get()) + 4 <= len;
        sound.then_some(header)
    }

    /// The number of bytes that the CRC covers.
    pub(super) fn sealed(&self) -> usize {
        HEADER + self.records.get() as usize
    }

    /// The CRC of the whole frame in `bytes`, if it is the one stored.
    pub(super) fn verify(&self, bytes: &[u8]) -> Option<u32> {
        let end = self.sealed();
        let crc = crc32c::crc32c(bytes.get(..end)?);
        (bytes.get(end..end + 4)? == crc.to_le_bytes()).then_some(crc)
    }
}
