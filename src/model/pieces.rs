//! Requests in pieces (m5, m6).

use super::*;
use crate::index::{Claimed, Taken, Unplanned, Wanted};
use crate::values::bounds::Bounds;

/// Another thread frees block 0 and takes block 3, if it is still free: against the direction in
/// which searches go.
fn move_a_block(index: &Bitmap<Bit>) -> bool {
    free(index, 0, 1);
    index.claim(3, 1).is_ok()
}

/// Two blocks in pieces of one, planned: the first two of the listed ones. Two blocks are free all the time.
pub fn m5() {
    let index = index::<Bit>(4, 1, &[1, 3]);
    let other = spawn(&index, move_a_block);
    let bounds = Bounds { min: 1, max: 1, align: 1, unit: 1 };
    let mut pieces: Vec<(u64, u64)> = Vec::new();
    let claimed = index.claim_planned(
        &bounds,
        2,
        |runs| {
            let runs = runs.into_iter().map(|(start, len)| start..start + len);
            let two: Vec<u64> = runs.flatten().take(2).collect();
            Ok((two.len() == 2).then(|| two.into_iter().map(|block| (block, 1))))
        },
        &mut pieces,
        |pieces, claimed| {
            pieces.push(claimed.into_run());
            Taken::Kept
        },
        |pieces| pieces.drain(..).for_each(|(start, len)| free(&index, start, len)),
    );
    assert!(!matches!(claimed, Err(Unplanned::Nothing { .. })), "two blocks are always free");
    assert!(claimed.is_ok() && pieces.len() == 2, "{claimed:?} {pieces:?}");
    if join(other) {
        pieces.push((3, 1));
    }
    pieces.push((2, 1)); // held all the time
    tidy(&index, 0, 4);
    settle(&index, &pieces);
}

/// Two blocks in pieces, by the last look alone. Two blocks are free all the time.
pub fn m6() {
    let index = index::<Bit>(4, 1, &[1, 3]);
    let other = spawn(&index, move_a_block);
    let mut pieces: Vec<(u64, u64)> = Vec::new();
    let took = |claimed: Claimed| {
        pieces.push(claimed.into_run());
        Taken::Kept
    };
    let mut wanted = Wanted { left: 2, looks: u64::MAX, took };
    let none = index.claim_rest(0, &mut wanted).expect("nothing is refused");
    assert!(none.is_none() && wanted.left == 0, "two blocks are always free");
    if join(other) {
        pieces.push((3, 1));
    }
    pieces.push((2, 1)); // held all the time
    tidy(&index, 0, 4);
    settle(&index, &pieces);
}
