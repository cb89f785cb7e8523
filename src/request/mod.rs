//! From a request to extents, wherever they come from, or to the error that says why not.
//!
//! Promises: a request fails only if at some moment during the call nothing fitted it, and leaves nothing
//! behind then.
//! Uses: `placement` and all below it, `core`.

pub(crate) mod allocate;
pub(crate) mod batch;
pub(crate) mod bounded;
pub(crate) mod pieces;
pub(crate) mod reserve;
pub(crate) mod thread_cursor;
