//! The fixed pages of the log: superblock, directory, frame header. Little endian, each with its
//! own CRC32C.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::stores::log::record::{Image, State};

/// Bytes of a page: the smallest write that storage does not turn into a read and a write.
pub(super) const PAGE: usize = 4096;

pub(super) const SUPERBLOCK_MAGIC: [u8; 8] = *b"freemap\n";
pub(super) const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"fmLF");
const DIRECTORY_MAGIC: u32 = u32::from_le_bytes(*b"fmDP");

/// Changes that an older reader cannot handle raise the major version. Version 2: four superblock
/// slots in two places, copies of a directory page apart from each other, a checksum over the
/// directory.
pub(super) const MAJOR: u16 = 2;
/// The oldest version that can be read, and converted.
pub(super) const OLDEST_MAJOR: u16 = 1;
const MINOR: u16 = 0;

/// Whether `a` is later than `b`, two counters that may have wrapped.
pub(super) fn is_later(a: u64, b: u64) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

/// As [`is_later`].
pub(super) fn is_later_u32(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

/// The most regions: the first and 63 growths.
pub(super) const MAX_REGIONS: usize = 64;

/// Where the directory and images of some ranges lie.
#[derive(
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
)]
#[repr(C)]
pub(super) struct RegionEntry {
    pub first_range: U32,
    pub ranges: U32,
    pub start: U64,
}

/// Where the log begins.
#[derive(
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
)]
#[repr(C)]
pub(super) struct Tail {
    /// Ring position of the first frame that replay needs.
    pub position: U64,
    /// Its sequence number.
    pub sequence: U64,
    /// The last transaction that ended before it.
    pub lsn: U64,
    /// Blocks allocated after that transaction.
    pub allocated: U64,
    /// The engine's position at that time.
    pub engine: U64,
    /// CRC of the frame before it.
    pub previous: U32,
    pub zero: U32,
}

/// One superblock slot.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Superblock {
    pub magic: [u8; 8],
    pub major: U16,
    pub minor: U16,
    /// Unknown bits in these mean, in order: ignore, open read-only, refuse.
    pub compatible: U32,
    pub read_only_compatible: U32,
    pub incompatible: U32,
    pub uuid: [u8; 16],
    pub block_shift: u8,
    pub range_shift: u8,
    pub page_shift: u8,
    pub sector_shift: u8,
    pub mode: u8,
    /// 1 if the log was empty and every image current when this was written.
    pub clean: u8,
    pub zero: [u8; 2],
    pub blocks: U64,
    pub log_limit: U64,
    pub ring_start: U64,
    pub ring_len: U64,
    /// The slot with the latest generation is the newest. Version 2 writes each to both places;
    /// version 1 alternates between two slots.
    pub generation: U64,
    /// Raised by every opening, so that frames of an earlier incarnation do not continue a later
    /// one.
    pub incarnation: U32,
    pub region_count: U32,
    pub tail: Tail,
    pub regions: [RegionEntry; MAX_REGIONS],
    /// When the device was last made smaller, this was the last transaction that could not be taken
    /// back: earlier ones may have used blocks that are gone.
    pub floor: U64,
    /// Version 2: CRC over the CRCs of all directory pages, in order, in the versions that were
    /// durable when this was written.
    pub directory: U32,
    pub zero_2: U32,
}

/// What is wrong with the bytes of a superblock slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadSuperblock {
    /// All zeros: not written yet.
    Empty,
    Foreign,
    Version {
        major: u16,
    },
    Features {
        incompatible: u32,
    },
    Damaged,
}

impl Superblock {
    pub(super) fn zeroed() -> Self {
        let mut new = Self::new_zeroed();
        new.magic = SUPERBLOCK_MAGIC;
        (new.major, new.minor) = (MAJOR.into(), MINOR.into());
        new
    }

    pub(super) fn to_page(&self) -> Vec<u8> {
        let mut page = self.as_bytes().to_vec();
        page.resize(PAGE, 0);
        let crc = crc32c::crc32c(&page[..PAGE - 4]);
        page[PAGE - 4..].copy_from_slice(&crc.to_le_bytes());
        page
    }

    pub(super) fn from_page(page: &[u8]) -> Result<Self, BadSuperblock> {
        let (new, _) = Self::read_from_prefix(page).map_err(|_| BadSuperblock::Damaged)?;
        if new.magic != SUPERBLOCK_MAGIC {
            let empty = page.iter().all(|&byte| byte == 0);
            return Err(if empty { BadSuperblock::Empty } else { BadSuperblock::Foreign });
        }
        let crc = crc32c::crc32c(&page[..PAGE - 4]);
        if page[PAGE - 4..PAGE] != crc.to_le_bytes() {
            return Err(BadSuperblock::Damaged);
        }
        if !(OLDEST_MAJOR..=MAJOR).contains(&new.major.get()) {
            return Err(BadSuperblock::Version { major: new.major.get() });
        }
        if new.incompatible.get() != 0 {
            return Err(BadSuperblock::Features { incompatible: new.incompatible.get() });
        }
        Ok(new)
    }

    /// Identifies the superblock in directory pages.
    pub(super) fn stamp(&self) -> u32 {
        self.generation.get() as u32
    }

    /// Ties directory pages to this log.
    pub(super) fn identity(&self) -> Identity {
        let half = self.uuid.iter().take(8).fold(0, |half, &byte| half << 8 | u64::from(byte));
        Identity { half, major: self.major.get() }
    }
}

/// Ties directory pages to their superblock: the first half of its UUID, of which version 2 stores
/// 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    half: u64,
    major: u16,
}

/// The most ranges of one directory page.
pub(super) const PAGE_ENTRIES: usize = 127;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct Entry {
    base: U64,
    crc: U32,
    free: U32,
    largest: U32,
    state: u8,
    slot: u8,
    class: u8,
    flags: u8,
    zero: [u8; 8],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Debug)]
#[repr(C)]
struct DirectoryBytes {
    /// The CRC of everything behind it.
    crc: U32,
    magic: U32,
    page: U32,
    /// Version 2: the CRC of the version of this page that the superblock `stamp` counts.
    previous: U32,
    sequence: U64,
    /// Ties the page to its log.
    identity: U32,
    /// Version 2: the newest superblock that was durable when this was written, as the low half of
    /// its generation; so it does not count this version. Version 1: the second half of the
    /// identity.
    stamp: U32,
    entries: [Entry; PAGE_ENTRIES],
}

/// One copy of a directory page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DirectoryPage {
    pub page: u32,
    pub sequence: u64,
    /// See [`Version`].
    pub previous: u32,
    pub stamp: u32,
    /// One per range of the page.
    pub entries: Vec<Image>,
}

/// The version of a directory page, and the version of it that a superblock counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub sequence: u64,
    /// CRC of the page.
    pub crc: u32,
    /// CRC of the version that the superblock `stamp` counts; later superblocks count this version.
    pub previous: u32,
    pub stamp: u32,
}

impl Version {
    /// The CRC of the version that `superblock` counts; `None` if this version was written under a
    /// later one.
    pub(super) fn counted_by(&self, superblock: u32) -> Option<u32> {
        match self.stamp {
            stamp if stamp == superblock => Some(self.previous),
            stamp if is_later_u32(stamp, superblock) => None,
            _ => Some(self.crc),
        }
    }
}

/// The directory's CRC in a superblock: over the CRCs of its pages.
pub(super) fn directory_crc(pages: impl Iterator<Item = u32>) -> u32 {
    pages.fold(0, |crc, page| crc32c::crc32c_append(crc, &page.to_le_bytes()))
}

/// The CRC that a directory page begins with.
fn crc_of_page(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |&crc| u32::from_le_bytes(crc))
}

impl DirectoryPage {
    pub(super) fn to_bytes(&self, identity: Identity) -> Vec<u8> {
        let mut bytes = DirectoryBytes::new_zeroed();
        bytes.magic = DIRECTORY_MAGIC.into();
        bytes.page = self.page.into();
        bytes.sequence = self.sequence.into();
        bytes.identity = (identity.half as u32).into();
        (bytes.previous, bytes.stamp) = match identity.major {
            1 => (0.into(), ((identity.half >> 32) as u32).into()),
            _ => (self.previous.into(), self.stamp.into()),
        };
        for (entry, image) in bytes.entries.iter_mut().zip(&self.entries) {
            entry.base = image.base.into();
            entry.crc = image.crc.into();
            entry.free = image.free.into();
            entry.largest = image.largest.into();
            entry.state = image.state.encode();
            entry.slot = image.slot;
        }
        bytes.crc = crc32c::crc32c(&bytes.as_bytes()[4..]).into();
        bytes.as_bytes().to_vec()
    }

    /// The version of this page, given its `bytes`.
    pub(super) fn version(&self, bytes: &[u8]) -> Version {
        let Self { sequence, previous, stamp, .. } = *self;
        Version { sequence, crc: crc_of_page(bytes), previous, stamp }
    }

    /// The page with `count` ranges; `None` if the bytes are not intact.
    pub(super) fn from_bytes(
        bytes: &[u8],
        identity: Identity,
        page: u32,
        count: usize,
    ) -> Option<Self> {
        let raw = DirectoryBytes::ref_from_bytes(bytes).ok()?;
        let intact = raw.crc.get() == crc32c::crc32c(&bytes[4..])
            && raw.magic.get() == DIRECTORY_MAGIC
            && raw.page.get() == page
            && raw.identity.get() == identity.half as u32
            && (identity.major > 1 || raw.stamp.get() == (identity.half >> 32) as u32);
        if !intact {
            return None;
        }
        let image = |entry: &Entry| {
            Some(Image {
                base: entry.base.get(),
                crc: entry.crc.get(),
                free: entry.free.get(),
                largest: entry.largest.get(),
                slot: Some(entry.slot).filter(|&slot| slot < 2)?,
                state: State::decode(entry.state)?,
            })
        };
        let entries = raw.entries.iter().take(count).map(image).collect::<Option<_>>()?;
        let (previous, stamp) = match identity.major {
            1 => (0, 0),
            _ => (raw.previous.get(), raw.stamp.get()),
        };
        Some(Self { page, sequence: raw.sequence.get(), previous, stamp, entries })
    }
}

const _: () = {
    assert!(size_of::<DirectoryBytes>() == PAGE);
    assert!(size_of::<Superblock>() <= PAGE - 4);
    assert!(size_of::<Entry>() == 32);
};
