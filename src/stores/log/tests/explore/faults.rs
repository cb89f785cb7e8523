//! Each ordering rule that is broken and each check that is left out is noticed: by seeds of the explorer,
//! or by a short course of events where those would take too long.

use std::time::Instant;

use super::scenarios as course;
use super::{alone, panics_as_errors, run};
use crate::stores::log::Authority;
use crate::stores::log::fault::{Fault, select_all};

/// How a fault is caught.
enum By {
    /// By one of the first seeds of the explorer.
    Seeds(Authority),
    /// The same, and not by an error at opening: the state that is found is wrong.
    Silent(Authority),
    Course(fn() -> Result<(), String>),
}

use By::{Course, Seeds, Silent};
use Fault::*;

const TABLE: &[(&[Fault], By)] = &[
    (&[ImageInPlace], Seeds(Authority::Log)),
    (&[DirectoryBeforeImage], Seeds(Authority::Log)),
    (&[TailBeforeDirectory], Seeds(Authority::Log)),
    (&[RingBeforeSuperblock], Seeds(Authority::Log)),
    (&[DirectoryBothCopies], Seeds(Authority::Log)),
    (&[SuperblockInOnePlace], Seeds(Authority::Log)),
    (&[NoFlush], Seeds(Authority::Log)),
    (&[SizeWithoutFlush], Seeds(Authority::Log)),
    (&[ShrinkForgetsImages], Seeds(Authority::Log)),
    (&[UnfinishedReplayed], Seeds(Authority::Log)),
    (&[UnfinishedIsBoundary], Seeds(Authority::Log)),
    (&[UnfinishedReplayed, TotalUnchecked], Silent(Authority::Log)),
    (&[AbandonForgets], Seeds(Authority::Log)),
    (&[OnItsWayForgotten], Course(course::changes_while_the_directory_is_written)),
    (&[NoRoomForUndo], Course(course::everything_is_taken_back)),
    (&[TailBeforeStable], Course(course::the_beginning_is_never_out_of_reach)),
    (&[UndoneForward], Course(course::a_window_of_dependent_transactions_fails)),
    (&[CutImagesKept, ImageBaseUnchecked], Course(course::a_checkpoint_of_two_frames_is_cut_short)),
    (&[ImageBaseUnchecked], Course(course::a_stale_image_beside_a_damaged_one)),
    (&[CutTransactionReplayed], Course(course::a_transaction_loses_its_beginning)),
    (&[NoLookBehind], Course(course::the_last_frame_but_one_is_damaged)),
];

/// Seeds that are tried for a fault.
const MOST_SEEDS: u64 = 1000;

/// What showed the faults, if anything did.
fn caught(faults: &[Fault], by: &By) -> Option<String> {
    select_all(faults);
    let of_seeds = |authority, counts: fn(&str) -> bool| {
        (0..MOST_SEEDS).find_map(|seed| {
            let error = run(authority, seed).err().filter(|error| counts(error))?;
            Some(format!("seed {seed}: {error}"))
        })
    };
    let caught = match *by {
        Seeds(authority) => of_seeds(authority, |_| true),
        Silent(authority) => of_seeds(authority, |error| error.contains("opened at")),
        Course(course) => panics_as_errors(course).err(),
    };
    select_all(&[]);
    caught
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

/// Without faults, the courses end well.
#[test]
fn the_courses_are_right() {
    for (_, by) in TABLE {
        if let Course(course) = by {
            alone(|| panics_as_errors(course)).unwrap();
        }
    }
}
