//! Devices that become larger and smaller.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use freemap::rocks::{CreateOptions, OpenOptions, Opened, RocksError, StageError};
use freemap::{Allocator, Extent, ResizeError, RocksFreelist, ShrinkFailed};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rocksdb::{DB, SingleThreaded, WriteOptions};

use super::torn::{Objects, objects, put, torn_copy};
use super::{
    FAMILY, Place, allocate, assert_clean, chunks, contents, free, open_database, small_chunks,
};

/// Frees what is behind the first `blocks` blocks, and cuts it off.
fn shrink(opened: &Opened<SingleThreaded>, blocks: u64) -> Result<(), RocksError> {
    opened.allocator.collect();
    let shrink = opened.allocator.shrink(blocks).unwrap();
    let live: Vec<Extent> = shrink.live_extents().collect();
    free(opened, &live);
    opened.freelist.shrink(shrink).map_err(ShrinkFailed::into_error)
}

#[track_caller]
fn assert_size(opened: &Opened<SingleThreaded>, blocks: u64, free: u64) {
    assert_eq!((opened.freelist.blocks(), opened.allocator.blocks()), (blocks, blocks));
    assert_eq!(opened.allocator.free_blocks(), free);
    assert_clean(opened);
}

#[test]
fn a_device_can_grow_and_shrink_while_it_is_open() {
    for chunk_blocks in [64, 4096, 1 << 20] {
        let place = Place::new();
        let mut opened = place.create(1000, &CreateOptions::new().chunk_blocks(chunk_blocks));
        allocate(&opened, &[Extent::new(990, 10)]);
        opened.freelist.grow(&opened.allocator, 100_000).unwrap();
        allocate(&opened, &[Extent::new(0, 64), Extent::new(1000, 99_000)]);
        assert_size(&opened, 100_000, 926);
        for restart in [true, false] {
            if restart {
                drop(opened);
                opened = place.open();
            } else {
                opened.freelist.fold().unwrap();
            }
            assert_size(&opened, 100_000, 926);
            // In the middle of a word, and of a chunk.
            shrink(&opened, 5003).unwrap();
            assert_size(&opened, 5003, 926);
            let kept = chunks(opened.freelist.database());
            assert!(kept.iter().all(|&number| number * chunk_blocks < 5003), "{kept:?}");
            drop(opened);
            opened = place.open();
            assert_size(&opened, 5003, 926);
            // What comes back is free.
            opened.freelist.grow(&opened.allocator, 100_000).unwrap();
            assert_size(&opened, 100_000, 926 + 94_997);
            allocate(&opened, &[Extent::new(5003, 94_997)]);
        }
        drop(opened);
        assert_size(&place.open(), 100_000, 926);
    }
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let place = Place::new();
    let opened = place.create(1000, &small_chunks());
    allocate(&opened, &[Extent::new(100, 100), Extent::new(900, 3)]);
    let before = contents(opened.freelist.database());
    let other = Allocator::new(1000).unwrap();
    let foreign = opened.freelist.grow(&other, 2000);
    assert!(matches!(foreign, Err(RocksError::Commit(StageError::Foreign))), "{foreign:?}");
    let foreign = opened.freelist.shrink(other.shrink(500).unwrap()).unwrap_err();
    assert!(matches!(foreign.error, RocksError::Commit(StageError::Foreign)), "{foreign}");
    for blocks in [0, 999, freemap::MAX_BLOCKS + 1] {
        let error = opened.freelist.grow(&opened.allocator, blocks).unwrap_err();
        assert!(matches!(error, RocksError::Resize(_)), "{error}");
    }
    let failed = opened.freelist.shrink(opened.allocator.shrink(500).unwrap()).unwrap_err();
    assert!(matches!(failed.error, RocksError::Resize(ResizeError::InUse { live: 3 })), "{failed}");
    drop(failed);
    assert_eq!(contents(opened.freelist.database()), before);
    assert_size(&opened, 1000, 897);
    allocate(&opened, &[Extent::new(999, 1)]);

    let begun = opened.allocator.shrink(999).unwrap();
    opened.freelist.grow(&opened.allocator, 1001).unwrap();
    let failed = opened.freelist.shrink(begun).unwrap_err();
    let RocksError::Resize(ResizeError::Length { blocks: 1001, .. }) = failed.error else {
        panic!("{failed}")
    };
    drop(failed);
    assert_size(&opened, 1001, 897);
    drop(opened);
    assert_size(&place.open(), 1001, 897);
}

/// Freed without a transaction, and written behind our back, in the chunk where the device would end, and
/// in a later one.
#[test]
fn what_is_allocated_in_the_database_is_not_cut_off() {
    for (block, chunk) in [(510, 7u64), (900, 14)] {
        let place = Place::new();
        let opened = place.create(1000, &small_chunks().allow_plain_frees());
        allocate(&opened, &[Extent::new(block, 1)]);
        opened.allocator.free(Extent::new(block, 1)).unwrap();
        let failed = opened.freelist.shrink(opened.allocator.shrink(500).unwrap()).unwrap_err();
        let RocksError::Occupied { block: found, .. } = failed.error else { panic!("{failed}") };
        assert_eq!(found, block);
        drop(failed);
        opened.allocator.mark_allocated(Extent::new(block, 1)).unwrap();
        free(&opened, &[Extent::new(block, 1)]);

        let db = opened.freelist.database().clone();
        let family = db.cf_handle(FAMILY).unwrap();
        // A run of one block, of (gap << 2 | set), of the order 6.
        let operand = |set: u8| [6, ((block % 64) as u8) << 2 | set];
        let key = chunk.to_be_bytes();
        let behind = |set: u8| {
            let [order, head] = operand(set);
            match block % 64 < 32 {
                true => db.merge_cf(&family, key, [order, head]).unwrap(),
                false => db.merge_cf(&family, key, [order, head | 0x80, 1]).unwrap(),
            }
        };
        behind(1);
        let failed = opened.freelist.shrink(opened.allocator.shrink(500).unwrap()).unwrap_err();
        let RocksError::Occupied { block: found, .. } = failed.error else { panic!("{failed}") };
        assert_eq!(found, block);
        behind(0);
        opened.freelist.shrink(failed.shrink).unwrap();
        assert_size(&opened, 500, 500);
        drop((opened, db));
        assert_size(&place.open(), 500, 500);
    }
}

/// The end of the write-ahead log is lost, at any place of a history with growth and shrinking: the
/// engine's objects, the freelist and its size are those of one moment.
#[test]
fn a_torn_write_ahead_log_leaves_the_size_of_its_moment() {
    let mut rng = Pcg64Mcg::seed_from_u64(8);
    let place = Place::new();
    drop(place.create(3000, &small_chunks()));
    let db = place.database();
    let opened = RocksFreelist::open(db.clone(), FAMILY, &OpenOptions::new()).unwrap();
    let mut states = vec![(Objects::new(), 3000)];
    let mut resizes = 0;
    for step in 0..400u64 {
        let (mut objects, mut blocks) = states[states.len() - 1].clone();
        match step % 8 {
            0 => {
                blocks += rng.random_range(1..1500);
                opened.freelist.grow(&opened.allocator, blocks).unwrap();
                resizes += 1;
            }
            4 if blocks > 2500 => {
                let shrink = opened.allocator.shrink(blocks - rng.random_range(1..1500)).unwrap();
                let end = |extent: &Extent| extent.start + extent.len;
                let in_tail = |object: &(&u64, &Extent)| end(object.1) > shrink.blocks();
                let moving: Vec<u64> = objects.iter().filter(in_tail).map(|(&id, _)| id).collect();
                for id in moving {
                    put(&opened, &mut objects, id, Some(1 + id % 50));
                    states.push((objects.clone(), blocks));
                }
                blocks = shrink.blocks();
                opened.freelist.shrink(shrink).unwrap();
                resizes += 1;
            }
            _ => {
                let id = rng.random_range(0..40u64);
                let len = rng.random_bool(0.7).then(|| rng.random_range(1..50));
                put(&opened, &mut objects, id, len);
            }
        }
        states.push((objects, blocks));
    }
    assert!(resizes > 60, "{resizes}");
    drop((opened, db));
    let mut sizes = std::collections::BTreeSet::new();
    for round in 0..80 {
        let torn = torn_copy(place.path(), round, &mut rng);
        let db: Arc<DB> = Arc::new(open_database(torn.path()));
        let found = objects(&db);
        let opened = RocksFreelist::open(db, FAMILY, &OpenOptions::new()).unwrap();
        let moment = (found, opened.allocator.blocks());
        assert!(states.contains(&moment), "round {round}: no moment of the history: {moment:?}");
        let checked = opened.check(moment.0.into_values()).unwrap();
        assert!(checked.is_clean(), "round {round}: {checked:?}");
        // And on from there.
        opened.freelist.grow(&opened.allocator, moment.1 + 100).unwrap();
        shrink(&opened, 700).unwrap();
        assert_clean(&opened);
        sizes.insert(moment.1);
    }
    assert!(sizes.len() > 20, "{} sizes", sizes.len());
}

/// Transactions on several threads while the device grows and shrinks: nothing that is committed is lost,
/// and nobody is refused.
#[test]
fn transactions_go_on_while_the_size_changes() {
    let place = Place::new();
    let opened = place.create(20_000, &small_chunks());
    let stop = AtomicBool::new(false);
    let (stop, by_all) = (&stop, &opened);
    std::thread::scope(|scope| {
        for seed in 0..3 {
            scope.spawn(move || {
                let mut rng = Pcg64Mcg::seed_from_u64(seed);
                let mut owned: Vec<Extent> = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let mut transaction = by_all.allocator.begin();
                    if let Ok(new) = transaction.allocate(rng.random_range(1..60)) {
                        owned.push(new);
                    }
                    if owned.len() > 50 {
                        let last = (0..owned.len()).max_by_key(|&index| owned[index].start);
                        let random = rng.random_range(0..owned.len());
                        let old = last.filter(|_| rng.random()).unwrap_or(random);
                        transaction.free(owned.swap_remove(old)).unwrap();
                    }
                    let options = WriteOptions::default();
                    by_all.freelist.commit_with(transaction.freeze(), &options, |_| ()).unwrap();
                }
            });
        }
        let mut rng = Pcg64Mcg::seed_from_u64(77);
        let mut shrunk = 0;
        while shrunk < 30 {
            let blocks = opened.allocator.blocks();
            if blocks < 40_000 {
                let more = blocks + rng.random_range(1..20_000);
                opened.freelist.grow(&opened.allocator, more).unwrap();
            }
            let less = opened.allocator.blocks() - rng.random_range(1..10_000);
            let mut shrink = opened.allocator.shrink(less.max(20_000)).unwrap();
            for _ in 0..200 {
                match opened.freelist.shrink(shrink) {
                    Ok(()) => {
                        shrunk += 1;
                        break;
                    }
                    Err(failed) => {
                        let RocksError::Resize(ResizeError::InUse { .. }) = failed.error else {
                            panic!("{failed}")
                        };
                        shrink = failed.shrink;
                        std::thread::yield_now();
                    }
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_clean(&opened);
    let expected = (opened.allocator.blocks(), super::bitmap(&opened.allocator));
    drop(opened);
    let again = place.open();
    assert_eq!((again.allocator.blocks(), super::bitmap(&again.allocator)), expected);
}
