//! Claims and releases beside another thread that does all of its work between two accesses of
//! theirs: at each moment in turn.

use std::fmt::Debug;
use std::rc::Rc;

use crate::base::geometry::{Geometry, Narrow, Wide};
use crate::base::sync::meanwhile;
use crate::index::claim_many::{Taken, Wanted};
use crate::index::{Bitmap, Claimed, Pack, Search};

/// Start and length.
type Run = (u64, u64);

/// A way to claim blocks.
type Claim<G> = fn(&Bitmap<G>) -> Option<Run>;

/// Calls `this` with an index in which `free` is free, once for each moment at which `other` can
/// run beside it, and `check` with what both returned.
fn at_each_moment<G: Geometry, A: Debug, B: 'static>(
    free: &[Run],
    this: impl Fn(&Bitmap<G>) -> A,
    other: impl Fn(&Bitmap<G>) -> B + Clone + 'static,
    mut check: impl FnMut(&Bitmap<G>, A, B),
) {
    for moment in 0.. {
        let index = Rc::new(Bitmap::<G>::none_free(1024, 1).expect("memory"));
        free.iter().for_each(|&(start, len)| assert_eq!(index.add(start, len), len));
        let (shared, other) = (index.clone(), other.clone());
        let meanwhile = meanwhile::after(moment, move || other(&shared));
        let mine = this(&index);
        let Some(theirs) = meanwhile.result() else {
            assert!(moment > 1, "it accesses more than one word");
            return;
        };
        check(&index, mine, theirs);
        assert!(index.verify().is_clean(), "{:?}", index.verify());
    }
}

/// One pass of the exact search.
fn exact<G: Geometry>(index: &Bitmap<G>, least: u64, most: u64, align: u64) -> Option<Run> {
    let search = Search { least, most, align, take: |run: u64| run.min(most) };
    index.claim_quick(0, &search).map(Claimed::into_run)
}

/// Claims of blocks 66 and 67 by all that retry after a lost compare-exchange.
fn claims<G: Geometry>() -> [(&'static str, Claim<G>); 4] {
    [
        ("by name", |index| index.claim(66, 2).ok().map(Claimed::into_run)),
        ("aligned", |index| {
            let leaves = index.all_leaves();
            index.claim_aligned(1, 2, 66, leaves, Pack::First).map(Claimed::into_run)
        }),
        ("exact", |index| exact(index, 2, 2, 1)),
        ("in pieces", |index| {
            let (mut piece, leaves) = (None, index.all_leaves());
            let took = |claimed: Claimed| {
                piece = Some(claimed.into_run());
                Taken::Kept
            };
            let mut wanted = Wanted { left: 2, looks: u64::MAX, took };
            index.claim_pieces(1, leaves, &mut wanted).expect("nothing is refused");
            piece
        }),
    ]
}

fn claims_of_different_blocks<G: Geometry>() {
    for (way, claim) in claims::<G>() {
        at_each_moment::<G, _, _>(
            &[(66, 2), (80, 1)],
            claim,
            |index| index.claim(80, 1).is_ok(),
            |index, mine, theirs| {
                assert_eq!(mine, Some((66, 2)), "{way}");
                assert!(theirs && index.count_free() == 0, "{way}");
            },
        );
    }
}

#[test]
fn two_claims_of_different_blocks_of_one_word_both_win() {
    claims_of_different_blocks::<Wide>();
    claims_of_different_blocks::<Narrow>();
}

fn releases_of_different_blocks<G: Geometry>() {
    at_each_moment::<G, _, _>(
        &[(90, 1)],
        |index| index.release(66, 2),
        |index| (index.release(80, 1).is_ok(), index.claim(90, 1).is_ok()),
        |index, mine, theirs| {
            assert_eq!((mine, theirs), (Ok(()), (true, true)));
            assert_eq!(index.count_free(), 3);
        },
    );
}

#[test]
fn two_releases_of_different_blocks_of_one_word_both_win() {
    releases_of_different_blocks::<Wide>();
    releases_of_different_blocks::<Narrow>();
}
