//! What surveys and statistics say, against a walk block by block; beside threads that allocate and
//! free; and as metrics.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use freemap::{Allocator, Extent, Request, Runs, Sink, Surveyed};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// The smallest shard.
const SHARD: u64 = 1 << 15;

/// An allocator of shards of [`SHARD`] blocks whose free runs begin and end where `lens` says: runs of
/// used and free blocks in turn.
fn striped(blocks: u64, lens: &[u64]) -> (Allocator, Vec<Extent>) {
    let allocator =
        Allocator::builder(blocks).shards(usize::MAX).build_allocated().expect("a device");
    let (mut at, mut free, mut runs) = (0, false, Vec::new());
    for &len in lens.iter().cycle() {
        let len = len.min(blocks - at);
        if free && len > 0 {
            allocator.mark_free(Extent::new(at, len)).expect("not free yet");
            runs.push(Extent::new(at, len));
        }
        at += len;
        free = !free;
        if at == blocks {
            break;
        }
    }
    (allocator, runs)
}

/// The runs that begin in `shard`, and the blocks that are free in it, as a walk finds them.
fn expected(runs: &[Extent], shard: &Range<u64>) -> (Runs, u64) {
    let within = |run: &Extent| {
        (run.start + run.len).min(shard.end).saturating_sub(run.start.max(shard.start))
    };
    let free = runs.iter().map(within).sum();
    (runs.iter().copied().filter(|run| shard.contains(&run.start)).collect(), free)
}

fn check_shards(allocator: &Allocator, runs: &[Extent]) {
    let (mut free, mut count, mut blocks, mut largest) = (0, 0, 0, 0);
    for index in 0..allocator.shards() {
        let stats = allocator.shard_stats(index).unwrap();
        let surveyed = stats.surveyed.expect("it was surveyed");
        let shard = stats.start..stats.start + stats.blocks;
        let found = (surveyed.runs.clone(), surveyed.free_blocks);
        assert_eq!(found, expected(runs, &shard), "shard {index}");
        assert_eq!(stats.largest_order.is_none(), surveyed.free_blocks == 0);
        free += surveyed.free_blocks;
        count += surveyed.runs.count();
        blocks += surveyed.runs.blocks();
        largest = largest.max(surveyed.runs.largest());
    }
    let all = allocator.stats().surveyed;
    assert_eq!(all.shards, allocator.shards());
    assert!(all.age.is_some());
    assert_eq!(all.runs, runs.iter().copied().collect());
    assert_eq!((all.free_blocks, all.free_blocks), (free, allocator.free_blocks()));
    let sums = (all.runs.count(), all.runs.blocks(), all.runs.largest());
    assert_eq!(sums, (count, blocks, largest));
    assert!(allocator.shard_stats(allocator.shards()).is_none());
    assert!(allocator.survey_shard(allocator.shards()).is_none());
}

fn run_len() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 1..70u64,
        2 => 1..2000u64,
        1 => 1..3 * SHARD,
        1 => prop::sample::select(vec![64, 512, SHARD - 1, SHARD, SHARD + 1, 2 * SHARD]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_survey_finds_what_a_walk_finds(
        blocks in 1..6 * SHARD,
        lens in prop::collection::vec(run_len(), 1..20),
        step in prop_oneof![Just(0u64), 1..5000u64, Just(u64::MAX)],
        first in any::<prop::sample::Index>(),
    ) {
        let (allocator, runs) = striped(blocks, &lens);
        let mut survey = allocator.survey();
        let mut position = 0;
        while survey.step(step) {
            prop_assert!(survey.position() > position || survey.position() == blocks);
            position = survey.position();
        }
        prop_assert!(survey.is_finished() && !survey.step(step));
        prop_assert_eq!(survey.runs(), &runs.iter().copied().collect::<Runs>());
        prop_assert_eq!(survey.position(), blocks);
        check_shards(&allocator, &runs);

        // One shard after another, from anywhere, in an allocator that knows of none.
        let (allocator, runs) = striped(blocks, &lens);
        prop_assert_eq!(allocator.stats().surveyed, Surveyed::default());
        let shards = allocator.shards();
        for index in 0..shards {
            let index = (first.index(shards) + index) % shards;
            prop_assert!(allocator.shard_stats(index).unwrap().surveyed.is_none());
            let mut survey = allocator.survey_shard(index).unwrap();
            while survey.step(step) {}
            let found = allocator.shard_stats(index).unwrap().surveyed.unwrap();
            prop_assert_eq!(survey.runs(), &found.runs);
        }
        check_shards(&allocator, &runs);
    }
}

#[test]
fn sums_follow_when_shards_are_surveyed_again() {
    let blocks = 8 * SHARD - 100;
    let allocator = Allocator::builder(blocks).shards(8).build().unwrap();
    assert_eq!(allocator.survey().finish(), [Extent::new(0, blocks)].into_iter().collect());
    assert_eq!(allocator.shard_stats(3).unwrap().surveyed.unwrap().free_blocks, SHARD);
    // The run of all blocks begins in shard 0. Now it ends at block 9, and another begins there.
    allocator.mark_allocated(Extent::new(9, 1)).unwrap();
    assert_eq!(allocator.stats().surveyed.runs.largest(), blocks, "as of the last survey");
    let mut rng = Pcg64Mcg::seed_from_u64(5);
    for _ in 0..100 {
        let start = rng.random_range(0..blocks - 100);
        let extent = Extent::new(start, rng.random_range(1..100));
        // Whether or not it was possible.
        let _ = allocator.mark_allocated(extent);
        let _ = allocator.mark_free(Extent::new(rng.random_range(0..blocks - 2), 2));
        let index = rng.random_range(0..allocator.shards());
        let mut survey = allocator.survey_shard(index).unwrap();
        while survey.step(1 << 12) {}
        let shards = (0..allocator.shards())
            .map(|index| allocator.shard_stats(index).unwrap().surveyed.unwrap());
        let (mut free, mut by_order) = (0, [(0, 0, 0); 37]);
        for shard in shards {
            free += shard.free_blocks;
            for (sum, order) in by_order.iter_mut().zip(shard.runs.by_order()) {
                sum.0 += order.runs;
                sum.1 += order.aligned;
                sum.2 += order.blocks;
            }
        }
        let all = allocator.stats().surveyed;
        let found = all.runs.by_order().iter();
        let found: Vec<_> = found.map(|order| (order.runs, order.aligned, order.blocks)).collect();
        assert_eq!(found, by_order);
        assert_eq!(all.free_blocks, free);
        assert!(free <= blocks);
    }
    let runs = allocator.survey().finish();
    assert_eq!(runs, allocator.free_extents().collect());
    assert_eq!(runs.blocks(), allocator.free_blocks());
    check_shards(&allocator, &allocator.free_extents().collect::<Vec<_>>());
}

#[test]
fn surveys_go_along_with_a_device_that_grows_and_shrinks() {
    let blocks = 4 * SHARD - 700;
    let allocator = Allocator::builder(blocks).shards(4).build().unwrap();
    let whole = |blocks| [Extent::new(0, blocks)].into_iter().collect::<Runs>();
    let half = |allocator: &Allocator| {
        let mut survey = allocator.survey();
        survey.step(2 * SHARD);
        survey
    };
    let begun = half(&allocator);
    allocator.grow(9 * SHARD + 5).unwrap();
    assert_eq!((allocator.shards(), allocator.shard_stats(8).unwrap().surveyed), (10, None));
    // It counts shards that there were when it began, and follows the run into the new ones.
    assert_eq!(begun.finish(), whole(9 * SHARD + 5));
    let surveyed = allocator.stats().surveyed;
    assert_eq!((surveyed.shards, surveyed.free_blocks), (4, 4 * SHARD));
    assert_eq!(allocator.survey().finish(), whole(9 * SHARD + 5));
    check_shards(&allocator, &[Extent::new(0, 9 * SHARD + 5)]);

    for (blocks, at) in [(5 * SHARD + 3, 8 * SHARD), (2 * SHARD, 3 * SHARD), (77, 1000)] {
        let mut begun = allocator.survey();
        begun.step(at);
        let mut last = allocator.survey_shard(allocator.shards() - 1).unwrap();
        allocator.shrink(blocks).unwrap().finish().unwrap();
        assert!(allocator.stats().surveyed.free_blocks <= blocks);
        assert_eq!(begun.position(), blocks.min(at.next_multiple_of(512)));
        begun.finish();
        while last.step(0) {}
        let stats = allocator.stats();
        // What was read of the shard that was cut is of no use.
        assert!(allocator.shards() - stats.surveyed.shards <= 1);
        assert!(stats.surveyed.free_blocks <= blocks);
        assert!(stats.surveyed.runs.largest() <= blocks && stats.surveyed.runs.blocks() <= blocks);
        assert_eq!(allocator.survey().finish(), whole(blocks));
        assert_eq!(allocator.stats().surveyed.shards, allocator.shards());
        check_shards(&allocator, &[Extent::new(0, blocks)]);
    }
    allocator.grow(3 * SHARD).unwrap();
    assert_eq!(allocator.stats().surveyed.shards, 1);
    // A run of a shard that stays may reach beyond the new end, too.
    assert_eq!(allocator.survey().finish().largest(), 3 * SHARD);
    allocator.mark_allocated(Extent::new(SHARD, 1)).unwrap();
    allocator.shrink(2 * SHARD).unwrap().finish().unwrap();
    let surveyed = allocator.stats().surveyed;
    assert!(surveyed.runs.largest() <= 2 * SHARD && surveyed.runs.blocks() <= 2 * SHARD);
    allocator.grow(3 * SHARD).unwrap();
    assert!(allocator.shard_stats(2).unwrap().surveyed.is_none());
}

#[test]
fn surveys_beside_traffic_never_count_too_much() {
    const THREADS: u64 = 3;
    let blocks = 16 * SHARD;
    let allocator = &Allocator::builder(blocks).shards(16).build().unwrap();
    // Nobody ever gives these back.
    let mut kept = 0;
    for start in (0..blocks).step_by(97) {
        allocator.mark_allocated(Extent::new(start, 13.min(blocks - start))).unwrap();
        kept += 13.min(blocks - start);
    }
    let done = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|seed| {
                scope.spawn(move || {
                    let mut rng = Pcg64Mcg::seed_from_u64(seed);
                    let mut handle = allocator.handle();
                    let mut held: Vec<Extent> = Vec::new();
                    for _ in 0..100_000 {
                        let request = Request::new(rng.random_range(1..100)).scattered();
                        match handle.allocate_with(&request) {
                            Ok(extents) if rng.random_ratio(1, 2) => held.extend(&extents),
                            Ok(extents) => extents.iter().for_each(|&extent| {
                                handle.free(extent).unwrap();
                            }),
                            Err(_) => held.drain(..).for_each(|extent| {
                                handle.free(extent).unwrap();
                            }),
                        }
                    }
                    held.into_iter().for_each(|extent| handle.free(extent).unwrap());
                })
            })
            .collect();
        let watchers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(move || {
                    let mut surveys = 0;
                    while surveys < 3 || !done.load(Ordering::Relaxed) {
                        let runs = allocator.survey().finish();
                        assert!(runs.blocks() <= blocks - kept, "{}", runs.blocks());
                        assert!(runs.largest() <= 97 - 13);
                        assert!((0.0..=1.0).contains(&runs.fragmentation()));
                        let stats = allocator.stats();
                        assert_eq!(stats.surveyed.shards, allocator.shards());
                        assert!((0.0..=1.0).contains(&stats.surveyed.runs.fragmentation()));
                        assert!((0.0..=1.0).contains(&stats.surveyed.runs.ceph_score(4096)));
                        for index in 0..allocator.shards() {
                            let shard = allocator.shard_stats(index).unwrap();
                            assert!(shard.surveyed.unwrap().free_blocks <= shard.blocks);
                        }
                        surveys += 1;
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        done.store(true, Ordering::Relaxed);
        watchers.into_iter().for_each(|watcher| watcher.join().unwrap());
    });
    assert_eq!(allocator.survey().finish().blocks(), blocks - kept);
    check_shards(allocator, &allocator.free_extents().collect::<Vec<_>>());
    assert!(allocator.verify().is_clean());
}

#[test]
fn counters_say_what_happened() {
    let allocator = Allocator::builder(4 * SHARD).shards(4).build().unwrap();
    let counters = || allocator.stats().counters;
    assert_eq!(counters(), Default::default());

    let mut handle = allocator.handle();
    assert!(handle.allocate(4 * SHARD + 1).is_err(), "no device has so many");
    assert_eq!(counters().refused_no_space + counters().refused_no_contiguous, 0);
    handle.allocate(SHARD).unwrap();
    assert_eq!(counters().spills, 0);
    // 2^15 blocks are longer than a leaf, as these: the same class, the same place.
    (1..4).for_each(|_| assert_eq!(handle.allocate(SHARD).unwrap().len, SHARD));
    assert_eq!(counters().spills, 3);
    handle.allocate(1).unwrap_err();
    assert_eq!((counters().refused_no_space, counters().refused_no_contiguous), (1, 0));
    assert!(counters().exact_searches > 0 && counters().summary_repairs > 0);

    (0..64).for_each(|block| allocator.mark_free(Extent::new(2 * block, 1)).unwrap());
    handle.allocate_with(&Request::new(2)).unwrap_err();
    handle.allocate_with(&Request::new(65).scattered()).unwrap_err();
    handle.allocate_many(1, &mut [Extent::new(0, 1); 65]).unwrap_err();
    assert_eq!((counters().refused_no_space, counters().refused_no_contiguous), (3, 1));

    assert_eq!(counters().shard_surveys, 0);
    allocator.survey().finish();
    assert_eq!(counters().shard_surveys, 4);
}

#[test]
fn blocks_on_their_way_out_are_seen() {
    let allocator = Allocator::new(1 << 20).unwrap();
    let figures = || {
        let stats = allocator.stats();
        let free = stats.free_blocks;
        assert_eq!(stats.quarantine_age.is_some(), stats.quarantined_blocks > 0);
        (free, stats.pending_blocks, stats.quarantined_blocks)
    };
    let (all, some) = (1 << 20, (1 << 20) - 100);
    let extent = allocator.allocate(100).unwrap();
    let mut transaction = allocator.begin();
    transaction.free(extent).unwrap();
    let kept = transaction.allocate(7).unwrap();
    assert_eq!(figures(), (some - 7, 0, 0), "the transaction alone knows");
    let transaction = transaction.freeze().reopen();
    assert_eq!(figures(), (some - 7, 0, 0));
    let frozen = transaction.freeze();
    assert_eq!(figures(), (some - 7, 100, 0));
    let guard = allocator.pin();
    frozen.committed();
    assert_eq!(figures(), (some - 7, 0, 100));
    allocator.collect();
    assert_eq!(figures(), (some - 7, 0, 100));
    drop(guard);
    allocator.collect();
    assert_eq!(figures(), (all - 7, 0, 0));

    for given_up in [true, false] {
        let mut transaction = allocator.begin();
        transaction.free(kept).unwrap();
        let frozen = transaction.freeze();
        assert_eq!(figures(), (all - 7, 7, 0));
        if given_up {
            drop(frozen)
        } else {
            frozen.in_doubt()
        }
        assert_eq!(figures(), (all - 7, 0, 0));
    }
}

#[test]
fn reserved_blocks_are_seen() {
    let allocator = Allocator::new(1 << 20).unwrap();
    let figures = || (allocator.stats().free_blocks, allocator.stats().reserved_blocks);
    let reservation = allocator.reserve(1000).unwrap();
    assert_eq!(figures(), ((1 << 20) - 1000, 1000));
    let other = allocator.reserve(7).unwrap();
    assert_eq!(figures(), ((1 << 20) - 1007, 1007));
    drop(reservation);
    assert_eq!(figures(), ((1 << 20) - 7, 7));
    allocator.collect();
    drop(other);
    assert_eq!(figures(), (1 << 20, 0));
}

/// Metrics by name, each with its help and its values by label.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, help: &str, kind: &str, samples: &[(String, f64)]) {
        self.0 += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (label, value) in samples {
            self.0 += &format!("{name}{label} {value}\n");
        }
    }
}

impl Sink for Text {
    fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.family(name, help, "counter", &[(String::new(), value as f64)]);
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.family(name, help, "gauge", &[(String::new(), value)]);
    }

    fn gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: &[f64],
    ) {
        let labelled = |(at, &value)| (format!("{{{label}=\"{at}\"}}"), value);
        let samples: Vec<_> = values.iter().enumerate().map(labelled).collect();
        self.family(name, help, "gauge", &samples);
    }
}

/// Reads what Prometheus would, as strictly: samples by name and label.
fn parse(text: &str) -> HashMap<String, f64> {
    let (mut samples, mut families) = (HashMap::new(), HashMap::new());
    let mut current = "";
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a name and a text");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
            assert!(name.starts_with("freemap_") && help.ends_with('.') && !help.contains('\\'));
            assert!(families.insert(name, "").is_none(), "{name} twice");
            current = name;
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a name and a type");
            assert_eq!(name, current);
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
            families.insert(name, kind);
        } else {
            let (sample, value) = line.rsplit_once(' ').expect("a sample and a value");
            let (name, label) = sample.split_once('{').unwrap_or((sample, "order=\"0\"}"));
            assert_eq!(name, current, "samples follow their family");
            let order = label.strip_prefix("order=\"").and_then(|rest| rest.strip_suffix("\"}"));
            order.expect(label).parse::<u32>().expect("an order");
            let value: f64 = value.parse().expect("a number");
            assert!(value.is_finite() && value >= 0.0);
            assert!(samples.insert(sample.to_string(), value).is_none());
        }
    }
    samples
}

#[test]
fn metrics_are_what_the_statistics_say() {
    let allocator = Allocator::builder(1 << 20).block_size(8192).build().unwrap();
    let report = || {
        let mut text = Text::default();
        allocator.stats().report(&mut text);
        parse(&text.0)
    };
    let kept = allocator.allocate(1000).unwrap();
    let before = report();
    assert_eq!(before["freemap_free_blocks"], f64::from((1 << 20) - 1000));
    assert_eq!(before["freemap_surveyed_shards"], 0.0);
    assert!(!before.contains_key("freemap_fragmentation_ratio"));
    assert!(!before.contains_key("freemap_quarantine_age_seconds"));

    let _guard = allocator.pin();
    let mut transaction = allocator.begin();
    transaction.free(kept).unwrap();
    transaction.freeze().committed();
    allocator.mark_allocated(Extent::new(5000, 9)).unwrap();
    let runs = allocator.survey().finish();
    let after = report();
    let is = |name: &str, value: f64| assert_eq!(after[name], value, "{name}");
    is("freemap_blocks", f64::from(1 << 20));
    is("freemap_block_size_bytes", 8192.0);
    is("freemap_quarantined_blocks", 1000.0);
    is("freemap_guards", 1.0);
    is("freemap_largest_shown_run_blocks", 512.0);
    is("freemap_surveyed_shards", allocator.shards() as f64);
    is("freemap_shard_surveys_total", allocator.shards() as f64);
    is("freemap_surveyed_free_blocks", allocator.free_blocks() as f64);
    is("freemap_largest_run_blocks", runs.largest() as f64);
    is("freemap_fragmentation_ratio", runs.fragmentation());
    is("freemap_ceph_fragmentation_ratio", runs.ceph_score(8192));
    for order in 0..=20 {
        let counts = runs.of_order(order);
        is(&format!("freemap_free_runs{{order=\"{order}\"}}"), counts.runs as f64);
        is(&format!("freemap_aligned_free_runs{{order=\"{order}\"}}"), counts.aligned as f64);
        is(&format!("freemap_free_run_blocks{{order=\"{order}\"}}"), counts.blocks as f64);
    }
    assert!(!after.contains_key("freemap_free_runs{order=\"21\"}"));
    assert!(after.contains_key("freemap_quarantine_age_seconds"));
}
