//! Locks on parts of a file or device.
//!
//! On Linux and Android (64 bits): open file description locks of byte ranges, so that parts of one
//! file can be in use at once; block devices are claimed, as a file system claims the device that
//! it is mounted from. Elsewhere: whole files are locked, and devices are not claimed.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// The kind of access to a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Writing to all of the file or device.
    WriteAll,
    /// Writing to bytes `offset..offset + len`.
    WritePart { offset: u64, len: u64 },
    /// Reading, together with other readers, if there is no writer.
    Read,
    /// Reading without a lock.
    Look,
}

/// A file of which a part is locked until this is dropped.
///
/// It is unlocked explicitly. A fork shares open files with the child, for good or until the child
/// executes another program, and the lock lasts as long as either process has the file. A child
/// that drops its copy takes nothing away from its parent.
#[derive(Debug)]
pub(super) struct Locked {
    file: File,
    access: Access,
    /// The process that locked it.
    process: u32,
}

impl Deref for Locked {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        if self.access != Access::Look && self.process == std::process::id() {
            // If unlocking fails, closing the last copy unlocks.
            let _unlocked = system::unlock(&self.file, self.access);
        }
    }
}

/// Opens `path` and locks what `access` needs; `create`s an empty file if there is none.
/// [`io::ErrorKind::ResourceBusy`] or [`io::ErrorKind::WouldBlock`] if it is in use.
pub(super) fn open(path: &Path, access: Access, create: bool) -> io::Result<Locked> {
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
    Ok(Locked { file, access, process: std::process::id() })
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
    use nix::libc::{F_RDLCK, F_UNLCK, F_WRLCK, O_EXCL, SEEK_SET, c_int, flock};

    use crate::stores::log::lock::Access;

    /// A whole device is claimed as long as it is open. For a part, only a trial claim is made,
    /// since others may want to claim theirs: a mounted device is refused.
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
        set(file, access, if access == Access::Read { F_RDLCK } else { F_WRLCK })
    }

    pub(super) fn unlock(file: &File, access: Access) -> io::Result<()> {
        set(file, access, F_UNLCK)
    }

    fn set(file: &File, access: Access, kind: c_int) -> io::Result<()> {
        let far = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        // A length of 0 is the whole file, however long it becomes.
        let (start, len) = match access {
            Access::WritePart { offset, len } => (far(offset), far(len).max(1)),
            _ => (0, 0),
        };
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

    use crate::stores::log::lock::Access;

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

    pub fn unlock(file: &File, _: Access) -> io::Result<()> {
        file.unlock()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_a_forked_process_has_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("free.log");
        let part = Access::WritePart { offset: 4096, len: 4096 };
        for access in [Access::WriteAll, part, Access::Read] {
            let locked = open(&path, Access::WriteAll, true).unwrap();
            drop(locked);
            let locked = open(&path, access, false).unwrap();
            // A fork does this to open files.
            let copy = locked.try_clone().unwrap();
            assert!(open(&path, Access::WriteAll, false).is_err(), "{access:?}: it is in use");
            drop(locked);
            assert!(open(&path, Access::WriteAll, false).is_ok(), "{access:?}: nobody has it");
            drop(copy);
        }
    }

    #[test]
    fn a_forked_process_that_drops_its_copy_leaves_the_lock_to_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("free.log");
        let locked = open(&path, Access::WriteAll, true).unwrap();
        let copy = locked.try_clone().unwrap();
        // As if another process dropped it.
        drop(Locked { file: copy, access: Access::WriteAll, process: locked.process ^ 1 });
        assert!(open(&path, Access::WriteAll, false).is_err(), "it is in use");
    }
}
