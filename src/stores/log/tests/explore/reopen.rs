//! Crashes, and what is found after them.

use std::io::ErrorKind;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::adapter;
use super::engine::Ask;
use super::places;
use super::timeline::{Bits, Entry, Timeline, compare};
use super::world::World;
use crate::stores::log::fault::select_tight_ring;
use crate::stores::log::layout::Layout;
use crate::stores::log::tests::sim::{Operation, Refusal, SimDisk};
use crate::stores::log::tests::small;
use crate::stores::log::{
    Authority, CommitError, CreateOptions, LogError, OpenOptions, Opened, Part, SpaceMapLog,
};
use crate::values::lsn::Lsn;

impl World {
    /// Creates the log, perhaps with a power failure on the way.
    pub(super) fn create(&mut self) -> Result<(), String> {
        select_tight_ring(self.mix.tight);
        let sector = if self.rng.random() { 512 } else { 4096 };
        let options = small().sector(sector).authority(self.authority);
        let blocks = self.blocks.0;
        if self.rng.random_ratio(1, 4) {
            let len = Layout::new(blocks, sector.into(), 64 << 10).len() as usize;
            let more = self.rng.random_range(0..3) * (1 << 20);
            self.disk = Arc::new(SimDisk::region(len + more));
        }
        let mut words = vec![0; blocks.div_ceil(64) as usize];
        if self.rng.random_ratio(1, 4) {
            let used = self.rng.random_range(0..words.len());
            words[..used].iter_mut().for_each(|word| *word = self.rng.random());
        }
        self.line = Timeline::new(Bits::of(&words));
        let create = |disk: &Arc<SimDisk>, options: &CreateOptions| {
            SpaceMapLog::create_from_bitmap(disk.clone(), blocks, &words, options)
        };
        if self.rng.random_ratio(1, 3) {
            self.disk.crash_after(self.rng.random_range(1..30), self.rng.random());
        }
        match create(&self.disk, &options) {
            Ok(opened) if !self.disk.has_crashed() => self.go_on(opened),
            Err(error) if !self.disk.has_crashed() => return Err(format!("creating: {error}")),
            _ => {
                self.power_fails();
                if !self.reopen(false)? {
                    let opened = create(&self.disk, &options.overwrite());
                    self.go_on(opened.map_err(|error| format!("creating again: {error}"))?);
                }
            }
        }
        Ok(())
    }

    fn power_fails(&mut self) {
        let mut bytes = self.disk.after_crash(&mut self.rng);
        let area = self.disk.area(bytes.len());
        places::flip_a_spare(&mut bytes[area], &mut self.rng);
        self.disk = Arc::new(self.disk.restarted(bytes));
        self.points += 1;
    }

    /// The process ends, by a power failure or alone.
    pub(super) fn crash(&mut self) {
        self.forget_process();
        let killed = self.rng.random_ratio(1, 4);
        if killed {
            self.disk.revive();
            self.points += 1;
        } else {
            self.power_fails();
        }
        if self.authority == Authority::Piggyback {
            // What was handed over was durable. Of the rest, what the engine's log did keep.
            let end = self.line.end();
            let kept = self.rng.random_range(self.handed_over()..=end);
            self.line.cut(if killed { end } else { kept });
            self.own.early.clear();
        }
    }

    /// Opens, with failures while doing so. `false` if there is no log yet, which only a creation cut
    /// short can leave.
    pub(super) fn reopen(&mut self, created: bool) -> Result<bool, String> {
        let mut is_known = true;
        loop {
            let mut rng = Pcg64Mcg::seed_from_u64(self.rng.random());
            let ask = if created { self.ask(&mut rng) } else { Ask::default() };
            let before = self.disk.bytes();
            let beyond = self.beyond(is_known && created);
            let ask = beyond.map_or(ask, |lsn| Ask { until: Some(lsn), also: Vec::new() });
            // A failure on the way may leave the transaction that takes others back, behind one that
            // must be known.
            let settled = self.disk.is_settled();
            if settled || ask.until.is_none() {
                self.arrange_trouble(ask.until.is_some())?;
            }
            self.tell(|world| {
                let (last, end) = (world.line.acknowledged(), world.line.end());
                format!("opening, asked for {ask:?}: {last}..={end}, settled: {settled}")
            });
            let refused = self.disk.refused();
            let error = match SpaceMapLog::open(self.disk.clone(), &self.options(&ask)) {
                Ok(opened) if !self.disk.has_crashed() => {
                    self.disk.calm();
                    self.take_up(opened, &ask)?;
                    return Ok(true);
                }
                Ok(_) => continue,
                Err(error) => error,
            };
            self.tell(|_| format!("  {error}"));
            if before != self.disk.bytes() {
                self.may_be_taken_back(&ask);
            }
            if self.disk.has_crashed() {
                if self.rng.random_ratio(1, 4) {
                    self.disk.revive()
                } else {
                    self.power_fails()
                }
                continue;
            }
            let refused = self.disk.refused() > refused;
            self.disk.calm();
            match error {
                LogError::Io(ref failure) if refused => {
                    if failure.action == "read" && before != self.disk.bytes() {
                        return Err(format!("written before it was read: {error}"));
                    }
                }
                LogError::Commit(CommitError::Write(_) | CommitError::Sync(_)) if refused => {}
                LogError::TooOld { .. } | LogError::Commit(CommitError::Full { .. })
                    if beyond.is_some() =>
                {
                    is_known = false;
                }
                LogError::Foreign { .. } | LogError::Damaged { part: Part::Superblocks, .. }
                    if !created =>
                {
                    return Ok(false);
                }
                error => {
                    assert_eq!(before, self.disk.bytes(), "what cannot be opened is left as it is");
                    return Err(format!("opening, asked for {ask:?}: {error}"));
                }
            }
        }
    }

    fn options(&mut self, ask: &Ask) -> OpenOptions {
        let options = adapter::recover(ask);
        match self.authority {
            Authority::Piggyback => options,
            _ if self.rng.random() => options.expect_lsn(Lsn(self.line.acknowledged())),
            _ => options,
        }
    }

    /// Sometimes the engine asks for more than it was promised: an error, or what it asks for.
    fn beyond(&mut self, is_known: bool) -> Option<u64> {
        if self.authority != Authority::Engine || !is_known || !self.rng.random_ratio(1, 12) {
            return None;
        }
        let number = self.rng.random_range(self.line.first()..=self.line.acknowledged());
        (!self.engine.has(number)).then_some(number)
    }

    /// A failure on the way of the opening that follows.
    fn arrange_trouble(&mut self, takes_back: bool) -> Result<(), String> {
        let kind = self.rng.random_range(0..10);
        if kind > 4 {
            return Ok(());
        }
        if takes_back {
            self.peek()?;
        }
        let after = self.rng.random_range(0..6);
        let (operation, after) = match kind {
            0..3 => {
                self.disk.crash_after(after + 1, self.rng.random());
                return Ok(());
            }
            3 => (Operation::Read, 4 * after),
            _ => (Operation::Change, after),
        };
        let arrives = self.rng.random();
        let error = ErrorKind::Other;
        self.disk.refuse_later(Refusal { operation, after, error, arrives });
        Ok(())
    }

    /// Looks without writing: what is there now is what there will be, and perhaps the transaction
    /// that takes the later ones back.
    fn peek(&mut self) -> Result<(), String> {
        let before = self.disk.bytes();
        let (allocator, report) = SpaceMapLog::inspect(self.disk.clone(), &OpenOptions::new())
            .map_err(|error| format!("inspecting: {error}"))?;
        assert_eq!(before, self.disk.bytes(), "inspecting writes nothing");
        let (found, last) = (report.last.0, self.line.acknowledged());
        if !(last..=self.line.end()).contains(&found) {
            return Err(format!("inspected at {found}, not {last}..={}", self.line.end()));
        }
        compare(&allocator, &self.line.state(found))
            .map_err(|error| format!("inspected at {found}: {error}"))?;
        self.line.cut(found);
        Ok(())
    }

    /// Goes on with what was found.
    pub(super) fn take_up(&mut self, opened: Opened, ask: &Ask) -> Result<(), String> {
        let number = self.found(&opened, ask)?;
        self.blocks = (opened.allocator.blocks(), opened.allocator.blocks());
        match self.authority {
            Authority::Piggyback => {
                self.line.go_back(number);
                self.line.forget(number);
                self.own.checkpoints = vec![number];
            }
            _ => {
                self.line.cut(number);
                self.line.acknowledge(number);
                self.taken_back(number, ask);
            }
        }
        self.go_on(opened);
        self.look()
    }

    /// An opening that failed may have left the transaction that takes others back.
    fn may_be_taken_back(&mut self, ask: &Ask) {
        let end = self.line.end();
        let undo = self.line.state(end).difference(&self.target(ask, end));
        if !undo.is_empty() {
            self.line.push(Entry::from(undo));
        }
    }
}
