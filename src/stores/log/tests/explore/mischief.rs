//! What a device does without saying so: one write never arrives, or arrives elsewhere, or a stretch
//! goes back to what it was. Opening gives a right state then, or an error, and never silently a wrong
//! state. The engine knows its last commit, or checkpoint.

use std::sync::Arc;

use rand::RngExt;

use super::adapter;
use super::world::World;
use super::{ALL, alone, is_wanted, name, number, panics_as_errors};
use crate::stores::log::tests::sim::Mischief;
use crate::stores::log::{Authority, LogError, SpaceMapLog};
use crate::values::lsn::Lsn;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Lost,
    Misplaced,
    /// 64 KiB, aligned: what a device erases at once, or a page of a copy-on-write file system.
    Reverted,
}

/// Whether the log was opened again, in a right state.
fn misbehave(authority: Authority, kind: Kind, seed: u64) -> Result<bool, String> {
    let mut world = World::new(authority, seed);
    world.mix.be_healthy();
    world.create()?;
    world.disk.calm();
    let (before, after) = (world.rng.random_range(0..40), world.rng.random_range(0..20));
    world.live_well(before)?;
    let to = (kind == Kind::Misplaced).then(|| world.rng.random());
    match kind {
        Kind::Reverted => world.disk.remember(),
        _ => world.disk.mischief(Mischief { after: world.rng.random_range(0..30), to }),
    }
    world.live_well(after)?;
    let last = world.opened().log.last();
    world.disk.calm();
    world.forget_process();
    if kind == Kind::Reverted {
        let Some(bytes) = world.disk.revert(64 << 10, &mut world.rng) else { return Ok(true) };
        world.disk = Arc::new(world.disk.restarted(bytes));
    }
    is_right_or_refused(&mut world, last)
}

/// Opens, goes on for a while and opens again.
fn is_right_or_refused(world: &mut World, mut last: Lsn) -> Result<bool, String> {
    for _ in 0..2 {
        let before = world.disk.bytes();
        let ask = world.ask(&mut world.rng.clone());
        let options = adapter::recover(&ask).expect_lsn(last);
        match SpaceMapLog::open(world.disk.clone(), &options) {
            Ok(opened) => world.take_up(opened, &ask).map_err(|e| format!("silently: {e}"))?,
            Err(error @ (LogError::Io(_) | LogError::Commit(_))) => {
                return Err(format!("the device gave no cause for: {error}"));
            }
            Err(_) if before == world.disk.bytes() => return Ok(false),
            Err(error) => return Err(format!("written before it was refused: {error}")),
        }
        if world.authority == Authority::Piggyback {
            world.replay()?;
        }
        world.live_well(20)?;
        last = world.opened().log.last();
        world.forget_process();
    }
    Ok(true)
}

/// Seeds that `cargo test` tries of each kind under each authority.
const SEEDS: u64 = 100;

fn never_silently(kind: Kind) {
    let mut wrong = Vec::new();
    for authority in ALL.into_iter().filter(|&authority| is_wanted(authority)) {
        let many = number("FREEMAP_CRASH_SEEDS").unwrap_or(SEEDS);
        let seeds = number("FREEMAP_CRASH_SEED").map_or(0..many, |seed| seed..seed + 1);
        let (mut same, mut refused) = (0, 0);
        alone(|| {
            for seed in seeds {
                match panics_as_errors(|| misbehave(authority, kind, seed)) {
                    Ok(true) => same += 1,
                    Ok(false) => refused += 1,
                    Err(error) => wrong.push((name(authority), seed, error)),
                }
            }
        });
        println!("{kind:?}, {}: {same} times right, {refused} times refused", name(authority));
    }
    for (authority, seed, error) in wrong.iter().take(20) {
        println!("FREEMAP_CRASH_SEED={seed} FREEMAP_CRASH_AUTHORITY={authority}: {error}");
    }
    assert!(wrong.is_empty(), "{} times wrong: see above", wrong.len());
}

#[test]
fn a_lost_write_is_never_silently_wrong() {
    never_silently(Kind::Lost);
}

#[test]
fn a_misplaced_write_is_never_silently_wrong() {
    never_silently(Kind::Misplaced);
}

#[test]
fn a_stretch_that_went_back_is_never_silently_wrong() {
    never_silently(Kind::Reverted);
}
