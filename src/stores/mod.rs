//! The stores: they make transactions durable.
//!
//! Promises: acknowledged transactions are there after a crash, whole; every other transaction is
//! there whole or not at all. Uses: everything but the allocator's face; each store hands out
//! allocators.

pub(crate) mod check;
pub(crate) mod log;
#[cfg(feature = "rocksdb")]
pub mod rocks;
