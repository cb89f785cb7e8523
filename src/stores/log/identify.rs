//! Recognises what is on a disk by its marks in fixed places.

use crate::stores::log::disk::Disk;
use crate::stores::log::format::{FRAME_MAGIC, PAGE, SUPERBLOCK_MAGIC};
use crate::stores::log::found::Found;

/// Marks with their offsets, the more specific ones first: many formats leave room for a boot
/// sector, and have its mark as well. The numbers come from the formats' own descriptions, and
/// equal libblkid's.
const MARKS: [(Found, u64, &[u8]); 28] = [
    (Found::BlueStore, 0, b"bluestore block device\n"),
    (Found::Luks, 0, b"LUKS\xba\xbe"),
    (Found::Xfs, 0, b"XFSB"),
    (Found::Ntfs, 3, b"NTFS    "),
    (Found::ExFat, 3, b"EXFAT   "),
    (Found::Fat, 0x36, b"FAT12   "),
    (Found::Fat, 0x36, b"FAT16   "),
    (Found::Fat, 0x36, b"FAT     "),
    (Found::Fat, 0x52, b"FAT32   "),
    // The label may be in any of the first four sectors of 512 bytes.
    (Found::Lvm, 0, b"LABELONE"),
    (Found::Lvm, 512, b"LABELONE"),
    (Found::Lvm, 1024, b"LABELONE"),
    (Found::Lvm, 1536, b"LABELONE"),
    // Versions 1.1 and 1.2; for others see `RAID_AT_END`.
    (Found::Raid, 0, &RAID),
    (Found::Raid, 4096, &RAID),
    (Found::Btrfs, 0x1_0040, b"_BHRfS_M"),
    // At the end of the first page, for each page size.
    (Found::Swap, 4096 - 10, b"SWAPSPACE2"),
    (Found::Swap, 4096 - 10, b"SWAP-SPACE"),
    (Found::Swap, 8192 - 10, b"SWAPSPACE2"),
    (Found::Swap, 16384 - 10, b"SWAPSPACE2"),
    (Found::Swap, 32768 - 10, b"SWAPSPACE2"),
    (Found::Swap, 65536 - 10, b"SWAPSPACE2"),
    // In the second logical sector.
    (Found::Gpt, 512, b"EFI PART"),
    (Found::Gpt, 4096, b"EFI PART"),
    (Found::Ext, 0x438, b"\x53\xef"),
    (Found::Zfs, ZFS_UBERBLOCKS, &ZFS_LITTLE),
    (Found::Zfs, ZFS_UBERBLOCKS, &ZFS_BIG),
    (Found::Mbr, 510, b"\x55\xaa"),
];

const RAID: [u8; 4] = 0xa92b_4efc_u32.to_le_bytes();

/// Offsets of the mark in older versions of MD RAID, on a disk of `len` bytes.
const RAID_AT_END: [fn(u64) -> Option<u64>; 2] = [
    // 0.90: the last 64 KiB that begin at a multiple of 64 KiB.
    |len| (len & !0xFFFF).checked_sub(0x1_0000),
    // 1.0: from 8 to 12 KiB before the end, at a multiple of 4 KiB.
    |len| Some(len.checked_sub(8192)? & !0xFFF),
];

/// The ring of uberblocks of the first of four labels, one in each KiB up to 256 KiB.
const ZFS_UBERBLOCKS: u64 = 128 << 10;
const ZFS_LITTLE: [u8; 4] = 0x00ba_b10c_u32.to_le_bytes();
const ZFS_BIG: [u8; 8] = 0x00ba_b10c_u64.to_be_bytes();

/// What is on the disk, whose first nonzero byte is at `first`. `None` if it is unknown, or its
/// mark cannot be read.
pub(super) fn identify(disk: &dyn Disk, first: u64) -> Option<Found> {
    let len = disk.len().ok()?;
    let has = |offset: u64, magic: &[u8]| {
        let mut bytes = vec![0; magic.len()];
        let inside = offset.checked_add(magic.len() as u64).is_some_and(|end| end <= len);
        inside && disk.read(offset, &mut bytes).is_ok() && bytes == magic
    };
    let (page, sector) = (first / PAGE as u64 * PAGE as u64, first / 512 * 512);
    if has(page, &SUPERBLOCK_MAGIC) || has(sector, &FRAME_MAGIC.to_le_bytes()) {
        return Some(Found::Log);
    }
    let mark = MARKS.iter().find(|&&(found, offset, magic)| match found {
        Found::Zfs => (0..128).any(|slot| has(offset + slot * 1024, magic)),
        _ => has(offset, magic),
    });
    if let Some(&(found, ..)) = mark {
        return Some(found);
    }
    let raid = RAID_AT_END.iter().filter_map(|place| place(len)).any(|offset| has(offset, &RAID));
    raid.then_some(Found::Raid)
}
