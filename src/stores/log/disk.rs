//! The storage that the log writes to.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::stores::log::error::LogError;
use crate::stores::log::io_failure::IoFailure;
use crate::stores::log::lock::{self, Access, Locked};

/// Storage for the log's metadata area: bytes at offsets, and a flush.
///
/// Writes need be neither atomic nor ordered until [`Disk::sync`] returns; a crash may keep any
/// part of them, torn at sectors. `FileDisk` implements it for files and block devices.
pub trait Disk: Send + Sync {
    /// Bytes available.
    ///
    /// # Errors
    /// The system's.
    fn len(&self) -> io::Result<u64>;

    /// Whether the length is 0.
    ///
    /// # Errors
    /// The system's.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Makes at least `len` bytes available; new ones read as zeros.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] if there is no room, or the system's.
    fn grow(&self, len: u64) -> io::Result<()>;

    /// Gives back the bytes behind `len`, which are not needed, after a growth that found no room.
    /// May do nothing, as the default does.
    ///
    /// # Errors
    /// The system's.
    fn cut(&self, len: u64) -> io::Result<()> {
        let _unused = len;
        Ok(())
    }

    /// Fills `bytes` from `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] beyond the end, or the system's.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// The system's; any part of the bytes may have been written then. A later read shows what
    /// there is: bytes not written when this returns are not written later.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Returns when everything written before is durable.
    ///
    /// # Errors
    /// The system's; then it is unknown, and stays so, which of the earlier writes are durable.
    fn sync(&self) -> io::Result<()>;

    /// The disk's name in messages.
    fn name(&self) -> String;
}

/// A disk that is shared.
impl<D: Disk + ?Sized> Disk for Arc<D> {
    fn len(&self) -> io::Result<u64> {
        (**self).len()
    }

    fn grow(&self, len: u64) -> io::Result<()> {
        (**self).grow(len)
    }

    fn cut(&self, len: u64) -> io::Result<()> {
        (**self).cut(len)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        (**self).read(offset, bytes)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (**self).write(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        (**self).sync()
    }

    fn name(&self) -> String {
        (**self).name()
    }
}

/// A file or block device, or a region of one, locked as long as it is open, against other
/// processes and against other `FileDisk`s in this one.
///
/// On Linux and Android (64 bits) the lock covers the bytes in question: regions of one file that
/// do not overlap can be open at once, but not a whole file and a region of it. Elsewhere the lock
/// covers the file: one opening at a time. All of these locks are advisory: a program that writes
/// to the file without asking is not stopped. Dropping a `FileDisk` releases the lock, even if a
/// process forked meanwhile still has the file open.
///
/// On Linux a *block device* that is mounted, used by the system in another way, or opened with
/// `O_EXCL`, is refused as [`LogError::Locked`]. A device opened whole is claimed in the same way.
/// A region is not, since there may be others on the device: nothing keeps it from being mounted
/// later. An engine that claims its device itself opens its regions first, or implements [`Disk`]
/// on its own handle.
#[derive(Debug)]
pub struct FileDisk {
    file: Locked,
    path: PathBuf,
    offset: u64,
    /// The fixed length of a region; a whole file grows.
    len: Option<u64>,
}

impl FileDisk {
    /// A file used by the log alone, created if it does not exist, or a whole block device.
    ///
    /// # Errors
    /// [`LogError::Locked`] if another process, or another `FileDisk`, has it or a region of it
    /// open, or the device is in use; [`LogError::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, LogError> {
        let disk = Self::opened(path.as_ref(), Access::WriteAll, true)?;
        disk.sync_name()?;
        Ok(disk)
    }

    /// Makes the name of a new file durable: without it, a crash may leave no file at all.
    #[cfg(unix)]
    fn sync_name(&self) -> Result<(), LogError> {
        let folder = match self.path.parent() {
            Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
            Some(folder) => folder,
            None => return Ok(()),
        };
        let synced = match self.file.metadata() {
            Ok(metadata) if metadata.is_file() && metadata.len() == 0 => {
                File::open(folder).and_then(|folder| folder.sync_all())
            }
            metadata => metadata.map(drop),
        };
        synced.map_err(|error| {
            let (file, error) = (self.name(), Arc::new(error));
            LogError::Io(IoFailure { file, action: "sync the folder of", offset: 0, error })
        })
    }

    #[cfg(not(unix))]
    fn sync_name(&self) -> Result<(), LogError> {
        Ok(())
    }

    /// The bytes `offset..offset + len` of an existing file or device that the engine also uses for
    /// other data.
    ///
    /// # Errors
    /// As [`FileDisk::open`], if another opening has bytes of the region; [`LogError::Truncated`]
    /// if the file ends before the region; [`LogError::Option`] if `offset` is no multiple of 4096
    /// or the region ends beyond 2^63 bytes.
    pub fn region(path: impl AsRef<Path>, offset: u64, len: u64) -> Result<Self, LogError> {
        Self::part(path.as_ref(), offset, len, Access::WritePart { offset, len })
    }

    /// As [`FileDisk::region`], but only for reading and without a lock: see
    /// [`FileDisk::open_unlocked`].
    ///
    /// # Errors
    /// As [`FileDisk::region`], but never [`LogError::Locked`].
    pub fn region_unlocked(
        path: impl AsRef<Path>,
        offset: u64,
        len: u64,
    ) -> Result<Self, LogError> {
        Self::part(path.as_ref(), offset, len, Access::Look)
    }

    fn part(path: &Path, offset: u64, len: u64, access: Access) -> Result<Self, LogError> {
        let end = offset.checked_add(len).filter(|&end| end <= i64::MAX as u64);
        if !offset.is_multiple_of(4096) || end.is_none() {
            let reason = "a region begins at a multiple of 4096 and ends below 2^63";
            return Err(LogError::Option { name: "offset", value: offset, reason });
        }
        let mut disk = Self::opened(path, access, false)?;
        let found = disk.len().map_err(|error| {
            let (file, error) = (disk.name(), Arc::new(error));
            LogError::Io(IoFailure { file, action: "measure", offset: 0, error })
        })?;
        if let Some(expected) = end.filter(|&end| end > found) {
            return Err(LogError::Truncated { file: disk.name(), expected, found });
        }
        (disk.offset, disk.len) = (offset, Some(len));
        Ok(disk)
    }

    /// An existing file used by the log alone.
    ///
    /// # Errors
    /// As [`FileDisk::open`].
    pub fn open_existing(path: impl AsRef<Path>) -> Result<Self, LogError> {
        Self::opened(path.as_ref(), Access::WriteAll, false)
    }

    /// A file opened for reading, for [`SpaceMapLog::inspect`](crate::SpaceMapLog::inspect). Others
    /// may have it open for reading too, but none may have it, or a region of it, open for writing.
    ///
    /// # Errors
    /// As [`FileDisk::open`].
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self, LogError> {
        Self::opened(path.as_ref(), Access::Read, false)
    }

    /// A file opened for reading, beside any other opening, and without keeping others from opening
    /// it: for [`SpaceMapLog::inspect`](crate::SpaceMapLog::inspect) of a log in use. What is read
    /// may change from one read to the next.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn open_unlocked(path: impl AsRef<Path>) -> Result<Self, LogError> {
        Self::opened(path.as_ref(), Access::Look, false)
    }

    fn opened(path: &Path, access: Access, create: bool) -> Result<Self, LogError> {
        match lock::open(path, access, create) {
            Ok(file) => Ok(Self { file, path: path.to_path_buf(), offset: 0, len: None }),
            Err(error) => {
                let file = path.display().to_string();
                Err(match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy => {
                        LogError::Locked { file }
                    }
                    _ => {
                        let error = Arc::new(error);
                        LogError::Io(IoFailure { file, action: "open", offset: 0, error })
                    }
                })
            }
        }
    }
}

impl FileDisk {
    /// Where `len` bytes at `offset` lie in the file, if they are inside the region.
    fn place(&self, offset: u64, len: usize, beyond: io::ErrorKind) -> io::Result<u64> {
        let end = offset.checked_add(len as u64).ok_or(beyond)?;
        match self.len {
            Some(len) if end > len => Err(beyond.into()),
            _ => self.offset.checked_add(offset).ok_or_else(|| beyond.into()),
        }
    }
}

impl Disk for FileDisk {
    fn len(&self) -> io::Result<u64> {
        match self.len {
            Some(len) => Ok(len),
            // Not the metadata: a block device reports no length there.
            None => io::Seek::seek(&mut &*self.file, io::SeekFrom::End(0)),
        }
    }

    fn grow(&self, len: u64) -> io::Result<()> {
        if self.len()? >= len {
            return Ok(());
        }
        match self.len {
            Some(_) => Err(io::ErrorKind::StorageFull.into()),
            // A device cannot grow.
            None if !self.file.metadata()?.is_file() => Err(io::ErrorKind::StorageFull.into()),
            None => self.file.set_len(len),
        }
    }

    fn cut(&self, len: u64) -> io::Result<()> {
        let whole = self.len.is_none() && self.file.metadata()?.is_file();
        if whole && len < self.len()? { self.file.set_len(len) } else { Ok(()) }
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        read_at(&self.file, self.place(offset, bytes.len(), io::ErrorKind::UnexpectedEof)?, bytes)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        write_at(&self.file, self.place(offset, bytes.len(), io::ErrorKind::StorageFull)?, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

#[cfg(unix)]
fn read_at(file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(unix)]
fn write_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_at(file: &File, mut offset: u64, mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, bytes, offset)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[read..];
        offset += read as u64;
    }
    Ok(())
}

#[cfg(windows)]
fn write_at(file: &File, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}
