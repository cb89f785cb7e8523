//! Many threads at once, beside scans and folds.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use freemap::rocks::{CreateOptions, OpenOptions};
use freemap::{Extent, Request};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rocksdb::WriteBatch;

use super::{FAMILY, Freelist, Place};

const THREADS: u64 = 8;
const BLOCKS: u64 = 40_000;

#[test]
fn committers_scans_and_folds_do_not_disturb_each_other() {
    let place = Place::new();
    let opened = place.create(BLOCKS, &CreateOptions::new().chunk_blocks(512));
    let (allocator, freelist) = (&opened.allocator, &opened.freelist);
    let all = Mutex::new(Vec::new());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let committers: Vec<_> = (0..THREADS)
            .map(|seed| {
                let all = &all;
                scope.spawn(move || {
                    let mut rng = Pcg64Mcg::seed_from_u64(seed);
                    let mut handle = allocator.handle();
                    let mut owned: Vec<Extent> = Vec::new();
                    for _ in 0..500 {
                        let mut transaction = handle.begin();
                        let request = Request::new(rng.random_range(1..60)).scattered();
                        let new = transaction.allocate_with(&request);
                        let mut old = Vec::new();
                        while owned.len() > 50 || (!owned.is_empty() && rng.random_bool(0.5)) {
                            let extent = owned.swap_remove(rng.random_range(0..owned.len()));
                            transaction.free(extent).unwrap();
                            old.push(extent);
                        }
                        let frozen = transaction.freeze();
                        assert_eq!(frozen.delta().conflict(), None);
                        if rng.random_bool(0.1) {
                            owned.extend(old);
                            continue;
                        }
                        let mut batch = WriteBatch::default();
                        freelist.stage(&mut batch, frozen.delta()).unwrap();
                        freelist.database().write(batch).unwrap();
                        owned.extend(new.into_iter().flatten());
                        frozen.committed();
                    }
                    all.lock().unwrap().extend(owned);
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let options = OpenOptions::new();
                let (copy, report) =
                    Freelist::inspect(freelist.database(), FAMILY, &options).unwrap();
                assert_eq!(copy.free_blocks() + report.allocated, BLOCKS);
                freelist.fold().unwrap();
            }
        });
        for committer in committers {
            committer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    let owned = all.into_inner().unwrap();
    let found = opened.check(owned.iter().copied()).unwrap();
    assert!(found.is_clean(), "{found:?}");
    let blocks: u64 = owned.iter().map(|extent| extent.len).sum();
    drop(opened);
    let opened = place.open();
    assert_eq!(opened.report.allocated, blocks);
    assert!(opened.check(owned).unwrap().is_clean());
}
