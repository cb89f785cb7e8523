//! What a transaction does to blocks.

/// What a transaction does to an extent, in the ledger and in the records of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// The extent was free.
    Allocate,
    /// The extent was allocated.
    Free,
}

impl Op {
    /// The operation that undoes it.
    pub(crate) fn inverse(self) -> Self {
        match self {
            Self::Allocate => Self::Free,
            Self::Free => Self::Allocate,
        }
    }
}
