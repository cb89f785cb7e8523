//! The recipes of `freemap::metadata`, each as a small engine that loses its power, or is killed, at each of
//! its writes and flushes, and must find every object that it had acknowledged, intact. Some make a mistake
//! on purpose, which must show. `RECIPE_SEEDS` sets for how many lives before (3).

mod engine;
mod table;
mod wal;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::{BLOCKS, Change, Data, Fault, GROUP, IDS, Objects, Recipe};
use freemap::{OpenOptions, SpaceMapLog};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use world::World;

/// What must be found.
#[derive(Clone, Default)]
struct Model {
    /// The version of each object that was acknowledged last.
    acknowledged: BTreeMap<u64, u64>,
    /// What was under way, and may be there instead.
    in_flight: Vec<Change>,
    versions: u64,
}

impl Model {
    /// Some changes of different objects.
    fn group(&mut self, rng: &mut Pcg64Mcg) -> Vec<Change> {
        let first = rng.random_range(0..IDS);
        let ids = (first..first + rng.random_range(1..=GROUP as u64)).map(|id| id % IDS);
        ids.map(|id| {
            self.versions += 1;
            (id, (!rng.random_ratio(1, 5)).then_some(self.versions))
        })
        .collect()
    }

    fn acknowledge(&mut self, objects: &Objects) {
        self.acknowledged = objects.iter().map(|(&id, place)| (id, place.version)).collect();
        self.in_flight.clear();
    }

    /// Compares it with what an engine has found, which from then on is what must be there.
    fn check<R: Recipe>(&mut self, engine: &R, world: &Arc<World>) -> Result<(), String> {
        let (objects, data) = (engine.objects(), Data::new(world).unwrap());
        for id in 0..IDS {
            let found = objects.get(&id).map(|place| place.version);
            let expected = self.acknowledged.get(&id).copied();
            if found != expected && !self.in_flight.contains(&(id, found)) {
                return Err(format!("object {id}: {found:?} in place of {expected:?}"));
            }
            if let Some(place) = objects.get(&id).filter(|&&place| !data.holds(id, place)) {
                return Err(format!("object {id}: something else is at {place:?}"));
            }
        }
        let allocator = engine.allocator();
        allocator.collect();
        let used: u64 = objects.values().map(|place| place.extent.len).sum();
        if allocator.free_blocks() != BLOCKS - used || !engine.is_consistent() {
            return Err(format!("{used} blocks used, {} free", allocator.free_blocks()));
        }
        self.acknowledge(objects);
        Ok(())
    }
}

/// One life of an engine, until the power fails or some groups are done.
fn live<R: Recipe>(
    world: &Arc<World>,
    model: &mut Model,
    fault: Fault,
    rng: &mut Pcg64Mcg,
) -> Result<(), String> {
    let mut engine = match R::open(world, fault) {
        Err(_) if world.has_crashed() => return Ok(()),
        engine => engine.map_err(|error| format!("cannot be opened: {error}"))?,
    };
    model.check(&engine, world)?;
    for _ in 0..4 {
        let group = model.group(rng);
        model.in_flight = group.clone();
        match engine.change(&group) {
            Ok(()) => model.acknowledge(engine.objects()),
            Err(_) if world.has_crashed() => return Ok(()),
            Err(error) => return Err(format!("{group:?}: {error}")),
        }
    }
    Ok(())
}

/// Has the power fail at each write and flush of a life, and then in later ones; how often it did.
fn explore<R: Recipe>(fault: Fault, seeds: u64) -> Result<u64, String> {
    let new = Arc::new(World::default());
    R::create(&new).unwrap();
    let mut failures = 0;
    for seed in 0..seeds {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        // Something to lose.
        let (old, mut known) = (new.killed(), Model::default());
        live::<R>(&old, &mut known, fault, &mut rng).map_err(|error| format!("{seed}: {error}"))?;
        for crash in 1.. {
            let mut rng = Pcg64Mcg::seed_from_u64(seed << 32 | crash);
            let (mut world, mut model) = (old.killed(), known.clone());
            let mut crashed = false;
            for life in 0..4 {
                let last = life == 3;
                if life == 0 {
                    world.crash_after(crash);
                } else if !last {
                    world.crash_after(rng.random_range(1..40));
                }
                live::<R>(&world, &mut model, fault, &mut rng)
                    .map_err(|error| format!("{seed}, {crash}, life {life}: {error}"))?;
                crashed |= life == 0 && world.has_crashed();
                failures += u64::from(world.has_crashed());
                // A process that is killed loses nothing that it wrote, and the power may fail later.
                world = if rng.random() { world.killed() } else { world.survivor(&mut rng) };
            }
            if !crashed {
                break;
            }
        }
    }
    Ok(failures)
}

fn assert_safe<R: Recipe>() {
    let seeds = std::env::var("RECIPE_SEEDS").map_or(3, |seeds| seeds.parse().unwrap());
    let failures = explore::<R>(Fault::None, seeds).unwrap();
    println!("{failures} power failures and kills");
    assert!(failures > 100, "{failures} only");
}

fn assert_noticed<R: Recipe>(fault: Fault) {
    assert!(explore::<R>(fault, 20).is_err(), "{fault:?} loses nothing");
}

/// An opening believed the superblock that one before it had written and not flushed, when it was killed, and
/// wrote the other: the power failed, and both were gone.
#[test]
fn openings_that_are_cut_short_in_a_row_lose_nothing() {
    let new = Arc::new(World::default());
    wal::EngineLog::create(&new).unwrap();
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    for (first, second) in (1..8).flat_map(|first| (1..8).map(move |second| (first, second))) {
        let world = new.killed();
        live::<wal::EngineLog>(&world, &mut Model::default(), Fault::None, &mut rng).unwrap();
        let open = |world: &Arc<World>| {
            SpaceMapLog::open(world.volume("log"), &OpenOptions::new()).map(|opened| opened.report)
        };
        let last = open(&world.killed()).unwrap().last;
        world.crash_after(first);
        drop(open(&world));
        let world = world.killed();
        world.crash_after(second);
        drop(open(&world));
        for _ in 0..20 {
            assert_eq!(open(&world.survivor(&mut rng)).unwrap().last, last, "{first}, {second}");
        }
    }
}

#[test]
fn a_log_of_the_engines_own_is_followed() {
    assert_safe::<wal::EngineLog>();
    assert_noticed::<wal::EngineLog>(Fault::Early);
    assert_noticed::<wal::EngineLog>(Fault::Believe);
}

#[test]
fn a_log_of_the_engines_own_carries_the_deltas() {
    assert_safe::<wal::Checkpointed>();
    assert_noticed::<wal::Checkpointed>(Fault::Early);
    assert_noticed::<wal::Checkpointed>(Fault::Believe);
}

#[test]
fn metadata_in_a_file_holds_frees_one_by_one() {
    assert_safe::<table::Holding>();
    assert_noticed::<table::Holding>(Fault::Early);
    assert_noticed::<table::Holding>(Fault::Believe);
}

#[test]
fn metadata_in_a_file_has_the_log_hold_frees() {
    assert_safe::<table::Group>();
    assert_noticed::<table::Group>(Fault::Early);
    assert_noticed::<table::Group>(Fault::Believe);
}
