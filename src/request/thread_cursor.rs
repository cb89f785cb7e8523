//! The handle inside [`Allocator::allocate`](crate::Allocator::allocate): each thread remembers a
//! cursor for the allocators it used last.

use std::cell::RefCell;

use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::space::lanes::LaneId;

/// Allocators for which a thread remembers its cursor. A thread that uses more in turn sometimes
/// starts again in some shard, which costs time and new memory, and nothing else.
const REMEMBERED: usize = 4;

struct Places {
    cursors: [Option<(u64, Cursor)>; REMEMBERED],
    next: usize,
}

thread_local! {
    static PLACES: RefCell<Places> =
        const { RefCell::new(Places { cursors: [const { None }; REMEMBERED], next: 0 }) };
}

/// Calls `work` with the lane that this thread counts in.
pub(crate) fn with_lane<T>(core: &Core, work: impl FnOnce(LaneId) -> T) -> T {
    work(with_cursor(core, |cursor| cursor.lane))
}

/// Calls `work` with this thread's cursor for `core`.
#[inline]
pub(crate) fn with_cursor<T>(core: &Core, mut work: impl FnMut(&mut Cursor) -> T) -> T {
    let done = PLACES.try_with(|places| {
        let mut places = places.try_borrow_mut().ok()?;
        let cursor = places.cursor(core);
        Some(work(cursor))
    });
    match done {
        Ok(Some(value)) => value,
        // The thread is being torn down, and its thread-local memory with it.
        _ => work(&mut new_cursor(core)),
    }
}

impl Places {
    #[inline]
    fn cursor(&mut self, core: &Core) -> &mut Cursor {
        let known = self
            .cursors
            .iter()
            .position(|place| place.as_ref().is_some_and(|(id, _)| *id == core.id));
        let index = known.unwrap_or_else(|| {
            self.next = (self.next + 1) % REMEMBERED;
            self.next
        });
        let place = &mut self.cursors[index];
        if known.is_none() {
            *place = None;
        }
        &mut place.get_or_insert_with(|| (core.id, new_cursor(core))).1
    }
}

#[cold]
fn new_cursor(core: &Core) -> Cursor {
    core.placer.new_cursor(&core.space, |n| core.space.lanes.shared(n as usize))
}
