//! Discards beside threads that allocate and free.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use freemap::{Allocator, Batch, DiscardLimits, Discarding, Extent, Request};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

const BLOCKS: u64 = 30_000;
/// What a block holds that was discarded.
const NOTHING: u8 = 99;

/// A device that forgets what it is told to discard, and the allocator of its blocks.
struct Device {
    allocator: Allocator,
    data: Vec<AtomicU8>,
    stop: AtomicBool,
}

impl Device {
    fn fill(&self, extent: Extent, value: u8) {
        for block in extent.start..extent.start + extent.len {
            self.data[block as usize].store(value, SeqCst);
        }
    }

    /// Allocates, writes, reads back and frees until it is told to stop.
    fn work(&self, thread: u8) {
        let mut random = Pcg64::seed_from_u64(thread.into());
        let mut handle = self.allocator.handle();
        let mut owned: Vec<Extent> = Vec::new();
        while !self.stop.load(SeqCst) {
            let request = Request::new(random.random_range(1..300)).scattered();
            for &extent in handle.allocate_with(&request).iter().flatten() {
                self.fill(extent, thread);
                owned.push(extent);
            }
            while owned.len() > 50 {
                let extent = owned.swap_remove(random.random_range(0..owned.len()));
                let range = extent.start as usize..(extent.start + extent.len) as usize;
                assert!(self.data[range].iter().all(|block| block.load(SeqCst) == thread));
                handle.free(extent).unwrap();
            }
        }
        owned.into_iter().for_each(|extent| handle.free(extent).unwrap());
    }

    /// Does what it was told: some batches at once, the others in another order.
    fn discard(&self, batches: impl Iterator<Item = Batch>) {
        let mut random = Pcg64::seed_from_u64(0);
        let mut under_way: Vec<Batch> = Vec::new();
        let discard = |batch: Batch| {
            batch.extents().iter().for_each(|&extent| self.fill(extent, NOTHING));
        };
        for batch in batches {
            under_way.push(batch);
            if under_way.len() == 16 || random.random_bool(0.5) {
                discard(under_way.swap_remove(random.random_range(0..under_way.len())));
            }
        }
        under_way.into_iter().for_each(discard);
    }
}

/// What a caller has written is there until it frees the blocks, with batches that another thread completes in any
/// order, and discarders that come and go meanwhile.
#[test]
fn nothing_in_use_is_discarded() {
    let device = Device {
        allocator: Allocator::new(BLOCKS).unwrap(),
        data: (0..BLOCKS).map(|_| AtomicU8::new(0)).collect(),
        stop: AtomicBool::new(false),
    };
    let told = Mutex::new(0);
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(16);
        (1..=3).for_each(|thread| {
            drop(scope.spawn({
                let device = &device;
                move || device.work(thread)
            }))
        });
        scope.spawn(|| device.discard(receiver.into_iter()));
        let (device, told) = (&device, &told);
        scope.spawn(move || {
            let mut now = Instant::now();
            for round in 0..30 {
                let limits = DiscardLimits::new().batch(500, 10).waiting(5000);
                let limits =
                    limits.granularity(1 + round % 7).alignment(round).shortest(round % 11);
                let limits = limits.linger(Duration::from_millis(50));
                let mut discarder = device.allocator.discarder(limits).unwrap();
                for _ in 0..200 {
                    now += Duration::from_millis(1);
                    if let Discarding::Batch(batch) = discarder.next(now) {
                        *told.lock().unwrap() += batch.blocks();
                        sender.send(batch).unwrap();
                    }
                    if round % 3 == 0 {
                        std::thread::yield_now();
                    }
                }
            }
            device.stop.store(true, SeqCst);
        });
    });
    let (stats, told) = (device.allocator.stats(), told.into_inner().unwrap());
    assert!(told > 0);
    assert_eq!((stats.discarding_blocks, stats.discard_waiting_blocks), (0, 0));
    assert_eq!(stats.counters.discarded_blocks, told);
    assert_eq!(stats.free_blocks, BLOCKS);
    assert!(device.allocator.verify().is_clean());
}
