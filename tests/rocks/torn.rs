//! What a power failure leaves of the write-ahead log: its beginning, up to anywhere, or with a bit
//! turned somewhere. Objects and freelist must be those after some transaction, the same for both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use freemap::rocks::{CreateOptions, OpenOptions, Opened};
use freemap::{Extent, RocksFreelist};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rocksdb::{DB, IteratorMode, SingleThreaded, WriteOptions};

use super::{FAMILY, Place, open_database};

pub type Objects = BTreeMap<u64, Extent>;

/// Puts, moves and deletes objects; the objects after each transaction.
fn history(db: &Arc<DB>, rng: &mut Pcg64Mcg) -> Vec<Objects> {
    let opened = RocksFreelist::open(db.clone(), FAMILY, &OpenOptions::new()).unwrap();
    let mut states = vec![Objects::new()];
    for _ in 0..300 {
        let mut objects = states[states.len() - 1].clone();
        let id = rng.random_range(0..40u64);
        let len =
            (rng.random_bool(0.7) || !objects.contains_key(&id)).then(|| rng.random_range(1..200));
        put(&opened, &mut objects, id, len);
        states.push(objects);
    }
    states
}

/// Replaces an object by one of `len` blocks, or deletes it.
pub fn put(opened: &Opened<SingleThreaded>, objects: &mut Objects, id: u64, len: Option<u64>) {
    let mut transaction = opened.allocator.begin();
    if let Some(old) = objects.remove(&id) {
        transaction.free(old).unwrap();
    }
    if let Some(len) = len {
        objects.insert(id, transaction.allocate(len).unwrap());
    }
    let new = objects.get(&id);
    let written =
        opened.freelist.commit_with(transaction.freeze(), &WriteOptions::default(), |batch| {
            match new {
                Some(new) => batch.put(
                    id.to_be_bytes(),
                    [new.start.to_be_bytes(), new.len.to_be_bytes()].concat(),
                ),
                None => batch.delete(id.to_be_bytes()),
            }
        });
    written.unwrap();
}

pub fn objects(db: &DB) -> Objects {
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
    db.iterator(IteratorMode::Start)
        .map(|item| item.unwrap())
        .map(|(key, value)| (number(&key), Extent::new(number(&value[..8]), number(&value[8..]))))
        .collect()
}

/// A copy of the database in `from`, whose newest write-ahead log ends anywhere (in even rounds), or has a
/// bit turned somewhere (in odd ones).
pub fn torn_copy(from: &Path, round: u32, rng: &mut Pcg64Mcg) -> Place {
    let torn = copy(from);
    let log = log(torn.path());
    let mut bytes = std::fs::read(&log).unwrap();
    let at = rng.random_range(0..bytes.len());
    if round.is_multiple_of(2) {
        bytes.truncate(at);
    } else {
        bytes[at] ^= 1 << rng.random_range(0..8);
    }
    std::fs::write(log, bytes).unwrap();
    torn
}

/// A copy of the database in `from`.
fn copy(from: &Path) -> Place {
    let place = Place::new();
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        std::fs::copy(entry.path(), place.path().join(entry.file_name())).unwrap();
    }
    place
}

/// The newest write-ahead log.
fn log(path: &Path) -> PathBuf {
    let files = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|name| name == "log")).max().unwrap()
}

#[test]
fn a_torn_write_ahead_log_leaves_a_whole_history_up_to_some_transaction() {
    let mut rng = Pcg64Mcg::seed_from_u64(6);
    let place = Place::new();
    drop(place.create(10_000, &CreateOptions::new().chunk_blocks(256)));
    let db = place.database();
    let states = history(&db, &mut rng);
    drop(db);
    let mut lengths = std::collections::BTreeSet::new();
    for round in 0..60 {
        let torn = torn_copy(place.path(), round, &mut rng);
        let db = Arc::new(open_database(torn.path()));
        let found = objects(&db);
        let length = states.iter().rposition(|state| *state == found);
        lengths.insert(length.unwrap_or_else(|| panic!("no state of the history: {found:?}")));
        let opened = RocksFreelist::open(db, FAMILY, &OpenOptions::new()).unwrap();
        let checked = opened.check(found.into_values()).unwrap();
        assert!(checked.is_clean(), "round {round}: {checked:?}");
    }
    assert!(lengths.len() > 30, "cut in {} places", lengths.len());
}
