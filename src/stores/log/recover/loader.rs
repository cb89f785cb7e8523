//! Reading a disk, and making errors that name it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::stores::log::disk::Disk;
use crate::stores::log::error::{LogError, Part};
use crate::stores::log::io_failure::IoFailure;
use crate::stores::log::work::Steps;

pub(crate) struct Loader {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) name: String,
    pub(super) read_bytes: AtomicU64,
    pub(super) steps: Steps,
}

impl Loader {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        let name = disk.name();
        Self { disk, name, read_bytes: AtomicU64::new(0), steps: Steps::default() }
    }

    /// Steps that loading has taken so far.
    #[cfg(test)]
    pub(crate) fn steps(&self) -> u64 {
        self.steps.get()
    }

    pub(crate) fn io(&self, action: &'static str, offset: u64, error: std::io::Error) -> LogError {
        let (file, error) = (self.name.clone(), Arc::new(error));
        LogError::Io(IoFailure { file, action, offset, error })
    }

    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), LogError> {
        self.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.disk.read(offset, bytes).map_err(|error| self.io("read", offset, error))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn damage(&self, part: Part, offset: u64) -> LogError {
        LogError::Damaged { file: self.name.clone(), part, offset }
    }
}
