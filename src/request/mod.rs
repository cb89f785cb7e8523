//! From a request to extents, wherever they come from, or to the error that says why not.
//!
//! Promises: a request fails only if at some moment during the call nothing fitted it, and a failed
//! request leaves nothing behind.
//! Uses: `placement` and all below it, `core`.

pub(crate) mod allocate;
pub(crate) mod attempt;
pub(crate) mod batch;
pub(crate) mod bounded;
pub(crate) mod by_name;
pub(crate) mod contiguous;
pub(crate) mod free;
pub(crate) mod make_room;
pub(crate) mod pieces;
pub(crate) mod promise;
pub(crate) mod refusal;
pub(crate) mod reserve;
#[cfg(all(test, not(loom)))]
mod tests;
pub(crate) mod thread_cursor;
#[cfg(all(test, not(loom)))]
mod work_tests;
