//! A lock-free concurrent block allocator for storage engines.
//!
//! freemap says which blocks of a device are free, hands out extents to many threads at once, and
//! takes them back. It keeps one bit per block and, above the bits, for every order (aligned runs of
//! 1, 2, 4, ... 512 blocks) a tree that reduces 64 bits to one, so that finding, taking and giving
//! back cost the same on an empty device and on one that is 99.9 % full.
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
//! - A block belongs to at most one caller; no block outside the device is ever handed out.
//! - A request fails only if at some moment during the call nothing fitted it. Contiguous requests
//!   find any run that fits, aligned or not, across all inner borders.
//! - No operation waits for another thread: no locks, no spinning, no heap allocation for up to
//!   four extents. A thread that is stopped anywhere stops nobody.
//! - Bad input is an error value that says what and where, and changes nothing.
//!
//! The protocol behind the first three is model-checked: see ARCHITECTURE.md in the repository.
//!
//! # Durability
//!
//! A [`Transaction`] allocates at once and frees only when it is durable; a [`ReadGuard`] keeps from
//! reuse what was freed after it was made. [`SpaceMapLog`] makes transactions durable and finds the
//! state again; an engine with a log or key-value store of its own takes the [`Delta`] of a
//! [`Frozen`] transaction instead, or implements [`Store`].
//!
//! - Every acknowledged transaction is there after a crash, and each is there whole or not at all.
//! - A block is reused only when its free is durable and no guard from before is alive; where the engine's
//!   own metadata becomes durable later than that, only when it says so: see [`metadata`].
//! - Committing waits for the device, of course; allocating and freeing never do.
//!
//! # What is not
//!
//! - Without transactions nothing is durable: the caller keeps [`Allocator::to_bitmap`] or its own
//!   records, and starts from [`Allocator::from_bitmap`].
//! - With one bit per block, a stale free of blocks that were allocated again since cannot be told
//!   from a rightful one.
//! - Blocks that another thread holds for a moment, on the way to a longer run that it does not
//!   get, are allocated for that moment.
//!
//! # Memory
//!
//! 32 MiB of bitmap and 1 MiB of search structures per TiB of 4 KiB blocks; no allocation after
//! construction but for lists of more than four extents, and for each handle 22 KiB with its first
//! request for several blocks, or free of them, and 2 KiB with its first free (or commit that lets something
//! out of the quarantine). What waits in the quarantine takes 24 bytes for each extent
//! (of up to 4096 blocks), what transactions have freed a bit for each block, in memory that is kept. A space-map log takes up to 33 MiB per TiB
//! more: see there.

mod account;
mod allocate;
mod allocator;
mod aside;
mod batch;
mod bitmap;
mod check;
mod class;
mod committed;
mod contiguous;
mod core;
mod cursor;
mod delta;
mod discarder;
mod epoch;
mod error;
mod escrow;
mod evacuation;
mod events;
mod extent;
mod extent_set;
mod fit;
mod fragmentation;
mod free_extents;
mod freed;
mod gang;
mod gate;
mod geometry;
mod guard;
mod handle;
mod heap;
mod held;
mod lanes;
mod leaf;
mod ledger;
mod let_go;
mod lines;
mod local;
mod log;
mod lsn;
mod memory;
#[cfg(loom)]
#[doc(hidden)]
pub mod model;
mod moments;
mod mutant;
mod pending;
mod quarantine;
mod queue;
mod reserve;
mod segmented;
mod summary;
mod sync;
mod watch;
mod word;
#[doc = include_str!("../docs/metadata.md")]
pub mod metadata {}
mod passes;
mod place;
mod plan;
mod region;
mod release;
mod request;
mod reservation;
mod reserves;
mod resize;
#[cfg(feature = "rocksdb")]
pub mod rocks;
mod runs;
mod scattered;
mod seen;
mod shard;
mod shard_counts;
mod sink;
mod spill;
mod stats;
mod store;
mod stream;
mod survey;
mod surveyed;
mod tops;
mod transaction;
mod words;
mod zones;

pub use allocator::{Allocator, Builder};
pub use bitmap::{Difference, Verification};
pub use check::Discrepancies;
pub use class::{Class, Direction, Placement, Spill};
pub use delta::{DecodeError, Delta};
pub use discarder::{Batch, DiscardLimits, Discarder, Discarding};
pub use error::{
    AllocError, CloseError, ConfigError, FreeError, FreeManyError, MarkError, RangeError,
    RequestError, ResizeError,
};
pub use evacuation::{Evacuation, EvacuationPlan, EvacuationPlanner, EvacuationRequest};
pub use extent::{Extent, Extents, MAX_BLOCKS};
pub use free_extents::FreeExtents;
pub use guard::ReadGuard;
pub use handle::Handle;
pub use held::HeldFrees;
pub use log::{
    Authority, CommitError, Committing, CreateOptions, Disk, Figures, FileDisk, Flusher, Found,
    IoFailure, LogError, LogMemory, OpenOptions, Opened, Part, Pending, Report, SpaceMapLog,
};
pub use lsn::Lsn;
pub use memory::Memory;
pub use region::Region;
pub use request::{Effort, Request};
pub use reservation::Reservation;
pub use resize::{Shrink, ShrinkFailed};
#[cfg(feature = "rocksdb")]
pub use rocks::RocksFreelist;
pub use runs::{Runs, RunsOfOrder};
pub use sink::Sink;
pub use stats::{Counters, ShardStats, Stats};
pub use store::Store;
pub use stream::Stream;
pub use survey::Survey;
pub use surveyed::Surveyed;
pub use transaction::{CommitFailed, Frozen, Transaction};
