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
    /// The operation that failed.
    pub action: &'static str,
    /// The offset in bytes.
    pub offset: u64,
    /// The system's answer.
    pub error: Arc<io::Error>,
}

impl IoFailure {
    /// Whether the device, or the user's quota, was full.
    pub(super) fn is_full(&self) -> bool {
        matches!(self.error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}
