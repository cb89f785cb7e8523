//! What went wrong in other allocators and stores, as their users reported it, tried on the durable layer.

use freemap::{
    Allocator, Authority, CommitError, CreateOptions, Delta, Extent, FileDisk, LogError,
    OpenOptions, Opened, SpaceMapLog,
};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tempfile::TempDir;

/// A log in a folder of its own, to be closed and opened again.
struct Log {
    folder: TempDir,
}

impl Log {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn disk(&self) -> FileDisk {
        FileDisk::open(self.folder.path().join("log")).unwrap()
    }

    fn create(&self, blocks: u64, authority: Authority) -> Opened {
        let options = CreateOptions::new().limit(64 << 10).authority(authority);
        SpaceMapLog::create(self.disk(), blocks, &options).unwrap()
    }

    fn open(&self) -> Opened {
        SpaceMapLog::open(self.disk(), &OpenOptions::new()).unwrap()
    }
}

fn e(start: u64, len: u64) -> Extent {
    Extent::new(start, len)
}

/// A delta as an engine's own log gives it back.
fn delta(allocated: &[Extent], freed: &[Extent]) -> Delta {
    let device = Allocator::new(1 << 20).unwrap();
    freed.iter().for_each(|&extent| device.mark_allocated(extent).unwrap());
    let mut transaction = device.begin();
    allocated.iter().for_each(|&extent| transaction.mark_allocated(extent).unwrap());
    freed.iter().for_each(|&extent| transaction.free(extent).unwrap());
    let mut bytes = Vec::new();
    transaction.freeze().delta().encode(&mut bytes);
    Delta::decode(&bytes).unwrap()
}

/// Ceph's replay tool for allocators (PR 30839), slash2 257: a record is there twice, in another order, or of
/// another device. Each is an error, and changes nothing.
#[test]
fn records_twice_in_the_wrong_order_or_of_another_device() {
    let log = Log::new();
    let opened = log.create(4096, Authority::Piggyback);
    let (x, y) = (e(100, 50), e(120, 50));
    opened.replay(&delta(&[x], &[]), 0..1).unwrap();
    for wrong in [
        delta(&[x], &[]),
        delta(&[e(10, 1), y], &[]),
        delta(&[], &[e(50, 60)]),
        delta(&[e(1, 1), e(4090, 10)], &[]),
    ] {
        assert!(opened.replay(&wrong, 1..2).is_err(), "{wrong:?}");
    }
    assert_eq!((opened.allocator.free_blocks(), opened.log.position()), (4046, 1));
    opened.replay(&delta(&[], &[x]), 1..2).unwrap();
    opened.log.checkpoint().unwrap();
    drop(opened);
    let opened = log.open();
    assert_eq!((opened.allocator.free_blocks(), opened.position), (4096, 2));
}

/// eBay HomeObject 452, Log2n Typhon 770: the engine begins its replay too early, with records that the checkpoint
/// has. By chance they fit the state, and a block in use was given away; their positions say that they are old.
#[test]
fn records_from_before_the_checkpoint_are_refused() {
    let log = Log::new();
    let opened = log.create(4096, Authority::Piggyback);
    let x = e(100, 50);
    opened.replay(&delta(&[x], &[]), 0..10).unwrap();
    opened.replay(&delta(&[], &[x]), 10..20).unwrap();
    opened.replay(&delta(&[x], &[]), 20..30).unwrap();
    opened.log.checkpoint().unwrap();
    drop(opened);
    let opened = log.open();
    assert_eq!(opened.position, 30);
    for span in [10..20, 20..30, 25..35, 35..40] {
        let refused = opened.replay(&delta(&[], &[x]), span.clone());
        assert!(matches!(refused, Err(CommitError::Order { .. })), "{span:?}: {refused:?}");
    }
    assert_eq!(opened.allocator.is_allocated(x), Ok(true));
}

/// e2fsprogs ("padding at end of block bitmap"), hcsshim 2811: what stands in the last word behind the device's end
/// came to life when the device grew.
#[test]
fn bits_behind_the_end_do_not_come_to_life() {
    let words = [u64::MAX; 2];
    let log = Log::new();
    let options = CreateOptions::new().limit(64 << 10);
    let opened = SpaceMapLog::create_from_bitmap(log.disk(), 100, &words, &options).unwrap();
    opened.log.grow(&opened.allocator, 300).unwrap();
    assert!(opened.check([e(0, 100)]).is_clean());
    let mut transaction = opened.allocator.begin();
    assert_eq!(transaction.allocate(200), Ok(e(100, 200)));
    transaction.commit(&opened.log).unwrap();
    drop(opened);
    assert!(log.open().check([e(0, 300)]).is_clean());

    let allocator = Allocator::builder(100).build_with_ledger(words.to_vec()).unwrap();
    allocator.grow(300).unwrap();
    let mut transaction = allocator.begin();
    transaction.allocate(200).unwrap();
    let frozen = transaction.freeze();
    assert_eq!(frozen.delta().conflict(), None);
    frozen.committed();
}

/// MonetDB 6803: a session that was only begun, or is rolled back, kept the space of tables that others dropped.
#[test]
fn an_idle_transaction_holds_nothing_up() {
    let log = Log::new();
    let opened = log.create(64, Authority::Log);
    let allocator = &opened.allocator;
    let mut transaction = allocator.begin();
    transaction.allocate(64).unwrap();
    transaction.commit(&opened.log).unwrap();
    let idle = allocator.begin();
    let mut given_up = allocator.begin();
    given_up.free(e(0, 1)).unwrap();
    let mut transaction = allocator.begin();
    transaction.free(e(1, 63)).unwrap();
    transaction.commit(&opened.log).unwrap();
    drop(given_up);
    assert_eq!(allocator.allocate(63), Ok(e(1, 63)));
    drop(idle);
    assert_eq!(allocator.stats().quarantine_age, None);
}

/// btrfs-progs 774: to delete takes space, and there was none. With the smallest log and a full device, everything
/// can be freed, block by block.
#[test]
fn on_a_full_device_everything_can_be_deleted() {
    let blocks = 3000;
    let full = vec![u64::MAX; (blocks as usize).div_ceil(64)];
    let log = Log::new();
    let options = CreateOptions::new().limit(64 << 10);
    let opened = SpaceMapLog::create_from_bitmap(log.disk(), blocks, &full, &options).unwrap();
    assert!(opened.allocator.allocate(1).is_err());
    for block in 0..blocks {
        let mut transaction = opened.allocator.begin();
        transaction.free(e(block * 7919 % blocks, 1)).unwrap();
        transaction.commit(&opened.log).unwrap();
    }
    opened.allocator.collect();
    assert_eq!(opened.allocator.free_blocks(), blocks);
    drop(opened);
    assert!(log.open().check([]).is_clean());
}

/// boltdb 193: a list of more than 65,535 free pages in one transaction.
#[test]
fn a_hundred_thousand_pieces_in_one_transaction() {
    let log = Log::new();
    let opened = SpaceMapLog::create(log.disk(), 1 << 18, &CreateOptions::new()).unwrap();
    let mut transaction = opened.allocator.begin();
    (0..1 << 17).for_each(|n| transaction.mark_allocated(e(2 * n, 1)).unwrap());
    transaction.commit(&opened.log).unwrap();
    drop(opened);
    let opened = log.open();
    assert_eq!(opened.allocator.survey().finish().count(), 1 << 17);
    let mut transaction = opened.allocator.begin();
    (0..1 << 17).for_each(|n| transaction.free(e(2 * n, 1)).unwrap());
    transaction.commit(&opened.log).unwrap();
    drop(opened);
    assert_eq!(log.open().allocator.free_blocks(), 1 << 18);
}

/// spdk 3682: clusters that were allocated and released at the same time shared a page of metadata, and the store
/// could not be loaded any more.
#[test]
fn allocating_and_freeing_at_once_leaves_a_log_that_opens() {
    let log = Log::new();
    let opened = log.create(3000, Authority::Log);
    let work = |seed| {
        let (mut held, mut rng) = (Vec::<Extent>::new(), Pcg64Mcg::seed_from_u64(seed));
        for _ in 0..200 {
            let mut transaction = opened.allocator.begin();
            if let Ok(extent) = transaction.allocate(rng.random_range(1..100)) {
                held.push(extent);
            }
            if held.len() > 4 {
                let victim = held.swap_remove(rng.random_range(0..4));
                transaction.free(victim).unwrap();
            }
            transaction.commit(&opened.log).unwrap();
        }
        held
    };
    let held: Vec<Extent> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=4).map(|seed| scope.spawn(move || work(seed))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(opened.check(held.clone()).is_clean());
    opened.log.verify().unwrap();
    drop(opened);
    assert!(log.open().check(held).is_clean());
}

/// spdk 3431 and 291: the engine's own records name blocks twice, and blocks that the device does not have. The
/// check says which, and what can be repaired then protects them all.
#[test]
fn an_engine_whose_list_names_blocks_twice_is_told_which() {
    let log = Log::new();
    let opened = log.create(1000, Authority::Log);
    let used =
        [e(0, 600), e(300, 600), e(300, 600), e(899, 50), e(990, 11), e(u64::MAX, 2), e(5, 0)];
    let found = opened.check(used);
    assert_eq!(found.overlapping, [e(300, 600)]);
    assert_eq!(found.outside.len(), 3, "{found:?}");
    assert_eq!(found.unprotected.iter().map(|extent| extent.len).sum::<u64>(), 949);
    opened.repair(&found).unwrap();
    let found = opened.check(used);
    assert!(found.unprotected.is_empty() && found.leaked.is_empty());
    drop(opened);
    assert_eq!(log.open().allocator.free_blocks(), 51);
}

/// kuzu 3292: the same store was opened twice by one process.
#[test]
fn the_same_log_twice_in_one_process_is_refused() {
    let log = Log::new();
    let opened = log.create(1000, Authority::Log);
    let path = log.folder.path().join("log");
    assert!(matches!(FileDisk::open(&path), Err(LogError::Locked { .. })));
    assert!(matches!(FileDisk::open_read_only(&path), Err(LogError::Locked { .. })));
    let looked = SpaceMapLog::inspect(FileDisk::open_unlocked(&path).unwrap(), &OpenOptions::new());
    assert_eq!(looked.unwrap().0.free_blocks(), 1000);
    drop(opened);
    log.open();
}
