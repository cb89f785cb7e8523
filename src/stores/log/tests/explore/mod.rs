//! Power failures, kills and errors at every write and flush: in commits, groups, images, directory
//! pages, tails, superblocks, ring reuse, growth, shrinking, creation, checkpoints, replays, and in
//! recovery itself; under each authority, with what an engine has to do there.
//!
//! After each: every acknowledged transaction is there, of the others a prefix, each whole; the
//! allocator agrees block by block. A seed that fails is printed; replay it with
//! `FREEMAP_CRASH_SEED=n FREEMAP_CRASH_AUTHORITY=log cargo test explore`. `FREEMAP_CRASH_SEEDS=n`
//! explores more of them, on all cores.
//!
//! - this file: the runs; `world`: one log and its model; `mix`: what happens how often;
//! - `steps`: transactions; `resize`; `piggyback`, `engine`: the engine's own log;
//! - `reopen`: crashes;
//! - `timeline`: the states that must be found; `places`: where there are copies; `rest`: damage to those;
//! - `mischief`: what a device does without saying so; `faults`, `scenarios`: what all this would notice;
//! - `threads`: many who commit at the same time; `adapter`: the calls that an engine's own log goes with.

mod adapter;
mod engine;
mod faults;
mod mischief;
mod mix;
mod piggyback;
mod places;
mod reopen;
mod resize;
mod rest;
mod scenarios;
mod steps;
mod threads;
mod timeline;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::stores::log::Authority;
use crate::stores::log::fault::select_tight_ring;
use world::World;

/// Crashes of one seed, one after another on the same disk.
const CRASHES: usize = 4;

const ALL: [Authority; 3] = [Authority::Log, Authority::Engine, Authority::Piggyback];

/// Seeds that `cargo test` explores for each authority.
const SEEDS: u64 = 150;

/// Everything that one seed does. Answers with the number of crashes survived.
fn run(authority: Authority, seed: u64) -> Result<u64, String> {
    let explore = || -> Result<u64, String> {
        let mut world = World::new(authority, seed);
        world.create()?;
        for _ in 0..CRASHES {
            world.live()?;
            world.crash();
            world.reopen(true)?;
        }
        Ok(world.points)
    };
    panics_as_errors(explore)
}

fn panics_as_errors<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let done = catch_unwind(AssertUnwindSafe(work));
    select_tight_ring(false);
    done.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(format!("panic: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?")))
    })
}

/// Does `work` on a thread whose parallel work is its own: the faults of a thread are switched on for
/// all of it, and seeds do not wait for each other.
fn alone<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
            let _pool = pool.build().expect("a thread that is in no pool yet");
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn name(authority: Authority) -> &'static str {
    match authority {
        Authority::Log => "log",
        Authority::Engine => "engine",
        Authority::Piggyback => "piggyback",
    }
}

fn is_wanted(authority: Authority) -> bool {
    let wanted = std::env::var("FREEMAP_CRASH_AUTHORITY").ok();
    wanted.is_none_or(|wanted| wanted == name(authority))
}

/// The seeds that fail, with what happened.
fn explore(authority: Authority) -> Vec<(u64, String)> {
    if !is_wanted(authority) {
        return Vec::new();
    }
    let from = number("FREEMAP_CRASH_FROM").unwrap_or(0);
    let many = number("FREEMAP_CRASH_SEEDS");
    let seeds = match number("FREEMAP_CRASH_SEED") {
        Some(seed) => seed..seed + 1,
        None => from..from + many.unwrap_or(SEEDS),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if many.is_some() { cores } else { 1 };
    let (next, points) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let started = Instant::now();
    let some = || {
        let mut failed = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failed.len() > 20 {
                return failed;
            }
            match run(authority, seed) {
                Ok(survived) => drop(points.fetch_add(survived, Ordering::Relaxed)),
                Err(error) => failed.push((seed, error)),
            }
        }
    };
    let mut failed: Vec<(u64, String)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| alone(some))).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic gets out")).collect()
    });
    failed.sort();
    println!(
        "{}: {} crash points in {} seeds, {:.1} s",
        name(authority),
        points.into_inner(),
        seeds.end - seeds.start,
        started.elapsed().as_secs_f64()
    );
    failed
}

fn nothing_fails(authority: Authority) {
    let failed = explore(authority);
    for (seed, error) in &failed {
        let name = name(authority);
        println!("FREEMAP_CRASH_SEED={seed} FREEMAP_CRASH_AUTHORITY={name}: {error}");
    }
    assert!(failed.is_empty(), "{} seeds failed: see above", failed.len());
}

#[test]
fn nothing_is_lost_when_the_log_is_the_authority() {
    nothing_fails(Authority::Log);
}

#[test]
fn nothing_is_lost_when_the_engine_is_the_authority() {
    nothing_fails(Authority::Engine);
}

#[test]
fn nothing_is_lost_when_the_log_is_a_checkpoint() {
    nothing_fails(Authority::Piggyback);
}
