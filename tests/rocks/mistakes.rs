//! What an engine can do wrong, and how it is told.

use std::panic::{AssertUnwindSafe, catch_unwind};

use freemap::rocks::{CreateOptions, Integrity, OpenOptions, RocksError, StageError};
use freemap::{ConfigError, Extent, FreeError, RocksFreelist, Transaction};
use rocksdb::{DB, MergeOperands, Options, WriteBatch};

use super::{
    FAMILY, Freelist, Place, allocate, assert_clean, bitmap, contents, free, small_chunks,
};

fn conflict(result: Result<freemap::Lsn, freemap::CommitFailed<'_, StageError>>) -> Option<u64> {
    match result {
        Err(failed) => match failed.into_error() {
            StageError::Conflict { block } => Some(block),
            other => panic!("{other}"),
        },
        Ok(_) => None,
    }
}

/// Asserts that `work` panics; the test goes on.
#[track_caller]
fn assert_panics<T>(work: impl FnOnce() -> T) {
    assert!(catch_unwind(AssertUnwindSafe(work)).is_err());
}

#[test]
fn of_two_transactions_that_free_a_block_one_is_refused() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks());
    allocate(&opened, &[Extent::new(10, 100)]);
    let free_of = |extent| {
        let mut transaction = opened.allocator.begin();
        transaction.free(extent).unwrap();
        transaction
    };
    let (first, second) = (free_of(Extent::new(50, 30)), free_of(Extent::new(10, 41)));
    let third = free_of(Extent::new(79, 10));
    let first = first.freeze();
    assert_eq!(second.freeze().delta().conflict(), Some(50));
    assert_eq!(conflict(third.commit(&opened.freelist)), Some(79));
    let mut batch = WriteBatch::default();
    opened.freelist.stage(&mut batch, first.delta()).unwrap();
    opened.freelist.database().write(batch).unwrap();
    first.committed();
    assert_clean(&opened);
    assert_eq!(opened.allocator.free_blocks(), 930);
    // The refused ones changed nothing: the rest can be freed.
    free(&opened, &[Extent::new(10, 40), Extent::new(80, 30)]);
    opened.allocator.collect();
    assert_eq!(opened.allocator.free_blocks(), 1000);
    assert_clean(&opened);
}

#[test]
fn a_dropped_transaction_leaves_no_trace() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks());
    allocate(&opened, &[Extent::new(0, 100)]);
    let before = bitmap(&opened.allocator);
    let change = |transaction: &mut Transaction<'_>| {
        transaction.free(Extent::new(20, 20)).unwrap();
        transaction.mark_allocated(Extent::new(200, 300)).unwrap();
        transaction.free(Extent::new(210, 5)).unwrap();
    };
    let mut frozen = opened.allocator.begin();
    change(&mut frozen);
    drop(frozen.freeze());
    assert_eq!(bitmap(&opened.allocator), before);
    let mut reopened = opened.allocator.begin();
    change(&mut reopened);
    let reopened = reopened.freeze().reopen();
    drop(reopened);
    assert_eq!(bitmap(&opened.allocator), before);
    let mut dropped = opened.allocator.begin();
    change(&mut dropped);
    drop(dropped);
    assert_clean(&opened);
    // And once more for good, by way of a reopened one.
    let mut at_last = opened.allocator.begin();
    change(&mut at_last);
    at_last.freeze().reopen().commit(&opened.freelist).unwrap();
    assert_clean(&opened);
    assert_eq!(opened.allocator.free_blocks(), 1000 - 80 - 295);
}

#[test]
fn changes_without_a_transaction_are_found_and_refused() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks().allow_plain_frees());
    allocate(&opened, &[Extent::new(0, 100)]);

    let stray = Extent::new(500, 3);
    opened.allocator.mark_allocated(stray).unwrap();
    let found = opened.check([Extent::new(0, 100)]).unwrap();
    assert_eq!(found.unrecorded, [stray]);
    let mut transaction = opened.allocator.begin();
    transaction.free(Extent::new(501, 1)).unwrap();
    assert_eq!(conflict(transaction.commit(&opened.freelist)), Some(501));
    opened.allocator.free(stray).unwrap();

    let lost = Extent::new(70, 5);
    opened.allocator.free(lost).unwrap();
    let found = opened.check([Extent::new(0, 100)]).unwrap();
    assert_eq!(found.untracked, [lost]);
    let mut transaction = opened.allocator.begin();
    transaction.mark_allocated(Extent::new(72, 1)).unwrap();
    assert_eq!(conflict(transaction.commit(&opened.freelist)), Some(72));
    let found = opened.check([Extent::new(0, 100)]).unwrap();
    opened.repair(&found).unwrap();
    assert!(opened.check([Extent::new(0, 100)]).unwrap().is_clean());
}

#[test]
fn committed_blocks_are_freed_by_transactions_only() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks());
    allocate(&opened, &[Extent::new(0, 100)]);
    let refused = Err(FreeError::Committed { block: 70 });
    assert_eq!(opened.allocator.free(Extent::new(70, 5)), refused);
    free(&opened, &[Extent::new(70, 5)]);
    let found = opened.check([Extent::new(0, 70), Extent::new(75, 25)]).unwrap();
    assert!(found.is_clean(), "{found:?}");
}

#[test]
fn repair_refuses_extents_that_are_none() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks());
    let before = bitmap(&opened.allocator);
    for extent in [Extent::new(1000, 1), Extent::new(5, 0), Extent::new(u64::MAX, 5)] {
        let mut found = Integrity::default();
        found.discrepancies.unprotected.push(extent);
        assert!(matches!(opened.repair(&found), Err(StageError::Range(_))), "{extent}");
        let mut found = Integrity::default();
        found.discrepancies.leaked.push(extent);
        assert!(matches!(opened.repair(&found), Err(StageError::Range(_))), "{extent}");
    }
    assert_eq!(bitmap(&opened.allocator), before);
}

/// What is added to the batch must not take out what was staged.
#[test]
fn a_batch_that_was_cleared_is_not_written() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks());
    allocate(&opened, &[Extent::new(0, 100)]);
    let sequence = opened.freelist.database().latest_sequence_number();
    let adds: [fn(&mut WriteBatch); 3] = [
        WriteBatch::clear,
        |batch| {
            batch.clear();
            batch.put(b"a key long enough", b"and a value long enough to look like it");
        },
        |batch| *batch = WriteBatch::default(),
    ];
    for add in adds {
        let mut transaction = opened.allocator.begin();
        transaction.allocate(10).unwrap();
        transaction.free(Extent::new(0, 50)).unwrap();
        let result = opened.freelist.commit_with(transaction.freeze(), &Default::default(), add);
        assert!(matches!(result, Err(StageError::Cleared)), "{result:?}");
    }
    assert_eq!(opened.freelist.database().latest_sequence_number(), sequence);
    assert_eq!(opened.allocator.free_blocks(), 900);
    assert_clean(&opened);
}

#[test]
fn what_rocksdb_surely_did_not_write_gives_the_blocks_back() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks());
    let mut impossible = rocksdb::WriteOptions::default();
    impossible.set_sync(true);
    impossible.disable_wal(true);
    let mut transaction = opened.allocator.begin();
    transaction.allocate(10).unwrap();
    let result = opened.freelist.commit_with(transaction.freeze(), &impossible, |_| ());
    assert!(matches!(result, Err(StageError::Refused(_))), "{result:?}");
    assert_eq!(opened.allocator.free_blocks(), 1000);
    assert_panics(|| {
        let mut transaction = opened.allocator.begin();
        transaction.allocate(10).unwrap();
        let options = rocksdb::WriteOptions::default();
        opened.freelist.commit_with(transaction.freeze(), &options, |_| panic!("not written yet"))
    });
    assert_eq!(opened.allocator.free_blocks(), 1000);
    assert_clean(&opened);
}

#[test]
fn names_that_no_column_family_can_have_are_refused() {
    let place = Place::new();
    let open = |name: &str, others: Vec<rocksdb::ColumnFamilyDescriptor>| {
        let mut options = Options::default();
        options.create_if_missing(true);
        let opened: Result<DB, RocksError> =
            RocksFreelist::open_database(place.path(), &options, name, others);
        opened.map(|_| ()).unwrap_err()
    };
    let twice = rocksdb::ColumnFamilyDescriptor::new(FAMILY, Options::default());
    assert!(matches!(open("a\0b", vec![]), RocksError::Name { .. }));
    assert!(matches!(open(FAMILY, vec![twice]), RocksError::Name { .. }));
}

#[test]
fn overwriting_leaves_nothing() {
    let place = Place::new();
    // With a row cache, ranges cannot be deleted.
    let mut with_cache = Options::default();
    with_cache.create_if_missing(true);
    with_cache.set_row_cache(&rocksdb::Cache::new_lru_cache(1 << 20));
    let db = RocksFreelist::open_database(place.path(), &with_cache, FAMILY, vec![]).unwrap();
    let db: std::sync::Arc<DB> = db.into();
    let family = db.cf_handle(FAMILY).unwrap();
    for key in [&b""[..], b"text", &[0; 8], &[255; 63], &[255; 64], &[255; 65], &[255; 100]] {
        db.put_cf(&family, key, b"value").unwrap();
    }
    let options = CreateOptions::new().overwrite();
    let opened = RocksFreelist::create(db.clone(), FAMILY, 1000, &options).unwrap();
    assert_eq!(contents(&db).len(), 1, "the description");
    assert_clean(&opened);
}

/// Operands that the engine wrote itself, or staged a second time after others had changed the same
/// blocks: bits go where the operand says, none is flipped, and the check has them.
#[test]
fn what_is_written_behind_our_back_is_found() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks());
    let db = opened.freelist.database().clone();
    let family = db.cf_handle(FAMILY).unwrap();
    allocate(&opened, &[Extent::new(0, 100)]);
    let mut set_70_to_72 = WriteBatch::default();
    {
        let mut transaction = opened.allocator.begin();
        transaction.free(Extent::new(70, 3)).unwrap();
        transaction.commit(&opened.freelist).unwrap();
        opened.allocator.collect();
        let mut transaction = opened.allocator.begin();
        transaction.mark_allocated(Extent::new(70, 3)).unwrap();
        let frozen = transaction.freeze();
        opened.freelist.stage(&mut set_70_to_72, frozen.delta()).unwrap();
    }
    db.write(set_70_to_72).unwrap(); // of a transaction that was dropped
    // Chunk 0: clear 5; set 6, which is set. Runs of (gap << 2 | set), of the order 6.
    db.merge_cf(&family, 0u64.to_be_bytes(), [6, 5 << 2, 1]).unwrap();

    let used = [Extent::new(0, 70), Extent::new(73, 27)];
    for folded in [false, true] {
        let found = opened.check(used).unwrap();
        assert_eq!(found.set_behind, [Extent::new(70, 3)], "folded: {folded}");
        assert_eq!(found.cleared_behind, [Extent::new(5, 1)], "folded: {folded}");
        assert!(found.discrepancies.is_clean(), "{found:?}");
        opened.freelist.fold().unwrap();
    }
    // What is in the database counts from the next opening on, and the engine's list against it.
    drop((opened, db));
    let opened = place.open();
    let found = opened.check(used).unwrap();
    assert_eq!(found.discrepancies.leaked, [Extent::new(70, 3)]);
    assert_eq!(found.discrepancies.unprotected, [Extent::new(5, 1)]);
    opened.repair(&found).unwrap();
    assert!(opened.check(used).unwrap().is_clean());
}

#[test]
fn repair_follows_the_engines_list() {
    let place = Place::new();
    let opened = place.create(10_000, &small_chunks());
    allocate(&opened, &[Extent::new(0, 100), Extent::new(5000, 70)]);
    let used = [Extent::new(0, 50), Extent::new(40, 20), Extent::new(900, 200)];
    let found = opened.check(used).unwrap();
    let discrepancies = &found.discrepancies;
    assert_eq!(discrepancies.overlapping, [Extent::new(40, 10)]);
    assert_eq!(discrepancies.leaked, [Extent::new(60, 40), Extent::new(5000, 70)]);
    assert_eq!(discrepancies.unprotected, [Extent::new(900, 200)]);
    opened.repair(&found).unwrap();
    let left = opened.check([Extent::new(0, 60), Extent::new(900, 200)]).unwrap();
    assert!(left.is_clean(), "{left:?}");
    drop(opened);
    assert_eq!(place.open().allocator.free_blocks(), 10_000 - 260);
}

#[test]
fn a_transaction_of_another_allocator_is_refused() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks());
    let before = contents(opened.freelist.database());
    let other = freemap::Allocator::new(1000).unwrap();
    let mut transaction = other.begin();
    transaction.allocate(1).unwrap();
    let frozen = transaction.freeze();
    let mut batch = WriteBatch::default();
    let refused = opened.freelist.stage(&mut batch, frozen.delta());
    assert!(matches!(refused, Err(StageError::Foreign)));
    let mut bytes = Vec::new();
    frozen.delta().encode(&mut bytes);
    let decoded = freemap::Delta::decode(&bytes).unwrap();
    assert!(matches!(opened.freelist.stage(&mut batch, &decoded), Err(StageError::Foreign)));
    assert!(batch.is_empty());
    assert_eq!(contents(opened.freelist.database()), before);
}

#[test]
fn impossible_options_are_refused_before_anything_is_written() {
    let place = Place::new();
    let db = place.database();
    let create = |blocks, options: CreateOptions| {
        RocksFreelist::create(db.clone(), FAMILY, blocks, &options).map(|_| ()).unwrap_err()
    };
    let error = create(0, CreateOptions::new());
    assert!(matches!(error, RocksError::Config(ConfigError::NoBlocks)), "{error}");
    let error = create(freemap::MAX_BLOCKS + 1, CreateOptions::new());
    assert!(matches!(error, RocksError::Config(ConfigError::TooManyBlocks { .. })), "{error}");
    let error = create(1000, CreateOptions::new().block_size(1000));
    assert!(matches!(error, RocksError::Config(ConfigError::BlockSize { .. })), "{error}");
    for chunk_blocks in [0, 1, 32, 100, 1 << 21, u64::MAX] {
        let error = create(1000, CreateOptions::new().chunk_blocks(chunk_blocks));
        assert!(matches!(error, RocksError::Option { name: "chunk_blocks", .. }), "{error}");
    }
    let bitmap = RocksFreelist::create_from_bitmap(
        db.clone(),
        FAMILY,
        1000,
        &[0; 15],
        &CreateOptions::new(),
    );
    assert!(matches!(bitmap, Err(RocksError::Config(ConfigError::BitmapLength { .. }))));
    let error = RocksFreelist::create(db.clone(), "other", 1000, &CreateOptions::new());
    assert!(matches!(error, Err(RocksError::NoFamily { .. })));
    let error = RocksFreelist::open(db.clone(), FAMILY, &OpenOptions::new());
    assert!(matches!(error, Err(RocksError::NoFreelist { .. })));
    assert_eq!(contents(&db), []);
}

#[test]
fn what_is_there_is_not_destroyed() {
    let place = Place::new();
    let opened = place.create(1000, &CreateOptions::new());
    allocate(&opened, &[Extent::new(0, 10)]);
    let db = opened.freelist.database().clone();
    let again = RocksFreelist::create(db.clone(), FAMILY, 1000, &CreateOptions::new());
    assert!(matches!(again, Err(RocksError::InUse { .. })));
    let again = RocksFreelist::open(db.clone(), FAMILY, &OpenOptions::new());
    assert!(matches!(again, Err(RocksError::InUse { .. })));
    let again = Freelist::rechunk(&db, FAMILY, 64, |_| std::ops::ControlFlow::Continue(()));
    assert!(matches!(again, Err(RocksError::InUse { .. })));
    drop(opened);
    let before = contents(&db);
    let again = RocksFreelist::create(db.clone(), FAMILY, 1000, &CreateOptions::new());
    assert!(matches!(again, Err(RocksError::Exists { .. })));
    let wrong = RocksFreelist::open(db.clone(), FAMILY, &OpenOptions::new().expect_blocks(999));
    let Err(RocksError::Geometry { expected: 999, found: 1000, .. }) = wrong else {
        panic!("{wrong:?}")
    };
    assert_eq!(contents(&db), before);
    let options = CreateOptions::new().overwrite();
    let opened = RocksFreelist::create(db.clone(), FAMILY, 500, &options).unwrap();
    assert_eq!(opened.allocator.free_blocks(), 500);
}

/// What a creation leaves that is cut short: chunks, and word that it has begun.
#[test]
fn a_creation_that_was_cut_short_is_no_freelist_and_in_nobodys_way() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks());
    allocate(&opened, &[Extent::new(0, 1000)]);
    let db = opened.freelist.database().clone();
    drop(opened);
    let family = db.cf_handle(FAMILY).unwrap();
    db.delete_cf(&family, b"meta").unwrap();
    let open = || RocksFreelist::open(db.clone(), FAMILY, &OpenOptions::new());
    let create = || RocksFreelist::create(db.clone(), FAMILY, 1000, &small_chunks());
    // Chunks alone are what is left of a freelist: perhaps all that is known of the device.
    assert!(matches!(open(), Err(RocksError::NoFreelist { .. })));
    assert!(matches!(create(), Err(RocksError::Exists { .. })));
    db.put_cf(&family, b"begun", b"fm-rocks").unwrap();
    assert!(matches!(open(), Err(RocksError::NoFreelist { .. })));
    let opened = create().unwrap();
    assert_eq!(opened.allocator.free_blocks(), 1000);
    assert_clean(&opened);
    drop(opened);
    assert_eq!(open().unwrap().allocator.free_blocks(), 1000);
}

/// Keys of eight bytes, as chunks have: the commonest there are.
#[test]
fn somebody_elses_column_family_is_not_touched() {
    let place = Place::new();
    let mut others = Options::default();
    others.create_missing_column_families(true);
    others.create_if_missing(true);
    for options in [Options::default(), RocksFreelist::family_options()] {
        let db: std::sync::Arc<DB> =
            DB::open_cf_with_opts(&others, place.path(), [(FAMILY, options)]).unwrap().into();
        let family = db.cf_handle(FAMILY).unwrap();
        for key in 0..10u64 {
            db.put_cf(&family, key.to_be_bytes(), b"an object").unwrap();
        }
        let before = contents(&db);
        let created = RocksFreelist::create(db.clone(), FAMILY, 1000, &CreateOptions::new());
        assert!(matches!(created, Err(RocksError::Exists { .. })), "{created:?}");
        assert_eq!(contents(&db), before);
    }
}

/// The last operand wins: not what the freelist needs.
fn replace(_: &[u8], _: Option<&[u8]>, operands: &MergeOperands) -> Option<Vec<u8>> {
    operands.iter().last().map(<[u8]>::to_vec)
}

#[test]
fn a_column_family_without_our_operator_is_refused() {
    let place = Place::new();
    place.create(1000, &CreateOptions::new()).freelist.fold().unwrap();
    let mut other = Options::default();
    other.set_merge_operator_associative("replace", replace);
    for options in [Options::default(), other] {
        let db = DB::open_cf_with_opts(&Options::default(), place.path(), [(FAMILY, options)]);
        let opened = RocksFreelist::open(db.unwrap().into(), FAMILY, &OpenOptions::new());
        assert!(matches!(opened, Err(RocksError::Operator { .. })), "{opened:?}");
    }
    assert_eq!(place.open().allocator.free_blocks(), 1000);
}

/// Whatever bloom filters and prefixes it is given, a scan sees all of the family.
#[test]
fn a_column_family_with_a_prefix_extractor_is_read_whole() {
    let place = Place::new();
    let mut options = RocksFreelist::family_options();
    options.set_prefix_extractor(rocksdb::SliceTransform::create_fixed_prefix(8));
    options.set_memtable_prefix_bloom_ratio(0.2);
    let mut table = rocksdb::BlockBasedOptions::default();
    table.set_bloom_filter(10.0, false);
    options.set_block_based_table_factory(&table);
    let mut create = Options::default();
    create.create_if_missing(true);
    create.create_missing_column_families(true);
    let open = || -> std::sync::Arc<DB> {
        let families = [(FAMILY, options.clone())];
        DB::open_cf_with_opts(&create, place.path(), families).unwrap().into()
    };
    let opened = RocksFreelist::create(open(), FAMILY, 1 << 20, &small_chunks()).unwrap();
    let extents: Vec<Extent> = (0..1000).map(|number| Extent::new(1000 * number, 3)).collect();
    allocate(&opened, &extents);
    assert!(opened.check(extents.clone()).unwrap().is_clean());
    drop(opened);
    let opened = RocksFreelist::open(open(), FAMILY, &OpenOptions::new()).unwrap();
    assert_eq!(opened.report.allocated, 3000);
}

#[test]
fn a_database_that_was_opened_read_only_can_be_inspected() {
    let place = Place::new();
    allocate(&place.create(1000, &small_chunks()), &[Extent::new(0, 100)]);
    let families = [(FAMILY, RocksFreelist::family_options())];
    let db =
        DB::open_cf_with_opts_for_read_only(&Options::default(), place.path(), families, false);
    let db = db.unwrap();
    let (allocator, report) = Freelist::inspect(&db, FAMILY, &OpenOptions::new()).unwrap();
    assert_eq!((allocator.free_blocks(), report.allocated), (900, 100));
    let opened = RocksFreelist::open(db.into(), FAMILY, &OpenOptions::new());
    assert!(matches!(opened, Err(RocksError::Database { .. })), "{opened:?}");
}

/// A batch that merges into a family without an operator: RocksDB refuses every write after it.
fn spoil(db: &DB) {
    let mut batch = WriteBatch::default();
    batch.merge(b"key", b"value");
    assert!(db.write(batch).is_err());
    assert!(db.put(b"key", b"value").is_err());
}

#[test]
fn nobody_gets_the_blocks_of_a_transaction_whose_write_failed() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks());
    allocate(&opened, &[Extent::new(0, 100)]);
    spoil(opened.freelist.database());
    let (mut transaction, old) = (opened.allocator.begin(), Extent::new(50, 5));
    let new = transaction.allocate(10).unwrap();
    transaction.free(old).unwrap();
    let failed = transaction.commit(&opened.freelist).unwrap_err();
    assert!(matches!(failed.error, StageError::Doubt(_)) && failed.error.leaves_doubt());
    drop(failed);
    let taken = |extent| opened.allocator.is_allocated(extent) == Ok(true);
    opened.allocator.collect();
    assert!(taken(new) && taken(old));
    assert_eq!(opened.allocator.free_blocks(), 890);

    let mut transaction = opened.allocator.begin();
    transaction.allocate(10).unwrap();
    transaction.free(Extent::new(0, 20)).unwrap();
    let refused = opened.freelist.commit_with(
        transaction.freeze(),
        &rocksdb::WriteOptions::default(),
        |_| panic!("no write is tried before RocksDB takes them again"),
    );
    assert!(matches!(refused, Err(StageError::Refused(_))), "{refused:?}");
    opened.allocator.collect();
    assert_eq!(opened.allocator.free_blocks(), 890, "the second is rolled back");
    // The live database has neither, and the committed state agrees with it.
    let found = opened.check([Extent::new(0, 100)]).unwrap();
    assert!(found.set_behind.is_empty() && found.cleared_behind.is_empty(), "{found:?}");
    assert_eq!(found.unrecorded, [new]);
}

#[test]
fn a_refused_transaction_is_not_written_at_all() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks());
    allocate(&opened, &[Extent::new(0, 100)]);
    opened.allocator.mark_allocated(Extent::new(500, 1)).unwrap();
    let mut transaction = opened.allocator.begin();
    transaction.free(Extent::new(500, 1)).unwrap();
    transaction.allocate(7).unwrap();
    let sequence = opened.freelist.database().latest_sequence_number();
    let result = opened.freelist.commit_with(
        transaction.freeze(),
        &rocksdb::WriteOptions::default(),
        |_| panic!("not asked for"),
    );
    assert!(matches!(result, Err(StageError::Conflict { block: 500 })), "{result:?}");
    assert_eq!(opened.freelist.database().latest_sequence_number(), sequence);
    assert_eq!(opened.allocator.free_blocks(), 899);

    // And one that is called committed all the same frees nothing.
    let mut transaction = opened.allocator.begin();
    transaction.free(Extent::new(500, 1)).unwrap();
    transaction.freeze().committed();
    opened.allocator.collect();
    assert_eq!(opened.allocator.free_blocks(), 899);
}

#[test]
fn nobody_gets_the_blocks_of_a_thread_that_panicked_in_its_commit() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks());
    let mut extent = None;
    assert_panics(|| {
        let mut transaction = opened.allocator.begin();
        extent = Some(transaction.allocate(10).unwrap());
        let frozen = transaction.freeze();
        let mut batch = WriteBatch::default();
        opened.freelist.stage(&mut batch, frozen.delta()).unwrap();
        opened.freelist.database().write(batch).unwrap();
        panic!("between the write and the word that it is done");
    });
    assert_eq!(opened.allocator.is_allocated(extent.unwrap()), Ok(true));
    assert_clean(&opened);
    // One that was not being committed is rolled back.
    assert_panics(|| {
        let mut transaction = opened.allocator.begin();
        transaction.allocate(10).unwrap();
        panic!("before the commit");
    });
    assert_eq!(opened.allocator.free_blocks(), 990);
}

/// After a panic between freezing and writing, what was to be freed can be freed by another.
#[test]
fn a_panic_before_the_write_keeps_nothing_from_being_freed() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks());
    allocate(&opened, &[Extent::new(0, 100)]);
    assert_panics(|| {
        let mut transaction = opened.allocator.begin();
        transaction.free(Extent::new(0, 50)).unwrap();
        let _frozen = transaction.freeze();
        panic!("before the write");
    });
    assert_clean(&opened);
    free(&opened, &[Extent::new(0, 100)]);
    assert_clean(&opened);
    assert_eq!(opened.allocator.free_blocks(), 1000);
}

/// It frees what another has frozen and given up since. The rest goes on.
#[test]
fn a_transaction_that_builds_on_one_that_was_given_up_harms_nobody_else() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks());
    let mut first = opened.allocator.begin();
    let extent = first.allocate(100).unwrap();
    let first = first.freeze();
    let mut second = opened.allocator.begin();
    second.free(Extent::new(extent.start, 1)).unwrap();
    let second = second.freeze();
    assert_eq!(second.delta().conflict(), None);
    drop(first);
    drop(second);
    assert_eq!(opened.allocator.free_blocks(), 1000);
    allocate(&opened, &[Extent::new(extent.start + 1, 99)]);
}

/// Whether the new size is on disk nobody knows, and nobody commits to what may be cut off.
#[test]
fn a_change_of_the_size_whose_write_failed_lets_nobody_behind_the_end() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks());
    allocate(&opened, &[Extent::new(0, 100)]);
    spoil(opened.freelist.database());
    let failed = opened.freelist.shrink(opened.allocator.shrink(500).unwrap()).unwrap_err();
    // RocksDB goes on to say why it takes no writes.
    assert!(matches!(failed.error, RocksError::Operator { .. }), "{failed}");
    drop(failed);
    assert_eq!((opened.allocator.blocks(), opened.freelist.blocks()), (1000, 1000));
    let mut transaction = opened.allocator.begin();
    transaction.mark_allocated(Extent::new(900, 1)).unwrap();
    let frozen = transaction.freeze();
    let mut batch = WriteBatch::default();
    let refused = opened.freelist.stage(&mut batch, frozen.delta());
    assert!(matches!(refused, Err(StageError::Refused(_))), "{refused:?}");
    assert!(batch.is_empty());
    drop(frozen);
    let grown = opened.freelist.grow(&opened.allocator, 2000);
    assert!(matches!(grown, Err(RocksError::Operator { .. })), "{grown:?}");
    assert_eq!((opened.allocator.blocks(), opened.allocator.free_blocks()), (1000, 900));
    drop(opened);
    let opened = place.open();
    assert!([500, 1000, 2000].contains(&opened.allocator.blocks()));
    assert_eq!(opened.report.allocated, 100);
}

/// The allocator was resized, and not through the freelist.
#[test]
fn what_the_freelist_has_no_room_for_is_refused() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks());
    opened.allocator.grow(2000).unwrap();
    let mut transaction = opened.allocator.begin();
    transaction.mark_allocated(Extent::new(990, 20)).unwrap();
    let refused = transaction.commit(&opened.freelist).unwrap_err();
    assert!(matches!(refused.error, StageError::Range(_)), "{refused}");
    // Told of it, it takes the same transaction.
    opened.freelist.grow(&opened.allocator, 2000).unwrap();
    refused.transaction.commit(&opened.freelist).unwrap();
    assert_clean(&opened);
    drop(opened);
    let opened = place.open();
    assert_eq!((opened.report.blocks, opened.report.allocated), (2000, 20));
    // And the other way round: the size is then the one that the allocator has.
    allocate(&opened, &[Extent::new(1700, 10)]);
    free(&opened, &[Extent::new(1700, 10)]);
    opened.allocator.shrink(1500).unwrap().finish().unwrap();
    assert_eq!(opened.freelist.blocks(), 2000);
    opened.freelist.grow(&opened.allocator, 1500).unwrap();
    assert_clean(&opened);
    drop(opened);
    assert_eq!(place.open().report.blocks, 1500);
}
