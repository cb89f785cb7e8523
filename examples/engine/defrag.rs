//! Keeps a free run of a wanted length at hand: while there is none, it has the allocator plan which region
//! is the cheapest to empty, closes that, and moves away what lives there.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use freemap::{CloseError, EvacuationRequest};
use serde_json::{Value, json};

use super::Failure;
use super::mover::{Moved, Mover};
use super::store::Store;

/// How much of the device is looked at before it asks whether the run is over: 4 GiB.
const STEP_BLOCKS: u64 = 1 << 20;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// Each object is a commit, which costs about as much as writing so many blocks more.
const OBJECT_COST: u64 = 16;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Defragmented {
    run_blocks: u64,
    plans: u64,
    /// Looks that found a run there already.
    ready: u64,
    /// Regions that were emptied, and taken as one extent.
    gained: u64,
    given_up: u64,
    moved: Moved,
    /// Score and longest run before the first region was closed, and at the end.
    before: Option<(f64, u64)>,
    after: Option<(f64, u64)>,
}

/// Works until `stop`.
pub fn run(store: &Store, run_blocks: u64, stop: &AtomicBool) -> Result<Defragmented, Failure> {
    let allocator = store.allocator();
    let mut mover = Mover::new(store, stop);
    let mut done = Defragmented { run_blocks, ..Defragmented::default() };
    let request = EvacuationRequest::new(run_blocks).extent_cost(OBJECT_COST);
    while !mover.is_over() {
        mover.rest(PAUSE);
        let mut planner = allocator.plan_evacuation(&request);
        while !mover.is_over() && planner.step(STEP_BLOCKS) {}
        if !planner.is_finished() {
            break;
        }
        let plan = planner.finish();
        done.plans += 1;
        if plan.ready > 0 {
            done.ready += 1;
            continue;
        }
        let movable = plan.candidates.iter().find(|found| !store.has_foreign(found.extent));
        let Some(cheapest) = movable else { continue };
        done.before = done.before.or_else(|| Some(look(store)));
        let region = match allocator.close(cheapest.extent) {
            Ok(region) => region,
            // The device is just being resized, or became shorter since.
            Err(CloseError::Busy | CloseError::Closed { .. } | CloseError::Range(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        mover.empty(region.extent(), || region.is_empty())?;
        // Ours for a moment, which shows that it is whole; then everybody's.
        match region.take() {
            Ok(run) => {
                allocator.free(run)?;
                done.gained += 1;
            }
            Err(_opened) => done.given_up += 1,
        }
    }
    done.moved = mover.moved;
    done.after = Some(look(store));
    Ok(done)
}

fn look(store: &Store) -> (f64, u64) {
    let runs = store.allocator().survey().finish();
    (runs.fragmentation(), runs.largest())
}

impl Defragmented {
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let Self { run_blocks, plans, ready, gained, given_up, moved, .. } = self;
        let Moved { objects, blocks, gone, no_room } = moved;
        let shown = |look: Option<(f64, u64)>| {
            look.map_or("-".to_string(), |(score, largest)| format!("{score:.4}, {largest} blocks"))
        };
        vec![
            ("runs gained", format!("{gained} of {run_blocks} blocks, {given_up} given up")),
            ("plans", format!("{plans}, {ready} of them found a run there")),
            ("moved for runs", format!("{blocks} blocks of {objects} objects")),
            ("not moved", format!("{gone} gone meanwhile, {no_room} times no room")),
            (
                "score and longest run",
                format!("{} before, {} after", shown(self.before), shown(self.after)),
            ),
        ]
    }

    pub fn json(&self) -> Value {
        json!({
            "run_blocks": self.run_blocks,
            "plans": self.plans,
            "ready": self.ready,
            "gained": self.gained,
            "given_up": self.given_up,
            "moved_blocks": self.moved.blocks,
            "moved_objects": self.moved.objects,
            "gone": self.moved.gone,
            "no_room": self.moved.no_room,
            "fragmentation": [self.before.map(|look| look.0), self.after.map(|look| look.0)],
            "largest_run": [self.before.map(|look| look.1), self.after.map(|look| look.1)],
        })
    }
}
