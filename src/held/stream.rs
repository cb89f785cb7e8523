//! Allocations laid out one after the other.

use std::sync::Arc;

use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::request::allocate;
use crate::values::class::Class;
use crate::values::error::AllocError;
use crate::values::extent::{Extent, ExtentList, Extents};
use crate::values::request::Request;

/// A sequence of allocations that belong together (a file that grows, a log, a backup), from
/// [`Allocator::stream`](crate::Allocator::stream). Each begins where the one before ended, if that
/// space is free; otherwise at the next place behind it that fits.
///
/// A stream begins at the next entirely free leaf (512 blocks) of its class's region, or of the
/// device, from where a new handle would begin. It owns no blocks: other requests may get those
/// behind its end, though handles prefer shorter runs. Its extents are freed like any others.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use freemap::{Allocator, Class, Request};
///
/// let allocator = Allocator::new(1 << 20)?;
/// let (mut one, mut two) = (allocator.stream(Class::BULK), allocator.stream(Class::BULK));
/// let first = one.allocate(100)?;
/// two.allocate(100)?;
/// let second = one.allocate_with(&Request::new(500).scattered())?;
/// assert_eq!(second[0].start, first.start + 100);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Stream {
    core: Arc<Core>,
    cursor: Cursor,
    class: Class,
    /// Where the last extent ended.
    next: Option<u64>,
}

impl Stream {
    pub(crate) fn new(core: Arc<Core>, class: Class) -> Self {
        let cursor = core
            .placer
            .new_cursor(&core.space, |n| core.space.lanes.shared(n as usize))
            .in_sequence();
        Self { core, cursor, class, next: None }
    }

    /// The block behind the last extent, where the next allocation is tried first; `None` before
    /// the first.
    pub fn position(&self) -> Option<u64> {
        self.next
    }

    /// Allocates `len` adjacent blocks.
    ///
    /// # Errors
    /// See [`AllocError`]; nothing is allocated then.
    pub fn allocate(&mut self, len: u64) -> Result<Extent, AllocError> {
        let extents = self.allocate_with(&Request::new(len))?;
        Ok(extents[0])
    }

    /// Allocates what `request` asks for: see
    /// [`Allocator::allocate_with`](crate::Allocator::allocate_with). The stream's class replaces
    /// the request's. If the request has [`near`](Request::near), the stream continues there.
    ///
    /// # Errors
    /// See [`AllocError`]; nothing is allocated then.
    pub fn allocate_with(&mut self, request: &Request) -> Result<Extents, AllocError> {
        let core = self.core.clone();
        let request = request.checked(core.space.bitmap.blocks())?;
        let near = request.near;
        let request = Request { class: self.class, near: None, ..request };
        let next = near.or(self.next);
        let next = next.unwrap_or_else(|| {
            core.placer.start_of_stream(&core.space, &mut self.cursor, self.class)
        });
        let mut extents = Extents::new();
        let first = claim_at(&core, &mut self.cursor, &request, next);
        if let Some(first) = first {
            extents.append(first); // the first has room
        }
        let behind = first.map_or(next, |first| first.start + first.len);
        let left = request.len - extents.blocks();
        if left > 0 {
            core.placer.go_on_behind(&core.space, &mut self.cursor, &request, left, behind);
            let rest = Request { len: left, ..request };
            let mut others = Extents::new();
            let enough = allocate::allocate_into(&core, &mut self.cursor, &rest, &mut others);
            let partial = request.partial && first.is_some();
            if let (Err(error), false) = (enough, partial) {
                core.space.give_back(self.cursor.lane, &extents);
                return Err(error);
            }
            for (nth, &extent) in others.iter().enumerate() {
                if !extents.add(0, extent, request.max_extent) {
                    core.space.give_back(self.cursor.lane, &extents);
                    core.space.give_back(self.cursor.lane, &others[nth..]);
                    return Err(AllocError::OutOfMemory);
                }
            }
        }
        debug_assert!(request.is_met_by(&extents));
        self.next = extents.last().map(|last| last.start + last.len);
        Ok(extents)
    }

    pub(crate) fn is_of(&self, core: &Core) -> bool {
        self.core.id == core.id
    }
}

/// Claims blocks for `request` from block `next` on: all of them, or, if the request takes any
/// pieces, what is free there.
fn claim_at(core: &Core, cursor: &mut Cursor, request: &Request, next: u64) -> Option<Extent> {
    let start = next.checked_next_multiple_of(request.align)?;
    let end = start.checked_add(request.len)?.min(core.space.bitmap.blocks());
    if start >= end || request.len > request.max_extent {
        return None;
    }
    let pieces = request.scattered && request.takes_any_pieces();
    let free = core.space.bitmap.run_end(start, end) - start;
    let len = if pieces { free } else { request.len };
    if len == 0 || free < len {
        return None;
    }
    let claimed = core.space.bitmap.claim(start, len).ok()?;
    core.space.keep(cursor.lane, claimed)
}
