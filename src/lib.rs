//! A lock-free concurrent block allocator for storage engines.
//!
//! freemap tracks which blocks of a device are free. It hands out extents to many threads at once
//! and takes them back. It keeps one bit per block. Above the bits, for every order (aligned runs
//! of 1, 2, 4, ... 512 blocks), a tree reduces 64 bits to one. So finding, taking and giving back
//! cost the same on an empty device and on one that is 99.9 % full.
//!
//! ```
//! use freemap::{Allocator, Request};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let allocator = Allocator::new(256 << 20)?; // 1 TiB of 4 KiB blocks
//! let mut handle = allocator.handle(); // one per thread or core
//!
//! let journal = handle.allocate(1024)?; // one extent of 4 MiB
//! let object = handle.allocate_with(&Request::new(300).scattered().min_extent(4))?;
//!
//! handle.free(journal)?;
//! for extent in &object {
//!     handle.free(*extent)?;
//! }
//! assert_eq!(allocator.free_blocks(), allocator.blocks());
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! - A block belongs to at most one caller. No block outside the device is ever handed out.
//! - A request fails only if at some moment during the call nothing fitted it. A contiguous request
//!   finds any run that fits, aligned or not, across all inner borders.
//! - No operation waits for another thread: no locks, no spinning, no heap allocation for up to
//!   four extents. A thread that stops anywhere stops no other.
//! - Bad input gives an error value that says what is wrong and where. It changes nothing.
//!
//! The protocol behind the first three is model-checked: see `docs/protocol.md` in the repository.
//!
//! # Durability
//!
//! A [`Transaction`] allocates at once; its frees take effect only when it is durable. While a
//! [`ReadGuard`] lives, no extent freed after it was made is reused. [`SpaceMapLog`] makes
//! transactions durable and recovers the state. An engine with a log or key-value store of its own
//! takes the [`Delta`] of a [`Frozen`] transaction instead, or implements [`Store`].
//!
//! - After a crash, every acknowledged transaction is there, and each transaction is there whole or
//!   not at all.
//! - A block is reused only when its free is durable and no older guard is alive. If the engine's
//!   own metadata becomes durable later than that, the block is reused only when the engine says
//!   so: see [`metadata`].
//! - Committing waits for the device; allocating and freeing never do.
//!
//! # What is not
//!
//! - Without transactions nothing is durable: the caller keeps [`Allocator::to_bitmap`] or its own
//!   records, and starts from [`Allocator::from_bitmap`].
//! - With one bit per block, a stale free of blocks that were allocated again since cannot be told
//!   from a rightful one.
//! - A thread may hold blocks for a moment on the way to a longer run that it does not get. Those
//!   blocks are allocated for that moment.
//!
//! # Memory
//!
//! The bitmap takes 32 MiB, and the search structures 1 MiB, per TiB of 4 KiB blocks. After
//! construction an allocation or a free takes memory only for a list of more than four extents, and
//! for each handle 22 KiB with its first request for, or free of, several blocks, and 2 KiB with its
//! first free (or commit that lets something out of the quarantine). Transactions keep the extents
//! that they change, and a survey leaves 900 bytes for each shard ([`Memory`] counts what the
//! allocator has). The quarantine takes 24 bytes for each waiting
//! extent (of up to 4096 blocks), and what transactions have freed takes one bit per block, in
//! memory that is kept. A space-map log takes up to 33 MiB per TiB more: see there.

#![cfg_attr(not(loom), deny(unreachable_pub))]

mod allocator;
mod base;
mod build;
mod builder;
mod core;
mod gate;
mod handle;
mod held;
mod index;
mod insight;
#[doc = include_str!("../docs/metadata.md")]
pub mod metadata {}
#[cfg(loom)]
#[doc(hidden)]
pub mod model;
mod placement;
mod quarantine;
mod request;
mod space;
mod stores;
mod transaction;
mod values;

pub use allocator::Allocator;
pub use builder::Builder;
pub use handle::Handle;
pub use held::discarder::{Batch, DiscardLimits, Discarder, Discarding};
pub use held::read_guard::ReadGuard;
pub use held::region::Region;
pub use held::reservation::Reservation;
pub use held::shrink::{Shrink, ShrinkFailed};
pub use held::stream::Stream;
pub use index::{Difference, Verification};
pub use insight::evacuation::{Evacuation, EvacuationPlan, EvacuationPlanner, EvacuationRequest};
pub use insight::free_extents::FreeExtents;
pub use insight::memory::Memory;
pub use insight::sink::Sink;
pub use insight::stats::{Counters, ShardStats, Stats};
pub use insight::survey::Survey;
pub use space::survey_records::Surveyed;
pub use stores::check::Discrepancies;
pub use stores::log::{
    Authority, CommitError, Committing, CreateOptions, Disk, Figures, FileDisk, Flusher, Found,
    IoFailure, LogError, LogMemory, OpenOptions, Opened, Part, Pending, Report, SpaceMapLog,
};
#[cfg(feature = "rocksdb")]
pub use stores::rocks::{self, RocksFreelist};
pub use transaction::held_frees::HeldFrees;
pub use transaction::store::Store;
pub use transaction::{CommitFailed, Frozen, Transaction};
pub use values::class::{Class, Direction, Placement, Spill};
pub use values::delta::{DecodeError, Delta};
pub use values::error::{
    AllocError, CloseError, ConfigError, FreeError, FreeManyError, MarkError, RangeError,
    RequestError, ResizeError,
};
pub use values::extent::{Extent, Extents, MAX_BLOCKS};
pub use values::lsn::Lsn;
pub use values::request::{Effort, Request};
pub use values::runs::{Runs, RunsOfOrder};
