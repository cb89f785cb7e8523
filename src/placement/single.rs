//! Placement of a single block.

use crate::index::events::Event;
use crate::index::{Claimed, Lost};
use crate::placement::Placer;
use crate::placement::cursor::Cursor;
use crate::space::Space;

impl Placer {
    /// Claims one block of the current word. If the handle also asks for longer runs, or space is
    /// short, single holes come first, since nothing else fits into them. If space is short, the
    /// next choice is the word in which a block was just freed, whose cache line is here.
    #[inline(always)]
    pub(crate) fn claim_one(&self, space: &Space, cursor: &mut Cursor) -> Option<Claimed> {
        let (mixed, poor) = (cursor.is_mixed(), cursor.place(1).poor);
        if mixed {
            cursor.asked_for_one();
        }
        if (mixed || poor)
            && cursor.seen.has_single()
            && let Some(claimed) = self.claim_single(space, cursor)
        {
            return Some(claimed.single());
        }
        let place = cursor.place(1);
        if poor && let Some(word) = place.reuse() {
            place.word = word;
            // The thread that changed that word does not work here, so this is not `crowded`.
            return space.bitmap.claim_one_in(word).unwrap_or_else(|Lost| {
                space.count(Event::LostClaim, word.get());
                None
            });
        }
        match space.bitmap.claim_one_in(place.word) {
            Ok(claimed) => claimed,
            Err(Lost) => {
                place.crowded = true;
                None
            }
        }
    }
}
