//! What an engine can do wrong, and how it is told.

use freemap::rocks::{CreateOptions, OpenOptions, RocksError, StageError};
use freemap::{ConfigError, Extent, RocksFreelist, Transaction};
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
    let opened = place.create(1000, &small_chunks());
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
    opened.allocator.mark_allocated(lost).unwrap();
    assert_clean(&opened);
}

/// Operands that the engine wrote itself, or staged a second time after others had changed the same
/// blocks: bits go where the operand says, none is flipped, and the check has them.
#[test]
fn what_is_written_behind_our_back_is_found_and_undone() {
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
    opened.repair(&opened.check(used).unwrap()).unwrap();
    assert!(opened.check(used).unwrap().is_clean());
    drop(opened);
    drop(db);
    assert_eq!(place.open().allocator.free_blocks(), 903);
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

/// A creation that was cut short has chunks but no description.
#[test]
fn a_creation_that_was_cut_short_is_no_freelist_and_in_nobodys_way() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks());
    allocate(&opened, &[Extent::new(0, 1000)]);
    let db = opened.freelist.database().clone();
    drop(opened);
    db.delete_cf(&db.cf_handle(FAMILY).unwrap(), b"meta").unwrap();
    let opened = RocksFreelist::open(db.clone(), FAMILY, &OpenOptions::new());
    assert!(matches!(opened, Err(RocksError::NoFreelist { .. })));
    let opened = RocksFreelist::create(db, FAMILY, 1000, &small_chunks()).unwrap();
    assert_eq!(opened.allocator.free_blocks(), 1000);
    assert_clean(&opened);
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

/// Every write to a database that was opened read-only is refused.
#[test]
fn a_write_that_rocksdb_refuses_gives_the_blocks_back() {
    let place = Place::new();
    allocate(&place.create(1000, &small_chunks()), &[Extent::new(0, 100)]);
    let families = [(FAMILY, RocksFreelist::family_options())];
    let db =
        DB::open_cf_with_opts_for_read_only(&Options::default(), place.path(), families, false);
    let db = db.unwrap();
    let (allocator, report) = Freelist::inspect(&db, FAMILY, &OpenOptions::new()).unwrap();
    assert_eq!((allocator.free_blocks(), report.allocated), (900, 100));
    let opened = RocksFreelist::open(db.into(), FAMILY, &OpenOptions::new());
    assert!(matches!(opened, Err(RocksError::Operator { .. } | RocksError::Database { .. })));
}
