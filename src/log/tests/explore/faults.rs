//! The explorer would notice each ordering rule being broken and each check left out.

use std::time::Instant;

use super::{alone, run};
use crate::log::Authority;
use crate::log::fault::{Fault, select_all};

/// How a fault is caught.
enum By {
    /// By seeds of the explorer: one of the first thousands.
    Seeds(Authority),
}

use By::Seeds;
use Fault::*;

const TABLE: &[(&[Fault], By)] = &[
    (&[ImageInPlace], Seeds(Authority::Log)),
    (&[DirectoryBeforeImage], Seeds(Authority::Log)),
    (&[TailBeforeDirectory], Seeds(Authority::Log)),
    (&[RingBeforeSuperblock], Seeds(Authority::Log)),
    (&[DirectoryBothCopies], Seeds(Authority::Log)),
    (&[NoFlush], Seeds(Authority::Log)),
    (&[SizeWithoutFlush], Seeds(Authority::Log)),
    (&[ShrinkForgetsImages], Seeds(Authority::Log)),
    (&[UnfinishedReplayed], Seeds(Authority::Log)),
    (&[UnfinishedIsBoundary], Seeds(Authority::Log)),
    (&[SuperblockInOnePlace], Seeds(Authority::Log)),
    (&[AbandonForgets], Seeds(Authority::Log)),
    (&[OnItsWayForgotten], Seeds(Authority::Log)),
    (&[NoRoomForUndo], Seeds(Authority::Engine)),
    (&[UndoneForward], Seeds(Authority::Log)),
];

/// Seeds that are tried for a fault.
const MOST_SEEDS: u64 = 3000;

/// What showed the faults, if anything did.
fn caught(faults: &[Fault], by: &By) -> Option<String> {
    let Seeds(authority) = by;
    select_all(faults);
    let caught = (0..MOST_SEEDS).find_map(|seed| Some((seed, run(*authority, seed).err()?)));
    select_all(&[]);
    caught.map(|(seed, error)| format!("seed {seed}: {error}"))
}

#[test]
fn every_fault_is_caught() {
    let mut missed = Vec::new();
    for (faults, by) in TABLE {
        let started = Instant::now();
        let caught = alone(|| caught(faults, by));
        let seconds = started.elapsed().as_secs_f64();
        match caught {
            Some(how) => println!("{faults:?}: {how} ({seconds:.1} s)"),
            None => missed.push(faults),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
