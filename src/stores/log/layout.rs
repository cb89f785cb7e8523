//! The layout of the area: from the geometry to offsets.

use crate::stores::log::fault::tight_ring;
use crate::stores::log::format::{MAJOR, MAX_REGIONS, PAGE, PAGE_ENTRIES, RegionEntry, Superblock};
use crate::stores::log::record::{MAX_RECORD, RANGE_BLOCKS, RANGE_SHIFT};

/// Bytes that one image counts as: the page, its record and its share of the directory.
pub(super) const IMAGE_COST: u64 = 4608;

/// Offset of the second half of the superblock slots: so far from the first that no 64 KiB, aligned
/// or not, hold slots of both.
pub(super) const SECOND_PLACE: u64 = 128 << 10;

/// The least distance of a directory page's two copies, for the same reason as [`SECOND_PLACE`].
const APART: u64 = (64 << 10) + PAGE as u64;

/// Offsets of one log. Only a change of the device's size changes them, and no data moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The format's version.
    pub major: u16,
    pub blocks: u64,
    pub sector: u64,
    /// The limit of the live log in bytes ("L").
    pub limit: u64,
    pub ring_start: u64,
    pub ring_len: u64,
    /// Room for ranges, one region behind the other; more than the device needs after it has grown
    /// or shrunk.
    pub regions: Vec<RegionEntry>,
}

/// The ranges of the largest device.
const MOST_RANGES: u32 = (crate::values::extent::MAX_BLOCKS / RANGE_BLOCKS) as u32;

/// Bytes of the ring kept for the image record of a range, including what frames leave empty.
const RESERVE_PER_RANGE: u64 = 40;

/// The places of a directory page's copies, and its ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DirectoryPlace {
    pub copies: [u64; 2],
    pub first_range: u32,
    pub count: usize,
}

pub(super) fn ranges_of(blocks: u64) -> u32 {
    blocks.div_ceil(RANGE_BLOCKS) as u32
}

fn directory_pages(ranges: u32) -> u64 {
    u64::from(ranges).div_ceil(PAGE_ENTRIES as u64)
}

/// Pages from the beginning of a region to the first and second copy of its directory, to its
/// images, and to its end. Version 1 has the copies one behind the other, then two images for each
/// range. Version 2 has the images between the copies.
struct RegionPages {
    copies: [u64; 2],
    images: u64,
    end: u64,
}

impl RegionPages {
    fn new(major: u16, ranges: u32) -> Self {
        let (pages, images) = (directory_pages(ranges), 2 * u64::from(ranges));
        if major == 1 {
            return Self { copies: [0, pages], images: 2 * pages, end: 2 * pages + images };
        }
        let second = (pages + images).max(APART / PAGE as u64);
        Self { copies: [0, second], images: pages, end: second + pages }
    }
}

/// The offsets of the superblock of `generation`: in both places, alternating between two slots.
pub(super) fn slot_offsets(generation: u64) -> [u64; 2] {
    let slot = generation % 2 * PAGE as u64;
    [slot, SECOND_PLACE + slot]
}

impl Layout {
    /// The default limit of the live log: four times the cost of all images, so that at most half a
    /// byte of image is written for each byte of log; from 8 to 256 MiB.
    pub(super) fn default_limit(blocks: u64) -> u64 {
        (4 * IMAGE_COST * u64::from(ranges_of(blocks)))
            .clamp(8 << 20, 256 << 20)
            .next_multiple_of(PAGE as u64)
    }

    pub(super) fn new(blocks: u64, sector: u64, limit: u64) -> Self {
        Self::of_version(MAJOR, blocks, sector, limit)
    }

    fn of_version(major: u16, blocks: u64, sector: u64, limit: u64) -> Self {
        let ranges = ranges_of(blocks);
        let superblocks = if major == 1 { 0 } else { SECOND_PLACE };
        let mut new = Self {
            major,
            blocks,
            sector,
            limit,
            ring_start: superblocks + 2 * PAGE as u64,
            ring_len: 0,
            regions: Vec::new(),
        };
        let slack = if tight_ring() { 4 * new.max_frame() } else { limit + limit / 4 };
        new.ring_len =
            (slack + 2 * new.max_commit()).next_multiple_of(PAGE as u64) + new.reserve_for(ranges);
        new.add_region(ranges);
        new
    }

    /// The layout for a device of `blocks` blocks, with everything where it is now; `None` if there
    /// are more than [`Layout::max_blocks`].
    ///
    /// Room that exists stays: ranges that are cut off keep theirs, and can come back. New room is
    /// at least a quarter of the existing room, if possible, so that growth in any number of steps
    /// needs fewer regions than a superblock has entries.
    pub(super) fn resized(&self, blocks: u64) -> Option<Self> {
        if !(1..=self.max_blocks()).contains(&blocks) {
            return None;
        }
        let mut new = Self { blocks, ..self.clone() };
        let (now, most) = (self.ranges(), self.most_ranges());
        let more = ranges_of(blocks).saturating_sub(now);
        if more > 0 && self.regions.len() == MAX_REGIONS {
            return None;
        }
        if more > 0 {
            new.add_region(more.max(now / 4).max(PAGE_ENTRIES as u32).min(most - now));
        }
        Some(new)
    }

    /// The most blocks that the log can have: a reserve for each range must fit into a third of the
    /// ring, whose length is fixed at creation.
    pub(super) fn max_blocks(&self) -> u64 {
        (u64::from(self.most_ranges()) * RANGE_BLOCKS).min(crate::values::extent::MAX_BLOCKS)
    }

    fn most_ranges(&self) -> u32 {
        let for_ranges =
            (self.ring_len / 3 / PAGE as u64 * PAGE as u64).saturating_sub(4 * self.max_frame());
        let most = (for_ranges / RESERVE_PER_RANGE).min(u64::from(MOST_RANGES)) as u32;
        // A log created for more has the reserve for them.
        most.max(self.ranges())
    }

    fn add_region(&mut self, ranges: u32) {
        let (first_range, start) = (self.ranges(), self.len());
        self.regions.push(RegionEntry {
            first_range: first_range.into(),
            ranges: ranges.into(),
            start: start.into(),
        });
    }

    /// The number of ranges that there is room for.
    pub(super) fn ranges(&self) -> u32 {
        self.regions.last().map_or(0, |last| last.first_range.get() + last.ranges.get())
    }

    /// Bytes of the whole area.
    pub(super) fn len(&self) -> u64 {
        self.regions.last().map_or(self.ring_start + self.ring_len, |last| {
            last.start.get() + self.region(last).end * PAGE as u64
        })
    }

    fn region(&self, region: &RegionEntry) -> RegionPages {
        RegionPages::new(self.major, region.ranges.get())
    }

    /// The longest frame, in bytes.
    pub(super) fn max_frame(&self) -> u64 {
        (self.limit / 8 / self.sector * self.sector)
            .clamp((MAX_RECORD as u64 + 128).next_multiple_of(self.sector), 64 << 10)
    }

    /// The most bytes of frames that one transaction may take.
    pub(super) fn max_commit(&self) -> u64 {
        self.limit / 4
    }

    /// Bytes of the ring that only condensing may use, so that it can always go on: an image record
    /// for every range, and what frames leave empty.
    pub(super) fn reserve(&self) -> u64 {
        self.reserve_for(self.ranges())
    }

    fn reserve_for(&self, ranges: u32) -> u64 {
        (u64::from(ranges) * RESERVE_PER_RANGE + 4 * self.max_frame()).next_multiple_of(PAGE as u64)
    }

    /// Offset of a ring position.
    pub(super) fn ring_offset(&self, position: u64) -> u64 {
        self.ring_start + position % self.ring_len
    }

    pub(super) fn image_offset(&self, range: u32, slot: u8) -> u64 {
        let region = self.regions.partition_point(|region| region.first_range.get() <= range) - 1;
        let region = &self.regions[region];
        let page = self.region(region).images
            + u64::from(slot) * u64::from(region.ranges.get())
            + u64::from(range - region.first_range.get());
        region.start.get() + page * PAGE as u64
    }

    /// All directory pages, by number.
    pub(super) fn directory(&self) -> Vec<DirectoryPlace> {
        let mut places = Vec::new();
        for region in &self.regions {
            let pages = directory_pages(region.ranges.get());
            for page in 0..pages {
                let before = page as u32 * PAGE_ENTRIES as u32;
                let offset = |copy: u64| region.start.get() + (copy + page) * PAGE as u64;
                places.push(DirectoryPlace {
                    copies: self.region(region).copies.map(offset),
                    first_range: region.first_range.get() + before,
                    count: (region.ranges.get() - before).min(PAGE_ENTRIES as u32) as usize,
                });
            }
        }
        places
    }

    /// Writes the geometry into a superblock.
    pub(super) fn describe(&self, superblock: &mut Superblock) {
        superblock.major = self.major.into();
        superblock.range_shift = RANGE_SHIFT as u8;
        superblock.page_shift = PAGE.ilog2() as u8;
        superblock.sector_shift = self.sector.ilog2() as u8;
        superblock.blocks = self.blocks.into();
        superblock.log_limit = self.limit.into();
        superblock.ring_start = self.ring_start.into();
        superblock.ring_len = self.ring_len.into();
        superblock.region_count = (self.regions.len() as u32).into();
        superblock.regions = [RegionEntry::default(); MAX_REGIONS];
        superblock.regions[..self.regions.len()].copy_from_slice(&self.regions);
    }

    /// The layout that a superblock describes, if valid.
    pub(super) fn from_superblock(superblock: &Superblock) -> Option<Self> {
        let sector = match superblock.sector_shift {
            shift @ (9 | 12) => 1 << shift,
            _ => return None,
        };
        let count = superblock.region_count.get() as usize;
        let blocks = Some(superblock.blocks.get())
            .filter(|blocks| (1..=crate::values::extent::MAX_BLOCKS).contains(blocks))?;
        let regions = superblock.regions.get(..count)?;
        let first = regions.first()?.ranges.get();
        let possible = |ranges: &u32| (1..=MOST_RANGES).contains(ranges);
        let first = Some(first).filter(possible)?;
        let limit = Some(superblock.log_limit.get()).filter(|&limit| is_limit(limit))?;
        // Everything else follows from these: rebuild it and compare.
        let major = superblock.major.get();
        let mut layout = Self::of_version(major, u64::from(first) * RANGE_BLOCKS, sector, limit);
        for region in &regions[1..] {
            let ranges = Some(region.ranges.get()).filter(possible)?;
            possible(&(layout.ranges() + ranges)).then_some(())?;
            layout.add_region(ranges);
        }
        layout.blocks = blocks;
        let mut again = superblock.clone();
        layout.describe(&mut again);
        (again == *superblock && ranges_of(blocks) <= layout.ranges()).then_some(layout)
    }
}

/// Whether `limit` is allowed for a log.
pub(super) fn is_limit(limit: u64) -> bool {
    limit.is_multiple_of(PAGE as u64) && (64 << 10..=1 << 40).contains(&limit)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_tib_takes_what_the_format_promises() {
        let layout = Layout::new(1 << 28, 4096, Layout::default_limit(1 << 28));
        assert_eq!(layout.limit, 144 << 20);
        let region = layout.len() - layout.ring_start - layout.ring_len;
        assert_eq!(region, (64 << 20) + 2 * 65 * 4096);
        assert!(layout.ring_len < layout.limit * 7 / 4 + (1 << 20));
        assert_eq!(layout.max_frame(), 64 << 10);
    }

    #[test]
    fn offsets_do_not_overlap_and_survive_growth() {
        let layout = Layout::new(300 * RANGE_BLOCKS + 5, 512, 64 << 10);
        let grown = layout.resized(500 * RANGE_BLOCKS).expect("few regions");
        assert!(layout.max_frame() >= MAX_RECORD as u64 + HEADER_AND_CRC);
        let mut offsets: Vec<u64> = (0..2).flat_map(slot_offsets).collect();
        offsets.extend(
            (0..grown.ring_len / PAGE as u64).map(|page| grown.ring_start + page * PAGE as u64),
        );
        offsets.extend(grown.directory().iter().flat_map(|place| place.copies));
        for slot in 0..2 {
            offsets.extend((0..grown.ranges()).map(|range| grown.image_offset(range, slot)));
        }
        for (range, slot) in [(0, 0), (299, 1), (300, 0)] {
            assert_eq!(layout.image_offset(range, slot), grown.image_offset(range, slot));
        }
        offsets.sort_unstable();
        let before = offsets.len();
        offsets.dedup();
        assert_eq!(offsets.len(), before, "two things in one place");
        assert!(offsets.last().is_some_and(|last| last + PAGE as u64 <= grown.len()));
        let mut superblock = Superblock::zeroed();
        grown.describe(&mut superblock);
        assert_eq!(Layout::from_superblock(&superblock), Some(grown.clone()));
        let shrunk = grown.resized(7).expect("room for more");
        assert_eq!((shrunk.len(), shrunk.ranges()), (grown.len(), 500));
        shrunk.describe(&mut superblock);
        assert_eq!(Layout::from_superblock(&superblock), Some(shrunk));
        superblock.ring_len = (superblock.ring_len.get() + 4096).into();
        assert_eq!(Layout::from_superblock(&superblock), None);
    }

    /// No 64 KiB, aligned or not, hold both copies of a directory page, or superblocks of both
    /// places.
    #[test]
    fn copies_lie_apart_from_each_other() {
        for blocks in [1, RANGE_BLOCKS, 40 * RANGE_BLOCKS, 1000 * RANGE_BLOCKS] {
            let layout = Layout::new(blocks, 4096, 8 << 20);
            let grown = layout.resized(blocks + 200 * RANGE_BLOCKS).expect("few regions");
            for place in grown.directory() {
                assert!(place.copies[1] - place.copies[0] >= APART, "{blocks}: {place:?}");
            }
        }
        let [(first, _), (_, second)] = [0, 1].map(|slot| slot_offsets(slot).into());
        assert!(second - first >= APART && slot_offsets(0)[1] - slot_offsets(1)[0] >= APART);
    }

    /// However small the steps, a log grows to its maximum.
    #[test]
    fn regions_suffice_for_the_largest_device() {
        let mut layout = Layout::new(1, 4096, 256 << 20);
        assert_eq!(layout.max_blocks(), crate::values::extent::MAX_BLOCKS);
        while layout.blocks < crate::values::extent::MAX_BLOCKS {
            let room = u64::from(layout.ranges()) * RANGE_BLOCKS;
            layout = layout
                .resized((room + 1).min(crate::values::extent::MAX_BLOCKS))
                .expect("enough regions");
        }
        assert!(layout.regions.len() < MAX_REGIONS, "{} regions", layout.regions.len());
    }

    /// The ring's length is fixed at creation: how far a log of the default limit can grow.
    #[test]
    fn the_limit_says_how_far_a_log_can_grow() {
        for (limit, tib) in [(8 << 20, 14), (144 << 20, 256), (256 << 20, 256)] {
            let layout = Layout::new(1 << 18, 4096, limit);
            assert_eq!(layout.max_blocks() >> 28, tib, "{limit}");
            let grown = layout.resized(layout.max_blocks()).expect("said so");
            assert!(grown.reserve() <= grown.ring_len / 3);
            assert_eq!(layout.resized(layout.max_blocks() + 1), None);
        }
    }

    const HEADER_AND_CRC: u64 = 68;
}
