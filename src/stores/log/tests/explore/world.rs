//! One log on a disk that fails, the model of it, and the engine's side of both.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::adapter;
use super::engine::{Ask, Engine};
use super::mix::Mix;
use super::places;
use super::timeline::{Bits, Timeline, compare, compare_words};
use crate::held::shrink::Shrink;
use crate::stores::log::record::RANGE_BLOCKS;
use crate::stores::log::recover::Loader;
use crate::stores::log::tests::sim::SimDisk;
use crate::stores::log::writer::Writer;
use crate::stores::log::{Authority, CommitError, LogError, Opened, SpaceMapLog};
use crate::transaction::{Frozen, Transaction};

/// A failure that is no surprise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excuse {
    /// Nothing has happened.
    NotDone,
    /// It shows after a restart.
    Doubt,
}

/// An engine under [`Authority::Piggyback`].
#[derive(Default)]
pub(super) struct OwnLog {
    /// Written to the engine's log, and not handed over yet: by number, with nothing for what carries no
    /// delta.
    pub in_flight: Vec<(u64, Option<Frozen>)>,
    /// Handed over, and waiting for one before it.
    pub early: BTreeSet<u64>,
    /// The checkpoints that may be found: the last that was acknowledged, and later ones.
    pub checkpoints: Vec<u64>,
}

pub(super) struct World {
    pub authority: Authority,
    pub rng: Pcg64Mcg,
    pub mix: Mix,
    pub disk: Arc<SimDisk>,
    opened: Option<Arc<Opened>>,
    pub line: Timeline,
    /// The size before a growth or shrink that was not acknowledged, and after it.
    pub blocks: (u64, u64),
    pub queue: Vec<crate::stores::log::Pending>,
    /// Transactions that were not committed, to be repeated or given up.
    pub kept: Vec<Transaction<'static>>,
    pub shrink: Option<Shrink>,
    pub engine: Engine,
    pub own: OwnLog,
    /// A flush failed: the log has to be opened again.
    pub in_doubt: bool,
    /// Calls that the disk had refused before the step at hand.
    refused: u64,
    /// The same before the log was opened.
    refused_before: u64,
    traced: bool,
    /// Power failures after which the log was opened and compared.
    pub points: u64,
}

/// Where the log can begin, as the running one knows it and as one that was opened again would.
pub(super) fn tails(opened: &Opened, disk: &Arc<SimDisk>) -> Result<(u64, u64), LogError> {
    let ours = opened.log.inner.writer().tail();
    let mut theirs = Loader::new(disk.clone()).load(None)?.recovered;
    for (bases, oldest) in theirs.ranges.iter_mut().zip(places::named(disk)) {
        // What both copies of the directory know to be superseded, but the log still names.
        bases.retain(|base| base.image.base >= oldest);
    }
    Ok((ours.position.get(), Writer::new(theirs).tail().position.get()))
}

pub(super) fn at_operation(operation: u64, error: &str) -> String {
    format!("a power failure at operation {operation}: {error}")
}

impl World {
    /// The first moments of `seed`: no log yet.
    pub(super) fn new(authority: Authority, seed: u64) -> Self {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let ranges = rng.random_range(1..6);
        let blocks = ranges * RANGE_BLOCKS + rng.random_range(1..RANGE_BLOCKS);
        let mix = Mix::draw(authority, &mut rng);
        Self {
            authority,
            rng,
            mix,
            disk: Arc::default(),
            opened: None,
            line: Timeline::new(Bits::new()),
            blocks: (blocks, blocks),
            queue: Vec::new(),
            kept: Vec::new(),
            shrink: None,
            engine: Engine::default(),
            own: OwnLog { checkpoints: vec![0], ..OwnLog::default() },
            in_doubt: false,
            refused: 0,
            refused_before: 0,
            traced: std::env::var("FREEMAP_CRASH_TRACE").is_ok(),
            points: 0,
        }
    }

    pub(super) fn opened(&self) -> Arc<Opened> {
        self.opened.clone().expect("opened before anything is done with it")
    }

    /// The process has a log from now on.
    pub(super) fn go_on(&mut self, opened: Opened) {
        self.opened = Some(Arc::new(opened));
        let refused = self.disk.refused();
        (self.in_doubt, self.refused, self.refused_before) = (false, refused, refused);
    }

    /// The process is gone, with all it held.
    pub(super) fn forget_process(&mut self) {
        self.shrink = None;
        self.queue.clear();
        self.kept.clear();
        self.own.in_flight.clear();
        self.opened = None;
    }

    /// Prints what happens, with `FREEMAP_CRASH_TRACE=1`.
    pub(super) fn tell(&self, what: impl FnOnce(&Self) -> String) {
        if self.traced {
            println!("{}", what(self));
        }
    }

    /// Whether everything is flushed, and the disk has refused nothing.
    pub(super) fn is_at_rest(&self) -> bool {
        self.disk.is_settled() && self.disk.refused() == self.refused_before
    }

    pub(super) fn is_over(&self) -> bool {
        self.in_doubt || self.disk.has_crashed()
    }

    /// Does something that may write, and looks what a power failure on the way would have left.
    pub(super) fn act<T>(&mut self, work: impl FnOnce(&Opened) -> T) -> Result<T, String> {
        let result = self.watch(work);
        for (operation, bytes) in self.disk.probed() {
            self.points += 1;
            let seed = self.rng.random();
            self.check_image(bytes, seed).map_err(|error| at_operation(operation, &error))?;
        }
        match self.disk.is_alone() {
            true => Ok(result),
            false => Err("a write outside the log's area".to_string()),
        }
    }

    /// Does something of which the caller checks what a power failure would have left.
    pub(super) fn watch<T>(&mut self, work: impl FnOnce(&Opened) -> T) -> T {
        let opened = self.opened();
        self.refused = self.disk.refused();
        if self.mix.probes > 0 {
            self.disk.probe(self.rng.random(), self.mix.probes);
        }
        work(&opened)
    }

    /// Whether a failure is one that the disk gave cause for.
    pub(super) fn excuse(&mut self, error: &CommitError) -> Result<Excuse, String> {
        let cause = self.disk.has_crashed() || self.disk.refused() > self.refused;
        let ever = self.disk.has_crashed() || self.disk.refused() > self.refused_before;
        match error {
            CommitError::Write(_) if cause => Ok(Excuse::NotDone),
            CommitError::Sync(_) if cause => {
                self.in_doubt = true;
                Ok(Excuse::Doubt)
            }
            // A failure after what was asked for is told by the next call, or making room failed first.
            CommitError::Refused(_) if ever => {
                self.in_doubt = true;
                Ok(Excuse::NotDone)
            }
            // Until the engine says that its own log is durable.
            CommitError::Full { .. }
                if self.authority == Authority::Engine
                    && self.line.first() < self.line.acknowledged() =>
            {
                Ok(Excuse::NotDone)
            }
            error => Err(format!("refused without a cause: {error}")),
        }
    }

    /// The same for calls that read as well.
    pub(super) fn excuse_log(&mut self, error: &LogError) -> Result<Excuse, String> {
        match error {
            LogError::Commit(error) => self.excuse(error),
            LogError::Io(_) if self.disk.refused() > self.refused => Ok(Excuse::NotDone),
            error => Err(format!("refused: {error}")),
        }
    }

    /// The state in memory is the one acknowledged, and the disk has it too.
    pub(super) fn look(&mut self) -> Result<(), String> {
        let opened = self.opened();
        let (blocks, words) = opened.log.committed();
        compare_words(blocks, &words, self.line.now()).map_err(|e| format!("in memory: {e}"))?;
        self.refused = self.disk.refused();
        match opened.log.verify() {
            Ok(_) => {
                self.compare_tails()?;
                self.damage_places()
            }
            Err(error) => self.excuse_log(&error).map(drop).map_err(|e| format!("verify: {e}")),
        }
    }

    /// The running log must not give up more of its ring than a recovery would, or it would take for
    /// unneeded what is needed; nor keep much more.
    fn compare_tails(&mut self) -> Result<(), String> {
        match tails(&self.opened(), &self.disk) {
            Ok((ours, theirs)) if ours > theirs => {
                Err(format!("the log begins at {ours} in memory, and at {theirs} on the disk"))
            }
            Ok(_) => Ok(()),
            Err(error) => self.excuse_log(&error).map(drop),
        }
    }

    /// Opens what a power failure left, beside the disk itself.
    pub(super) fn check_image(&self, mut bytes: Vec<u8>, seed: u64) -> Result<(), String> {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let area = self.disk.area(bytes.len());
        places::flip_a_spare(&mut bytes[area], &mut rng);
        let disk = Arc::new(self.disk.restarted(bytes));
        let ask = self.ask(&mut rng);
        let opened = SpaceMapLog::open(disk, &adapter::recover(&ask))
            .map_err(|error| format!("opening, asked for {ask:?}: {error}"))?;
        let number = self.found(&opened, &ask)?;
        if self.authority == Authority::Piggyback && rng.random_ratio(1, 4) {
            let end = rng.random_range(self.handed_over()..=self.line.end());
            for later in number + 1..=end {
                self.feed(&opened, later)?;
            }
            opened.allocator.collect();
            compare(&opened.allocator, &self.line.state(end))
                .map_err(|error| format!("after the replay: {error}"))?;
        }
        if rng.random_ratio(1, 4) {
            opened.log.verify().map_err(|error| format!("verify: {error}"))?;
        }
        Ok(())
    }

    /// Feeds in what the engine's own log has.
    pub(super) fn feed(&self, opened: &Opened, number: u64) -> Result<(), String> {
        let entry = self.line.entry(number);
        let fed = match entry.skipped {
            true => adapter::skip(opened, entry.span.clone()),
            false => adapter::replay(opened, &entry.delta, entry.span.clone()),
        };
        fed.map_err(|error| format!("replaying {number}: {error}"))
    }

    /// Which transaction a log that was just opened ends with; an error if it cannot be.
    pub(super) fn found(&self, opened: &Opened, ask: &Ask) -> Result<u64, String> {
        let blocks = opened.allocator.blocks();
        if blocks != self.blocks.0 && blocks != self.blocks.1 {
            return Err(format!("{blocks} blocks, not one of {:?}", self.blocks));
        }
        let number = match self.authority {
            Authority::Piggyback => self.checkpoint_at(opened.position)?,
            _ => self.last_of(opened, ask)?,
        };
        compare(&opened.allocator, &self.target(ask, number))
            .map_err(|error| format!("opened at {number} (asked for: {ask:?}): {error}"))?;
        Ok(number)
    }

    fn checkpoint_at(&self, position: u64) -> Result<u64, String> {
        let number = self.line.number_of(position);
        let checkpoints = &self.own.checkpoints;
        number.filter(|number| checkpoints.contains(number)).ok_or_else(|| {
            format!("opened at position {position} ({number:?}), not at one of {checkpoints:?}")
        })
    }

    fn last_of(&self, opened: &Opened, ask: &Ask) -> Result<u64, String> {
        let found = opened.report.last.0;
        let range = self.line.acknowledged()..=self.line.end();
        if !range.contains(&found) {
            return Err(format!("transaction {found} found, not one of {range:?}"));
        }
        let undone = u64::from(self.line.state(found) != self.target(ask, found));
        let last = opened.log.last().0;
        if last != found + undone {
            return Err(format!("the last is {last}, and {found} was found"));
        }
        // The log may have forgotten of those that changed nothing.
        let unknown = ask.until.unwrap_or(found) + 1..=found;
        let unknown = unknown.filter(|number| !ask.also.contains(number));
        let changed = |number: &u64| !self.line.entry(*number).delta.is_empty();
        let (least, most) = (unknown.clone().filter(changed).count(), unknown.count());
        let taken_back = opened.report.taken_back as usize;
        if !(least..=most).contains(&taken_back) {
            return Err(format!("{taken_back} are taken back, of {ask:?} to {found}"));
        }
        Ok(found)
    }
}
