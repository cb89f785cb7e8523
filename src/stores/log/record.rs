//! The records inside a frame. Little endian.
//!
//! ```text
//! group header, 8 bytes:  type u8 | flags u8 | count u16 | range u32
//! type 1, delta:     count items u32: start 15 bits | length - 1 15 bits | op 1 bit | 0
//! type 2, fill:      op in flag bit 0; range = the first; whole ranges (up to 64) u32 | 0 u32
//! type 3, image:     base LSN u64 | CRC32C u32 | free u32 | largest run u32 | slot u8 | state u8 | 0 u16
//! type 4, commit:    nothing: the transaction that began after the last commit ends here
//! type 5, position:  the engine's own position u64
//! ```
//!
//! A reader may skip unknown types from 128 up: their flags and count are one number, the length of
//! what follows.

use crate::values::op::Op;

/// Blocks of a range: one per bit of a 4 KiB image page; one level-1 node covers as many.
pub(crate) const RANGE_BLOCKS: u64 = 1 << RANGE_SHIFT;
/// [`RANGE_BLOCKS`] as a power of two.
pub(crate) const RANGE_SHIFT: u32 = 15;

const HEADER: usize = 8;
/// The most items in one group, so that a frame always has room for a whole record (4 KiB).
const GROUP_ITEMS: usize = 1000;
/// The most ranges that one fill may cover, so that replaying bytes of the log takes a bounded
/// time. (Version 1 of the format has no such limit.)
pub(crate) const MAX_FILL: u32 = 64;
/// The longest record.
pub(crate) const MAX_RECORD: usize = HEADER + 4 * GROUP_ITEMS;

const DELTA: u8 = 1;
const FILL: u8 = 2;
const IMAGE: u8 = 3;
const COMMIT: u8 = 4;
const POSITION: u8 = 5;
const SKIPPABLE: u8 = 0x80;

/// Blocks `start..start + len` of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub start: u32,
    pub len: u32,
    pub op: Op,
}

impl Item {
    pub(crate) fn encode(self) -> u32 {
        self.start | (self.len - 1) << 15 | u32::from(self.op == Op::Free) << 30
    }

    fn decode(bits: u32) -> Option<Self> {
        let op = if bits >> 30 & 1 == 1 { Op::Free } else { Op::Allocate };
        let item = Self { start: bits & 0x7FFF, len: (bits >> 15 & 0x7FFF) + 1, op };
        (bits >> 31 == 0 && u64::from(item.start + item.len) <= RANGE_BLOCKS).then_some(item)
    }
}

/// The state of a range in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    AllFree,
    AllUsed,
    /// In the page of the slot.
    Page,
}

impl State {
    pub(crate) fn encode(self) -> u8 {
        match self {
            Self::AllFree => 0,
            Self::AllUsed => 1,
            Self::Page => 2,
        }
    }

    pub(crate) fn decode(byte: u8) -> Option<Self> {
        [Self::AllFree, Self::AllUsed, Self::Page].into_iter().find(|state| state.encode() == byte)
    }
}

/// The description of an image, in a record or a directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// The last transaction that the image contains.
    pub base: u64,
    pub crc: u32,
    pub free: u32,
    pub largest: u32,
    pub slot: u8,
    pub state: State,
}

/// One record, borrowing the bytes it was parsed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    Delta { range: u32, items: &'a [u8] },
    Fill { first: u32, count: u32, op: Op },
    Image { range: u32, image: Image },
    Commit,
    Position(u64),
    Skipped,
}

/// The items of a [`Record::Delta`]; `None` for one that is malformed.
pub(crate) fn items(bytes: &[u8]) -> impl DoubleEndedIterator<Item = Option<Item>> + '_ {
    bytes.chunks_exact(4).map(|chunk| Item::decode(u32::from_le_bytes(fixed(chunk))))
}

fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut fixed = [0; N];
    fixed.copy_from_slice(&bytes[..N]);
    fixed
}

/// Iterates over the records in `bytes`. An error carries the offset of a malformed record, and
/// ends the iteration.
pub(crate) struct Records<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Records<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// Where the next record begins.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    fn parse(&self) -> Option<(Record<'a>, usize)> {
        let rest = &self.bytes[self.offset..];
        let header = rest.get(..HEADER)?;
        let (kind, flags) = (header[0], header[1]);
        let count = u16::from_le_bytes(fixed(&header[2..]));
        let range = u32::from_le_bytes(fixed(&header[4..]));
        let body = &rest[HEADER..];
        let u32_at = |at: usize| body.get(at..at + 4).map(|bytes| u32::from_le_bytes(fixed(bytes)));
        let u64_at = |at: usize| body.get(at..at + 8).map(|bytes| u64::from_le_bytes(fixed(bytes)));
        let (record, len) = match kind {
            DELTA if flags == 0 && count > 0 => {
                let items = body.get(..4 * usize::from(count))?;
                (Record::Delta { range, items }, items.len())
            }
            FILL if flags <= 1 && count == 0 => {
                let op = if flags == 1 { Op::Free } else { Op::Allocate };
                let count = u32_at(0).filter(|&count| count > 0)?;
                u32_at(4).filter(|&zero| zero == 0)?;
                (Record::Fill { first: range, count, op }, 8)
            }
            IMAGE if flags == 0 && count == 0 => {
                let tail = body.get(20..24)?;
                let image = Image {
                    base: u64_at(0)?,
                    crc: u32_at(8)?,
                    free: u32_at(12)?,
                    largest: u32_at(16)?,
                    slot: Some(tail[0]).filter(|&slot| slot < 2)?,
                    state: State::decode(tail[1])?,
                };
                (Record::Image { range, image }, 24)
            }
            COMMIT if flags == 0 && count == 0 && range == 0 => (Record::Commit, 0),
            POSITION if flags == 0 && count == 0 && range == 0 => (Record::Position(u64_at(0)?), 8),
            SKIPPABLE.. => {
                let len = usize::from(flags) << 16 | usize::from(count);
                (Record::Skipped, body.get(..len)?.len())
            }
            _ => return None,
        };
        Some((record, HEADER + len))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, usize>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.offset >= self.bytes.len() {
            return None;
        }
        let Some((record, len)) = self.parse() else {
            let at = self.offset;
            self.offset = self.bytes.len();
            return Some(Err(at));
        };
        self.offset += len;
        Some(Ok(record))
    }
}

fn push_header(bytes: &mut Vec<u8>, kind: u8, flags: u8, count: u16, range: u32) {
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&range.to_le_bytes());
}

pub(crate) fn push_commit(bytes: &mut Vec<u8>) {
    push_header(bytes, COMMIT, 0, 0, 0);
}

pub(crate) fn push_position(bytes: &mut Vec<u8>, position: u64) {
    push_header(bytes, POSITION, 0, 0, 0);
    bytes.extend_from_slice(&position.to_le_bytes());
}

pub(crate) fn push_image(bytes: &mut Vec<u8>, range: u32, image: &Image) {
    push_header(bytes, IMAGE, 0, 0, range);
    bytes.extend_from_slice(&image.base.to_le_bytes());
    for word in [image.crc, image.free, image.largest] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(&[image.slot, image.state.encode(), 0, 0]);
}

pub(crate) fn push_fill(bytes: &mut Vec<u8>, first: u32, count: u32, op: Op) {
    push_header(bytes, FILL, u8::from(op == Op::Free), 0, first);
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
}

/// Appends `items`, sorted by range, as groups.
pub(crate) fn push_items(bytes: &mut Vec<u8>, items: &[(u32, u32)]) {
    for of_range in items.chunk_by(|a, b| a.0 == b.0) {
        for group in of_range.chunks(GROUP_ITEMS) {
            push_header(bytes, DELTA, 0, group.len() as u16, group[0].0);
            for (_, item) in group {
                bytes.extend_from_slice(&item.to_le_bytes());
            }
        }
    }
}
