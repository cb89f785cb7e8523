//! The scenarios themselves, in the order of the table.

use super::*;

pub fn s0() {
    let index = index::<Pair>(2, 1, &[0, 1]);
    let other = spawn(&index, |index| allocate(index, 1));
    let mine = some(allocate(&index, 1));
    let theirs = some(join(other));
    settle(&index, &[(mine, 1), (theirs, 1)]);
}

pub fn s1() {
    let index = index::<Pair>(2, 1, &[0]);
    let other = spawn(&index, |index| free(index, 1, 1));
    let mine = some(allocate(&index, 1));
    join(other);
    settle(&index, &[(mine, 1)]);
    let left = some(allocate(&index, 1));
    settle(&index, &[(mine, 1), (left, 1)]);
}

fn free_against_claim_far<G: Geometry<Word = u64>>() {
    let (index, base) = far::<G>(2, &[0]);
    let other = spawn(&index, move |index| free(index, base + 1, 1));
    let mine = some(allocate(&index, 1));
    join(other);
    settle(&index, &[(0, base), (mine, 1)]);
    let left = some(allocate(&index, 1));
    settle(&index, &[(0, base), (mine, 1), (left, 1)]);
}

pub fn s1u() {
    free_against_claim_far::<Pair>();
}

pub fn s1x() {
    free_against_claim_far::<Bit>();
}

fn frees_complete_a_group<G: Geometry<Word = u64>>() {
    let index = index::<G>(2, 1, &[]);
    let other = spawn(&index, |index| free(index, 0, 1));
    free(&index, 1, 1);
    join(other);
    settle(&index, &[]);
    let both = allocate(&index, 2);
    assert_eq!(both, Some(0), "the completed pair is not to be had");
}

pub fn s2() {
    frees_complete_a_group::<Split>();
}

pub fn s2w() {
    frees_complete_a_group::<Pair>();
}

pub fn s3() {
    let index = index::<Split>(2, 1, &[0, 1]);
    let other = spawn(&index, |index| allocate(index, 2));
    let mine = held(allocate(&index, 1), 1);
    let theirs = held(join(other), 2);
    assert!(!mine.is_empty() || !theirs.is_empty(), "nobody won");
    settle(&index, &[mine, theirs].concat());
}

pub fn s3b() {
    let index = index::<Four>(4, 1, &[0, 1, 2, 3]);
    let other = spawn(&index, |index| allocate(index, 4));
    let mine = held(allocate(&index, 2), 2);
    let theirs = held(join(other), 4);
    assert!(!mine.is_empty() || !theirs.is_empty(), "nobody won");
    settle(&index, &[mine, theirs].concat());
}

pub fn s3c() {
    let index = index::<Split>(2, 1, &[0]);
    let other = spawn(&index, |index| {
        free(index, 1, 1);
        allocate(index, 1)
    });
    let mine = held(allocate(&index, 2), 2);
    let theirs = held(join(other), 1);
    settle(&index, &[mine, theirs].concat());
}

/// Two releases of which exactly one may win, and the loser must have changed nothing.
fn one_wins<G: Geometry<Word = u64>>(mine: (u64, u64), theirs: (u64, u64)) {
    let index = index::<G>(2, 1, &[]);
    let other = spawn(&index, move |index| index.release(theirs.0, theirs.1));
    let (first, second) = (index.release(mine.0, mine.1), join(other));
    assert!(first.is_ok() != second.is_ok(), "{first:?} and {second:?}");
    let lost = if first.is_ok() { second } else { first };
    assert!(matches!(lost, Err(ReleaseError::Free { .. })), "{lost:?}");
    let freed = if first.is_ok() { mine } else { theirs };
    let rest: Vec<_> = (0..2)
        .filter(|block| !(freed.0..freed.0 + freed.1).contains(block))
        .map(|b| (b, 1))
        .collect();
    settle(&index, &rest);
}

pub fn s4() {
    one_wins::<Pair>((0, 1), (0, 1));
}

pub fn s4p() {
    one_wins::<Pair>((0, 2), (1, 1));
}

pub fn s4m() {
    one_wins::<Split>((0, 2), (0, 2));
}

pub fn s4q() {
    let index = index::<Split>(2, 1, &[1]);
    assert_eq!(index.release(0, 2), Err(ReleaseError::Free { block: 1 }));
    settle(&index, &[(0, 1)]);
    let whole = self::index::<Pair>(2, 1, &[1]);
    assert_eq!(whole.release(0, 2), Err(ReleaseError::Free { block: 1 }));
    settle(&whole, &[(0, 1)]);
}

/// A release that is told where it stopped finds out by a second one which block the other has freed,
/// and that the block where it stopped is still its own.
pub fn s4t() {
    let index = index::<Pair>(4, 1, &[]);
    let other = spawn(&index, |index| index.release(3, 1));
    let owned = match index.release(0, 4) {
        Ok(()) => vec![],
        Err(ReleaseError::Free { block }) => {
            assert_eq!(block, 3);
            vec![(0, 3)]
        }
        Err(ReleaseError::Torn { block }) => {
            assert_eq!(block, 2);
            assert_eq!(index.release(2, 2), Err(ReleaseError::Free { block: 3 }));
            free(&index, 2, 1);
            vec![]
        }
    };
    let theirs = join(other);
    assert!(theirs.is_ok() || (owned.is_empty() && theirs == Err(ReleaseError::Free { block: 3 })));
    settle(&index, &owned);
}

pub fn s5() {
    let index = index::<Bit>(2, 1, &[0]);
    let other = spawn(&index, |index| {
        free(index, 1, 1);
        claim(index, 0, 1)
    });
    let mine = (some(allocate(&index, 1)), 1);
    let moved = join(other).then_some((0, 1));
    settle(&index, &[Some(mine), moved].into_iter().flatten().collect::<Vec<_>>());
}

pub fn s5b() {
    let index = index::<Pair>(4, 1, &[0, 1, 2]);
    let other = spawn(&index, |index| {
        free(index, 3, 1);
        claim(index, 0, 2)
    });
    let mine = (some(allocate(&index, 2)), 2);
    let moved = join(other).then_some((0, 2));
    settle(&index, &[Some(mine), moved].into_iter().flatten().collect::<Vec<_>>());
}

pub fn s6() {
    let (index, base) = far::<Pair>(2, &[]);
    let other = spawn(&index, move |index| free(index, base, 1));
    free(&index, base + 1, 1);
    let mine = some(allocate(&index, 1));
    join(other);
    settle(&index, &[(0, base), (mine, 1)]);
}

fn clear_window(claim: fn(&Bitmap<Pair>, u64) -> Option<u64>) {
    let index = index::<Pair>(2, 1, &[0]);
    let other = spawn(&index, |index| allocate(index, 1));
    free(&index, 1, 1);
    let mine = some(claim(&index, 1));
    let theirs = some(join(other));
    settle(&index, &[(mine, 1), (theirs, 1)]);
}

fn clear_window_far<G: Geometry<Word = u64>>() {
    let (index, base) = far::<G>(2, &[0]);
    let other = spawn(&index, |index| allocate(index, 1));
    free(&index, base + 1, 1);
    let mine = some(allocate(&index, 1));
    let theirs = some(join(other));
    settle(&index, &[(0, base), (mine, 1), (theirs, 1)]);
}

pub fn s7() {
    clear_window(allocate);
}

pub fn s7e() {
    clear_window(|index, len| exact(index, len).ok());
}

pub fn s7u() {
    clear_window_far::<Pair>();
}

pub fn s7x() {
    clear_window_far::<Bit>();
}

pub fn s8() {
    let (index, base) = far::<Pair>(2, &[0]);
    let claimer = spawn(&index, |index| allocate(index, 1));
    let repairer = spawn(&index, |index| repair(index, 2, 1, 0));
    free(&index, base + 1, 1);
    let mine = some(allocate(&index, 1));
    join(repairer);
    let theirs = some(join(claimer));
    settle(&index, &[(0, base), (mine, 1), (theirs, 1)]);
}

/// One leaf of one block, allocated, under stale positives at two levels.
fn promised() -> (Arc<Bitmap<Bit>>, u64) {
    let (index, base) = far::<Bit>(1, &[]);
    index.promise(1, 2, 0);
    index.promise(2, 1, 0);
    (index, base)
}

fn repairs_free_and_claim((index, base): (Arc<Bitmap<Bit>>, u64)) {
    let low = spawn(&index, |index| repair(index, 1, 2, 0));
    let high = spawn(&index, |index| repair(index, 2, 1, 0));
    free(&index, base, 1);
    let mine = some(allocate(&index, 1));
    join(low);
    join(high);
    settle(&index, &[(0, base), (mine, 1)]);
}

pub fn s8b() {
    repairs_free_and_claim(promised());
}

pub fn s8c() {
    let (index, base) = promised();
    let low = spawn(&index, |index| repair(index, 1, 2, 0));
    let high = spawn(&index, |index| repair(index, 2, 1, 0));
    free(&index, base, 1);
    join(low);
    join(high);
    settle(&index, &[(0, base)]);
    some(allocate(&index, 1));
}

/// The upper repair begins at once, and meets the lower one's guard at its second look only.
pub fn s8d() {
    let (index, base) = far::<Bit>(1, &[]);
    index.promise(2, 1, 0);
    repairs_free_and_claim((index, base));
}

pub fn s9() {
    let index = index::<Whole>(3, 1, &[0, 1]);
    let first = spawn(&index, |index| allocate(index, 1));
    let second = spawn(&index, |index| allocate(index, 1));
    free(&index, 2, 1);
    let mine = some(allocate(&index, 1));
    let (first, second) = (some(join(first)), some(join(second)));
    settle(&index, &[(mine, 1), (first, 1), (second, 1)]);
}

/// The first blocks of a leaf are freed while two repair what it is said to have of `order`.
fn free_beside_two_repairs<G: Geometry<Word = u64>>(order: u32, len: u64) {
    let index = index::<G>(G::LEAF_BLOCKS as u64, 1, &[]);
    index.promise(1, 0, order);
    let first = spawn(&index, move |index| repair(index, 1, 0, order));
    let second = spawn(&index, move |index| repair(index, 1, 0, order));
    free(&index, 0, len);
    let mine = some(allocate(&index, len));
    join(first);
    join(second);
    settle(&index, &[(len, index.blocks() - len), (mine, len)]);
}

pub fn s9b() {
    free_beside_two_repairs::<Bit>(0, 1);
}

/// Three of the four blocks of a leaf, which are searched for by order 1.
pub fn s9c() {
    free_beside_two_repairs::<Whole>(1, 3);
}

/// Two leaves of one block, allocated, under stale positives.
fn both_promised(index: Arc<Bitmap<Bit>>, first: usize) -> Arc<Bitmap<Bit>> {
    index.promise(1, first, 0);
    index.promise(1, first + 1, 0);
    index
}

pub fn b1() {
    let index = both_promised(index::<Bit>(2, 1, &[]), 0);
    let repairer = spawn(&index, |index| index.repair(NodeIndex::FIRST, 0b11, 0));
    free(&index, 1, 1);
    let mine = some(allocate(&index, 1));
    join(repairer);
    settle(&index, &[(0, 1), (mine, 1)]);
}

pub fn b1w() {
    let index = both_promised(index::<Bit>(2, 1, &[]), 0);
    let repairer = spawn(&index, |index| index.repair(NodeIndex::FIRST, 0b11, 0));
    free(&index, 0, 1);
    free(&index, 1, 1);
    join(repairer);
    settle(&index, &[]);
}

pub fn b2() {
    let index = both_promised(index::<Bit>(2, 1, &[]), 0);
    let both = spawn(&index, |index| index.repair(NodeIndex::FIRST, 0b11, 0));
    let one = spawn(&index, |index| index.repair(NodeIndex::FIRST, 0b10, 0));
    free(&index, 1, 1);
    let mine = some(allocate(&index, 1));
    join(both);
    join(one);
    settle(&index, &[(0, 1), (mine, 1)]);
}

pub fn b3() {
    let (index, base) = far::<Bit>(2, &[]);
    let index = both_promised(index, base as usize);
    index.promise(2, 1, 0);
    let repairer = spawn(&index, |index| index.repair(NodeIndex::new(1), 0b11, 0));
    let freer = spawn(&index, move |index| free(index, base, 1));
    free(&index, base + 1, 1);
    let mine = some(allocate(&index, 1));
    join(repairer);
    join(freer);
    settle(&index, &[(0, base), (mine, 1)]);
    some(allocate(&index, 1));
}

/// One repair begins with order 0, the other with order 1; they share one of two leaves.
pub fn b4() {
    let index = index::<Pair>(4, 1, &[]);
    for leaf in 0..2 {
        for order in 0..2 {
            index.promise(1, leaf, order);
        }
    }
    let low = spawn(&index, |index| index.repair(NodeIndex::FIRST, 0b11, 0));
    let high = spawn(&index, |index| index.repair(NodeIndex::FIRST, 0b10, 1));
    assert_eq!(index.release_in_word(WordIndex::new(1), 0b11), Ok(()));
    let mine = some(exact(&index, 2).ok());
    join(low);
    join(high);
    settle(&index, &[(0, 2), (mine, 2)]);
}

/// A search repairs two leaves together, of which one has lost order 1 and the other both; the first gets it
/// back.
pub fn b5() {
    let index = index::<Pair>(4, 1, &[0]);
    for (leaf, order) in [(0, 1), (1, 0), (1, 1)] {
        index.promise(1, leaf, order);
    }
    let searcher = spawn(&index, |index| {
        let claimed = index.claim_aligned(1, 2, 0, index.all_leaves(), Pack::First);
        claimed.map(|claimed| claimed.start())
    });
    free(&index, 1, 1);
    let mut owned = vec![(2, 2)];
    owned.extend(join(searcher).map(|start| (start, 2)));
    settle(&index, &owned);
}

/// Two blocks of one word are freed in one step, and are no neighbours.
pub fn m1() {
    let index = index::<Whole>(4, 1, &[]);
    let other = spawn(&index, |index| exact(index, 1));
    assert_eq!(index.release_in_word(WordIndex::FIRST, 0b1001), Ok(()));
    let theirs = join(other);
    let mut owned = vec![(1, 2)];
    match theirs {
        Ok(start) => owned.push((start, 1)),
        Err(ticket) => assert!(!index.still_none(ticket), "a finished free did not lift the watch"),
    }
    owned.push((some(exact(&index, 1).ok()), 1));
    settle(&index, &owned);
}

/// The same where one of them completes a run of three.
pub fn m2() {
    let index = index::<Whole>(4, 1, &[1]);
    let other = spawn(&index, |index| exact(index, 3));
    assert_eq!(index.release_in_word(WordIndex::FIRST, 0b0101), Ok(()));
    match join(other) {
        Ok(start) => settle(&index, &[(3, 1), (start, 3)]),
        Err(ticket) => {
            assert!(!index.still_none(ticket));
            let mine = some(exact(&index, 3).ok());
            settle(&index, &[(3, 1), (mine, 3)]);
        }
    }
}

/// Neither of the two blocks is long enough, both together are, and the word says so: only the last to be
/// freed can see that.
pub fn m4() {
    let index = index::<Whole>(4, 1, &[]);
    let other = spawn(&index, |index| exact(index, 2));
    let freeing = spawn(&index, |index| free(index, 1, 1));
    free(&index, 2, 1);
    join(freeing);
    match join(other) {
        Ok(start) => settle(&index, &[(0, 1), (3, 1), (start, 2)]),
        Err(ticket) => {
            assert!(!index.still_none(ticket), "two blocks are free, but nobody was told");
            let found = exact(&index, 2).expect("two blocks are free");
            settle(&index, &[(0, 1), (3, 1), (found, 2)]);
        }
    }
}

/// Whatever the two find, nobody gets a block that the other has.
pub fn m3() {
    fn many(index: &Bitmap<Whole>) -> Vec<(u64, u64)> {
        let claimed = index.claim_many_in_word(WordIndex::FIRST, 0, 1, 3).into_iter();
        claimed.flat_map(|runs| runs.into_each()).map(|run| run.into_run()).collect()
    }
    let index = index::<Whole>(4, 1, &[0, 1, 3]);
    let other = spawn(&index, many);
    free(&index, 2, 1);
    let mut owned = many(&index);
    owned.extend(join(other));
    settle(&index, &owned);
}

/// Blocks 0, 1 and 2 are free. One thread claims 0 and 1 together and gives 0 back because another
/// has taken 1; that other takes 2 only when it knows that 0 is back. So something is always free.
pub fn s11() {
    let index = index::<Bit>(3, 1, &[0, 1, 2]);
    let given_back = Arc::new(AtomicBool::new(false));
    let flag = given_back.clone();
    let searcher = spawn(&index, |index| exact(index, 1).ok());
    let taker = spawn(&index, move |index| {
        let one = claim(index, 1, 1);
        let two = one && flag.load(Ordering::Acquire) && claim(index, 2, 1);
        (one, two)
    });
    let long = claim(&index, 0, 2);
    if !long {
        given_back.store(true, Ordering::Release);
    }
    let (one, two) = join(taker);
    let mut owned = vec![(some(join(searcher)), 1)];
    owned.extend(long.then_some((0, 2)));
    owned.extend(one.then_some((1, 1)));
    owned.extend(two.then_some((2, 1)));
    settle(&index, &owned);
}

pub fn s12() {
    let index = index::<Four>(4, 1, &[3]);
    let first = spawn(&index, |index| free(index, 0, 1));
    let second = spawn(&index, |index| free(index, 1, 1));
    free(&index, 2, 1);
    join(first);
    join(second);
    settle(&index, &[]);
    let all = allocate(&index, 4);
    assert_eq!(all, Some(0), "the completed leaf is not to be had");
}

pub fn s13() {
    let index = index::<Bit>(2, 1, &[0, 1]);
    let other = spawn(&index, |index| claim(index, 0, 2));
    let mine = held(allocate(&index, 1), 1);
    let theirs = if join(other) { vec![(0, 2)] } else { vec![] };
    assert!(!mine.is_empty() || !theirs.is_empty(), "nobody won");
    settle(&index, &[mine, theirs].concat());
}

pub fn s13b() {
    let index = index::<Bit>(2, 1, &[0]);
    let other = spawn(&index, |index| free(index, 1, 1));
    let mine = allocate(&index, 2);
    join(other);
    settle(&index, &held(mine, 2));
    let mine = mine.or_else(|| allocate(&index, 2));
    assert_eq!(mine, Some(0), "the completed run is not to be had");
}

pub fn s13c() {
    let index = index::<Bit>(3, 1, &[0, 1, 2]);
    let other = spawn(&index, |index| claim(index, 0, 2));
    let mine = claim(&index, 1, 2);
    let theirs = join(other);
    assert!(mine != theirs, "exactly one of two overlapping claims wins");
    settle(&index, &[if mine { (1, 2) } else { (0, 2) }]);
    let rest = if mine { 0 } else { 2 };
    assert_eq!(allocate(&index, 1), Some(rest));
}

/// Blocks 7 to 9 lie across the border of two nodes, and only the second node shows them. If block
/// 7 is gone by the time they are measured, the search has to go on behind the leaf it is in, not
/// behind block 7.
pub fn s13d() {
    let index = index::<Whole>(16, 1, &[7, 8, 9, 12, 13, 14]);
    let other = spawn(&index, |index| claim(index, 7, 1));
    let mine = some(exact(&index, 3).ok());
    let theirs = if join(other) { vec![(7, 1)] } else { vec![] };
    let rest = [(0, 7), (10, 2), (15, 1), (mine, 3)];
    settle(&index, &[&rest[..], &theirs].concat());
}

/// The exact search for as much as is to be had of a run, and for `least` blocks at any rate.
fn as_much_as_possible<G: Geometry>(index: &Bitmap<G>, least: u64) -> (u64, u64) {
    let search = Search { least, most: index.blocks(), align: 1, take: |run| run };
    match index.claim_exact(0, &search) {
        Ok(claimed) => claimed.into_run(),
        Err(_) => panic!("nothing found although something fitting was free all the time"),
    }
}

/// The run shrinks between being measured and being claimed.
pub fn s13e() {
    let index = index::<Whole>(4, 1, &[0, 1, 2]);
    let other = spawn(&index, |index| claim(index, 2, 1));
    let mine = as_much_as_possible(&index, 2);
    let theirs = if join(other) { vec![(2, 1)] } else { vec![] };
    settle(&index, &[&[mine, (3, 1)][..], &theirs].concat());
}

/// The same where a claim that fails half way is rolled back, and the run shrinks twice.
pub fn s13f() {
    let index = index::<Bit>(3, 1, &[0, 1, 2]);
    let other = spawn(&index, |index| [2, 1].map(|block| claim(index, block, 1)));
    let mine = as_much_as_possible(&index, 1);
    let theirs = [2, 1].into_iter().zip(join(other)).filter(|&(_, won)| won);
    let owned: Vec<_> = theirs.map(|(block, _)| (block, 1)).chain([mine]).collect();
    settle(&index, &owned);
}

pub fn s15() {
    let (index, base) = far::<Whole>(3, &[2]);
    let freer = spawn(&index, move |index| free(index, base, 1));
    let claimer = spawn(&index, |index| allocate(index, 1));
    free(&index, base + 1, 1);
    let mine = some(allocate(&index, 1));
    join(freer);
    let theirs = some(join(claimer));
    settle(&index, &[(0, base), (mine, 1), (theirs, 1)]);
}

/// The two freed blocks are no neighbours: the second freer finds the number of the first, with a
/// guard or without.
pub fn s15b() {
    let (index, base) = far::<Whole>(3, &[]);
    index.promise(2, 1, 0);
    let freer = spawn(&index, move |index| free(index, base, 1));
    let repairer = spawn(&index, |index| repair(index, 2, 1, 0));
    free(&index, base + 2, 1);
    let mine = some(allocate(&index, 1));
    join(freer);
    join(repairer);
    settle(&index, &[(0, base), (base + 1, 1), (mine, 1)]);
}

pub fn r2() {
    let index = index::<Pair>(4, 1, &[0, 3]);
    let other = spawn(&index, |index| free(index, 1, 2));
    let mine = allocate(&index, 4);
    join(other);
    settle(&index, &held(mine, 4));
    let mine = mine.or_else(|| allocate(&index, 4));
    assert_eq!(mine, Some(0), "the run over both leaves is not to be had");
}

pub fn p1() {
    let index = index::<Pair>(3, 1, &[0, 2]);
    let other = spawn(&index, |index| {
        free(index, 1, 1);
        allocate(index, 2)
    });
    let mine = held(allocate(&index, 1), 1);
    let theirs = held(join(other), 2);
    assert!(!mine.is_empty(), "of three blocks at most two were taken by the other");
    settle(&index, &[mine, theirs].concat());
}

pub fn w1() {
    let index = index::<Bit>(1, 1, &[]);
    let freed = Arc::new(AtomicBool::new(false));
    let flag = freed.clone();
    let other = spawn(&index, move |index| {
        free(index, 0, 1);
        flag.store(true, Ordering::Release);
    });
    if let Err(ticket) = exact(&index, 1)
        && freed.load(Ordering::Acquire)
    {
        assert!(!index.still_none(ticket), "a finished free did not lift the watch");
    }
    join(other);
}

/// Two frees, each of which lifts the watch for whoever registered; no searcher may come away with a
/// "no" that outlives a free which it did not see.
pub fn w2() {
    let index = index::<Bit>(2, 1, &[]);
    let freed = Arc::new(AtomicBool::new(false));
    let flag = freed.clone();
    let first = spawn(&index, |index| free(index, 0, 1));
    let second = spawn(&index, move |index| {
        free(index, 1, 1);
        flag.store(true, Ordering::Release);
    });
    if let Err(ticket) = exact(&index, 2)
        && freed.load(Ordering::Acquire)
        && index.is_free(0, 1)
    {
        join(first);
        assert!(!index.still_none(ticket), "a finished free did not lift the watch");
    } else {
        join(first);
    }
    join(second);
}
