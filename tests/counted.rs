//! What `memory` counts, against an allocator of the process that counts every byte.

mod alone;

use std::alloc::System;

use alone::alone;
use freemap::{
    Allocator, Authority, Class, CreateOptions, Extent, FileDisk, Handle, OpenOptions, Request,
    SpaceMapLog,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static PROCESS: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes that the process has on its heap.
fn on_heap() -> usize {
    let stats = PROCESS.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// `counted` is `real`, to a twentieth and 16 KiB.
#[track_caller]
fn assert_close(counted: usize, real: usize, what: &str) {
    let tolerance = real / 20 + (16 << 10);
    assert!(counted.abs_diff(real) <= tolerance, "{what}: {counted} counted, {real} on the heap");
}

/// Has the pool of threads begin, whose memory is nobody's here.
fn warm_up() {
    drop(Allocator::new(1 << 24).unwrap());
}

/// Every second block allocated.
fn striped(blocks: u64) -> Vec<u64> {
    vec![0x5555_5555_5555_5555; (blocks / 64) as usize]
}

#[test]
fn an_allocator_counts_what_it_has() {
    alone("an_allocator_counts_what_it_has", || {
        warm_up();
        let before = on_heap();
        let make: [fn() -> Allocator; 4] = [
            || Allocator::new(1 << 24).unwrap(),
            || Allocator::builder(1 << 28).build_allocated().unwrap(),
            || Allocator::builder(1 << 24).build_with_ledger(striped(1 << 24)).unwrap(),
            || Allocator::new(1000).unwrap(),
        ];
        for (index, make) in make.iter().enumerate() {
            let allocator = make();
            let counted = || allocator.memory().total();
            assert_close(counted(), on_heap() - before, &format!("new, {index}"));
            allocator.grow(2 * allocator.blocks() + 12_345).unwrap();
            assert_close(counted(), on_heap() - before, &format!("grown, {index}"));
            allocator.survey().finish();
            assert_close(counted(), on_heap() - before, &format!("surveyed, {index}"));
            let region = allocator.close(Extent::new(0, 900)).unwrap();
            assert_close(counted(), on_heap() - before, &format!("closed, {index}"));
            drop(region);
        }
    });
}

/// 10,000 handles had 220 MB that `memory` knew nothing of.
#[test]
fn handles_count_what_they_have() {
    alone("handles_count_what_they_have", || {
        const HANDLES: usize = 10_000;
        warm_up();
        let allocator = Allocator::new(1 << 22).unwrap();
        let (before, without) = (on_heap(), allocator.memory());
        let mut handles: Vec<Handle> = (0..HANDLES).map(|_| allocator.handle()).collect();
        handles.shrink_to_fit();
        let counted = || allocator.memory().handles - without.handles;
        assert_close(counted(), on_heap() - before, "new");
        for handle in &mut handles {
            let extent = handle.allocate(3).unwrap();
            handle.free(extent).unwrap();
        }
        assert_close(counted(), on_heap() - before, "after a request for 3 blocks");
        for handle in &mut handles[..100] {
            for len in 1..600 {
                let extent = handle.allocate(len).unwrap();
                handle.free(extent).unwrap();
            }
        }
        assert_close(counted(), on_heap() - before, "after many requests");
        println!("{} bytes for each of {HANDLES} handles", counted() / HANDLES);
        drop(handles);
        assert_eq!(counted(), 0);

        // Threads that use the allocator itself, and streams. A scope alone does not wait for what
        // a thread does at its very end, a join does.
        std::thread::scope(|scope| {
            let work = || allocator.free(allocator.allocate(7).unwrap()).unwrap();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        let stream = allocator.stream(freemap::Class::BULK);
        assert!(counted() > 0);
        drop(stream);
        assert_eq!(counted(), 0, "the threads have ended");
    });
}

/// A stream goes on behind its last extent, so it has none of the memories of a handle.
#[test]
fn streams_are_small() {
    alone("streams_are_small", || {
        const STREAMS: usize = 1000;
        let allocator = Allocator::from_bitmap(1 << 20, &striped(1 << 20)).unwrap();
        let without = allocator.memory().handles;
        let mut streams: Vec<_> = (0..STREAMS).map(|_| allocator.stream(Class::BULK)).collect();
        for stream in &mut streams {
            stream.allocate(1).unwrap();
            stream.allocate_with(&Request::new(16).scattered()).unwrap();
        }
        let each = (allocator.memory().handles - without) / STREAMS;
        println!("{each} bytes for each of {STREAMS} streams");
        assert!(each < 2 << 10, "{each} bytes");
    });
}

#[test]
fn the_quarantine_counts_what_waits() {
    alone("the_quarantine_counts_what_waits", || {
        warm_up();
        let allocator = Allocator::new(1 << 22).unwrap();
        let mut batches: Vec<Vec<Extent>> = Vec::new();
        for size in [1u64, 1000] {
            for _ in 0..20_000 / size {
                batches.push((0..size).map(|_| allocator.allocate(2).unwrap()).collect());
            }
        }
        let guard = allocator.pin();
        let (before, idle) = (on_heap(), allocator.memory().quarantine);
        for batch in &batches {
            let mut transaction = allocator.begin();
            batch.iter().for_each(|&extent| transaction.free(extent).unwrap());
            transaction.freeze().committed();
        }
        let counted = allocator.memory().quarantine - idle;
        assert!(counted > 20_000 * 16, "{counted} bytes");
        assert_close(counted, on_heap() - before, "retired");
        drop(guard);
        allocator.collect();
        assert_eq!(allocator.memory().quarantine - idle, counted, "kept for others");
    });
}

#[test]
fn a_log_counts_what_it_has() {
    alone("a_log_counts_what_it_has", || {
        warm_up();
        let directory = tempfile::tempdir().unwrap();
        for authority in [Authority::Log, Authority::Engine] {
            let path = directory.path().join(format!("{authority:?}"));
            let options = CreateOptions::new().limit(8 << 20).sparse().authority(authority);
            let disk = FileDisk::open(&path).unwrap();
            drop(SpaceMapLog::create(disk, 1 << 24, &options).unwrap());
            let before = on_heap();
            let opened =
                SpaceMapLog::open(FileDisk::open(&path).unwrap(), &OpenOptions::new()).unwrap();
            let counted = || opened.log.memory().total() + opened.allocator.memory().total();
            assert_close(counted(), on_heap() - before, &format!("{authority:?}, opened"));
            let beside = opened.log.memory().total();
            assert_close(opened.log.memory().committed, (1 << 24) / 8, "the committed state");
            let mut last = None;
            for _ in 0..600 {
                let mut transaction = opened.allocator.begin();
                for _ in 0..20 {
                    transaction.allocate(900).unwrap();
                }
                let next = transaction.allocate(800).unwrap();
                // Under the engine's authority this waits for the engine's own log.
                if let Some(last) = last.replace(next) {
                    transaction.free(last).unwrap();
                }
                transaction.commit(&opened.log).unwrap();
            }
            assert_close(counted(), on_heap() - before, &format!("{authority:?}, committed"));
            assert!(opened.log.memory().total() > beside);

            // Queued, and written by nobody yet.
            let pending: Vec<_> = (0..2000)
                .map(|_| {
                    let mut transaction = opened.allocator.begin();
                    transaction.allocate(1).unwrap();
                    opened.log.submit(transaction.freeze()).unwrap()
                })
                .collect();
            let queued = opened.log.memory().queued;
            let owned = size_of_val(&pending[..]);
            assert!(queued > 2000 * 12);
            assert_close(counted(), on_heap() - before - owned, &format!("{authority:?}, queued"));
            for pending in pending {
                pending.wait().unwrap();
            }
            if authority == Authority::Engine {
                opened.log.stable(opened.log.last()).unwrap();
            }
            opened.log.condense().unwrap();
            assert_close(counted(), on_heap() - before, &format!("{authority:?}, condensed"));
        }
    });
}
