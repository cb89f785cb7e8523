//! One block.

use crate::index::events::Event;
use crate::index::{Claimed, Lost};
use crate::placement::Placer;
use crate::placement::cursor::Cursor;
use crate::space::Space;

impl Placer {
    /// One block of the word at hand. Where longer runs are asked for, too, or space is short, single holes
    /// come first: nothing else fits into those. Where it is short, the word in which a block was just freed is
    /// next, whose cache line is here.
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
            // Who has changed that one meanwhile does not work here.
            return space.bitmap.claim_one_in(word).unwrap_or_else(|Lost| {
                space.count(Event::LostClaim, word);
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
