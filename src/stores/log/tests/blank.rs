//! A new log writes over nothing that is not zero, and says what is there.

use std::io::ErrorKind;
use std::sync::Arc;

use super::sim::{Operation, Refusal, SimDisk};
use super::{create, small};
use crate::stores::log::record::RANGE_BLOCKS;
use crate::stores::log::{Found, LogError, SpaceMapLog};

const LEN: usize = 4 << 20;

/// Bytes at offsets.
type Pieces<'a> = &'a [(usize, &'a [u8])];

/// What `create` says to these bytes, which it must leave as they are.
fn refused(bytes: Vec<u8>) -> LogError {
    let disk = Arc::new(SimDisk::new(bytes));
    let before = disk.bytes();
    let refused = SpaceMapLog::create(disk.clone(), RANGE_BLOCKS, &small());
    let error = refused.map(drop).expect_err("not blank");
    assert!(disk.bytes() == before, "written over");
    let taken = SpaceMapLog::create(disk, RANGE_BLOCKS, &small().overwrite());
    taken.expect("destroyed on request");
    error
}

/// A disk with these bytes at these places, and otherwise zeros.
fn with(pieces: Pieces<'_>) -> Vec<u8> {
    let mut bytes = vec![0; LEN];
    for (offset, piece) in pieces {
        bytes[*offset..offset + piece.len()].copy_from_slice(piece);
    }
    bytes
}

/// Only the first 8 KiB were looked at: a btrfs, whose first byte is at 64 KiB, was taken for nothing, and
/// so was anything else that begins later.
#[test]
fn one_byte_anywhere_in_the_area_is_enough() {
    let blank = Arc::new(SimDisk::default());
    drop(create(&blank, RANGE_BLOCKS));
    let area = blank.bytes().len();
    for offset in [0, 1, 4095, 4096, 8191, 8192, 65_600, area / 2, area - 1] {
        let error = refused(with(&[(offset, &[1])]));
        let LogError::NotBlank { offset: found, found: None, .. } = error else {
            panic!("{offset}: {error}")
        };
        assert_eq!(found, offset as u64);
    }
    for len in [1, 100, 4096, 5000, 9000, area - 512] {
        let mut short = vec![0; len];
        short[len - 1] = 7;
        let disk = SimDisk::new(short);
        let error = SpaceMapLog::create(disk, RANGE_BLOCKS, &small()).expect_err("not blank");
        assert!(matches!(error, LogError::NotBlank { offset, .. } if offset == len as u64 - 1));
    }
    // Behind the area is not ours.
    let disk = Arc::new(SimDisk::new(with(&[(area, &[1])])));
    SpaceMapLog::create(disk.clone(), RANGE_BLOCKS, &small()).expect("blank where the log is");
    assert_eq!(disk.bytes()[area], 1);
}

/// Each as little of it as makes it what it is, with what often is in front.
#[test]
fn what_is_there_is_named() {
    let boot: (usize, &[u8]) = (510, b"\x55\xaa");
    let raid: &[u8] = &[0xfc, 0x4e, 0x2b, 0xa9];
    let cases: &[(Found, Pieces<'_>)] = &[
        (Found::Ext, &[(1024 + 56, b"\x53\xef")]),
        (Found::Ext, &[boot, (1024 + 56, b"\x53\xef")]),
        (Found::Xfs, &[(0, b"XFSB\0\0\x10\0")]),
        (Found::Btrfs, &[(65_536 + 64, b"_BHRfS_M")]),
        (Found::Fat, &[boot, (0, b"\xeb\x3c\x90mkfs.fat"), (54, b"FAT16   ")]),
        (Found::Fat, &[boot, (0, b"\xeb\x58\x90mkfs.fat"), (82, b"FAT32   ")]),
        (Found::ExFat, &[boot, (0, b"\xeb\x76\x90EXFAT   ")]),
        (Found::Ntfs, &[boot, (0, b"\xeb\x52\x90NTFS    ")]),
        (Found::Swap, &[(4096 - 10, b"SWAPSPACE2")]),
        (Found::Swap, &[(65_536 - 10, b"SWAPSPACE2")]),
        (Found::Luks, &[(0, b"LUKS\xba\xbe\0\x02")]),
        (Found::Lvm, &[(512, b"LABELONE"), (536, b"LVM2 001")]),
        (Found::Raid, &[(4096, raid)]),
        (Found::Raid, &[(0, raid)]),
        (Found::Raid, &[(LEN - 65_536, raid), (9000, &[1])]),
        (Found::Raid, &[(LEN - 8192, raid), (9000, &[1])]),
        (Found::Zfs, &[(16_384, &[1, 1]), (131_072 + 7 * 1024, &[0x0c, 0xb1, 0xba, 0])]),
        (Found::Zfs, &[(131_072, &[0, 0, 0, 0, 0, 0xba, 0xb1, 0x0c])]),
        (Found::BlueStore, &[(0, b"bluestore block device\n6f2d\n")]),
        (Found::Gpt, &[boot, (512, b"EFI PART")]),
        (Found::Gpt, &[boot, (4096, b"EFI PART")]),
        (Found::Mbr, &[boot, (446, &[0x80])]),
    ];
    for (expected, pieces) in cases {
        let error = refused(with(pieces));
        let LogError::NotBlank { offset, found, .. } = &error else { panic!("{error}") };
        assert_eq!(*found, Some(*expected), "{error}");
        let first = pieces.iter().flat_map(|&(at, piece)| {
            piece.iter().position(|&byte| byte != 0).map(|index| at + index)
        });
        assert_eq!(Some(*offset as usize), first.min(), "{error}");
        assert!(error.to_string().contains(&expected.to_string()), "{error}");
    }
}

#[test]
fn another_log_is_recognised_wherever_it_begins() {
    let other = Arc::new(SimDisk::default());
    drop(create(&other, RANGE_BLOCKS));
    let other = other.bytes();
    assert!(matches!(refused(other.clone()), LogError::Exists { .. }));
    let shifted = |by: usize| {
        let mut bytes = vec![0; by];
        bytes.extend_from_slice(&other);
        bytes
    };
    for by in [3 * 4096, 65_536] {
        let error = refused(shifted(by));
        assert!(
            matches!(error, LogError::NotBlank { found: Some(Found::Log), .. }),
            "{by}: {error}"
        );
    }
}

#[test]
fn a_disk_that_cannot_be_read_is_not_taken() {
    for after in 0..3 {
        let disk = Arc::new(SimDisk::new(vec![0; LEN]));
        let error = ErrorKind::Other;
        disk.refuse_later(Refusal { operation: Operation::Read, after, error, arrives: 0 });
        let created = SpaceMapLog::create(disk.clone(), 8 * RANGE_BLOCKS, &small()).map(drop);
        match created {
            Err(LogError::Io(failure)) => assert_eq!(failure.action, "read"),
            other => panic!("{after}: {other:?}"),
        }
        if after < 2 {
            assert!(disk.bytes().iter().all(|&byte| byte == 0));
        }
    }
}
