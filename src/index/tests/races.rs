//! Claims and releases beside another thread that does all of its work between two accesses of
//! theirs: at each moment in turn.

use std::fmt::Debug;
use std::ops::Range;
use std::rc::Rc;

use crate::base::geometry::{Geometry, Narrow, Wide};
use crate::base::sync::meanwhile;
use crate::index::claim_many::{Taken, Wanted};
use crate::index::{Bitmap, Claimed, Pack, ReleaseError, Search};
use crate::values::bounds::Bounds;

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

/// A search for `len` blocks or more, up to `most`, while another thread takes one block: what it
/// finds if it comes first, and if it comes second.
struct Lost {
    free: &'static [Run],
    least: u64,
    most: u64,
    align: u64,
    taken: u64,
    first: Run,
    second: Run,
}

const LOST: [Lost; 8] = [
    // The start: the search goes on right behind it.
    Lost {
        free: &[(100, 3)],
        least: 2,
        most: 2,
        align: 1,
        taken: 100,
        first: (100, 2),
        second: (101, 2),
    },
    Lost {
        free: &[(511, 3)],
        least: 2,
        most: 2,
        align: 1,
        taken: 511,
        first: (511, 2),
        second: (512, 2),
    },
    // A block in the middle: what lies before it is enough, or what lies behind it.
    Lost {
        free: &[(100, 5)],
        least: 2,
        most: 4,
        align: 1,
        taken: 103,
        first: (100, 4),
        second: (100, 3),
    },
    Lost {
        free: &[(100, 5)],
        least: 2,
        most: 2,
        align: 1,
        taken: 101,
        first: (100, 2),
        second: (102, 2),
    },
    Lost {
        free: &[(120, 20)],
        least: 9,
        most: 9,
        align: 1,
        taken: 126,
        first: (120, 9),
        second: (127, 9),
    },
    // The next multiple of the alignment.
    Lost {
        free: &[(97, 15)],
        least: 4,
        most: 4,
        align: 4,
        taken: 100,
        first: (100, 4),
        second: (104, 4),
    },
    // Another run, of the same leaf and of the next one.
    Lost {
        free: &[(100, 2), (104, 2)],
        least: 2,
        most: 2,
        align: 1,
        taken: 101,
        first: (100, 2),
        second: (104, 2),
    },
    Lost {
        free: &[(510, 3), (514, 3)],
        least: 3,
        most: 3,
        align: 1,
        taken: 511,
        first: (510, 3),
        second: (514, 3),
    },
];

fn goes_on_behind_what_was_lost<G: Geometry>() {
    for Lost { free, least, most, align, taken, first, second } in LOST {
        let mut found = Vec::new();
        at_each_moment::<G, _, _>(
            free,
            move |index| exact(index, least, most, align),
            move |index| index.claim(taken, 1).is_ok(),
            |_, mine, theirs| {
                let expected = if theirs { second } else { first };
                assert_eq!(mine, Some(expected), "{free:?} without {taken}");
                found.push(expected);
            },
        );
        assert!(found.contains(&second), "{free:?} without {taken}");
    }
}

#[test]
fn a_search_goes_on_behind_a_block_that_another_took() {
    goes_on_behind_what_was_lost::<Wide>();
    goes_on_behind_what_was_lost::<Narrow>();
}

/// What pieces a request for three blocks takes of blocks 100 to 106, if another thread takes block
/// `taken`: first what it takes if the other comes second.
fn pieces_go_on_behind_what_was_lost<G: Geometry>(min: u64, taken: u64, expected: [Run; 2]) {
    let (bounds, mut second) = (Bounds { min, max: 3, align: 1, unit: 1 }, false);
    at_each_moment::<G, _, _>(
        &[(100, 7)],
        move |index| {
            let mut pieces = Vec::new();
            let took = |claimed: Claimed| {
                pieces.push(claimed.into_run());
                Taken::Kept
            };
            let (leaves, mut wanted) = (index.all_leaves(), Wanted { left: 3, looks: 99, took });
            index.claim_bounded(leaves, min, &bounds, &mut wanted).expect("nothing is refused");
            pieces.first().copied()
        },
        move |index| index.claim(taken, 1).is_ok(),
        |_, mine, theirs| {
            assert_eq!(mine, Some(expected[usize::from(theirs)]), "without {taken}");
            second |= theirs;
        },
    );
    assert!(second, "the other comes first at some moment");
}

#[test]
fn pieces_are_cut_around_a_block_that_another_took() {
    pieces_go_on_behind_what_was_lost::<Wide>(3, 101, [(100, 3), (102, 3)]);
    pieces_go_on_behind_what_was_lost::<Narrow>(3, 101, [(100, 3), (102, 3)]);
    pieces_go_on_behind_what_was_lost::<Wide>(1, 102, [(100, 3), (100, 2)]);
    pieces_go_on_behind_what_was_lost::<Narrow>(1, 102, [(100, 3), (100, 2)]);
}

/// Releases `range` while another thread wrongly releases block `theirs` of it.
fn releases_what_another_releases<G: Geometry>(range: Range<u64>, theirs: u64) {
    let (Range { start, end }, mut torn) = (range, 0);
    let word = theirs / u64::from(G::WORD_BLOCKS) * u64::from(G::WORD_BLOCKS);
    at_each_moment::<G, _, _>(
        &[],
        move |index| {
            let ticket = index.expect_runs_of(word - start);
            (ticket, index.release(start, end - start))
        },
        move |index| index.release(theirs, 1),
        |index, (ticket, mine), other| match (mine, other) {
            (Ok(()), Err(ReleaseError::Free { block })) => {
                assert_eq!((block, index.count_free()), (theirs, end - start));
            }
            (Err(ReleaseError::Free { block }), Ok(())) => {
                assert_eq!((block, index.count_free()), (theirs, 1), "nothing was released");
            }
            (Err(error @ ReleaseError::Torn { block }), Ok(())) => {
                torn += 1;
                assert_eq!((block, error.released(start)), (word, word - start));
                assert!(index.is_free(start, word - start), "{block} is the first not released");
                assert_eq!(index.count_free(), word - start + 1, "the rest is ours");
                assert!(!index.still_none(ticket), "the watch was told of what was released");
                let rest = index.release(block, end - block);
                assert_eq!(rest, Err(ReleaseError::Free { block: theirs }));
                for part in [block..theirs, theirs + 1..end].into_iter().filter(|p| !p.is_empty()) {
                    assert_eq!(index.release(part.start, part.end - part.start), Ok(()));
                }
                assert_eq!(index.run_end(start, 1024), end);
            }
            (mine, other) => panic!("{mine:?} {other:?}"),
        },
    );
    assert!(torn > 0, "no moment tears it");
}

#[test]
fn a_release_that_tears_has_released_what_lies_before_the_conflict() {
    for (range, theirs) in [(70..270, 140), (70..130, 129), (500..600, 580), (60..900, 700)] {
        releases_what_another_releases::<Wide>(range.clone(), theirs);
        releases_what_another_releases::<Narrow>(range, theirs);
    }
}
