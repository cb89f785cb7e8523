//! What callers keep alive: streams, reservations, regions, shrinks, discarders, guards.
//!
//! Promises: dropping an object releases everything it held.
//! Uses: `request` and all below it, `core`.

pub(crate) mod discarder;
pub(crate) mod read_guard;
pub(crate) mod region;
pub(crate) mod reservation;
pub(crate) mod shrink;
pub(crate) mod stream;
