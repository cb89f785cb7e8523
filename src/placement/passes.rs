//! Passes over the summary for pieces.

use crate::index::{Claimed, Refused, Taken, Wanted};
use crate::placement::Placer;
use crate::placement::route::Route;
use crate::space::Space;
use crate::values::request::Effort;

impl Placer {
    /// Makes one pass along `route` for runs of `order`, and adds the leaves read to
    /// `effort`.
    pub(crate) fn claim_pieces_in<F: FnMut(Claimed) -> Taken>(
        &self,
        space: &Space,
        order: u32,
        route: Route,
        wanted: &mut Wanted<F>,
        effort: &mut Effort,
    ) -> Result<(), Refused> {
        if !space.bitmap.shows(order) {
            return Ok(());
        }
        let looks = wanted.looks;
        for leaves in route {
            if wanted.left > 0 {
                space.bitmap.claim_pieces(order, leaves, wanted)?;
            }
        }
        effort.leaves += looks - wanted.looks;
        Ok(())
    }
}
