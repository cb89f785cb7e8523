//! The ground: words of bits, atomics, sizes, and memory allocation that may fail.
//!
//! Promises: nothing here knows which blocks are free or taken. Every access to an atomic of the
//! protocol goes through `sync`, which names its ordering and its place in the protocol.
//! Uses: nothing else of the crate.

pub(crate) mod account;
pub(crate) mod geometry;
pub(crate) mod heap;
pub(crate) mod lines;
pub(crate) mod moments;
pub(crate) mod mutant;
pub(crate) mod place;
pub(crate) mod segmented;
pub(crate) mod sync;
pub(crate) mod word;
