//! What may be on a disk already, by its marks in fixed places.

use std::fmt::{Display, Formatter};

/// What was recognised on a disk that should be blank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Found {
    /// An ext2, ext3 or ext4 file system.
    Ext,
    /// An XFS file system.
    Xfs,
    /// A btrfs file system, or a part of one.
    Btrfs,
    /// A FAT file system of 12, 16 or 32 bits.
    Fat,
    /// An exFAT file system.
    ExFat,
    /// An NTFS file system.
    Ntfs,
    /// Swap space.
    Swap,
    /// An encrypted device.
    Luks,
    /// A physical volume of LVM2.
    Lvm,
    /// A member of an MD RAID.
    Raid,
    /// A device of a ZFS pool.
    Zfs,
    /// A device of a Ceph OSD.
    BlueStore,
    /// A GUID partition table.
    Gpt,
    /// An MBR partition table, or a boot sector.
    Mbr,
    /// A freemap log, or a part of one, that begins elsewhere.
    Log,
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ext => "an ext2, ext3 or ext4 file system",
            Self::Xfs => "an XFS file system",
            Self::Btrfs => "a btrfs file system",
            Self::Fat => "a FAT file system",
            Self::ExFat => "an exFAT file system",
            Self::Ntfs => "an NTFS file system",
            Self::Swap => "swap space",
            Self::Luks => "an encrypted device (LUKS)",
            Self::Lvm => "a physical volume of LVM2",
            Self::Raid => "a member of an MD RAID",
            Self::Zfs => "a device of a ZFS pool",
            Self::BlueStore => "a device of a Ceph OSD (BlueStore)",
            Self::Gpt => "a GUID partition table",
            Self::Mbr => "an MBR partition table or a boot sector",
            Self::Log => "a freemap log that begins elsewhere",
        })
    }
}
