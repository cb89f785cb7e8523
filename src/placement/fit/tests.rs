//! Requests by known runs, on devices and memories made by hand: which run is taken, what is
//! remembered of it, and when and where a handle looks at the summary.

use super::*;
use crate::Allocator;
use crate::base::account::Account;
use crate::base::geometry::WORD_BLOCKS;
use crate::base::place::WordIndex;
use crate::base::sync::meanwhile;
use crate::space::lanes::Lanes;
use crate::values::class::Placement;

/// Blocks under a node of the summary.
const NODE: u64 = ENDLESS;

/// A run: start and length.
type Run = (u64, u64);

/// What is remembered of a run: its length, and the start of the word in which it begins.
type Known = (u64, u64);

/// A device in use but for some runs, and a handle that knows none of them.
struct World {
    allocator: Allocator,
    cursor: Cursor,
}

impl World {
    fn new(blocks: u64, free: &[Run]) -> Self {
        Self::of(Allocator::builder(blocks).build_allocated().expect("memory"), free)
    }

    /// With a class whose own region is leaf 2.
    fn zoned(free: &[Run]) -> Self {
        let region = Extent::new(2 * LEAF_BLOCKS, LEAF_BLOCKS);
        let builder = Allocator::builder(4 * LEAF_BLOCKS);
        let builder = builder.placement(Class::METADATA, Placement::new().region(region));
        Self::of(builder.build_allocated().expect("memory"), free)
    }

    fn of(allocator: Allocator, free: &[Run]) -> Self {
        let lane = Lanes::new().shared(0);
        let cursor = Cursor::new(WordIndex::FIRST, lane, &Account::default());
        let world = Self { allocator, cursor };
        free.iter().for_each(|&(start, len)| world.set_free(start, len));
        world
    }

    fn set_free(&self, start: u64, len: u64) {
        assert_eq!(self.space().bitmap.release(start, len), Ok(()));
    }

    /// Makes the run at `start` the first `len` blocks of three leaves.
    fn change(&self, start: u64, len: u64) {
        let bitmap = &self.space().bitmap;
        let end = bitmap.blocks().min(start + 3 * LEAF_BLOCKS);
        while bitmap.claim_from(bitmap.free_in(start, end), end).is_some() {}
        if len > 0 {
            self.set_free(start, len);
        }
    }

    fn space(&self) -> &Space {
        &self.allocator.core().space
    }

    /// The placer, the space and the handle, to call what is tested.
    fn parts(&mut self) -> (&Placer, &Space, &mut Cursor) {
        let core = self.allocator.core();
        (&core.placer, &core.space, &mut self.cursor)
    }

    /// Has the handle know a run that begins where a word does.
    fn know(&mut self, start: u64, len: u64) {
        assert!(start.is_multiple_of(WORD_BLOCKS) && self.cursor.seen.put(start, len));
    }

    fn fit(&mut self, len: u64) -> Option<Run> {
        let (placer, space, cursor) = self.parts();
        placer.claim_fitting(space, cursor, len).map(Claimed::into_run)
    }

    fn piece(&mut self, least: u64, most: u64) -> Option<Run> {
        let (placer, space, cursor) = self.parts();
        placer.claim_piece(space, cursor, least, most).map(Claimed::into_run)
    }

    fn single(&mut self) -> Option<Run> {
        let (placer, space, cursor) = self.parts();
        placer.claim_single(space, cursor).map(Claimed::into_run)
    }

    /// Looks if a request of `len` blocks is due to look.
    fn look(&mut self, len: u64) -> bool {
        let (placer, space, cursor) = self.parts();
        placer.look_now_and_then(space, &mut cursor.seen, len)
    }

    /// The node looked at last, after a look that is due.
    fn look_now(&mut self) -> usize {
        self.wait_for(0);
        assert!(self.look(1));
        self.cursor.seen.node.get()
    }

    /// Has `blocks` be asked for before the next look.
    fn wait_for(&mut self, blocks: u64) {
        self.cursor.seen.look = Pace::after(blocks);
    }

    /// Blocks to be asked for before the next look.
    fn wait(&self) -> u64 {
        let mut pace = self.cursor.seen.look;
        let mut blocks = 0;
        while !pace.is_over() {
            pace.count(1);
            blocks += 1;
        }
        blocks
    }

    /// Takes out all that the handle knows, the shortest first.
    fn forget(&mut self) -> Vec<Known> {
        let hints = std::iter::from_fn(|| self.cursor.seen.take(1));
        hints.map(|hint| (hint.len, hint.word.first_block::<Native>())).collect()
    }
}

/// A run, and what the handle remembers of it, which may be wrong.
#[derive(Debug)]
struct Hinted {
    start: u64,
    /// Its length; 0 if it is gone.
    len: u64,
    /// The length remembered; 0 if it is not known.
    known: u64,
}

impl Hinted {
    /// The length by which it is chosen for a request of `len` blocks, if it fits: the remembered
    /// one, or its own if it has grown. One remembered as long as a leaf is not measured; but if it
    /// does not reach the end of its word, it is gone.
    fn chosen_by(&self, len: u64) -> Option<u64> {
        let is_long = self.known >= LEAF_BLOCKS;
        let fits =
            self.known >= len && self.len >= if is_long { len.max(WORD_BLOCKS) } else { len };
        let chosen_by = if is_long { self.known } else { self.known.max(self.len.min(REACH)) };
        fits.then(|| as_known(chosen_by))
    }

    /// What is remembered of it after a request for `len` blocks took the run chosen by `taken`.
    fn remembered(&self, len: u64, taken: Option<Known>) -> Option<Known> {
        let Self { start, known, .. } = *self;
        let was_tried = known >= len && taken.is_none_or(|taken| (known, start) <= taken);
        if !was_tried {
            return (known > 0).then_some((known, start));
        }
        let chosen_by = self.chosen_by(len)?;
        if taken != Some((chosen_by, start)) {
            return Some((chosen_by, start));
        }
        let run = if chosen_by < LEAF_BLOCKS { self.len } else { chosen_by };
        (run > len).then(|| (as_known(run - len), word_start(start + len)))
    }
}

/// The length that a run of `len` blocks is known by.
fn as_known(len: u64) -> u64 {
    if len <= LEAF_BLOCKS { len } else { (len / LEAF_BLOCKS * LEAF_BLOCKS).min(ENDLESS) }
}

/// The start of the word of a block.
fn word_start(block: u64) -> u64 {
    block / WORD_BLOCKS * WORD_BLOCKS
}

#[test]
fn only_requests_that_say_nothing_about_where_go_by_known_runs() {
    let (plain, zoned) = (World::new(LEAF_BLOCKS, &[]), World::zoned(&[]));
    let placers = [&plain, &zoned].map(|world| &world.allocator.core().placer);
    for class in [Class::BULK, Class::METADATA] {
        let request = Request::new(8).class(class);
        assert!(placers[0].goes_by_seen(&request));
        assert_eq!(placers[1].goes_by_seen(&request), class == Class::BULK);
        for placer in placers {
            assert!(!placer.goes_by_seen(&request.align(2)));
            assert!(!placer.goes_by_seen(&request.near(0)));
        }
    }
}

#[test]
fn two_blocks_to_a_leaf_go_by_known_runs() {
    let mut world = World::new(4 * LEAF_BLOCKS, &[(0, 2 * LEAF_BLOCKS)]);
    for len in [1, 2, LEAF_BLOCKS, LEAF_BLOCKS + 1] {
        for (align, sequential) in [(1, false), (1, true), (2, false)] {
            world.know(0, 2 * LEAF_BLOCKS);
            world.cursor.sequential = sequential;
            let (placer, space, cursor) = world.parts();
            let claimed = placer.fitting(space, cursor, &Request::new(len).align(align));
            let goes = (2..=LEAF_BLOCKS).contains(&len) && align == 1 && !sequential;
            let claimed = claimed.map(Claimed::into_run);
            assert_eq!(claimed, goes.then_some((0, len)), "{len} {align} {sequential}");
            if claimed.is_some() {
                world.set_free(0, len);
            }
            world.forget();
        }
    }
}

/// Two runs of all lengths, remembered with all lengths. One that has grown is put back, and not cut
/// while there is a shorter one.
#[test]
fn the_shortest_known_run_that_fits_is_taken_and_its_rest_remembered() {
    const LENS: [u64; 7] = [0, 2, 3, 64, 65, 512, 1100];
    let mut world = World::new(6 * LEAF_BLOCKS, &[]);
    let lens = || LENS.into_iter().flat_map(|len| LENS.map(|known| (len, as_known(known))));
    for (first, second) in lens().flat_map(|first| lens().map(move |second| (first, second))) {
        let runs = [(0, first), (3 * LEAF_BLOCKS, second)];
        let runs = runs.map(|(start, (len, known))| Hinted { start, len, known });
        for len in [2, 3, 4, 65, 512] {
            for run in &runs {
                world.change(run.start, run.len);
                world.cursor.seen.put(run.start, run.known);
            }
            world.wait_for(u64::MAX);
            let chosen_by = |run: &Hinted| Some((run.chosen_by(len)?, run.start));
            let taken = runs.iter().filter_map(chosen_by).min();
            let left = runs.iter().filter_map(|run| run.remembered(len, taken));
            let mut left: Vec<_> = left.collect();
            left.sort_unstable();
            assert_eq!(world.fit(len), taken.map(|(_, start)| (start, len)), "{len} of {runs:?}");
            assert_eq!(world.forget(), left, "{len} of {runs:?}");
        }
    }
    assert_eq!(world.cursor.seen.node, NodeIndex::FIRST, "not enough was asked for to look");
}

#[test]
fn the_rest_of_an_endless_run_is_endless() {
    let mut world = World::new(4 * NODE, &[(0, 3 * NODE)]);
    world.know(0, 3 * NODE);
    for start in [0, 100, 200] {
        assert_eq!(world.fit(100), Some((start, 100)));
    }
    assert_eq!(world.forget(), [(ENDLESS, word_start(300))]);
    let shorter = as_known(ENDLESS - 1);
    world.know(word_start(400), shorter);
    assert_eq!(world.fit(100), Some((word_start(400), 100)));
    assert_eq!(world.forget(), [(as_known(shorter - 100), word_start(word_start(400) + 100))]);
}

#[test]
fn a_run_is_not_taken_beyond_the_end_of_the_device() {
    let start = LEAF_BLOCKS + WORD_BLOCKS;
    for blocks in [2 * LEAF_BLOCKS, 2 * LEAF_BLOCKS - 10] {
        let mut world = World::new(blocks, &[(start, blocks - start)]);
        for (len, fits) in [(blocks - start + 1, false), (blocks - start, true)] {
            world.know(start, LEAF_BLOCKS);
            assert_eq!(world.fit(len), fits.then_some((start, len)));
        }
        world.forget();
        world.know(2 * LEAF_BLOCKS, LEAF_BLOCKS);
        world.know(2 * LEAF_BLOCKS, 10);
        assert_eq!(world.fit(10), None, "the device was made shorter");
    }
}

#[test]
fn a_request_tries_a_limited_number_of_runs() {
    let mut world = World::new(4 * LEAF_BLOCKS, &[]);
    let calls: [fn(&mut World) -> Option<Run>; 2] =
        [|world| world.fit(2), |world| world.piece(1, 2)];
    for call in calls {
        // All of them are gone.
        for number in 0..TRIED as u64 {
            [2, 3].into_iter().for_each(|len| world.know(number * WORD_BLOCKS, len));
        }
        assert_eq!(call(&mut world), None);
        assert_eq!(world.forget().len(), TRIED);
    }
}

#[test]
fn a_handle_that_goes_in_sequence_takes_no_known_run() {
    let mut world = World::new(LEAF_BLOCKS, &[(0, 10)]);
    world.know(0, 10);
    world.cursor.sequential = true;
    assert_eq!((world.fit(5), world.piece(1, 5)), (None, None));
    assert!(!world.cursor.is_mixed());
    world.cursor.sequential = false;
    assert_eq!(world.fit(5), Some((0, 5)));
    assert!(world.cursor.is_mixed(), "single blocks spare the runs from now on");
}

/// A handle that knows a run of `known` blocks asks for 8 when `wait` blocks remain to be asked for
/// before the next look. The look would show a run of `shown` blocks. 0: there is none.
fn asks_for_eight(known: u64, shown: u64, wait: u64) {
    const KNOWN: u64 = 0;
    const SHOWN: u64 = NODE;
    let mut world = World::new(3 * NODE, &[]);
    world.change(KNOWN, known);
    world.change(SHOWN, shown);
    world.cursor.seen.put(KNOWN, known);
    world.wait_for(wait);
    let (asks, is_due) = (known != 8, wait <= 8);
    let looks = asks && is_due;
    let runs = [(known, KNOWN), (if looks { shown } else { 0 }, SHOWN)];
    let taken = runs.into_iter().filter(|&(len, _)| len >= 8).min();
    let waits = match (asks, is_due) {
        (false, _) => wait,
        (true, false) => wait - 8,
        (true, true) => LOOK_EVERY * if shown >= 8 { 1 } else { 2 },
    };
    let case = format!("{known} known, {shown} shown, {wait} to wait");
    assert_eq!(world.fit(8), taken.map(|(_, start)| (start, 8)), "{case}");
    assert_eq!(world.cursor.seen.node.get(), usize::from(looks), "{case}");
    assert_eq!(world.wait(), waits, "{case}");
}

#[test]
fn before_a_longer_run_is_cut_there_is_one_look_if_enough_was_asked_for() {
    for known in [0, 8, 30] {
        for shown in [0, 2, 8, 20] {
            [0, 8, 9, 100].into_iter().for_each(|wait| asks_for_eight(known, shown, wait));
        }
    }
}

#[test]
fn a_piece_is_what_a_known_run_has_up_to_the_most() {
    let mut world = World::new(LEAF_BLOCKS, &[]);
    for (len, least) in (1..12).flat_map(|len| (1..12).map(move |least| (len, least))) {
        for most in least..13 {
            world.change(0, len);
            world.know(0, len);
            let piece = len.min(most);
            let case = format!("{least} to {most} of {len}");
            assert_eq!(world.piece(least, most), (len >= least).then_some((0, piece)), "{case}");
            let rest = if len < least { len } else { len - piece };
            let rest = (rest > 0).then_some((rest, 0));
            assert_eq!(world.forget(), Vec::from_iter(rest), "{case}");
        }
    }
}

#[test]
fn a_piece_comes_of_a_run_as_long_as_it_was_or_longer() {
    /// Where the second run is.
    const SECOND: u64 = 3 * LEAF_BLOCKS;
    /// The lengths of two runs and those remembered, what is asked for, the piece, and what is
    /// known then.
    type Case = ([(u64, u64); 2], [u64; 2], Option<Run>, &'static [Known]);
    let cases: [Case; 6] = [
        // One that has shrunk is forgotten.
        ([(5, 8), (0, 0)], [1, 10], None, &[]),
        ([(5, 8), (6, 6)], [1, 10], Some((SECOND, 6)), &[]),
        // One that has grown is put back if only a part of it is needed,
        ([(30, 12), (20, 20)], [1, 10], Some((SECOND, 10)), &[(10, SECOND), (30, 0)]),
        ([(30, 5), (0, 0)], [1, 10], Some((0, 10)), &[(20, 0)]),
        // and else taken whole, even if it is longer than a leaf by now.
        ([(8, 5), (4, 4)], [1, 10], Some((0, 8)), &[(4, SECOND)]),
        ([(600, 500), (4, 4)], [1, 1000], Some((0, 600)), &[(4, SECOND)]),
    ];
    let mut world = World::new(6 * LEAF_BLOCKS, &[]);
    for (runs, [least, most], piece, known) in cases {
        for (start, (len, known)) in [0, SECOND].into_iter().zip(runs) {
            world.change(start, len);
            world.cursor.seen.put(start, known);
        }
        assert_eq!(world.piece(least, most), piece, "{least} to {most} of {runs:?}");
        assert_eq!(world.forget(), known, "{least} to {most} of {runs:?}");
    }
}

#[test]
fn a_word_with_more_holes_is_remembered_by_a_handle_that_spares_runs() {
    let hole = 5 * WORD_BLOCKS + 7;
    for is_mixed in [false, true] {
        let mut world = World::new(LEAF_BLOCKS, &[(1, 1), (3, 1), (hole, 1)]);
        if is_mixed {
            world.cursor.asked_for_several();
        }
        // There is none in the second of these words.
        let words = [0, 2 * WORD_BLOCKS, word_start(hole)];
        words.into_iter().for_each(|start| world.know(start, 1));
        let holes = std::iter::from_fn(|| world.single());
        let expected =
            if is_mixed { &[(1, 1), (3, 1), (hole, 1)][..] } else { &[(1, 1), (hole, 1)] };
        assert_eq!(Vec::from_iter(holes), expected);
        assert!(!world.cursor.seen.has_single());
    }
}

#[test]
fn a_hole_that_another_thread_takes_first_is_passed_over() {
    let mut lost = 0;
    for moment in 0.. {
        let mut world = World::new(LEAF_BLOCKS, &[(1, 1), (65, 1)]);
        [0, WORD_BLOCKS].into_iter().for_each(|start| world.know(start, 1));
        let other = world.allocator.clone();
        let meanwhile = meanwhile::after(moment, move || other.core().space.bitmap.claim(1, 1));
        let hole = world.single();
        let Some(other) = meanwhile.result() else { break };
        assert_eq!(hole, Some((if other.is_ok() { 65 } else { 1 }, 1)));
        lost += world.space().bitmap.events().total(Event::LostClaim);
    }
    assert!(lost > 0, "it was seen, and then gone");
}

#[test]
fn a_free_is_remembered_with_the_run_that_it_completes() {
    let run = (2 * WORD_BLOCKS + 60, 30);
    for (len, is_mixed) in [(1, false), (1, true), (2, false), (2, true)] {
        let mut world = World::new(LEAF_BLOCKS, &[run]);
        if is_mixed {
            world.cursor.asked_for_several();
        }
        let start = run.0 + 20;
        let (placer, space, cursor) = world.parts();
        placer.remember_freed(space, cursor, Extent { start, len });
        let known: &[_] = if len > 1 || is_mixed { &[(30, word_start(run.0))] } else { &[] };
        assert_eq!(world.forget(), known, "{len} {is_mixed}");
        let reused = world.cursor.place(len).reuse();
        assert_eq!(reused, Some(WordIndex::of_block::<Native>(start)));
    }
}

/// Leaf 2 is another class's.
#[test]
fn nothing_that_begins_in_the_region_of_a_class_is_remembered() {
    const REGION: u64 = 2 * LEAF_BLOCKS;
    let mut world = World::zoned(&[(10, 8), (REGION - 10, 30), (REGION + 100, 8)]);
    world.look_now();
    assert_eq!(world.forget(), [(8, 0), (30, REGION - WORD_BLOCKS)]);
    for (start, known) in [(10, Some((8, 0))), (REGION + 100, None)] {
        let (placer, space, cursor) = world.parts();
        placer.saw_freed(space, cursor, start, 8);
        assert_eq!(world.forget(), Vec::from_iter(known));
    }
    // The rest begins there, or before it.
    for (len, rest) in [(10, None), (9, Some((21, REGION - WORD_BLOCKS)))] {
        world.know(REGION - WORD_BLOCKS, 30);
        assert_eq!(world.fit(len), Some((REGION - 10, len)));
        assert_eq!(world.forget(), Vec::from_iter(rest));
        world.set_free(REGION - 10, len);
    }
}

#[test]
fn looks_go_round_the_device_node_by_node() {
    let free = [0, 1, 2, 3].map(|node| (node * NODE + 5 * WORD_BLOCKS, node + 2));
    let mut world = World::new(3 * NODE + LEAF_BLOCKS, &free);
    for node in [1, 2, 3, 0, 1] {
        assert_eq!(world.look_now(), node);
        assert_eq!(world.forget(), [(node as u64 + 2, free[node].0)]);
    }
    for node in [3, 4, 5] {
        world.cursor.seen.node = NodeIndex::new(node);
        assert_eq!(world.look_now(), 0, "the device ends there, or was made shorter");
    }
}

#[test]
fn a_look_continues_where_the_last_one_stopped() {
    // As many runs as a look shows, in each of three leaves: those of 2 to 9 blocks in each word.
    let leaves = [3, 4, 6].map(|leaf| NODE + leaf * LEAF_BLOCKS);
    let words =
        leaves.into_iter().flat_map(|leaf| (0..8).map(move |word| leaf + word * WORD_BLOCKS));
    let runs = words.flat_map(|word| {
        let mut end = word;
        (2..10).map(move |len| {
            let start = end;
            end += len + 1;
            (start, len)
        })
    });
    let mut world = World::new(3 * NODE, &Vec::from_iter(runs));
    for leaf in leaves {
        assert_eq!(world.look_now(), 1);
        let words = |len| (0..8).map(move |word| (len, leaf + word * WORD_BLOCKS));
        assert_eq!(world.forget(), Vec::from_iter((2..10).flat_map(words)));
    }
    assert_eq!(world.look_now(), 2);
    // If the device was made shorter, there is nothing left to continue with.
    (world.cursor.seen.node, world.cursor.seen.place) = (NodeIndex::new(3), Some(5));
    assert_eq!(world.look_now(), 0);
}

/// All devices of four nodes that are entirely free, or but for the first block.
#[test]
fn a_look_passes_over_nodes_within_a_free_run() {
    const NODES: usize = 4;
    for pattern in 0..1 << NODES {
        let is_whole = |node: usize| pattern >> node & 1 == 1;
        let free = (0..NODES).map(|node| {
            let used = u64::from(!is_whole(node));
            (node as u64 * NODE + used, NODE - used)
        });
        let mut world = World::new(NODES as u64 * NODE, &Vec::from_iter(free));
        for from in 0..NODES {
            world.cursor.seen.node = NodeIndex::new(from);
            let is_within = |node: usize| is_whole(node - 1) && is_whole(node);
            let node = (from + 1..NODES).find(|&node| !is_within(node)).unwrap_or(0);
            assert_eq!(world.look_now(), node, "{pattern:b} from {from}");
        }
    }
}

#[test]
fn a_look_passes_over_a_limited_number_of_nodes() {
    let nodes = PASSED as u64 + 3;
    let mut world = World::new(nodes * NODE, &[(0, nodes * NODE)]);
    for node in [PASSED, 0, PASSED] {
        assert_eq!(world.look_now(), node);
    }
    assert_eq!(world.forget(), [(ENDLESS, 0)]);
}

#[test]
fn a_look_measures_runs_in_used_leaves_up_to_two_leaves() {
    let start = WORD_BLOCKS;
    let mut world = World::new(4 * LEAF_BLOCKS, &[(start, 2 * LEAF_BLOCKS)]);
    world.look_now();
    // Once from the free leaf in it, by whole leaves.
    assert_eq!(world.forget(), [(LEAF_BLOCKS, start), (2 * LEAF_BLOCKS, start)]);
}

#[test]
fn looks_that_teach_nothing_become_rarer() {
    let mut world = World::zoned(&[(0, 8), (2 * LEAF_BLOCKS, 20)]);
    let waits = |world: &mut World, len| {
        world.wait_for(len + 1);
        assert!(!world.look(1) && world.look(len));
        world.wait()
    };
    assert_eq!(waits(&mut world, 9), 2 * LOOK_EVERY, "too short, or another class's");
    assert_eq!(waits(&mut world, 8), 4 * LOOK_EVERY, "known already");
    assert_eq!(waits(&mut world, 8), 4 * LOOK_EVERY, "that is rare enough");
    world.forget();
    assert_eq!(waits(&mut world, 8), LOOK_EVERY, "new, and long enough");
}

#[test]
fn a_long_request_counts_for_some_of_its_blocks() {
    let mut world = World::new(LEAF_BLOCKS, &[]);
    for (len, counted) in [(1, 1), (127, 127), (128, 128), (129, 128), (LEAF_BLOCKS, 128)] {
        world.wait_for(LOOK_EVERY);
        assert!(!world.look(len));
        assert_eq!(world.wait(), LOOK_EVERY - counted);
    }
}
