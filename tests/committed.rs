//! What a store knows to be committed: transactions alone free it, and nobody is offered it again.

use freemap::{
    AllocError, Allocator, Authority, CommitError, CommitFailed, CreateOptions, Delta, Extent,
    FileDisk, FreeError, FreeManyError, Lsn, OpenOptions, Opened, Request, SpaceMapLog, Store,
    Transaction,
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
    fn commit(&mut self, change: impl FnOnce(&mut Transaction<'_>)) {
        let mut transaction = self.allocator.begin();
        change(&mut transaction);
        self.try_commit(transaction).unwrap();
    }

    /// The block that stands against it, if one does.
    fn try_commit(&mut self, transaction: Transaction<'_>) -> Result<(), u64> {
        let conflict = |error| match error {
            CommitError::Conflict { block } => block,
            error => panic!("{error}"),
        };
        match &self.log {
            None => {
                let frozen = transaction.freeze();
                frozen.delta().conflict().map_or(Ok(()), Err)?;
                frozen.committed();
            }
            Some(log) if log.authority() == Authority::Piggyback => {
                self.position += 1;
                let span = self.position - 1..self.position;
                let absorbed = log.absorb(transaction.freeze(), span.clone());
                absorbed.map_err(|failed| {
                    // Others go on behind it.
                    log.skip(span).unwrap();
                    conflict(failed.into_error())
                })?;
            }
            Some(log) => {
                let lsn = transaction.commit(log);
                let lsn = lsn.map_err(|failed| conflict(failed.into_error()))?;
                if log.authority() == Authority::Engine {
                    log.stable(lsn).unwrap();
                }
            }
        }
        Ok(())
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

/// Blocks that were lost to a plain free were offered to every later transaction, which could not be
/// committed, for ever.
#[test]
fn what_a_conflict_contradicts_is_never_offered_again() {
    for mut device in Device::all(1000, true) {
        let lost = Extent::new(100, 4);
        device.allocate(Extent::new(100, 8));
        let allocator = device.allocator.clone();
        allocator.free(lost).unwrap();
        allocator.free_many(&mut [Extent::new(106, 2)]).unwrap();
        // Free beside them: ten blocks.
        allocator.mark_allocated(Extent::new(0, 95)).unwrap();
        allocator.mark_allocated(Extent::new(113, 887)).unwrap();
        let mut puts = Vec::new();
        for len in [16, 2, 2, 2, 2, 2] {
            let mut transaction = allocator.begin();
            let request = Request::new(len).near(lost.start).scattered();
            let extents = transaction.allocate_with(&request).unwrap();
            puts.push(device.try_commit(transaction).map(|()| extents));
        }
        assert!(puts[0].is_err() && puts[1..].iter().all(Result::is_ok), "{puts:?}");
        assert_eq!(allocator.stats().conflicting_frees, 6);
        assert_eq!(allocator.is_allocated(lost), Ok(true));
        let mut live = puts.iter().flatten().flatten();
        assert!(live.all(|extent| extent.start + extent.len <= 100 || extent.start >= 108));
        assert_eq!(allocator.free_blocks(), 0);
        // They are the committed owner's again.
        device.commit(|transaction| transaction.free(Extent::new(100, 8)).unwrap());
        allocator.collect();
        assert_eq!(allocator.free_blocks(), 8);
        assert!(allocator.verify().is_clean());
    }
}

/// Also where no store was asked, and where the transaction itself freed them again.
#[test]
fn lost_blocks_stay_where_they_are_however_a_transaction_ends() {
    for how in 0..4 {
        for mut device in Device::all(1000, true) {
            let lost = Extent::new(100, 4);
            device.allocate(lost);
            let allocator = device.allocator.clone();
            allocator.free(lost).unwrap();
            let mut transaction = allocator.begin();
            transaction.mark_allocated(Extent::new(98, 8)).unwrap();
            match how {
                0 => drop(transaction),
                1 => drop(transaction.freeze()),
                2 => {
                    transaction.free(Extent::new(98, 8)).unwrap();
                    drop(transaction);
                }
                _ => {
                    transaction.free(Extent::new(98, 8)).unwrap();
                    assert_eq!(device.try_commit(transaction), Ok(()));
                }
            }
            allocator.collect();
            assert_eq!(allocator.stats().conflicting_frees, 4, "{how}");
            assert_eq!(allocator.is_allocated(lost), Ok(true));
            assert_eq!(allocator.free_blocks(), 996);
        }
    }
}

/// Everything that an engine can do between the store's answer and its own word.
#[test]
fn a_frozen_transaction_that_its_log_has_is_never_rolled_back() {
    let ends: [fn(freemap::Frozen); 4] = [
        drop,
        |frozen| drop(frozen.reopen()),
        freemap::Frozen::in_doubt,
        |frozen| {
            let unwound = std::panic::AssertUnwindSafe(move || {
                let _frozen = frozen;
                std::panic::resume_unwind(Box::new(()));
            });
            std::panic::catch_unwind(unwound).unwrap_err();
        },
    ];
    for authority in [Authority::Log, Authority::Engine] {
        for (number, end) in ends.into_iter().enumerate() {
            for clone in [false, true] {
                let options = CreateOptions::new().limit(1 << 20).authority(authority);
                let mut device = Device::log(1000, &options);
                let old = Extent::new(0, 5);
                device.allocate(old);
                let (allocator, log) = (device.allocator.clone(), device.log.clone().unwrap());
                let mut transaction = allocator.begin();
                let new = Extent::new(5, 7);
                transaction.mark_allocated(new).unwrap();
                transaction.free(old).unwrap();
                let frozen = transaction.freeze();
                let lsn = match clone {
                    true => log.commit(&frozen.delta().clone()),
                    false => log.commit(frozen.delta()),
                };
                end(frozen);
                let lsn = lsn.unwrap();
                if authority == Authority::Engine {
                    log.stable(lsn).unwrap();
                }
                allocator.collect();
                assert_eq!(allocator.free_blocks(), 988, "{authority:?} {number}");
                // Others go on, with other blocks.
                for _ in 0..3 {
                    let mut transaction = allocator.begin();
                    let other = transaction.allocate_with(&Request::new(5).near(0)).unwrap()[0];
                    assert!(other.start >= new.start + new.len, "{other}");
                    device.try_commit(transaction).unwrap();
                }
                let (_, words) = log.committed();
                assert_eq!(words[0] & 0xFFF, 0b1111_1110_0000, "{authority:?} {number}");
            }
        }
    }
}

#[test]
fn a_refusal_leaves_a_frozen_transaction_free_to_be_rolled_back() {
    let mut device = Device::log(1000, &CreateOptions::new().limit(64 << 10));
    let other = Device::log(1000, &CreateOptions::new().limit(64 << 10));
    device.allocate(Extent::new(0, 5));
    let (allocator, log) = (device.allocator.clone(), device.log.clone().unwrap());
    // Another log, and another transaction that frees the same.
    let mut transaction = allocator.begin();
    transaction.allocate(100).unwrap();
    transaction.free(Extent::new(0, 1)).unwrap();
    let frozen = transaction.freeze();
    let answer = other.log.as_ref().unwrap().commit(frozen.delta());
    assert!(matches!(answer, Err(CommitError::Foreign)), "{answer:?}");
    let mut second = allocator.begin();
    second.free(Extent::new(1, 1)).unwrap();
    let mut third = allocator.begin();
    third.free(Extent::new(1, 2)).unwrap();
    let second = second.freeze();
    let answer = third.commit(&log);
    assert!(matches!(&answer, Err(CommitFailed { error: CommitError::Conflict { block: 1 }, .. })));
    drop((frozen, second, answer));
    device.commit(|transaction| transaction.free(Extent::new(0, 3)).unwrap());
    allocator.collect();
    assert_eq!(allocator.free_blocks(), 998);
}

/// An engine that encodes a delta for a log of its own writes it, as a rule.
#[test]
fn an_encoded_delta_may_be_durable() {
    let allocator = Allocator::new(1000).unwrap();
    let frozen = |clone: bool| {
        let mut transaction = allocator.begin();
        transaction.allocate(10).unwrap();
        let frozen = transaction.freeze();
        let delta = if clone { &frozen.delta().clone() } else { frozen.delta() };
        delta.encode(&mut Vec::new());
        frozen
    };
    drop(frozen(false));
    drop(frozen(true));
    drop(frozen(true).reopen());
    assert_eq!(allocator.free_blocks(), 970, "in doubt");
    frozen(true).not_written();
    assert_eq!(allocator.free_blocks(), 970, "the engine knows better");
    frozen(false).committed();
    assert_eq!(allocator.free_blocks(), 960);
    let mut transaction = allocator.begin();
    transaction.allocate(10).unwrap();
    drop(transaction.freeze());
    assert_eq!(allocator.free_blocks(), 960, "nobody has seen it");
}

/// The log would go on to take the old extents for allocated, and after a restart find them so.
#[test]
fn what_the_log_has_not_taken_is_not_let_go() {
    for authority in [Authority::Log, Authority::Engine, Authority::Piggyback] {
        let mut device = Device::log(1000, &CreateOptions::new().authority(authority));
        device.allocate(Extent::new(0, 10));
        let allocator = device.allocator.clone();
        let mut transaction = allocator.begin();
        transaction.free(Extent::new(0, 3)).unwrap();
        transaction.mark_allocated(Extent::new(10, 20)).unwrap();
        transaction.freeze().committed();
        let mut transaction = allocator.begin();
        transaction.free(Extent::new(5, 3)).unwrap();
        transaction.commit(&Yes).unwrap();
        let mut transaction = allocator.begin();
        transaction.free(Extent::new(9, 1)).unwrap();
        let (_, held) = transaction.commit_holding(&Yes).unwrap();
        held.release();
        allocator.collect();
        assert_eq!(allocator.is_allocated(Extent::new(0, 30)), Ok(true), "{authority:?}");
        assert_eq!(allocator.stats().held_blocks, 0);
        // Another store may be the log by another name.
        struct Through<'a>(&'a SpaceMapLog);
        impl Store for Through<'_> {
            type Error = CommitError;
            fn commit(&self, delta: &Delta) -> Result<Lsn, CommitError> {
                self.0.commit(delta).map(|_| Lsn(77))
            }
        }
        if authority == Authority::Log {
            let mut transaction = allocator.begin();
            transaction.free(Extent::new(8, 1)).unwrap();
            let through = Through(device.log.as_ref().unwrap());
            assert_eq!(transaction.commit(&through).unwrap(), Lsn(77));
            allocator.collect();
            assert_eq!(allocator.is_free(Extent::new(8, 1)), Ok(true));
        }
    }
}

/// The ways to commit a transaction to a log.
const WAYS: [fn(&SpaceMapLog, Transaction<'static>) -> Lsn; 5] = [
    |log, transaction| transaction.commit(log).unwrap(),
    |log, transaction| {
        let frozen = transaction.freeze();
        let lsn = log.commit(frozen.delta()).unwrap();
        frozen.committed();
        lsn
    },
    |log, transaction| log.submit(transaction.freeze()).unwrap().wait().unwrap(),
    |log, transaction| {
        drop(log.submit(transaction.freeze()).unwrap());
        log.flush();
        log.last()
    },
    |log, transaction| {
        let (lsn, held) = transaction.commit_holding(log).unwrap();
        held.release();
        lsn
    },
];

/// The engine's record of a delete was still to be written when the blocks were somebody else's.
#[test]
fn nothing_freed_is_reused_before_the_engine_calls_it_stable() {
    let engine = CreateOptions::new().limit(1 << 20).authority(Authority::Engine);
    let holding = CreateOptions::new().limit(1 << 20).hold_until_stable();
    for options in [engine, holding] {
        for (number, commit) in WAYS.into_iter().enumerate() {
            let mut device = Device::log(1000, &options);
            device.allocate(Extent::new(0, 1000));
            let (allocator, log) = (device.allocator.clone(), device.log.clone().unwrap());
            let lsns = [0, 5].map(|start| {
                let mut transaction = allocator.begin();
                transaction.free(Extent::new(start, 5)).unwrap();
                commit(&log, transaction)
            });
            let full = |held| {
                allocator.collect();
                if held == 10 {
                    let refused = allocator.free(Extent::new(2, 1));
                    assert_eq!(refused, Err(FreeError::DoubleFree { block: 2 }), "{number}");
                }
                let refused = allocator.allocate(1);
                assert!(
                    matches!(refused, Err(AllocError::NoSpace { .. })),
                    "{number}: {refused:?}"
                );
                assert_eq!(allocator.stats().held_blocks, held, "{number}");
            };
            full(10);
            log.stable(Lsn(lsns[0].0 - 1)).unwrap();
            full(10);
            log.stable(lsns[0]).unwrap();
            assert_eq!(allocator.stats().held_blocks, 5);
            assert_eq!(allocator.allocate(5), Ok(Extent::new(0, 5)));
            full(5);
            log.stable(log.last()).unwrap();
            assert_eq!(allocator.allocate(5), Ok(Extent::new(5, 5)));
            allocator.free(Extent::new(0, 5)).unwrap();
            full_again(&device, commit);
        }
    }
}

fn full_again(device: &Device, commit: fn(&SpaceMapLog, Transaction<'static>) -> Lsn) {
    let mut transaction = device.allocator.begin();
    transaction.free(Extent::new(500, 9)).unwrap();
    let log = device.log.as_ref().unwrap();
    let lsn = commit(log, transaction);
    assert_eq!(device.allocator.stats().held_blocks, 9, "nothing is stable that was not there");
    log.stable(lsn).unwrap();
    assert_eq!(device.allocator.stats().held_blocks, 0);
    device.allocator.collect();
    assert_eq!(device.allocator.free_blocks(), 5 + 9);
}

/// Where the engine's record comes first, and where nothing was asked for, nothing is held.
#[test]
fn nothing_is_held_without_need() {
    for options in [
        CreateOptions::new(),
        CreateOptions::new().authority(Authority::Piggyback),
        CreateOptions::new().authority(Authority::Piggyback).hold_until_stable(),
    ] {
        let mut device = Device::log(1000, &options);
        device.allocate(Extent::new(0, 1000));
        device.commit(|transaction| transaction.free(Extent::new(3, 4)).unwrap());
        assert_eq!(device.allocator.stats().held_blocks, 0);
        assert_eq!(device.allocator.allocate(4), Ok(Extent::new(3, 4)));
    }
}

#[test]
fn held_frees_are_released_or_kept_until_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let disk = || FileDisk::open(dir.path().join("log")).unwrap();
    let opened = SpaceMapLog::create(disk(), 100, &CreateOptions::new()).unwrap();
    let allocator = &opened.allocator;
    let mut transaction = allocator.begin();
    transaction.allocate(100).unwrap();
    transaction.commit(&opened.log).unwrap();
    let hold = |start| {
        let mut handle = allocator.handle();
        let mut transaction = handle.begin();
        transaction.free(Extent::new(start, 10)).unwrap();
        transaction.commit_holding(&opened.log).unwrap().1
    };
    let (one, two) = (hold(0), hold(50));
    assert_eq!((one.extents(), two.blocks()), (&[Extent::new(0, 10)][..], 10));
    allocator.collect();
    assert_eq!((allocator.free_blocks(), allocator.stats().held_blocks), (0, 20));
    let reader = allocator.pin();
    one.release();
    assert!(allocator.allocate(1).is_err(), "a reader is there");
    drop(reader);
    assert_eq!(allocator.allocate(10), Ok(Extent::new(0, 10)));
    drop(two); // a `?` in between
    allocator.collect();
    assert_eq!((allocator.free_blocks(), allocator.stats().held_blocks), (0, 10));
    drop(opened);
    // The engine's metadata still names the second, and nobody has written there.
    let opened = SpaceMapLog::open(disk(), &OpenOptions::new()).unwrap();
    let found = opened.check([Extent::new(10, 90)]);
    assert_eq!(found.unprotected, [Extent::new(50, 10)]);
    opened.repair(&found).unwrap();
    assert!(opened.check([Extent::new(10, 90)]).is_clean());
    assert_eq!(opened.allocator.free_blocks(), 10);
}

/// A device in memory, and metadata that says where object A is; a second request comes before that is
/// written, and then the power fails.
fn rewrite(commit: impl FnOnce(&Opened, Transaction<'_>)) -> (&'static str, Opened) {
    let dir = tempfile::tempdir().unwrap();
    let disk = || FileDisk::open(dir.path().join("log")).unwrap();
    let opened = SpaceMapLog::create(disk(), 24, &CreateOptions::new()).unwrap();
    let mut device = ["-"; 24];
    let mut transaction = opened.allocator.begin();
    let metadata = transaction.allocate(8).unwrap();
    transaction.commit(&opened.log).unwrap();
    device[metadata.start as usize] = "A, as it was";
    let mut transaction = opened.allocator.begin();
    let new = transaction.allocate(8).unwrap();
    transaction.free(metadata).unwrap();
    device[new.start as usize] = "A, as it will be";
    commit(&opened, transaction);
    let mut transaction = opened.allocator.begin();
    while let Ok(extent) = transaction.allocate(8) {
        device[extent.start as usize] = "B";
    }
    drop(transaction);
    drop(opened);
    let opened = SpaceMapLog::open(disk(), &OpenOptions::new()).unwrap();
    (device[metadata.start as usize], opened)
}

/// The example of `Transaction` showed the first of these for metadata that is kept elsewhere.
#[test]
fn the_old_extent_lives_as_long_as_the_metadata_may_name_it() {
    let (found, _) = rewrite(|opened, transaction| {
        transaction.commit(&opened.log).unwrap();
    });
    assert_eq!(found, "B", "what happens if the metadata comes last");

    let (found, opened) = rewrite(|opened, transaction| {
        drop(transaction.commit_holding(&opened.log).unwrap()); // the metadata was not written
    });
    assert_eq!(found, "A, as it was");
    let metadata = [Extent::new(0, 8)];
    let found = opened.check(metadata);
    assert_eq!(
        (&found.unprotected[..], &found.leaked[..]),
        (&metadata[..], &[Extent::new(8, 8)][..])
    );
    opened.repair(&found).unwrap();
    assert!(opened.check(metadata).is_clean());

    // A guard of the engine's own does it as well, as long as it lives.
    let (found, _) = rewrite(|opened, transaction| {
        std::mem::forget(opened.allocator.pin_owned());
        transaction.commit(&opened.log).unwrap();
        opened.allocator.collect();
    });
    assert_eq!(found, "A, as it was");
}
