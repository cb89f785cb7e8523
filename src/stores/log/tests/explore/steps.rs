//! What an engine does between two crashes.

use std::io::ErrorKind;

use rand::RngExt;

use super::mix::Step;
use super::timeline::Entry;
use super::world::{Excuse, World, at_operation};
use crate::stores::log::tests::sim::{Operation, Refusal};
use crate::stores::log::{Authority, CommitError};
use crate::transaction::{CommitFailed, Frozen, Transaction};
use crate::values::extent::Extent;
use crate::values::lsn::Lsn;
use crate::values::request::Request;

type Committed = Result<Lsn, CommitFailed<'static, CommitError>>;

impl World {
    /// Works until the power fails, a flush fails, or it has been enough.
    pub(super) fn live(&mut self) -> Result<(), String> {
        self.disk.crash_after(self.rng.random_range(1..=self.mix.within), self.rng.random());
        if self.authority == Authority::Piggyback {
            self.replay()?;
        }
        for _ in 0..self.mix.longest {
            if self.is_over() {
                return Ok(());
            }
            let step = self.mix.step(&mut self.rng);
            self.tell(|world| format!("{step:?}, behind {}", world.line.acknowledged()));
            self.step(step).map_err(|error| format!("{step:?}: {error}"))?;
        }
        Ok(())
    }

    /// Works for so many steps, without a crash.
    pub(super) fn live_well(&mut self, steps: u32) -> Result<(), String> {
        for _ in 0..steps {
            let step = self.mix.step(&mut self.rng);
            self.tell(|world| format!("{step:?}, behind {}", world.line.acknowledged()));
            self.step(step).map_err(|error| format!("{step:?}: {error}"))?;
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Group => self.group(),
            Step::Submit => self.submit_one(),
            Step::Flush => self.flush(),
            Step::Idle => {
                let done = self.act(|opened| opened.log.idle().map(drop))?;
                self.maintained(done)
            }
            Step::Condense => {
                let done = self.act(|opened| opened.log.condense())?;
                self.maintained(done)
            }
            Step::Verify => self.look(),
            Step::Grow => self.grow(),
            Step::Shrink => self.shrink(),
            Step::Refuse => {
                self.arrange_refusal();
                Ok(())
            }
            Step::Stable => {
                self.stable();
                Ok(())
            }
            Step::Write => {
                let frozen = self.frozen();
                self.write_down(frozen);
                Ok(())
            }
            Step::Absorb => self.absorb(),
            Step::Checkpoint => self.checkpoint(),
        }
    }

    pub(super) fn maintained(&mut self, done: Result<(), CommitError>) -> Result<(), String> {
        let Err(error) = done else { return Ok(()) };
        self.tell(|_| format!("  {error}"));
        self.excuse(&error).map(drop)
    }

    fn arrange_refusal(&mut self) {
        let (operation, error) = match self.rng.random_range(0..6) {
            0 => (Operation::Read, ErrorKind::Other),
            1 => (Operation::Sync, ErrorKind::Other),
            2 => (Operation::Write, ErrorKind::Other),
            _ => (Operation::Write, ErrorKind::StorageFull),
        };
        let arrives = self.rng.random::<u64>() & self.rng.random::<u64>();
        let after = self.rng.random_range(0..8);
        self.disk.refuse_later(Refusal { operation, after, error, arrives });
    }

    /// Whether something that is not acknowledged yet frees any of `extent`.
    fn is_claimed(&self, extent: &Extent) -> bool {
        let queued = self.line.pending().flat_map(|entry| entry.delta.freed().iter().copied());
        let kept = self.kept.iter().flat_map(Transaction::freed);
        queued.chain(kept).any(|freed| freed.overlaps(extent))
    }

    /// A transaction of some allocations and frees, also of what others that are under way allocate.
    pub(super) fn frozen(&mut self) -> Frozen {
        let opened = self.opened();
        let allocator = &opened.allocator;
        let mut transaction = allocator.begin();
        let full = allocator.free_blocks() < allocator.blocks() / 8;
        for _ in 0..self.rng.random_range(0..5) {
            let longest = 1u64 << self.rng.random_range(0..14);
            let len = self.rng.random_range(1..=longest);
            if !full {
                drop(transaction.allocate_with(&Request::new(len).scattered().partial()));
            }
        }
        if self.rng.random_ratio(1, self.mix.large) {
            // More records than one frame holds.
            let start = self.rng.random_range(0..allocator.blocks());
            for block in (start..allocator.blocks()).step_by(11).take(2500) {
                let _taken = transaction.mark_allocated(Extent::new(block, 1));
            }
        }
        for _ in 0..self.rng.random_range(0..4) {
            if let Some(extent) = self.victim()
                && !self.is_claimed(&extent)
                && !transaction.freed().any(|other| other.overlaps(&extent))
            {
                transaction.free(extent).expect("allocated, and freed only here");
            }
        }
        let own = transaction.allocated().next().filter(|_| self.rng.random_ratio(1, 10));
        if let Some(extent) = own {
            transaction.free(extent).expect("allocated here");
        }
        transaction.freeze()
    }

    fn victim(&mut self) -> Option<Extent> {
        let allocated: Vec<Extent> =
            self.line.pending().flat_map(|entry| entry.delta.allocated().iter().copied()).collect();
        if allocated.is_empty() || self.rng.random_ratio(2, 3) {
            return self.line.now().allocated(self.blocks.0, &mut self.rng);
        }
        let Extent { start, len } = allocated[self.rng.random_range(0..allocated.len())];
        let skip = self.rng.random_range(0..len);
        let extent = Extent::new(start + skip, self.rng.random_range(1..=len - skip));
        // What it allocates, another may free behind it already.
        (!self.is_claimed(&extent)).then_some(extent)
    }

    /// Queues a transaction.
    pub(super) fn submit(&mut self, frozen: Frozen) -> Result<(), String> {
        let delta = frozen.delta().clone();
        match self.opened().log.submit(frozen) {
            Ok(pending) => {
                self.queue.push(pending);
                self.line.push(Entry::from(delta));
                Ok(())
            }
            Err(CommitFailed { error: CommitError::TooLarge { .. }, .. }) => Ok(()),
            Err(failed) => self.excuse(&failed.error).map(drop),
        }
    }

    fn submit_one(&mut self) -> Result<(), String> {
        if self.queue.len() >= 6 || !self.kept.is_empty() {
            return self.settle(None);
        }
        let frozen = self.frozen();
        self.submit(frozen)
    }

    /// What a flusher does: writes what is queued, and condenses when there is nothing.
    fn flush(&mut self) -> Result<(), String> {
        if self.queue.is_empty() {
            let done = self.act(|opened| opened.log.idle().map(drop))?;
            return self.maintained(done);
        }
        self.settle_by(None, true)
    }

    /// Commits a few transactions, in one of the ways there are.
    fn group(&mut self) -> Result<(), String> {
        if !self.kept.is_empty() {
            return self.repeat();
        }
        for _ in 0..self.rng.random_range(0..4) {
            let frozen = self.frozen();
            self.submit(frozen)?;
        }
        let last = self.frozen();
        let empty = last.delta().is_empty();
        match self.rng.random() {
            true if !empty => self.settle(Some(last)),
            _ => {
                self.submit(last)?;
                self.settle(None)
            }
        }
    }

    /// Commits `last` on this thread, if there is one, and waits for everything that is queued.
    pub(super) fn settle(&mut self, last: Option<Frozen>) -> Result<(), String> {
        let flush = self.rng.random();
        self.settle_by(last, flush)
    }

    fn settle_by(&mut self, last: Option<Frozen>, flush: bool) -> Result<(), String> {
        let queue = std::mem::take(&mut self.queue);
        if let Some(last) = &last {
            self.line.push(Entry::from(last.delta().clone()));
        }
        let results: Vec<Committed> = self.watch(|opened| {
            if flush {
                opened.log.flush();
            }
            let last = last.map(|last| last.reopen().commit(&opened.log));
            let waited = queue.into_iter().map(|pending| pending.wait());
            waited.chain(last).collect::<Vec<_>>()
        });
        self.finish(results)
    }

    /// Takes in what became of transactions, in their order.
    fn finish(&mut self, results: Vec<Committed>) -> Result<(), String> {
        let images = self.disk.probed();
        let all = self.line.clone_pending();
        let (mut place, mut in_doubt, mut committed) = (0, 0, 0);
        let mut failed = Vec::new();
        for result in results {
            let (transaction, error) = match result {
                Ok(lsn) => {
                    committed += 1;
                    let expected = self.line.acknowledged() + committed;
                    if lsn.0 != expected || in_doubt > 0 {
                        return Err(format!("committed as {lsn}, not {expected}"));
                    }
                    place += 1;
                    continue;
                }
                Err(CommitFailed { transaction, error }) => (transaction, error),
            };
            self.tell(|_| format!("  {error}"));
            let excuse = match error {
                CommitError::TooLarge { .. } => None,
                // It frees what one of those allocates, and its window was a later one.
                CommitError::Conflict { .. } if !failed.is_empty() => Some(Excuse::NotDone),
                // What came before it is not stable.
                CommitError::Full { .. }
                    if self.authority == Authority::Engine && committed > 0 =>
                {
                    Some(Excuse::NotDone)
                }
                error => Some(self.excuse(&error)?),
            };
            if excuse == Some(Excuse::Doubt) {
                (place, in_doubt) = (place + 1, in_doubt + 1);
                continue;
            }
            self.line.remove_pending(place);
            failed.extend(excuse.map(|_| transaction));
        }
        self.check_either(images, all)?;
        self.line.acknowledge(self.line.acknowledged() + committed);
        self.kept.extend(failed);
        if !self.is_over() && !self.kept.is_empty() {
            self.give_up_some();
        }
        Ok(())
    }

    /// Checks what power failures would have left: what was not committed in the end may have been on
    /// the disk in between.
    fn check_either(&mut self, images: Vec<(u64, Vec<u8>)>, all: Vec<Entry>) -> Result<(), String> {
        for (operation, bytes) in images {
            self.points += 1;
            let seed = self.rng.random();
            let rest = self.line.clone_pending();
            let checked = self.check_image(bytes.clone(), seed);
            let other = match &checked {
                Err(_) if rest.len() < all.len() => {
                    self.line.replace_pending(all.clone());
                    let other = self.check_image(bytes, seed);
                    self.line.replace_pending(rest);
                    other
                }
                _ => Err(String::new()),
            };
            checked.or_else(|error| other.map_err(|_| at_operation(operation, &error)))?;
        }
        Ok(())
    }

    /// What was not committed is repeated, but perhaps for the last of it: an earlier one may be what
    /// a later one needs.
    fn give_up_some(&mut self) {
        if self.authority == Authority::Engine {
            self.stable_until(self.line.acknowledged());
        }
        let count = self.kept.len();
        let repeated = match self.rng.random_range(0..3) {
            0 => 0,
            1 => self.rng.random_range(0..=count),
            _ => count,
        };
        while self.kept.len() > repeated {
            self.kept.pop();
        }
    }

    fn repeat(&mut self) -> Result<(), String> {
        if self.rng.random_ratio(1, 4) {
            // Meanwhile other things are written.
            let done = self.act(|opened| opened.log.condense())?;
            self.maintained(done)?;
        }
        for transaction in std::mem::take(&mut self.kept) {
            self.submit(transaction.freeze())?;
        }
        self.settle(None)
    }

    /// Commits a transaction in the way of this authority, and waits for it.
    pub(super) fn commit(&mut self, frozen: Frozen) -> Result<(), String> {
        if self.authority == Authority::Piggyback {
            self.write_down(frozen);
            while !self.own.in_flight.is_empty() && !self.is_over() {
                self.absorb()?;
            }
            return Ok(());
        }
        self.submit(frozen)?;
        self.settle(None)
    }
}
