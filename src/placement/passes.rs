//! Passes over the summary for pieces.

use crate::base::place::LeafIndex;
use crate::index::{Claimed, Refused, Taken, Wanted};
use crate::placement::Placer;
use crate::space::Space;
use crate::values::request::Effort;
use std::ops::Range;

impl Placer {
    /// Makes one pass over `ranges` of leaves for runs of `order`, and adds the leaves read to
    /// `effort`.
    pub(crate) fn claim_pieces_in<F: FnMut(Claimed) -> Taken>(
        &self,
        space: &Space,
        order: u32,
        ranges: impl Iterator<Item = Range<LeafIndex>>,
        wanted: &mut Wanted<F>,
        effort: &mut Effort,
    ) -> Result<(), Refused> {
        if !space.bitmap.shows(order) {
            return Ok(());
        }
        let looks = wanted.looks;
        for leaves in ranges {
            if wanted.left > 0 {
                space.bitmap.claim_pieces(order, leaves, wanted)?;
            }
        }
        effort.leaves += looks - wanted.looks;
        Ok(())
    }
}
