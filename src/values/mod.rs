//! What callers hold: extents, requests, errors, classes, deltas.
//!
//! Promises: values only. Nothing here changes an allocator, and every value can be made without
//! one.
//! Uses: `base`.

pub(crate) mod bounds;
pub(crate) mod class;
pub(crate) mod delta;
pub(crate) mod error;
pub(crate) mod extent;
pub(crate) mod extent_set;
pub(crate) mod lsn;
pub(crate) mod op;
pub(crate) mod plain_bitmap;
pub(crate) mod request;
pub(crate) mod runs;
pub(crate) mod settings;
