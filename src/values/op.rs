//! What is done to blocks.

/// What a transaction does to an extent, in the ledger and in the records of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// It was free.
    Allocate,
    /// It was allocated.
    Free,
}

impl Op {
    /// What undoes it.
    pub(crate) fn inverse(self) -> Self {
        match self {
            Self::Allocate => Self::Free,
            Self::Free => Self::Allocate,
        }
    }
}
