//! A call to the operating system that failed.

use std::io;
use std::sync::Arc;
use thiserror::Error;

/// An I/O error with its place.
#[derive(Clone, Debug, Error)]
#[error("{file}: cannot {action} at byte {offset}: {error}")]
pub struct IoFailure {
    /// The name of the disk.
    pub file: String,
    /// What was tried.
    pub action: &'static str,
    /// Where.
    pub offset: u64,
    /// The system's answer.
    pub error: Arc<io::Error>,
}

impl IoFailure {
    /// Whether there was no room on the device or for its user.
    pub(super) fn is_full(&self) -> bool {
        matches!(self.error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}
