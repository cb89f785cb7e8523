//! Who may have which part of a file or device.
//!
//! On Linux and Android (64 bits): by open file description locks of byte ranges, so that parts of one
//! file can be in use at once, and block devices are claimed, as a file system claims the one that it
//! is mounted from. Elsewhere: whole files are locked, and devices not claimed.

use std::fs::File;
use std::io;
use std::path::Path;

/// What somebody wants to do with a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// With all of the file or device.
    WriteAll,
    /// With bytes `offset..offset + len`.
    WritePart { offset: u64, len: u64 },
    /// Everybody may read at the same time, if nobody writes.
    Read,
    /// No lock.
    Look,
}

/// Opens `path` and locks what `access` needs; `create`s an empty file if there is none.
/// [`io::ErrorKind::ResourceBusy`] or [`io::ErrorKind::WouldBlock`] if others have it.
pub(super) fn open(path: &Path, access: Access, create: bool) -> io::Result<File> {
    let mut options = File::options();
    options.read(true);
    let file = match access {
        Access::Read | Access::Look => options.open(path)?,
        Access::WriteAll | Access::WritePart { .. } if is_device(path) => {
            system::claim(path, access, options.write(true))?
        }
        _ => options.write(true).create(create).truncate(false).open(path)?,
    };
    if access != Access::Look {
        system::lock(&file, access)?;
    }
    Ok(file)
}

#[cfg(unix)]
fn is_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

#[cfg(not(unix))]
fn is_device(_: &Path) -> bool {
    false
}

#[cfg(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64"))]
mod system {
    use std::fs::{File, OpenOptions};
    use std::io;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;

    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc::{F_RDLCK, F_WRLCK, O_EXCL, SEEK_SET, flock};

    use super::Access;

    /// All of a device is claimed as long as it is open. For a part we only try, since others may want
    /// to claim theirs: what is mounted is refused.
    pub(super) fn claim(
        path: &Path,
        access: Access,
        options: &mut OpenOptions,
    ) -> io::Result<File> {
        let claimed = options.custom_flags(O_EXCL).open(path)?;
        match access {
            Access::WritePart { .. } => options.custom_flags(0).open(path),
            _ => Ok(claimed),
        }
    }

    pub(super) fn lock(file: &File, access: Access) -> io::Result<()> {
        let far = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        // A length of 0 is the whole file, however long it becomes.
        let (start, len) = match access {
            Access::WritePart { offset, len } => (far(offset), far(len).max(1)),
            _ => (0, 0),
        };
        let kind = if access == Access::Read { F_RDLCK } else { F_WRLCK };
        let range = flock {
            l_type: kind as i16,
            l_whence: SEEK_SET as i16,
            l_start: start,
            l_len: len,
            l_pid: 0,
        };
        fcntl(file, FcntlArg::F_OFD_SETLK(&range)).map(drop).map_err(io::Error::from)
    }
}

#[cfg(not(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64")))]
mod system {
    use std::fs::{File, OpenOptions, TryLockError};
    use std::io;
    use std::path::Path;

    use super::Access;

    pub fn claim(path: &Path, _: Access, options: &mut OpenOptions) -> io::Result<File> {
        options.open(path)
    }

    pub fn lock(file: &File, access: Access) -> io::Result<()> {
        let locked = if access == Access::Read { file.try_lock_shared() } else { file.try_lock() };
        locked.map_err(|error| match error {
            TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
            TryLockError::Error(error) => error,
        })
    }
}
