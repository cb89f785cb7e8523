//! The number of a transaction.

use std::fmt::{Display, Formatter};

/// A log sequence number: the place of a transaction in the order of all transactions of a store. A
/// space-map log counts from 1 without gaps. Of RocksDB's own numbers, several may belong to one
/// transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl Display for Lsn {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}
