//! Checks that a disk is blank: a new log overwrites nothing.

use crate::stores::log::disk::Disk;
use crate::stores::log::error::LogError;
use crate::stores::log::identify::identify;
use crate::stores::log::recover::Loader;

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// Bytes compared at a time.
const PIECE: usize = 4096;

/// An error if one of the first `len` bytes of the disk, as far as they exist, is not zero.
pub(super) fn refuse_used(loader: &Loader, disk: &dyn Disk, len: u64) -> Result<(), LogError> {
    match loader.superblock() {
        Ok(_)
        | Err(LogError::Damaged { .. } | LogError::Version { .. } | LogError::Features { .. }) => {
            return Err(LogError::Exists { file: disk.name() });
        }
        Err(LogError::Foreign { .. }) => {}
        Err(error) => return Err(error),
    }
    let present = disk.len().map_err(|error| loader.io("measure", 0, error))?.min(len);
    let mut bytes = vec![0; present.min(CHUNK as u64) as usize];
    for start in (0..present).step_by(CHUNK) {
        let bytes = &mut bytes[..(present - start).min(CHUNK as u64) as usize];
        disk.read(start, bytes).map_err(|error| loader.io("read", start, error))?;
        if let Some(first) = first_set(bytes) {
            let (file, offset) = (disk.name(), start + first as u64);
            return Err(LogError::NotBlank { file, offset, found: identify(disk, offset) });
        }
    }
    Ok(())
}

/// The first byte that is not zero.
fn first_set(bytes: &[u8]) -> Option<usize> {
    let zeros = [0; PIECE];
    let piece = bytes.chunks(PIECE).position(|piece| *piece != zeros[..piece.len()])?;
    Some(piece * PIECE + bytes[piece * PIECE..].iter().position(|&byte| byte != 0)?)
}
