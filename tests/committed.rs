//! What a store knows to be committed: transactions alone free it, and nobody is offered it again.

use freemap::{
    Allocator, Authority, CreateOptions, Delta, Extent, FileDisk, FreeError, FreeManyError, Lsn,
    OpenOptions, Opened, SpaceMapLog, Store,
};

/// A store that says yes, whatever it is given.
struct Yes;

impl Store for Yes {
    type Error = std::fmt::Error;

    fn commit(&self, _: &Delta) -> Result<Lsn, std::fmt::Error> {
        Ok(Lsn(7))
    }
}

/// An allocator, and what makes its transactions durable.
struct Device {
    allocator: Allocator,
    log: Option<SpaceMapLog>,
    /// How far the engine's own log is, under [`Authority::Piggyback`].
    position: u64,
    _dir: tempfile::TempDir,
}

impl Device {
    fn log(blocks: u64, options: &CreateOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(dir.path().join("log")).unwrap();
        let Opened { log, allocator, .. } = SpaceMapLog::create(disk, blocks, options).unwrap();
        Self { allocator, log: Some(log), position: 0, _dir: dir }
    }

    fn ledger(blocks: u64, plain: bool) -> Self {
        let builder = Allocator::builder(blocks);
        let builder = if plain { builder.allow_plain_frees() } else { builder };
        let allocator = builder.build_with_ledger(vec![0; blocks.div_ceil(64) as usize]).unwrap();
        Self { allocator, log: None, position: 0, _dir: tempfile::tempdir().unwrap() }
    }

    /// One of each kind that keeps a committed state.
    fn all(blocks: u64, plain: bool) -> Vec<Self> {
        let authorities = [Authority::Log, Authority::Engine, Authority::Piggyback];
        let logs = authorities.map(|authority| {
            let options = CreateOptions::new().limit(1 << 20).authority(authority);
            Self::log(blocks, &if plain { options.allow_plain_frees() } else { options })
        });
        logs.into_iter().chain([Self::ledger(blocks, plain)]).collect()
    }

    /// Commits what `change` does.
    fn commit(&mut self, change: impl FnOnce(&mut freemap::Transaction<'_>)) {
        let mut transaction = self.allocator.begin();
        change(&mut transaction);
        match &self.log {
            None => drop(transaction.commit(&Yes).unwrap()),
            Some(log) if log.authority() == Authority::Piggyback => {
                self.position += 1;
                let span = self.position - 1..self.position;
                log.absorb(transaction.freeze(), span).unwrap();
            }
            Some(log) => {
                let lsn = transaction.commit(log).unwrap();
                if log.authority() == Authority::Engine {
                    log.stable(lsn).unwrap();
                }
            }
        }
    }

    /// Commits an allocation of exactly `extent`.
    fn allocate(&mut self, extent: Extent) {
        self.commit(|transaction| transaction.mark_allocated(extent).unwrap());
    }
}

#[test]
fn a_plain_free_of_committed_blocks_is_refused() {
    for mut device in Device::all(1000, false) {
        device.allocate(Extent::new(100, 50));
        let allocator = device.allocator.clone();
        allocator.mark_allocated(Extent::new(80, 20)).unwrap(); // by no transaction
        let mut handle = allocator.handle();
        let before = allocator.to_bitmap().unwrap();
        let cases = [(100, 50, 100), (120, 1, 120), (140, 10, 140), (80, 21, 100), (90, 60, 100)];
        for (start, len, block) in cases {
            let (extent, error) = (Extent::new(start, len), FreeError::Committed { block });
            assert_eq!(allocator.free(extent), Err(error), "{extent}");
            assert_eq!(allocator.mark_free(extent), Err(error), "{extent}");
            assert_eq!(handle.free(extent), Err(error), "{extent}");
            let many = Err(FreeManyError { freed: 0, error });
            assert_eq!(allocator.free_many(&mut [extent]), many, "{extent}");
            // Also where others of the list could be freed.
            let list = &mut [extent, Extent::new(start.min(80) + 2, 1)];
            if start != 80 && start != 90 {
                assert_eq!(handle.free_many(list), many, "{extent}");
            }
        }
        assert_eq!(allocator.to_bitmap().unwrap(), before, "nothing was changed");
        assert_eq!(allocator.free_blocks(), 1000 - 70);

        allocator.free(Extent::new(80, 10)).unwrap();
        handle.free_many(&mut [Extent::new(95, 5), Extent::new(90, 5)]).unwrap();
        device.commit(|transaction| transaction.free(Extent::new(100, 50)).unwrap());
        allocator.collect();
        assert_eq!(allocator.free_blocks(), 1000);
        // And what was committed once may be allocated and freed without a transaction.
        allocator.mark_allocated(Extent::new(100, 50)).unwrap();
        allocator.free(Extent::new(100, 50)).unwrap();
        assert!(allocator.verify().is_clean());
    }
}

#[test]
fn impossible_extents_are_called_so_first() {
    for device in Device::all(1000, false) {
        for (start, len) in [(1000, 1), (990, 11), (5, 0), (u64::MAX, 2), (0, u64::MAX)] {
            let extent = Extent::new(start, len);
            assert!(matches!(device.allocator.free(extent), Err(FreeError::Range(_))), "{extent}");
            let freed = device.allocator.free_many(&mut [extent]);
            assert!(matches!(freed, Err(FreeManyError { error: FreeError::Range(_), .. })));
        }
    }
}

/// The committed state becomes longer with the device, also where the allocator alone was told.
#[test]
fn a_longer_device_is_guarded_too() {
    for mut device in Device::all(1000, false) {
        device.allocate(Extent::new(990, 10));
        match &device.log {
            Some(log) => log.grow(&device.allocator, 200_000).unwrap(),
            None => device.allocator.grow(200_000).unwrap(),
        }
        device.allocate(Extent::new(150_000, 10));
        let allocator = &device.allocator;
        for block in [999, 150_009] {
            assert_eq!(allocator.free(Extent::new(block, 1)), Err(FreeError::Committed { block }));
        }
        allocator.grow(400_000).unwrap();
        let beyond = Extent::new(390_000, 7);
        allocator.mark_allocated(beyond).unwrap();
        allocator.free(beyond).unwrap();
    }
}

#[test]
fn what_is_found_at_opening_is_guarded() {
    let dir = tempfile::tempdir().unwrap();
    let disk = || FileDisk::open(dir.path().join("log")).unwrap();
    let words = [u64::MAX, 0, 0xFF];
    let opened =
        SpaceMapLog::create_from_bitmap(disk(), 150, &words, &CreateOptions::new()).unwrap();
    let refused = |opened: &Opened, block| {
        let freed = opened.allocator.free(Extent::new(block, 1));
        assert_eq!(freed, Err(FreeError::Committed { block }));
    };
    refused(&opened, 63);
    let mut transaction = opened.allocator.begin();
    transaction.free(Extent::new(0, 64)).unwrap();
    transaction.mark_allocated(Extent::new(64, 1)).unwrap();
    transaction.commit(&opened.log).unwrap();
    drop(opened);

    let opened = SpaceMapLog::open(disk(), &OpenOptions::new()).unwrap();
    [64, 128, 135].into_iter().for_each(|block| refused(&opened, block));
    assert_eq!(opened.allocator.committed_bitmap().unwrap().unwrap(), [0, 1, 0xFF]);
    assert_eq!(opened.log.committed(), (150, vec![0, 1, 0xFF]));
    drop(opened);
    let options = OpenOptions::new().allow_plain_frees();
    let opened = SpaceMapLog::open(disk(), &options).unwrap();
    opened.allocator.free(Extent::new(64, 1)).unwrap();
    drop(opened);
    // What is only looked at is no store's.
    let (looked_at, _) = SpaceMapLog::inspect(disk(), &OpenOptions::new()).unwrap();
    looked_at.free(Extent::new(64, 1)).unwrap();
    assert_eq!(looked_at.committed_bitmap().unwrap(), None);
}
