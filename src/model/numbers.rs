//! Scenarios of the numbers that level 1 shows of its leaves, and of the levels above.

use super::*;

/// A free of a whole leaf in flight, a claim of that leaf, and its free: then pairs must be there.
fn claimed_and_freed_again(index: &Bitmap<Whole>, base: u64) {
    if index.claim(base, 4).is_ok() {
        free(index, base, 4);
        let pair = some(exact(index, 2).ok());
        free(index, pair, 2);
    }
}

/// Frees the leaf of `word`, by one step without a look before it.
fn free_at_once(index: &Bitmap<Whole>, word: usize) {
    assert_eq!(index.add_in_word(WordIndex::new(word), 0b1111), 0b1111);
}

pub fn h1() {
    let index = index::<Whole>(4, 1, &[]);
    let other = spawn(&index, |index| free_at_once(index, 0));
    claimed_and_freed_again(&index, 0);
    join(other);
    settle(&index, &[]);
}

/// With a turn before each access to the summary.
pub fn h1t() {
    turns_in_the_summary();
    h1();
}

pub fn h1ut() {
    turns_in_the_summary();
    h1u();
}

pub fn s1t() {
    turns_in_the_summary();
    s1();
}

pub fn h1u() {
    let (index, base) = far::<Whole>(4, &[]);
    let other = spawn(&index, move |index| free_at_once(index, base as usize / 4));
    claimed_and_freed_again(&index, base);
    join(other);
    settle(&index, &[(0, base)]);
}

pub fn h2() {
    let index = index::<Whole>(4, 1, &[]);
    let other = spawn(&index, |index| free_at_once(index, 0));
    let third = spawn(&index, |index| repair(index, 1, 0, 0));
    claimed_and_freed_again(&index, 0);
    join(other);
    join(third);
    settle(&index, &[]);
}

pub fn h3() {
    let (index, base) = far::<Pair>(2, &[]);
    index.promise(1, 2, 0);
    let other = spawn(&index, move |index| free(index, base, 1));
    let third = spawn(&index, |index| repair(index, 1, 2, 0));
    free(&index, base + 1, 1);
    let mine = some(allocate(&index, 1));
    join(other);
    join(third);
    settle(&index, &[(0, base), (mine, 1)]);
}

pub fn h4() {
    let index = index::<Pair>(2, 1, &[]);
    index.promise(1, 0, 1);
    let other = spawn(&index, |index| {
        free(index, 0, 1);
        some(exact(index, 1).ok())
    });
    let third = spawn(&index, |index| repair(index, 1, 0, 0));
    free(&index, 1, 1);
    let mine = some(exact(&index, 1).ok());
    let theirs = join(other);
    join(third);
    settle(&index, &[(mine, 1), (theirs, 1)]);
}

pub fn h5() {
    let (index, base) = far::<Pair>(2, &[]);
    index.promise(1, 2, 0);
    let other = spawn(&index, |index| repair(index, 2, 1, 0));
    let third = spawn(&index, |index| repair(index, 1, 2, 0));
    free(&index, base, 1);
    free(&index, base + 1, 1);
    let mine = some(exact(&index, 1).ok());
    let second = some(exact(&index, 1).ok());
    join(other);
    join(third);
    settle(&index, &[(0, base), (mine, 1), (second, 1)]);
}

/// At this moment, every level shows a run of `order` in `leaf`.
fn shows<G: Geometry>(index: &Bitmap<G>, order: u32, leaf: usize) {
    let found = index.next_leaf(order, LeafIndex::FIRST);
    assert_eq!(found, Some(LeafIndex::new(leaf)), "a finished free is hidden");
}

pub fn h6() {
    let (index, base) = far::<Eight>(8, &[]);
    let first = spawn(&index, move |index| free(index, base, 1));
    let second = spawn(&index, move |index| free(index, base + 1, 1));
    free(&index, base + 4, 2);
    shows(&index, 1, 2);
    join(first);
    join(second);
    settle(&index, &[(0, base), (base + 2, 2), (base + 6, 2)]);
}

pub fn h6t() {
    turns_in_the_summary();
    h6();
}

pub fn h8t() {
    turns_in_the_summary();
    h8();
}

pub fn h7() {
    let (index, base) = far::<Eight>(8, &[]);
    let first = spawn(&index, move |index| free(index, base, 1));
    free(&index, base + 4, 2);
    shows(&index, 1, 2);
    join(first);
    settle(&index, &[(0, base), (base + 1, 3), (base + 6, 2)]);
}

pub fn h8() {
    let (index, base) = far::<Eight>(8, &[]);
    index.promise(1, 2, 0);
    let first = spawn(&index, |index| repair(index, 1, 2, 0));
    let second = spawn(&index, move |index| free(index, base, 2));
    free(&index, base + 4, 2);
    shows(&index, 1, 2);
    join(first);
    join(second);
    settle(&index, &[(0, base), (base + 2, 2), (base + 6, 2)]);
}

/// The last two of the leaves under three levels, which hang from nodes of their own up to level 2.
/// All blocks are held; the second value is the block of the first of the two.
fn high<G: Geometry<Word = u64>>() -> (Arc<Bitmap<G>>, u64) {
    (index::<G>(6, 3, &[]), 4)
}

pub fn h9() {
    free_beside_one_in_flight(high::<Bit>());
}

/// The two leaves have their numbers in different words.
pub fn h9a() {
    free_beside_one_in_flight(high::<Apart>());
}

fn free_beside_one_in_flight<G: Geometry<Word = u64>>((index, base): (Arc<Bitmap<G>>, u64)) {
    let other = spawn(&index, move |index| free(index, base, 1));
    free(&index, base + 1, 1);
    assert!(index.next_leaf(0, LeafIndex::FIRST).is_some(), "a finished free is hidden");
    join(other);
    settle(&index, &[(0, base)]);
}

/// Found by a search, which begins again if the repair restored what it had cleared: an order word
/// and the guard beside it are two reads.
pub fn h9r() {
    let (index, base) = high::<Bit>();
    index.promise(3, 1, 0);
    let other = spawn(&index, move |index| free(index, base, 1));
    let third = spawn(&index, |index| repair(index, 3, 1, 0));
    free(&index, base + 1, 1);
    let mine = some(allocate(&index, 1));
    join(other);
    join(third);
    settle(&index, &[(0, base), (mine, 1)]);
}

/// The same, the other thread being between levels 2 and 3, and the repair having looked before that.
pub fn h9s() {
    let (index, base) = high::<Bit>();
    index.promise(3, 1, 0);
    let other = spawn(&index, |index| index.promise(2, 2, 0));
    let third = spawn(&index, |index| index.repair_child(3, 1, 1));
    free(&index, base, 1);
    join(other);
    join(third);
    settle(&index, &[(0, base), (base + 1, 1)]);
}

/// Stale positives at levels 2 and 3, above a leaf that level 1 shows as it is.
fn promised_above() -> (Arc<Bitmap<Bit>>, u64) {
    let (index, base) = high::<Bit>();
    index.promise(2, 2, 0);
    index.promise(3, 1, 0);
    (index, base)
}

/// A repair at level 2, which looks at two words of numbers one after the other, two frees that each
/// change one of them, and an exact search.
pub fn h11a() {
    let (index, base) = far::<Apart>(2, &[]);
    index.promise(2, 1, 0);
    let other = spawn(&index, |index| repair(index, 2, 1, 0));
    let third = spawn(&index, move |index| free(index, base, 1));
    free(&index, base + 1, 1);
    let mine = some(exact(&index, 1).ok());
    join(other);
    join(third);
    settle(&index, &[(0, base), (mine, 1)]);
}

fn repairs_and_free((index, base): (Arc<Bitmap<Bit>>, u64)) {
    let low = spawn(&index, |index| repair(index, 2, 2, 0));
    let high = spawn(&index, |index| repair(index, 3, 1, 0));
    free(&index, base, 1);
    let mine = some(exact(&index, 1).ok());
    join(low);
    join(high);
    settle(&index, &[(0, base), (base + 1, 1), (mine, 1)]);
}

pub fn h10() {
    repairs_and_free(promised_above());
}

/// The upper repair begins at once, and meets the lower one's guard at its second look only.
pub fn h10d() {
    let (index, base) = high::<Bit>();
    index.promise(3, 1, 0);
    repairs_and_free((index, base));
}

/// The same, both repairs having looked before the free, which is finished when they go on.
pub fn h10l() {
    let (index, base) = high::<Bit>();
    free(&index, base, 1);
    let low = spawn(&index, |index| index.repair_child(2, 2, 1));
    let high = spawn(&index, |index| index.repair_child(3, 1, 1));
    join(low);
    join(high);
    settle(&index, &[(0, base), (base + 1, 1)]);
}

/// Two repairs of one node of level 1, a free of `len` blocks under it, and an exact search.
fn free_beside_two_upper_repairs<G: Geometry<Word = u64>>(order: u32, len: u64) {
    let (index, base) = far::<G>(G::LEAF_BLOCKS as u64, &[]);
    index.promise(2, 1, order);
    let first = spawn(&index, move |index| repair(index, 2, 1, order));
    let second = spawn(&index, move |index| repair(index, 2, 1, order));
    free(&index, base, len);
    let mine = some(exact(&index, len).ok());
    join(first);
    join(second);
    settle(&index, &[(0, base), (base + len, G::LEAF_BLOCKS as u64 - len), (mine, len)]);
}

pub fn h11() {
    free_beside_two_upper_repairs::<Bit>(0, 1);
}

/// Three of the four blocks of a leaf, which are searched for by order 1.
pub fn h11c() {
    free_beside_two_upper_repairs::<Whole>(1, 3);
}

/// A repair above level 1 beside a free and its exact search.
pub fn h11o() {
    let (index, base) = far::<Bit>(1, &[]);
    index.promise(2, 1, 0);
    let other = spawn(&index, |index| repair(index, 2, 1, 0));
    free(&index, base, 1);
    let mine = some(exact(&index, 1).ok());
    join(other);
    settle(&index, &[(0, base), (mine, 1)]);
}

/// Two nodes under one top node come to show a run, and one of them loses it.
pub fn h12() {
    let index = index::<Bit>(4, 2, &[]);
    let other = spawn(&index, |index| free(index, 0, 1));
    free(&index, 2, 1);
    join(other);
    settle(&index, &[(1, 1), (3, 1)]);
    assert!(claim(&index, 0, 1));
    settle(&index, &[(0, 2), (3, 1)]);
}
