//! Chunks of another size: the same state, whatever happens on the way.

use std::ops::ControlFlow;
use std::sync::Arc;

use freemap::rocks::{CreateOptions, OpenOptions, Progress, RocksError};
use freemap::{Extent, RocksFreelist};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rocksdb::DB;

use super::{FAMILY, Freelist, Place, allocate, assert_clean, bitmap, contents, free, resum};

/// Many steps: one covers 1 MiB of bitmap.
const BLOCKS: u64 = (1 << 26) + 12_345;

/// Extents in some chunks, at the borders of the device among them.
fn extents(seed: u64) -> Vec<Extent> {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let mut at = 0;
    let mut list = vec![Extent::new(0, 1)];
    loop {
        let (gap, len) = (rng.random_range(0..20), rng.random_range(1..13));
        at += 2 + rng.random_range(0..1u64 << gap);
        let len = rng.random_range(1..1u64 << len);
        if at + len >= BLOCKS {
            list.push(Extent::new(BLOCKS - 1, 1));
            return list;
        }
        list.push(Extent::new(at, len));
        at += len;
    }
}

fn rechunk(
    db: &Arc<DB>,
    chunk_blocks: u64,
    progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<bool, RocksError> {
    Freelist::rechunk(db, FAMILY, chunk_blocks, progress)
}

#[test]
fn every_size_holds_the_same_state() {
    let place = Place::new();
    let opened = place.create(BLOCKS, &CreateOptions::new());
    allocate(&opened, &extents(1));
    let before = bitmap(&opened.allocator);
    drop(opened);
    for chunk_blocks in [64, 128, 1 << 20, 1 << 19, 512, 32_768, 4096, 4096] {
        let db = place.database();
        let mut last = 0;
        let done = rechunk(&db, chunk_blocks, |progress| {
            assert!(last < progress.units && progress.units <= progress.of);
            last = progress.units;
            ControlFlow::Continue(())
        });
        assert!(done.unwrap());
        let opened = RocksFreelist::open(db, FAMILY, &OpenOptions::new()).unwrap();
        assert_eq!(opened.freelist.chunk_blocks(), chunk_blocks);
        assert!(bitmap(&opened.allocator) == before, "chunks of {chunk_blocks}");
        // It is used in between, so that operands wait above the values.
        free(&opened, &[Extent::new(0, 1)]);
        allocate(&opened, &[Extent::new(0, 1)]);
    }
    assert_clean_small(&place);
}

/// The whole check, on what is small enough to go through block by block.
fn assert_clean_small(place: &Place) {
    let opened = place.open();
    let found = opened.check(extents(1)).unwrap();
    assert!(found.is_clean());
}

/// Cut short after every single step, with the database closed and opened again; in between it is
/// refused as what it is.
#[test]
fn a_change_cut_short_at_any_step_goes_on() {
    for (from, to) in [(4096, 64), (64, 4096), (1 << 20, 512), (512, 1 << 20)] {
        let place = Place::new();
        let opened = place.create(BLOCKS, &CreateOptions::new().chunk_blocks(from));
        allocate(&opened, &extents(2));
        let before = bitmap(&opened.allocator);
        drop(opened);
        let mut steps = 0;
        while !rechunk(&place.database(), to, |_| ControlFlow::Break(())).unwrap() {
            steps += 1;
            let db = place.database();
            let opened = RocksFreelist::open(db.clone(), FAMILY, &OpenOptions::new());
            let Err(RocksError::Rechunking { target, .. }) = opened else { panic!("{opened:?}") };
            assert_eq!(target, to);
            let other =
                rechunk(&db, if to == 512 { 1024 } else { 256 }, |_| ControlFlow::Continue(()));
            assert!(matches!(other, Err(RocksError::Rechunking { target, .. }) if target == to));
        }
        assert!(steps >= 7, "{steps} steps");
        let opened = place.open();
        assert_eq!(opened.freelist.chunk_blocks(), to);
        assert!(bitmap(&opened.allocator) == before, "{from} to {to}");
    }
}

#[test]
fn a_small_device_with_pending_operands_and_growth() {
    let place = Place::new();
    let opened = place.create(1000, &CreateOptions::new().chunk_blocks(64));
    allocate(&opened, &[Extent::new(0, 130), Extent::new(990, 10)]);
    opened.freelist.grow(&opened.allocator, 5000).unwrap();
    drop(opened);
    for chunk_blocks in [1 << 20, 64, 256] {
        assert!(rechunk(&place.database(), chunk_blocks, |_| ControlFlow::Continue(())).unwrap());
        let opened = place.open();
        assert_eq!((opened.report.blocks, opened.report.allocated), (5000, 140));
        assert_clean(&opened);
    }
}

#[test]
fn damage_stops_it_before_it_is_made_worse() {
    let place = Place::new();
    let opened = place.create(1000, &CreateOptions::new().chunk_blocks(64));
    allocate(&opened, &[Extent::new(0, 1000)]);
    let db = opened.freelist.database().clone();
    drop(opened);
    db.put_cf(&db.cf_handle(FAMILY).unwrap(), 3u64.to_be_bytes(), [1; 12]).unwrap();
    let before = contents(&db);
    let stopped = rechunk(&db, 128, |_| ControlFlow::Continue(()));
    assert!(matches!(stopped, Err(RocksError::Damaged { .. })), "{stopped:?}");
    assert_eq!(contents(&db), before);
    for wrong in [0, 63, 1 << 21] {
        let refused = rechunk(&db, wrong, |_| ControlFlow::Continue(()));
        assert!(matches!(refused, Err(RocksError::Option { .. })), "{refused:?}");
    }
}

/// A description with the right checksum that says more than there can be.
#[test]
fn an_impossible_description_is_refused() {
    let place = Place::new();
    let opened = place.create(1000, &CreateOptions::new().chunk_blocks(64));
    allocate(&opened, &[Extent::new(0, 1000)]);
    let db = opened.freelist.database().clone();
    drop(opened);
    let family = db.cf_handle(FAMILY).unwrap();
    let sound = db.get_cf(&family, b"meta").unwrap().unwrap();
    for (target, units) in [(7, 8), (7, u64::MAX), (6, 0), (0, 1)] {
        let mut meta = sound.clone();
        meta[40] = target;
        meta[48..56].copy_from_slice(&units.to_le_bytes());
        resum(&mut meta);
        db.put_cf(&family, b"meta", meta).unwrap();
        let refused = rechunk(&db, 128, |_| ControlFlow::Continue(()));
        assert!(matches!(refused, Err(RocksError::Damaged { .. })), "{target}, {units}");
    }
}
