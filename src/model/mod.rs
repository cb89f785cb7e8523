//! One function per scenario. Each builds a small index, lets two or three threads at it, and
//! checks at the join what must hold: no block owned twice, allocated + free = all, a summary
//! without faults, and whatever the scenario itself promises. Those of `lifecycle` have a small device
//! or a shop in place of the index.

mod closed;
mod discards;
mod escrow;
mod geometries;
mod killers;
mod ledger;
mod lifecycle;
mod numbers;
mod pieces;
mod quarantine;
mod runs;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

pub use killers::{is_control, mutants, order_for, select};

use self::closed::*;
use self::discards::*;
use self::escrow::*;
use self::geometries::{Apart, Bit, Eight, Four, Pair, Split, Whole};
use self::ledger::*;
use self::lifecycle::*;
use self::numbers::*;
use self::pieces::*;
use self::quarantine::*;
use self::runs::*;
use crate::base::geometry::Geometry;
use crate::base::place::{LeafIndex, NodeIndex, WordIndex, parent_of, place_in_parent};
use crate::base::sync::turns_in_the_summary;
use crate::base::word::{Word, order_above};
use crate::index::{Bitmap, Pack, ReleaseError, Search};

/// A scenario as the runner sees it.
pub struct Scenario {
    pub id: &'static str,
    pub about: &'static str,
    /// Preemption bound; `None` explores every interleaving.
    pub bound: Option<usize>,
    pub run: fn(),
}

macro_rules! scenarios {
    ($($id:ident ($bound:expr) $about:literal;)*) => {
        pub const ALL: &[Scenario] = &[$(Scenario {
            id: stringify!($id),
            about: $about,
            bound: $bound,
            run: $id,
        },)*];
    };
}

scenarios! {
    s0 (None) "two claims in one word";
    s1 (None) "free against claim of the last run";
    s1u (None) "the same over two levels";
    s1x (None) "the same in different leaves under one upper bit";
    s2 (None) "two frees complete an aligned group across words";
    s2w (None) "two frees complete an aligned group within a word";
    s3 (None) "two-word claim against one-block claim, rollback";
    s3b (Some(5)) "nested claims of several words";
    s3c (Some(5)) "claim of several words against free and claim";
    s4 (None) "double free of one block";
    s4p (None) "double free, overlapping masks";
    s4m (None) "double free of one run of several words";
    s4q (None) "double free, the other long finished";
    s4t (None) "double free that tears: freeing the rest again names the block";
    s5 (None) "a free block moves: some block is always free";
    s5b (Some(5)) "a free pair moves: some pair is always free";
    s6 (None) "finished free beside a free in flight in the same leaf";
    s7 (None) "clear window: own free, then own claim";
    s7e (None) "the same by the exact search alone";
    s7u (Some(5)) "the same over two levels";
    s7x (Some(5)) "the same across leaves";
    s8 (Some(4)) "claimer at level 1, repair at level 2, finished free";
    s8b (Some(4)) "repairs at two levels of stale positives, free, claim";
    s8c (Some(4)) "repairs at two levels of stale positives, free";
    s8d (Some(4)) "repairs at two levels of a stale positive above, free, claim";
    s9 (Some(4)) "two claimers of one leaf, free, claim";
    s9b (Some(4)) "two repairs of one leaf, free, claim";
    s9c (Some(4)) "the same for an unaligned run of three blocks";
    h1 (Some(5)) "a leaf is freed, claimed and freed again";
    h1u (Some(4)) "the same over two levels";
    h1t (Some(5)) "h1, with turns in the summary";
    h1ut (Some(4)) "h1u, with turns in the summary";
    s1t (None) "s1, with turns in the summary";
    h2 (Some(4)) "h1 with a repair beside it";
    h3 (Some(3)) "two frees into one leaf over two levels, with a repair";
    h4 (Some(3)) "two frees into one leaf while a third thread repairs it, own claims";
    h5 (Some(3)) "repairs at two levels, two frees, two claims";
    h6t (Some(2)) "h6, with turns in the summary";
    h8t (Some(2)) "h8, with turns in the summary";
    h6 (Some(3)) "a free of a larger order beside two frees in flight, over two levels";
    h7 (None) "the same beside one";
    h8 (Some(3)) "the same beside a repair and a free as large";
    h9 (None) "a free beside one in flight in the neighbouring leaf, over three levels";
    h9a (None) "the same, the two numbers in different words";
    h9r (Some(3)) "h9 with a repair at level 3";
    h9s (None) "the same, one between levels and one between its looks";
    h10 (Some(3)) "repairs at levels 2 and 3 of stale positives, free, claim";
    h10d (Some(3)) "the same of a stale positive at level 3";
    h10l (None) "the same, both having looked before the free";
    h11 (Some(4)) "two repairs at level 2 of one node, free, exact search";
    h11c (Some(3)) "the same for an unaligned run of three blocks";
    h11o (None) "one repair at level 2, free, exact search";
    h11a (Some(3)) "the same with two frees, whose numbers are in different words";
    h12 (None) "frees under two nodes of one top node, claim";
    b1 (None) "a repair of two leaves, free, claim";
    b1w (None) "the same with a free in each leaf";
    b2 (Some(4)) "two repairs that share one of two leaves, free, claim";
    b3 (Some(4)) "a repair of two leaves under two levels, two frees";
    b4 (Some(4)) "two repairs from different orders on, sharing one leaf, free, claim";
    b5 (None) "a search repairs two leaves that lost different orders, free";
    m1 (None) "a free of two blocks that are no neighbours lifts the watch";
    m2 (None) "the same, completing a run between them";
    m3 (None) "two claims of many in one word, free";
    m4 (Some(4)) "two frees complete a run that ends inside its word";
    m5 (Some(4)) "a request by a plan, beside a block that moves and another request";
    m6 (None) "the last look for pieces, beside a block that moves";
    s11 (Some(4)) "a rollback moves space past a searcher";
    s12 (Some(4)) "three frees complete a leaf";
    s13 (None) "two-leaf run against claim";
    s13b (None) "a free completes a two-leaf run";
    s13c (None) "overlapping unaligned runs: somebody wins";
    s13d (None) "a run across two nodes loses its beginning, another stays";
    s13e (None) "a run loses its end, and the rest of it is enough";
    s13f (None) "the same word by word, twice";
    s15 (Some(4)) "second freer leans on the first freer's bit, with a claimer";
    s15b (Some(4)) "second freer leans on the first freer's bit, with a repair";
    r2 (None) "free over two leaves against a claim of the run";
    p1 (Some(5)) "claims at the end of a partial last leaf";
    w1 (None) "a remembered no is lifted by a finished free";
    w2 (Some(4)) "a lift for one searcher is not lost to another";
    c1 (Some(4)) "a reader that has moved the epoch on, beside a move";
    c2 (Some(2)) "reader, mover, and one who reuses the block";
    c3 (Some(3)) "the owner of a pin stamps in an epoch that is just beginning";
    c4 (Some(3)) "a reader comes into an epoch without pins, beside a stamp";
    c5 (Some(4)) "a reader in a generation that is used for the first time, beside a move";
    q1 (Some(4)) "reader beside a move and its collection, by what it sees";
    q1c (Some(4)) "the same, by every overlap";
    q1l (Some(3)) "the same, the writer having moved the epoch on";
    q2 (Some(2)) "the same with two readers on lanes of their own";
    q3 (Some(3)) "a guard undone by another thread than its own";
    q4 (None) "a leaked guard keeps what came after it and nothing else";
    q5 (Some(3)) "one retires, another collects: everything comes out once";
    q6 (Some(3)) "guards that overlap without end hold up nothing";
    q7 (Some(3)) "a collector is late, the owner of a guard retires";
    q8 (Some(2)) "more epochs than generations, beside a collector";
    q9 (Some(3)) "a block is let out and retired again";
    q10 (Some(4)) "two retire a block at the same time";
    q11 (None) "one gives up the free of a block while another tries";
    f1 (Some(4)) "queue: two pushes";
    f2 (Some(4)) "queue: a push and pops";
    f3 (Some(4)) "queue: two pops";
    f4 (Some(2)) "queue: a pop while nodes are used again";
    f5 (Some(3)) "queue: a push while nodes are used again";
    f6 (Some(3)) "queue: what is not ripe, while nodes are used again";
    f7 (Some(3)) "queue: something is there all the time";
    f8 (Some(3)) "queue: the tail stays behind";
    f9 (Some(2)) "queue: something is ripe all the time";
    g1 (None) "two committers: each item once, each its own result";
    g2 (None) "three committers";
    g3 (None) "a committer takes a ticket along that nobody waits for";
    g4 (None) "a flush beside a committer";
    g5 (None) "a detached ticket beside a committer is called back once";
    g5w (None) "a polled ticket beside a committer is woken once";
    g6 (Some(4)) "a flusher with two committers";
    g7 (None) "a flusher is closed beside a committer and leaves nothing";
    g8 (Some(4)) "the same, after a flush";
    g9 (None) "who waits for room behind a committer gets it";
    g10 (Some(4)) "who waits for room behind a flusher gets it";
    g11 (Some(4)) "who waits for room gets that of a withdrawn item";
    g12 (Some(4)) "a waker commits on the thread of a flusher";
    l1 (None) "two transactions free a block: one of them may";
    l2 (None) "a transaction that is given up lets its block go, another enters it";
    a1 (None) "a late free into a leaf that is closed, and a claim after that";
    a2 (None) "a free into a closed leaf while it is opened";
    a3 (None) "a claim in a closed leaf while it is opened";
    a4 (Some(4)) "a leaf is closed and taken, against a claim";
    a5 (None) "a leaf is closed and taken, against a free";
    a6 (Some(4)) "a leaf is opened, closed again and taken, beside a free";
    a7 (Some(4)) "the device becomes longer beside a search";
    a8 (Some(4)) "the device becomes shorter beside a claim and a free";
    a9 (Some(4)) "a leaf is opened, another closes and takes it";
    a10 (Some(4)) "two leaves are closed and taken, beside a free";
    d1 (None) "a free while the discarder leaves";
    d2 (None) "the discarder takes a block that an allocation wants";
    d3 (Some(4)) "two free a block, one of them with another, while the discarder leaves";
    d4 (None) "a free while one discarder leaves and the next begins";
    d5 (None) "the device is done with a block, which is allocated and freed again";
    d6 (None) "a run of a free and a waiting block is completed beside a request for it";
    d7 (None) "two frees complete a run of a free and a waiting block";
    d8 (None) "a walk through what waits, beside a repair there";
    d9 (None) "the end of a discarder, beside a repair of what waits";
    e1 (Some(5)) "two are promised the one free block: one of them is";
    e2 (Some(4)) "two use their promises";
    e3 (Some(5)) "one uses a promise, another takes what there is";
    e4 (Some(3)) "a promise is dropped, another made, a third takes what there is";
    e5 (None) "two want the one spare token";
    e6 (Some(5)) "a reserve is used, and made up for by frees";
    e7 (Some(4)) "two promises for which there is just room";
    e8 (Some(4)) "two promises of which one can be kept";
    e9 (Some(4)) "a block in escrow is exchanged for another, beside its promise";
}

/// An index of `blocks` blocks of which those in `free` are free.
fn index<G: Geometry>(blocks: u64, height: usize, free: &[u64]) -> Arc<Bitmap<G>>
where
    G::Word: From<u32>,
{
    let words = |word: WordIndex| {
        let first = word.first_block::<G>();
        let on = free.iter().filter(|&&block| WordIndex::of_block::<G>(block) == word);
        G::Word::from(on.fold(0u32, |bits, block| bits | 1 << (block - first)))
    };
    match Bitmap::from_words(blocks, height, words) {
        Ok(index) => Arc::new(index),
        Err(error) => panic!("{error:?}"),
    }
}

/// An index of two levels whose last `blocks` blocks hang from a level-1 node of their own, so that
/// a search from block 0 has to go through level 2. Those in `free` (counted from there) are free,
/// all before them are held; the second value is where they begin.
fn far<G: Geometry>(blocks: u64, free: &[u64]) -> (Arc<Bitmap<G>>, u64)
where
    G::Word: From<u32>,
{
    let base = (G::FANOUT * G::LEAF_BLOCKS) as u64;
    let free: Vec<u64> = free.iter().map(|block| base + block).collect();
    (index::<G>(base + blocks, 2, &free), base)
}

/// What an allocation is: the aligned search, then the exact one. At once followed by what the next
/// searcher does with what the leaf lost, to have the two overlap with everything.
fn allocate<G: Geometry>(index: &Bitmap<G>, len: u64) -> Option<u64> {
    let order = order_above(len);
    let quick = (order <= G::MAX_ORDER)
        .then(|| index.claim_aligned(order, len, 0, index.all_leaves(), Pack::First))
        .flatten()
        .map(|claimed| claimed.start());
    match quick {
        Some(start) => tidy(index, start, len),
        None => return exact(index, len).ok(),
    }
    quick
}

/// Claims a given range, and repairs.
fn claim<G: Geometry>(index: &Bitmap<G>, start: u64, len: u64) -> bool {
    let claimed = index.claim(start, len).is_ok();
    if claimed {
        tidy(index, start, len);
    }
    claimed
}

/// Repairs what the summary says of the leaves of a range.
fn tidy<G: Geometry>(index: &Bitmap<G>, start: u64, len: u64) {
    let leaves = LeafIndex::of_blocks::<G>(start..start + len);
    LeafIndex::each(leaves).for_each(|leaf| index.refresh(leaf));
}

/// Repairs what a node of `level` says of `child` and `order`.
fn repair<G: Geometry>(index: &Bitmap<G>, level: usize, child: usize, order: u32) {
    if level > 1 {
        index.repair_up(level, child, 1 << order);
    } else {
        let place = G::Word::bit(place_in_parent::<G>(child));
        index.repair(NodeIndex::new(parent_of::<G>(child)), place, order);
    }
}

fn exact<G: Geometry>(index: &Bitmap<G>, len: u64) -> Result<u64, crate::index::watch::Ticket> {
    let search = Search { least: len, most: len, align: 1, take: |_| len };
    let claimed = index.claim_exact(0, &search).map(|claimed| claimed.start());
    if let Ok(start) = claimed {
        tidy(index, start, len);
    }
    claimed
}

fn free<G: Geometry>(index: &Bitmap<G>, start: u64, len: u64) {
    assert_eq!(index.release(start, len), Ok(()), "a rightful free failed");
}

/// Runs `work` on a thread of the model, with what the threads share.
fn spawn<S: 'static, T: 'static>(
    shared: &Arc<S>,
    work: impl FnOnce(&S) -> T + 'static,
) -> thread::JoinHandle<T> {
    let shared = shared.clone();
    thread::spawn(move || work(&shared))
}

fn join<T>(handle: thread::JoinHandle<T>) -> T {
    match handle.join() {
        Ok(value) => value,
        Err(_) => panic!("a thread of the model panicked"),
    }
}

/// The oracle at the join: `owned` are the extents that somebody holds, each block once.
fn settle<G: Geometry>(index: &Bitmap<G>, owned: &[(u64, u64)]) {
    let mut holders = vec![0; index.blocks() as usize];
    for &(start, len) in owned {
        for block in start..start + len {
            holders[block as usize] += 1;
            assert_eq!(holders[block as usize], 1, "block {block} is owned twice");
            assert!(index.free_in(block, block + 1) > block, "block {block} is owned and free");
        }
    }
    let held = owned.iter().map(|&(_, len)| len).sum::<u64>();
    assert_eq!(index.count_free() + held, index.blocks(), "blocks were lost");
    let found = index.verify();
    assert!(found.is_clean(), "{:?}", found.differences);
}

fn some(claimed: Option<u64>) -> u64 {
    match claimed {
        Some(start) => start,
        None => panic!("nothing found although something fitting was free all the time"),
    }
}

fn held(claimed: Option<u64>, len: u64) -> Vec<(u64, u64)> {
    claimed.map(|start| (start, len)).into_iter().collect()
}
