//! Keys and values that no freelist has written: each is a typed error that says where, and nothing
//! is changed.

use std::sync::Arc;

use freemap::rocks::{CreateOptions, OpenOptions, Place as Damaged, RocksError};
use freemap::{Extent, RocksFreelist};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rocksdb::DB;

use super::{FAMILY, Freelist, Place, allocate, contents, resum, small_chunks};

/// A freelist of 1000 blocks in chunks of 64, of which 0, 1 and 15 have keys.
fn freelist(place: &Place) -> Arc<DB> {
    let opened = place.create(1000, &small_chunks());
    allocate(&opened, &[Extent::new(60, 10), Extent::new(999, 1)]);
    opened.freelist.fold().unwrap();
    opened.freelist.database().clone()
}

/// What opening answers after `change`; the database is as it was then.
fn refusal(change: impl FnOnce(&DB)) -> RocksError {
    let place = Place::new();
    let db = freelist(&place);
    change(&db);
    let before = contents(&db);
    let sequence = db.latest_sequence_number();
    let error = RocksFreelist::open(db.clone(), FAMILY, &OpenOptions::new()).unwrap_err();
    let (_, again) = (
        assert_eq!(contents(&db), before),
        Freelist::inspect(&db, FAMILY, &OpenOptions::new()).unwrap_err(),
    );
    assert_eq!(error.to_string(), again.to_string());
    assert_eq!(db.latest_sequence_number(), sequence, "nothing was written");
    error
}

fn put(db: &DB, key: &[u8], value: &[u8]) {
    db.put_cf(&db.cf_handle(FAMILY).unwrap(), key, value).unwrap();
}

fn get(db: &DB, key: &[u8]) -> Vec<u8> {
    db.get_cf(&db.cf_handle(FAMILY).unwrap(), key).unwrap().unwrap()
}

fn change_value(number: u64, change: impl FnOnce(&mut Vec<u8>)) -> RocksError {
    refusal(|db| {
        let key = number.to_be_bytes();
        let mut value = get(db, &key);
        change(&mut value);
        put(db, &key, &value);
    })
}

fn change_meta(change: impl FnOnce(&mut Vec<u8>)) -> RocksError {
    refusal(|db| {
        let mut value = get(db, b"meta");
        change(&mut value);
        put(db, b"meta", &value);
    })
}

#[track_caller]
fn assert_place(error: RocksError, expected: Damaged) {
    match error {
        RocksError::Damaged { place, .. } => assert_eq!(place, expected),
        other => panic!("{other}"),
    }
}

#[test]
fn values() {
    for bit in [0, 5, 63, 64, 95] {
        let error = change_value(1, |value| value[bit / 8] ^= 1 << (bit % 8));
        assert_place(error, Damaged::Checksum { chunk: 1 });
    }
    for len in [0, 1, 4, 8, 11, 13, 20, 1000] {
        let error = change_value(0, |value| value.resize(len, 0));
        assert_place(error, Damaged::Length { chunk: 0, found: len, expected: 12 });
    }
}

#[test]
fn a_value_under_another_key() {
    let error = refusal(|db| {
        let value = get(db, &0u64.to_be_bytes());
        put(db, &7u64.to_be_bytes(), &value);
    });
    assert_place(error, Damaged::Checksum { chunk: 7 });
}

/// Values of another chunk size are sound in themselves.
#[test]
fn a_value_of_another_chunk_size() {
    let place = Place::new();
    let opened = place.create(1000, &CreateOptions::new().chunk_blocks(128));
    allocate(&opened, &[Extent::new(0, 1)]);
    let value = get(opened.freelist.database(), &0u64.to_be_bytes());
    let error = change_value(0, |bytes| *bytes = value);
    assert_place(error, Damaged::Length { chunk: 0, found: 20, expected: 12 });
}

#[test]
fn blocks_beyond_the_device() {
    let sound = |number: u64, word: u64| {
        let mut value = word.to_le_bytes().to_vec();
        let sum = crc32c::crc32c_append(crc32c::crc32c(&number.to_be_bytes()), &value);
        value.extend(sum.to_le_bytes());
        move |db: &DB| put(db, &number.to_be_bytes(), &value)
    };
    assert_place(refusal(sound(15, 1 << 40)), Damaged::Beyond { chunk: 15 });
    assert_place(refusal(sound(16, 1)), Damaged::Beyond { chunk: 16 });
    assert_place(refusal(sound(1 << 40, 0)), Damaged::Beyond { chunk: 1 << 40 });
    assert_place(refusal(sound(u64::MAX, 1)), Damaged::Beyond { chunk: u64::MAX });
}

#[test]
fn keys_of_somebody_else() {
    for key in [&b""[..], b"\0\0\0", b"\0\0\0\0\0\0\0\0\0", b"object 17", b"zz"] {
        assert_place(refusal(|db| put(db, key, b"value")), Damaged::Key(key.to_vec()));
    }
}

#[test]
fn descriptions() {
    let error = change_meta(|meta| meta[0] = b'F');
    assert!(matches!(error, RocksError::Foreign { .. }), "{error}");
    let error = change_meta(|meta| meta.truncate(5));
    assert!(matches!(error, RocksError::Foreign { .. }), "{error}");
    let error = change_meta(|meta| meta[8] = 2);
    assert!(matches!(error, RocksError::Version { version: 2, .. }), "{error}");
    for len in [9, 63, 65] {
        assert_place(change_meta(|meta| meta.resize(len, 1)), Damaged::Meta);
    }
    let error = change_meta(|meta| {
        meta[13] = 1;
        resum(meta);
    });
    assert!(matches!(error, RocksError::Features { features: 0x100, .. }), "{error}");
    // Impossible sizes with the right checksum: block size, chunks, blocks, target.
    for (at, byte) in [(10, 8), (10, 63), (11, 5), (11, 21), (11, 255), (23, 255), (40, 99)] {
        let error = change_meta(|meta| {
            meta[at] = byte;
            resum(meta);
        });
        assert_place(error, Damaged::Meta);
    }
    let error = change_meta(|meta| {
        meta[16..24].fill(0);
        resum(meta);
    });
    assert_place(error, Damaged::Meta);
    for bit in 10 * 8..64 * 8 {
        let error = change_meta(|meta| meta[bit / 8] ^= 1 << (bit % 8));
        assert_place(error, Damaged::Meta);
    }
}

/// The description says another chunk size than the chunks have.
#[test]
fn another_chunk_size_than_the_description_says() {
    let error = change_meta(|meta| {
        meta[11] = 7;
        resum(meta);
    });
    assert_place(error, Damaged::Length { chunk: 0, found: 12, expected: 20 });
}

/// An operand that is none damages its chunk, visibly and for good, but not the database: flushes and
/// compactions go on, and so do other chunks.
#[test]
fn operands_that_are_none() {
    for operand in [&b""[..], b"?", b"\x06\x01\x01", b"\x07\x05", b"\x86", &[6, 255, 255, 255]] {
        for (key, pending) in [(1u64, true), (1, false), (5, true), (5, false)] {
            let error = refusal(|db| {
                let family = db.cf_handle(FAMILY).unwrap();
                db.merge_cf(&family, key.to_be_bytes(), operand).unwrap();
                db.merge_cf(&family, key.to_be_bytes(), [6, 1]).unwrap();
                if !pending {
                    db.flush_cf(&family).unwrap();
                    db.compact_range_cf(&family, None::<&[u8]>, None::<&[u8]>);
                }
            });
            match error {
                RocksError::Damaged { place: Damaged::Length { chunk, .. }, .. } => {
                    assert_eq!(chunk, key, "{operand:?}");
                }
                other => panic!("{operand:?}: {other}"),
            }
        }
    }
}

/// A bit that flips in a file of RocksDB's is found by RocksDB's own checksums.
#[test]
fn files() {
    let mut rng = Pcg64Mcg::seed_from_u64(3);
    let place = Place::new();
    let opened = place.create(1 << 20, &small_chunks());
    let every_third = |n: u64| Extent::new(3 * n, 1);
    allocate(&opened, &(0..10_000).map(every_third).collect::<Vec<_>>());
    opened.freelist.fold().unwrap();
    drop(opened);
    let table = std::fs::read_dir(place.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    let sound = std::fs::read(&table).unwrap();
    for _ in 0..20 {
        let mut bytes = sound.clone();
        let at = rng.random_range(0..bytes.len() / 2); // in a block of data
        bytes[at] ^= 1 << rng.random_range(0..8);
        std::fs::write(&table, &bytes).unwrap();
        let error = RocksFreelist::open(place.database(), FAMILY, &OpenOptions::new());
        let Err(RocksError::Database { error, .. }) = error else { panic!("byte {at}") };
        assert_eq!(error.kind(), rocksdb::ErrorKind::Corruption, "{error}");
    }
    std::fs::write(&table, &sound).unwrap();
    assert_eq!(place.open().report.allocated, 10_000);
}
