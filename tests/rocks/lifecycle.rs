//! Transactions, restarts, folding.

use std::sync::Arc;

use freemap::rocks::{CreateOptions, OpenOptions, Opened, RocksError};
use freemap::{Extent, Lsn, Request, RocksFreelist};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rocksdb::{DBWithThreadMode, MultiThreaded, Options, WriteBatch};

use super::{
    FAMILY, Freelist, Place, allocate, assert_clean, bitmap, chunks, free, is_set, small_chunks,
};

/// Random transactions beside a model, with flushes, folds and restarts in between: in every chunk
/// size the same.
#[test]
fn what_was_committed_is_there_after_every_restart() {
    for (seed, chunk_blocks) in [64, 256, 4096, 1 << 20].into_iter().enumerate() {
        let mut rng = Pcg64Mcg::seed_from_u64(seed as u64);
        let place = Place::new();
        let blocks = 20_011; // no multiple of anything
        let mut opened = place.create(blocks, &CreateOptions::new().chunk_blocks(chunk_blocks));
        let mut owned: Vec<Extent> = Vec::new();
        for step in 0..400 {
            let mut transaction = opened.allocator.begin();
            let (mut new, mut old) = (Vec::new(), Vec::new());
            for _ in 0..rng.random_range(1..6) {
                let len = 1u64 << rng.random_range(0..9);
                let request = Request::new(len).scattered().near(rng.random_range(0..blocks));
                if let Ok(extents) = transaction.allocate_with(&request) {
                    new.extend(extents);
                }
            }
            while owned.len() > 40 || (!owned.is_empty() && rng.random_bool(0.4)) {
                let extent = owned.swap_remove(rng.random_range(0..owned.len()));
                transaction.free(extent).unwrap();
                old.push(extent);
            }
            if rng.random_bool(0.2) {
                drop(transaction); // rolled back
                owned.extend(old);
            } else {
                transaction.commit(&opened.freelist).unwrap();
                owned.extend(new);
            }
            let db = opened.freelist.database().clone();
            match rng.random_range(0..40) {
                0 => db.flush_cf(&db.cf_handle(FAMILY).unwrap()).unwrap(),
                1 => opened.freelist.fold().unwrap(),
                2 | 3 => {
                    let before = bitmap(&opened.allocator);
                    drop((opened, db));
                    opened = place.open();
                    assert_eq!(bitmap(&opened.allocator), before, "step {step}");
                }
                _ => {}
            }
        }
        let found = opened.check(owned.iter().copied()).unwrap();
        assert!(found.is_clean(), "{found:?}");
        let report = opened.report;
        assert_eq!(report.blocks, blocks);
    }
}

#[test]
fn an_all_free_chunk_leaves_no_key() {
    let place = Place::new();
    let opened = place.create(1 << 16, &small_chunks());
    let extents = [Extent::new(0, 1), Extent::new(6400, 200), Extent::new(65_535, 1)];
    allocate(&opened, &extents);
    opened.freelist.fold().unwrap();
    assert_eq!(chunks(opened.freelist.database()), [0, 100, 101, 102, 103, 1023]);
    free(&opened, &extents[..2]);
    opened.freelist.fold().unwrap();
    assert_eq!(chunks(opened.freelist.database()), [1023]);
    free(&opened, &extents[2..]);
    opened.freelist.fold().unwrap();
    assert!(chunks(opened.freelist.database()).is_empty());
    assert_clean(&opened);
    drop(opened);
    assert_eq!(place.open().allocator.free_blocks(), 1 << 16);
}

#[test]
fn the_engines_record_and_the_freelist_are_written_together_or_not_at_all() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks());
    let db = opened.freelist.database().clone();

    let mut transaction = opened.allocator.begin();
    transaction.allocate(70).unwrap();
    let frozen = transaction.freeze();
    let mut batch = WriteBatch::default();
    batch.put(b"object 1", b"lost");
    opened.freelist.stage(&mut batch, frozen.delta()).unwrap();
    drop((batch, frozen)); // never written
    assert_eq!(opened.allocator.free_blocks(), 1000);

    let mut transaction = opened.allocator.begin();
    let kept = transaction.allocate(70).unwrap();
    let frozen = transaction.freeze();
    let mut batch = WriteBatch::default();
    batch.put(b"object 2", b"kept");
    opened.freelist.stage(&mut batch, frozen.delta()).unwrap();
    // A second try with the same transaction, as after a refused write.
    let mut again = WriteBatch::default();
    opened.freelist.stage(&mut again, frozen.delta()).unwrap();
    assert_eq!(again.len() + 1, batch.len());
    db.write(batch).unwrap();
    frozen.committed();
    assert_clean(&opened);
    drop((opened, db));

    let opened = place.open();
    let db = opened.freelist.database();
    assert_eq!(db.get(b"object 1").unwrap(), None);
    assert_eq!(db.get(b"object 2").unwrap().as_deref(), Some(&b"kept"[..]));
    assert_eq!(opened.allocator.is_allocated(kept), Ok(true));
    assert_eq!(opened.allocator.free_blocks(), 930);
}

/// After a crash between the write and `committed`, the transaction is there; the process that saw
/// it dropped is gone.
#[test]
fn a_batch_that_was_written_counts_whatever_happened_then() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks());
    let mut transaction = opened.allocator.begin();
    let extent = transaction.allocate(5).unwrap();
    let frozen = transaction.freeze();
    let mut batch = WriteBatch::default();
    opened.freelist.stage(&mut batch, frozen.delta()).unwrap();
    opened.freelist.database().write(batch).unwrap();
    drop((frozen, opened));
    let opened = place.open();
    assert_eq!(opened.allocator.is_allocated(extent), Ok(true));
    assert_clean(&opened);
}

#[test]
fn an_empty_transaction_writes_nothing() {
    let place = Place::new();
    let opened = place.create(1000, &CreateOptions::new());
    let db = opened.freelist.database();
    let before = db.latest_sequence_number();
    let lsn = opened.allocator.begin().commit(&opened.freelist).unwrap();
    assert_eq!((lsn, db.latest_sequence_number()), (Lsn(before), before));
    let mut transaction = opened.allocator.begin();
    let extent = transaction.allocate(5).unwrap();
    transaction.free(extent).unwrap();
    assert_eq!(transaction.commit(&opened.freelist).unwrap(), Lsn(before));
    assert_clean(&opened);
}

#[test]
fn a_used_device_can_be_taken_over_from_its_bitmap() {
    let place = Place::new();
    let mut rng = Pcg64Mcg::seed_from_u64(5);
    let blocks = 5000;
    let words: Vec<u64> = (0..5000u64.div_ceil(64)).map(|_| rng.random()).collect();
    let options = small_chunks().block_size(8192).uuid([7; 16]);
    let opened =
        RocksFreelist::create_from_bitmap(place.database(), FAMILY, blocks, &words, &options)
            .unwrap();
    let check = |opened: &Opened<_>| {
        let found = opened.allocator.to_bitmap().unwrap();
        assert!((0..blocks).all(|block| is_set(&found, block) == is_set(&words, block)));
        assert_eq!(opened.allocator.block_size(), 8192);
        assert_eq!((opened.freelist.uuid(), opened.freelist.chunk_blocks()), ([7; 16], 64));
        assert_clean(opened);
    };
    check(&opened);
    drop(opened);
    check(&place.open());
}

#[test]
fn a_live_freelist_can_be_inspected() {
    let place = Place::new();
    let opened = place.create(10_000, &CreateOptions::new());
    allocate(&opened, &[Extent::new(100, 1000)]);
    let db = opened.freelist.database();
    let (copy, report) = Freelist::inspect(db, FAMILY, &OpenOptions::new()).unwrap();
    allocate(&opened, &[Extent::new(5000, 1)]);
    assert_eq!((report.allocated, report.chunks), (1000, 1));
    assert_eq!(copy.free_blocks(), 9000);
    // What is done to the copy goes nowhere.
    let mut transaction = copy.begin();
    transaction.free(Extent::new(100, 10)).unwrap();
    let refused = transaction.commit(&opened.freelist).unwrap_err().into_error();
    assert!(matches!(refused, freemap::rocks::StageError::Foreign));
    assert_clean(&opened);
}

#[test]
fn a_database_of_the_other_mode_does_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::default();
    options.create_if_missing(true);
    let open = || -> Arc<DBWithThreadMode<MultiThreaded>> {
        Arc::new(RocksFreelist::open_database(dir.path(), &options, FAMILY, vec![]).unwrap())
    };
    let created = RocksFreelist::create(open(), FAMILY, 1000, &CreateOptions::new()).unwrap();
    let mut transaction = created.allocator.begin();
    let extent = transaction.allocate(3).unwrap();
    transaction.commit(&created.freelist).unwrap();
    drop(created);
    let opened = RocksFreelist::open(open(), FAMILY, &OpenOptions::new()).unwrap();
    assert_eq!(opened.allocator.is_allocated(extent), Ok(true));
    let other = opened.freelist.clone();
    let db = other.database();
    db.drop_cf(FAMILY).unwrap();
    let mut transaction = opened.allocator.begin();
    transaction.allocate(3).unwrap();
    let refused = transaction.commit(&opened.freelist).unwrap_err().into_error();
    assert!(matches!(refused, freemap::rocks::StageError::NoFamily { .. }), "{refused}");
    assert_eq!(opened.allocator.free_blocks(), 997);
    // One of the same name is not the one that was opened.
    db.create_cf(FAMILY, &RocksFreelist::family_options()).unwrap();
    let grown = opened.freelist.grow(&opened.allocator, 2000);
    assert!(matches!(grown, Err(RocksError::NoFreelist { .. })), "{grown:?}");
}
