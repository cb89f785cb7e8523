//! Other processes: two at the same database, and one that is killed while it changes the chunk size.
//! The other process is this test program again, told by its environment what to do.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use freemap::rocks::{CreateOptions, RocksError};
use freemap::{Extent, RocksFreelist};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rocksdb::{Options, SingleThreaded};

use super::{FAMILY, Freelist, Place, allocate, bitmap, open_database};

const TASK: &str = "FREEMAP_TEST_TASK";
const PATH: &str = "FREEMAP_TEST_PATH";

/// Starts this program again to do `task` at the database in `place`.
fn start(place: &Place, task: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::as_the_other_process", "--nocapture"])
        .env(TASK, task)
        .env(PATH, place.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Does nothing unless this is the other process.
#[test]
fn as_the_other_process() {
    let Ok(task) = std::env::var(TASK) else { return };
    let path = PathBuf::from(std::env::var(PATH).unwrap());
    match task.as_str() {
        "open" => {
            let opened = RocksFreelist::open_database::<SingleThreaded>(
                &path,
                &Options::default(),
                FAMILY,
                vec![],
            );
            let code = match opened {
                Err(RocksError::Locked { path: found }) if found == path => 17,
                Err(_) => 18,
                Ok(_) => 19,
            };
            std::process::exit(code);
        }
        "rechunk" => {
            let db = open_database(&path);
            // Whatever was begun is finished first.
            loop {
                for chunk_blocks in [64, 1 << 18, 4096] {
                    match Freelist::rechunk(
                        &db,
                        FAMILY,
                        chunk_blocks,
                        |_| ControlFlow::Continue(()),
                    ) {
                        Ok(_) | Err(RocksError::Rechunking { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_second_process_is_refused() {
    let place = Place::new();
    let opened = place.create(1000, &CreateOptions::new());
    let code = start(&place, "open").wait().unwrap().code();
    assert_eq!(code, Some(17), "RocksError::Locked");
    let again = RocksFreelist::open_database::<SingleThreaded>(
        place.path(),
        &Options::default(),
        FAMILY,
        vec![],
    );
    assert!(matches!(again, Err(RocksError::Locked { .. })), "also in this process");
    drop(opened);
    let code = start(&place, "open").wait().unwrap().code();
    assert_eq!(code, Some(19), "free again");
}

#[test]
fn a_killed_change_of_the_chunk_size_loses_nothing() {
    let mut rng = Pcg64Mcg::seed_from_u64(4);
    let place = Place::new();
    let opened = place.create(1 << 25, &CreateOptions::new());
    let extents: Vec<Extent> = (0..3000)
        .map(|number| Extent::new(11_000 * number, 1 << rng.random_range(0..13)))
        .collect();
    allocate(&opened, &extents);
    let expected = bitmap(&opened.allocator);
    drop(opened);
    let mut unfinished = 0;
    for round in 0..8 {
        let mut child = start(&place, "rechunk");
        std::thread::sleep(Duration::from_millis(rng.random_range(20..400)));
        child.kill().unwrap();
        assert!(child.wait().unwrap().code().is_none(), "round {round}: it ended by itself");
        let db = place.database();
        let open = |db| RocksFreelist::open(db, FAMILY, &freemap::rocks::OpenOptions::new());
        let opened = match open(db.clone()) {
            Err(RocksError::Rechunking { target, .. }) => {
                unfinished += 1;
                assert!(
                    Freelist::rechunk(&db, FAMILY, target, |_| ControlFlow::Continue(())).unwrap()
                );
                open(db).unwrap()
            }
            opened => opened.unwrap(),
        };
        assert!(bitmap(&opened.allocator) == expected, "round {round}");
    }
    eprintln!("{unfinished} of 8 rounds were in the middle of a change");
}
