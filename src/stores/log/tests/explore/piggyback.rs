//! The engine's own log: what it has is durable in it, in order, before the space-map log takes it in.

use rand::RngExt;

use super::adapter;
use super::timeline::{Entry, compare};
use super::world::World;
use crate::stores::log::Authority;
use crate::transaction::Frozen;
use crate::values::delta::Delta;

impl World {
    /// Appends a transaction to the engine's log, and sometimes something else before it.
    pub(super) fn write_down(&mut self, frozen: Frozen) {
        if self.rng.random_ratio(1, 10) {
            self.append(Delta::default(), true);
            self.own.in_flight.push((self.line.end(), None));
        }
        self.append(frozen.delta().clone(), false);
        self.own.in_flight.push((self.line.end(), Some(frozen)));
    }

    fn append(&mut self, delta: Delta, skipped: bool) {
        let from = self.line.end_of(self.line.end());
        let span = from..from + self.rng.random_range(1..1000);
        self.line.push(Entry { delta, span, skipped });
    }

    /// Hands over a transaction that has not been, mostly the oldest.
    pub(super) fn absorb(&mut self) -> Result<(), String> {
        if self.own.in_flight.is_empty() {
            return Ok(());
        }
        let any = self.rng.random_ratio(1, 4);
        let index = if any { self.rng.random_range(0..self.own.in_flight.len()) } else { 0 };
        let (number, next) = self.own.in_flight.remove(index);
        let opened = self.opened();
        let span = self.line.entry(number).span.clone();
        let absorbed = match next {
            Some(frozen) => {
                adapter::absorb(&opened, frozen, span).map_err(|failed| failed.into_error())
            }
            None => adapter::skip(&opened, span),
        };
        match absorbed {
            Ok(()) => drop(self.own.early.insert(number)),
            Err(error) => drop(self.excuse(&error)?),
        }
        while self.own.early.remove(&(self.line.acknowledged() + 1)) {
            self.line.acknowledge(self.line.acknowledged() + 1);
        }
        let (mark, expected) = (opened.log.position(), self.line.end_of(self.line.acknowledged()));
        if mark == expected { Ok(()) } else { Err(format!("the mark is {mark}, not {expected}")) }
    }

    /// The last transaction that was handed over: the engine's own log has it, durably.
    pub(super) fn handed_over(&self) -> u64 {
        self.own.early.last().copied().unwrap_or(self.line.acknowledged())
    }

    /// From here on, a checkpoint as of now may be found.
    pub(super) fn begin_checkpoint(&mut self) {
        if self.authority == Authority::Piggyback {
            self.own.checkpoints.push(self.line.acknowledged());
        }
    }

    /// A checkpoint of what was taken in up to `number` was acknowledged.
    fn checkpointed(&mut self, number: u64) {
        self.own.checkpoints = vec![number];
        self.line.forget(number);
    }

    pub(super) fn checkpoint(&mut self) -> Result<(), String> {
        self.begin_checkpoint();
        let number = self.line.acknowledged();
        let done = self.act(|opened| opened.log.checkpoint())?;
        match done {
            Ok(()) => self.checkpointed(number),
            Err(error) => drop(self.excuse(&error)?),
        }
        Ok(())
    }

    /// Feeds in, after a crash, what the engine's log has behind the checkpoint; meanwhile there may
    /// be checkpoints, and another crash.
    pub(super) fn replay(&mut self) -> Result<(), String> {
        while self.line.acknowledged() < self.line.end() {
            let number = self.line.acknowledged() + 1;
            self.feed(&self.opened(), number)?;
            self.line.acknowledge(number);
            match self.rng.random_range(0..16) {
                0 => self.checkpoint()?,
                1 => {
                    let done = self.act(|opened| opened.log.idle().map(drop))?;
                    self.maintained(done)?;
                }
                _ => {}
            }
            if self.is_over() {
                return Ok(());
            }
        }
        let opened = self.opened();
        opened.allocator.collect();
        compare(&opened.allocator, self.line.now())
            .map_err(|error| format!("after the replay: {error}"))
    }
}
