//! A run of commits, condensing, growth and shrinking in which the device refuses one operation: each
//! write and each flush in turn, with parts of the write done or not; and each read of an opening. The
//! log goes on or refuses, and whatever a crash leaves of it then has all that was acknowledged, and
//! nothing that was told as not committed. `FREEMAP_ALL_FAILURES=1` has each operation fail in each way,
//! not only in one.

use std::io::ErrorKind;
use std::sync::Arc;

use super::sim::{Operation, Refusal, SimDisk};
use super::{all_stable, small};
use crate::stores::log::record::RANGE_BLOCKS;
use crate::stores::log::{Authority, CommitError, LogError, OpenOptions, Opened, SpaceMapLog};
use crate::values::delta::Delta;
use crate::values::extent::Extent;

const SIZES: [u64; 3] = [3 * RANGE_BLOCKS + 77, 140 * RANGE_BLOCKS, 2 * RANGE_BLOCKS];

/// What must be found after a crash.
struct Model {
    /// Every change that is not known to have failed, in order.
    deltas: Vec<Delta>,
    /// So many of them are acknowledged; under piggyback, in the engine's own log.
    acknowledged: usize,
    /// So many of them are in a checkpoint.
    checkpoint: usize,
    /// Sizes that the device may have.
    blocks: Vec<u64>,
    held: Vec<Extent>,
    /// The log refuses everything.
    refuses: bool,
}

/// One bit per block, and the number of blocks.
fn state(deltas: &[Delta], blocks: u64) -> Vec<u64> {
    let mut words = vec![0u64; (SIZES[1] / 64) as usize];
    for delta in deltas {
        let both = delta.allocated().iter().chain(delta.freed());
        for block in both.flat_map(|extent| extent.start..extent.start + extent.len) {
            words[(block / 64) as usize] ^= 1 << (block % 64);
        }
    }
    words.truncate(blocks.div_ceil(64) as usize);
    words
}

impl Model {
    /// Takes in what a call answered that was to make `blocks` blocks of the device, or none of it.
    fn answered(&mut self, result: Result<(), LogError>, blocks: Option<u64>) {
        let before = *self.blocks.last().expect("one at least");
        let error = match result {
            Ok(()) => {
                assert!(!self.refuses);
                self.blocks = vec![blocks.unwrap_or(before)];
                return;
            }
            Err(LogError::Commit(error)) => error,
            Err(error) => panic!("{error}"),
        };
        match error {
            CommitError::Write(_) => assert!(!self.refuses),
            CommitError::Sync(_) => {
                assert!(!self.refuses, "{error}");
                self.refuses = true;
                // In doubt: either.
                self.blocks.extend(blocks);
            }
            CommitError::Refused(_) => {
                // A checkpoint is durable before the log is emptied, and what fails then shows later.
                assert!(self.refuses || self.checkpoint > 0, "{error}");
                self.refuses = true;
            }
            error => panic!("{error}"),
        }
    }

    /// Opens what a crash has left, and compares.
    fn check(&mut self, bytes: Vec<u8>) -> Opened {
        let opened = SpaceMapLog::open(Arc::new(SimDisk::new(bytes)), &OpenOptions::new())
            .expect("it can always be opened");
        let blocks = opened.allocator.blocks();
        assert!(self.blocks.contains(&blocks), "{blocks} blocks, not one of {:?}", self.blocks);
        let mut found = opened.log.last().0 as usize;
        if opened.log.authority() == Authority::Piggyback {
            found = opened.position as usize;
            assert!((self.checkpoint..=self.deltas.len()).contains(&found), "{found}");
            for (delta, position) in self.deltas.iter().zip(1..).skip(found) {
                opened.replay(delta, position - 1..position).expect("it happened so");
            }
            found = self.deltas.len();
        }
        let range = self.acknowledged..=self.deltas.len();
        assert!(range.contains(&found), "{found} transactions, not one of {range:?}");
        opened.allocator.collect();
        let words = opened.allocator.to_bitmap().expect("memory");
        assert!(words == state(&self.deltas[..found], blocks), "another state");
        opened.log.verify().expect("disk and memory agree");
        opened
    }
}

/// Frees a held extent, or some, and allocates others.
fn change(opened: &Opened, model: &mut Model, frees: usize, allocates: &[Extent]) {
    opened.allocator.collect();
    let mut transaction = opened.allocator.begin();
    let freed: Vec<Extent> = model.held.iter().copied().take(frees).collect();
    freed.iter().for_each(|&extent| transaction.free(extent).expect("held"));
    let mut taken = Vec::new();
    for &extent in allocates {
        if transaction.mark_allocated(extent).is_ok() {
            taken.push(extent);
        }
    }
    let frozen = transaction.freeze();
    let delta = frozen.delta().clone();
    if delta.is_empty() {
        return;
    }
    let result = if opened.log.authority() == Authority::Piggyback {
        let position = model.deltas.len() as u64 + 1;
        opened.log.absorb(frozen, position - 1..position).map_err(|failed| failed.error.into())
    } else {
        let committed = frozen.reopen().commit(&opened.log).map(drop);
        committed.map_err(|failed| failed.error.into())
    };
    let refused = model.refuses;
    let good = result.is_ok();
    if opened.log.authority() == Authority::Piggyback {
        // That is done in memory, also when the log refuses.
        assert!(good, "{result:?}");
    } else {
        model.answered(result, None);
    }
    if good {
        model.held.drain(..freed.len());
        model.held.extend(taken);
        model.deltas.push(delta);
        model.acknowledged = model.deltas.len();
        all_stable(opened);
    } else if model.refuses && !refused {
        model.deltas.push(delta);
    }
}

fn condense(opened: &Opened, model: &mut Model) {
    let done = match opened.log.authority() {
        Authority::Piggyback => opened.log.checkpoint(),
        _ => opened.log.condense(),
    };
    let known = model.acknowledged;
    if done.is_ok() {
        model.checkpoint = known;
    }
    model.answered(done.map_err(LogError::from), None);
}

/// Everything that a log does.
fn run(opened: &Opened, model: &mut Model, rounds: u64) {
    let in_range =
        |range: u64, start: u64| Extent::new(range * RANGE_BLOCKS + start, 1 + start % 9);
    for round in 0..rounds {
        // More than one frame.
        let many: Vec<Extent> =
            (0..700).map(|n| Extent::new(RANGE_BLOCKS + 7 * n + round % 7, 1 + n % 2)).collect();
        change(opened, model, 0, &many);
        for number in 0..6 {
            change(opened, model, 2, &[in_range(number % 3, 20 * number + round)]);
        }
        condense(opened, model);
        change(opened, model, 300, &[in_range(0, 500 + round)]);
        let grown = opened.log.grow(&opened.allocator, SIZES[1]);
        model.answered(grown, Some(SIZES[1]));
        for number in 0..3 {
            change(opened, model, 1, &[in_range(3 * number, 1000 + 10 * round)]);
        }
        condense(opened, model);
        change(opened, model, usize::MAX, &[in_range(1, 9000)]);
        opened.allocator.collect();
        if let Ok(shrink) = opened.allocator.shrink(SIZES[2])
            && shrink.is_empty()
        {
            // The blocks of a transaction in doubt stay.
            let shrunk = opened.log.shrink(shrink).map_err(|failed| failed.error);
            if !matches!(shrunk, Err(LogError::Resize(_))) {
                model.answered(shrunk, Some(SIZES[2]));
            }
        }
        if opened.log.authority() != Authority::Piggyback {
            model.answered(opened.log.idle().map(drop).map_err(LogError::from), None);
        }
        change(opened, model, 1, &[in_range(0, 100)]);
    }
}

/// One run with this refusal, and perhaps another one right behind it. Whether it came to it.
fn refused(authority: Authority, refusals: &[Refusal]) -> bool {
    let disk = Arc::new(SimDisk::default());
    let options = small().authority(authority);
    let opened = SpaceMapLog::create(disk.clone(), SIZES[0], &options).expect("an empty disk");
    let blocks = vec![SIZES[0]];
    let mut model = Model {
        deltas: Vec::new(),
        acknowledged: 0,
        checkpoint: 0,
        blocks,
        held: Vec::new(),
        refuses: false,
    };
    refusals.iter().for_each(|&refusal| disk.refuse_later(refusal));
    run(&opened, &mut model, 1);
    let came = disk.take_refusals().len() < refusals.len();
    let check = |model: &mut Model| {
        let seed = refusals.first().map_or(0, |refusal| refusal.after);
        drop(model.check(disk.bytes()));
        drop(model.check(disk.after_losing(|_| false)));
        drop(
            model.check(disk.after_losing(|sector| (sector as u64 * 0x9E37 + seed) >> 4 & 1 == 0)),
        );
    };
    check(&mut model);
    // What failed behind a checkpoint, absorbing does not show.
    let refused = matches!(opened.log.condense(), Err(CommitError::Refused(_)));
    let refuses = model.refuses || refused;
    run(&opened, &mut model, 1);
    assert_eq!(model.refuses, refuses, "well again, or refused for good");
    if !refuses {
        opened.log.verify().expect("disk and memory agree");
    }
    check(&mut model);
    came
}

#[test]
fn every_write_and_flush_can_fail() {
    // Nothing arrives; every second sector; everything; all but a few, and making it void fails.
    let kinds = [
        (ErrorKind::StorageFull, 0, false),
        (ErrorKind::Other, 0x5555_5555_5555_5555, false),
        (ErrorKind::Other, u64::MAX, false),
        (ErrorKind::QuotaExceeded, 0x0000_FFFF_0000_0001, true),
    ];
    let all = std::env::var("FREEMAP_ALL_FAILURES").is_ok();
    for authority in [Authority::Log, Authority::Engine, Authority::Piggyback] {
        let mut after = 0;
        let fails = |after: u64, kind: usize| {
            let (error, arrives, twice) = kinds[kind % kinds.len()];
            let first = Refusal { operation: Operation::Change, after, error, arrives };
            let second = twice.then_some(Refusal { after: 0, ..first });
            refused(authority, &[first].into_iter().chain(second).collect::<Vec<_>>())
        };
        while (0..if all { 4 } else { 1 }).all(|kind| fails(after, after as usize + kind)) {
            after += 1;
        }
        println!("{authority:?}: {after} operations failed, one at a time");
        assert!(after > 40);
    }
}

/// Something that reads.
type Call<'a> = &'a dyn Fn(Arc<SimDisk>) -> Result<(), LogError>;

/// An opening, an inspection or a check that cannot read says so, and writes nothing.
#[test]
fn every_read_can_fail() {
    for authority in [Authority::Log, Authority::Engine, Authority::Piggyback] {
        let disk = Arc::new(SimDisk::default());
        let options = small().authority(authority);
        let opened = SpaceMapLog::create(disk.clone(), SIZES[0], &options).expect("an empty disk");
        for range in 0..3 {
            let mut transaction = opened.allocator.begin();
            transaction.mark_allocated(Extent::new(range * RANGE_BLOCKS, 9)).expect("free");
            if authority == Authority::Piggyback {
                opened.log.absorb(transaction.freeze(), range..range + 1).expect("fits");
            } else {
                transaction.commit(&opened.log).expect("a healthy disk");
            }
        }
        match authority {
            Authority::Piggyback => opened.log.checkpoint().expect("a healthy disk"),
            _ => opened.log.condense().expect("a healthy disk"),
        }
        let bytes = disk.bytes();
        drop(opened);
        let calls: [(&str, Call<'_>); 3] = [
            ("open", &|disk| SpaceMapLog::open(disk, &OpenOptions::new()).map(drop)),
            ("inspect", &|disk| SpaceMapLog::inspect(disk, &OpenOptions::new()).map(drop)),
            ("verify", &|disk| {
                let failing = disk.clone();
                let refusals = failing.take_refusals();
                let opened = SpaceMapLog::open(disk, &OpenOptions::new())?;
                let before = failing.bytes();
                refusals.into_iter().for_each(|refusal| failing.refuse_later(refusal));
                let verified = opened.log.verify().map(drop);
                assert!(failing.bytes() == before, "verify writes nothing");
                // It found out nothing, and everything goes on.
                opened.log.condense().expect("a healthy disk");
                verified
            }),
        ];
        for (name, call) in calls {
            let mut after = 0;
            loop {
                let disk = Arc::new(SimDisk::new(bytes.clone()));
                let (operation, error) = (Operation::Read, ErrorKind::Other);
                disk.refuse_later(Refusal { operation, after, error, arrives: 0 });
                let result = call(disk.clone());
                if !disk.take_refusals().is_empty() {
                    result.expect("a healthy disk");
                    break;
                }
                let Err(LogError::Io(failure)) = result else { panic!("{name}: {result:?}") };
                assert_eq!((failure.action, failure.error.kind()), ("read", ErrorKind::Other));
                assert!(name == "verify" || disk.bytes() == bytes, "{name} wrote");
                after += 1;
            }
            assert!(after > 3, "{name}: {after} reads");
        }
    }
}
