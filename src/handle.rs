//! The handle of one thread or reactor core.

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::request::{allocate, batch, free};
use crate::transaction::Transaction;
use crate::values::error::{AllocError, FreeError, FreeManyError};
use crate::values::extent::{Extent, Extents};
use crate::values::request::{Effort, Request};

/// Access to an [`Allocator`](crate::Allocator) for one thread or reactor core: a place to allocate
/// at, a counter of its own, and a memory of failed searches.
///
/// Handles start in different shards. A handle moves on when its shard has nothing that fits.
///
/// Single blocks that a handle allocates in sequence lie in sequence as long as there is plenty.
/// Where free space is short (about 98 % full), the handle first takes single holes that it has
/// seen, then what it freed last. If one of its last 16 requests asked for several blocks, single
/// blocks fill the lowest holes that it has seen.
///
/// For several blocks, the handle takes the shortest run that is long enough of the free runs that
/// it has seen. It remembers up to 32 runs of each length (16 beyond 32 blocks, 8 beyond 64 blocks)
/// in 22 KiB, from its first such request or free on. It remembers the last 512 frees of single
/// blocks in 2 KiB.
///
/// A handle may be dropped or leaked at any time: it holds no blocks, so none is lost. Up to 64
/// handles of an allocator count without a locked instruction; further handles share counters.
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
    /// Padded: every call writes here, and adjacent handles would slow each other down.
    cursor: CachePadded<Cursor>,
}

/// Bytes of a handle without its cursor, which counts itself.
const BESIDE_CURSOR: usize = size_of::<Handle>() - size_of::<Cursor>();

impl Handle {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let cursor =
            CachePadded::new(core.placer.new_cursor(&core.space, |_| core.space.lanes.acquire()));
        core.placer.handles_memory.add(BESIDE_CURSOR);
        Self { core, cursor }
    }

    /// Begins a transaction that allocates through this handle. O(1).
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

    /// As [`Handle::allocate_with`], but appends the extents to the caller's buffer.
    ///
    /// # Errors
    /// See [`AllocError`]; nothing is allocated then, and the buffer is unchanged.
    #[inline]
    pub fn allocate_into(
        &mut self,
        request: &Request,
        extents: &mut Vec<Extent>,
    ) -> Result<(), AllocError> {
        allocate::allocate_into(&self.core, &mut self.cursor, request, extents)?;
        Ok(())
    }

    /// As [`Handle::allocate_with`], and reports how far it looked.
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

    /// Fills `extents` with extents of `len` blocks each. The result is the same as that of so many
    /// calls of [`allocate`](Self::allocate), with one compare-exchange for all extents from the
    /// same word of the bitmap (64 blocks). The previous contents of `extents` do not matter.
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
    /// See [`AllocError`]: it allocates all of them or none. After an error the contents of
    /// `extents` are meaningless. Until a failing call has given back what it had, other calls do
    /// not find those blocks: two calls at the same moment can both fail.
    pub fn allocate_many(&mut self, len: u64, extents: &mut [Extent]) -> Result<(), AllocError> {
        batch::allocate_many(&self.core, &mut self.cursor, len, extents)
    }

    /// Frees all of `extents`, with one compare-exchange for those in the same word of the bitmap
    /// (64 blocks). The extents may differ in length and need not have been allocated together.
    /// Sorts `extents` by start. O(n), or O(n log n) if they are not sorted. This pays for extents
    /// that were allocated together, not for single blocks from all over the device.
    ///
    /// # Errors
    /// See [`FreeManyError`]: it frees all of them or none, unless another thread frees some of the
    /// same blocks at the same moment. It refuses blocks that a store knows to be committed
    /// ([`FreeError::Committed`]).
    pub fn free_many(&mut self, extents: &mut [Extent]) -> Result<(), FreeManyError> {
        batch::free_many(&self.core, &mut self.cursor, extents)
    }

    /// Frees `extent`. Any handle may have allocated it. See
    /// [`Allocator::free`](crate::Allocator::free).
    ///
    /// # Errors
    /// See [`FreeError`]: nothing is changed then, except in the race that [`FreeError::Torn`]
    /// names.
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
