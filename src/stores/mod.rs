//! What makes transactions durable.
//!
//! Promises: what is acknowledged is there after a crash, whole; of the rest each transaction is there whole or
//! not at all.
//! Uses: everything but the allocator's face; each store hands out allocators.

pub(crate) mod check;
pub(crate) mod log;
#[cfg(feature = "rocksdb")]
pub mod rocks;
