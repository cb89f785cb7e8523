//! Where a new handle begins.

use crate::base::geometry::Native;
use crate::placement::Placer;
use crate::placement::cursor::Cursor;
use crate::space::Space;
use crate::space::lanes::LaneId;

impl Placer {
    /// A cursor for a new handle, in a shard of its own while there are enough.
    pub(crate) fn new_cursor(&self, space: &Space, lane: impl FnOnce(u64) -> LaneId) -> Cursor {
        let n = self.handles.fetch_add(1);
        match self.zones.of(0) {
            None => Cursor::new(self.home(space, n), lane(n), &self.handles_memory),
            Some(zone) => {
                let word = self.first_leaf(space, zone).first_word::<Native>();
                Cursor::new(word, lane(n), &self.handles_memory).with_classes()
            }
        }
    }
}
