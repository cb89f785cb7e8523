//! What one thread or reactor core allocates through.

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::request::{allocate, batch, free};
use crate::transaction::Transaction;
use crate::values::error::{AllocError, FreeError, FreeManyError};
use crate::values::extent::{Extent, Extents};
use crate::values::request::{Effort, Request};

/// A way to an [`Allocator`](crate::Allocator) for one thread or reactor core: a place to allocate
/// at, a counter of its own, and the memory of what was not to be had.
///
/// Handles start in different shards, and move on when theirs has nothing that fits. Single blocks that
/// a handle allocates in sequence lie in sequence as long as there is plenty; where free space is short
/// (about 98 % full), it takes first single holes that it has seen, then what it has freed last. If it is asked for
/// several blocks, too (with one of the last 16 requests), single blocks fill the lowest holes that it has seen. For
/// several blocks it takes the shortest free run of those it has seen that is long enough; it remembers up to
/// 32 of each length (of lengths beyond 32 blocks 16, beyond 64 eight), in 22 KiB, from the first such request
/// or free on, and the last 512 frees of single blocks in 2 KiB.
/// A handle may be dropped or leaked at any time: no block is lost with it, since it holds none. Up to
/// 64 handles of an allocator count without a locked instruction; those beyond share counters.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let allocator = freemap::Allocator::new(1 << 20)?;
/// std::thread::scope(|scope| {
///     for _ in 0..4 {
///         let mut handle = allocator.handle();
///         scope.spawn(move || {
///             let extent = handle.allocate(8).expect("there is room");
///             handle.free(extent).expect("it is ours");
///         });
///     }
/// });
/// assert_eq!(allocator.free_blocks(), 1 << 20);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Handle {
    core: Arc<Core>,
    /// Written to with every call, so that handles which lie side by side would slow each other.
    cursor: CachePadded<Cursor>,
}

/// Bytes of a handle beside its cursor, which counts itself.
const BESIDE_CURSOR: usize = size_of::<Handle>() - size_of::<Cursor>();

impl Handle {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let cursor =
            CachePadded::new(core.placer.new_cursor(&core.space, |_| core.space.lanes.acquire()));
        core.placer.handles_memory.add(BESIDE_CURSOR);
        Self { core, cursor }
    }

    /// A transaction that allocates through this handle. O(1).
    pub fn begin(&mut self) -> Transaction<'_> {
        Transaction::new(self.core.clone(), Some(&mut self.cursor))
    }

    /// Allocates `len` adjacent blocks.
    ///
    /// # Errors
    /// See [`AllocError`]; nothing is allocated then.
    #[inline]
    pub fn allocate(&mut self, len: u64) -> Result<Extent, AllocError> {
        allocate::allocate(&self.core, &mut self.cursor, len)
    }

    /// Allocates what `request` asks for: see
    /// [`Allocator::allocate_with`](crate::Allocator::allocate_with).
    ///
    /// # Errors
    /// See [`AllocError`]; nothing is allocated then.
    #[inline]
    pub fn allocate_with(&mut self, request: &Request) -> Result<Extents, AllocError> {
        self.allocate_reported(request).map(|(extents, _)| extents)
    }

    /// As [`Handle::allocate_with`], appending the extents to a buffer of the caller's.
    ///
    /// # Errors
    /// See [`AllocError`]; nothing is allocated and the buffer is as it was then.
    #[inline]
    pub fn allocate_into(
        &mut self,
        request: &Request,
        extents: &mut Vec<Extent>,
    ) -> Result<(), AllocError> {
        allocate::allocate_into(&self.core, &mut self.cursor, request, extents)?;
        Ok(())
    }

    /// As [`Handle::allocate_with`], and says how far it looked.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use freemap::{Allocator, Request};
    ///
    /// // Every second block of a GiB is free.
    /// let allocator = Allocator::from_bitmap(1 << 18, &[0x5555_5555_5555_5555; 1 << 12])?;
    /// let mut handle = allocator.handle();
    /// let request = Request::new(256).scattered().effort(64);
    /// let (extents, effort) = handle.allocate_reported(&request)?;
    /// assert_eq!(extents.len(), 256);
    /// assert!(effort.leaves == 1 && !effort.gave_up);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`AllocError`]; nothing is allocated then.
    pub fn allocate_reported(
        &mut self,
        request: &Request,
    ) -> Result<(Extents, Effort), AllocError> {
        let mut extents = Extents::new();
        let effort = allocate::allocate_into(&self.core, &mut self.cursor, request, &mut extents)?;
        Ok((extents, effort))
    }

    /// Fills `extents` with extents of `len` blocks each: the same as so many calls of
    /// [`allocate`](Self::allocate), but with one compare-exchange for all that come from the same
    /// word of the bitmap (64 blocks). What `extents` held before does not matter.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use freemap::{Allocator, Extent};
    ///
    /// let allocator = Allocator::new(1 << 20)?;
    /// let mut handle = allocator.handle();
    /// let mut pages = [Extent::new(0, 0); 100];
    /// handle.allocate_many(2, &mut pages)?;
    /// assert_eq!(allocator.free_blocks(), (1 << 20) - 200);
    /// handle.free_many(&mut pages)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`AllocError`]: it is all of them or none. Nothing is allocated then, and what `extents`
    /// holds is of no use. Until such a call has given back what it had, others do not find it: of
    /// two calls at the same moment both can fail.
    pub fn allocate_many(&mut self, len: u64, extents: &mut [Extent]) -> Result<(), AllocError> {
        batch::allocate_many(&self.core, &mut self.cursor, len, extents)
    }

    /// Frees all of `extents`, which need not be of one length nor allocated together, with one
    /// compare-exchange for those that lie in the same word of the bitmap (64 blocks). Sorts
    /// `extents` by their start. O(n), or O(n log n) if they do not come sorted: it pays for what was
    /// allocated together, and not for single blocks from all over the device.
    ///
    /// # Errors
    /// See [`FreeManyError`]: it is all of them or none, unless another thread frees some of the same
    /// blocks at the same moment. Blocks that a store knows to be committed are refused
    /// ([`FreeError::Committed`]).
    pub fn free_many(&mut self, extents: &mut [Extent]) -> Result<(), FreeManyError> {
        batch::free_many(&self.core, &mut self.cursor, extents)
    }

    /// Frees `extent`, through whichever handle it was allocated: see
    /// [`Allocator::free`](crate::Allocator::free).
    ///
    /// # Errors
    /// See [`FreeError`]: nothing is changed then, but for the race that [`FreeError::Torn`] names.
    #[inline]
    pub fn free(&mut self, extent: Extent) -> Result<(), FreeError> {
        free::free(&self.core, &mut self.cursor, extent)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.space.lanes.release(self.cursor.lane);
        self.core.placer.handles_memory.take(BESIDE_CURSOR);
    }
}
