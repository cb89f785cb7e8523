//! An engine whose own log is the authority: which transactions that has after a crash.

use std::collections::BTreeSet;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::adapter;
use super::timeline::{Bits, Entry};
use super::world::World;
use crate::stores::log::Authority;
use crate::values::delta::Delta;
use crate::values::extent::Extent;

/// What the engine says after a crash that its own log has: everything, or all up to one transaction and
/// some of the later ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Ask {
    pub until: Option<u64>,
    pub also: Vec<u64>,
}

#[derive(Default)]
pub(super) struct Engine {
    /// It has said that it has everything up to this one.
    pub oldest: u64,
    /// And these.
    pub recorded: BTreeSet<u64>,
    /// Transactions that were taken back: the engine's log has none of them.
    gone: BTreeSet<u64>,
}

impl Engine {
    pub(super) fn has(&self, number: u64) -> bool {
        number >= self.oldest && !self.gone.contains(&number)
    }

    fn raise(&mut self, number: u64) {
        self.oldest = self.oldest.max(number);
        while self.recorded.contains(&(self.oldest + 1)) {
            self.oldest += 1;
        }
        self.recorded = self.recorded.split_off(&(self.oldest + 1));
        self.gone = self.gone.split_off(&(self.oldest + 1));
    }
}

impl World {
    /// What the engine may say after a crash now.
    pub(super) fn ask(&self, rng: &mut Pcg64Mcg) -> Ask {
        if self.authority != Authority::Engine || rng.random_ratio(1, 4) {
            return Ask::default();
        }
        let until = self.known(rng);
        let told = self.engine.recorded.range(until + 1..).copied();
        let also = match self.engine.gone.range(until + 1..).next() {
            // The engine's log has no more than what it had when those were taken back.
            Some(_) => told.collect(),
            None => {
                let some = rng.random_range(0..4);
                let more =
                    (until + 1..=self.line.acknowledged()).filter(|_| rng.random_ratio(some, 4));
                self.with_what_they_need(until, told.chain(more).collect())
            }
        };
        Ask { until: Some(until), also }
    }

    /// A transaction up to which the engine's log may have everything.
    pub(super) fn known(&self, rng: &mut Pcg64Mcg) -> u64 {
        let (last, oldest) = (self.line.acknowledged(), self.engine.oldest);
        let recent = last.saturating_sub(5).max(oldest);
        let from = if rng.random() { recent } else { oldest };
        let wanted = rng.random_range(from..=last);
        (oldest..=wanted).rev().find(|&number| self.engine.has(number)).unwrap_or(oldest)
    }

    /// These, and all behind `until` that changed the same blocks before them.
    fn with_what_they_need(&self, until: u64, mut some: BTreeSet<u64>) -> Vec<u64> {
        let mut all = Vec::new();
        while let Some(last) = some.pop_last() {
            let needs =
                |number: &u64| touch(&self.line.entry(last).delta, &self.line.entry(*number).delta);
            some.extend((until + 1..last).filter(needs));
            all.push(last);
        }
        all.reverse();
        all
    }

    /// The state that `ask` leads to, of a log that ends with `found`.
    pub(super) fn target(&self, ask: &Ask, found: u64) -> Bits {
        let mut state = self.line.state(ask.until.unwrap_or(found));
        ask.also.iter().for_each(|&number| state.apply(&self.line.entry(number).delta));
        state
    }

    /// The engine's own log has become durable: up to some transaction, or one of the later ones.
    pub(super) fn stable(&mut self) {
        let mut rng = Pcg64Mcg::seed_from_u64(self.rng.random());
        let (oldest, last) = (self.engine.oldest, self.line.acknowledged());
        if rng.random() || !self.engine.gone.is_empty() || last == oldest {
            let known = self.known(&mut rng);
            return self.stable_until(known);
        }
        let one = rng.random_range(oldest + 1..=last);
        for number in self.with_what_they_need(oldest, [one].into()) {
            adapter::recorded(&self.opened(), number).expect("acknowledged");
            self.engine.recorded.insert(number);
        }
        self.raise(oldest);
    }

    pub(super) fn stable_until(&mut self, number: u64) {
        adapter::stable(&self.opened(), number).expect("acknowledged");
        self.raise(number);
    }

    fn raise(&mut self, number: u64) {
        self.engine.raise(number);
        self.line.forget(self.engine.oldest);
        let (mark, oldest) = (self.opened().log.mark().0, self.engine.oldest);
        assert_eq!(mark, oldest, "up to where there is no gap");
    }

    /// The engine goes on with what it asked for; the log ended with `number`.
    pub(super) fn taken_back(&mut self, number: u64, ask: &Ask) {
        let Some(until) = ask.until else {
            self.engine = Engine { oldest: number, ..Engine::default() };
            self.line.forget(number);
            return;
        };
        let then = self.target(ask, number);
        let undo = self.line.now().difference(&then);
        if !undo.is_empty() {
            self.line.push(Entry::from(undo));
            self.line.acknowledge(number + 1);
        }
        let also: BTreeSet<u64> = ask.also.iter().copied().collect();
        let gone = (until + 1..=number).filter(|number| !also.contains(number)).collect();
        self.engine = Engine { oldest: until, recorded: also, gone };
        self.engine.raise(until);
    }
}

/// Whether two transactions change a block in common.
fn touch(a: &Delta, b: &Delta) -> bool {
    let lists = |delta: &Delta| [delta.allocated().to_vec(), delta.freed().to_vec()];
    let (ours, theirs) = (lists(a), lists(b));
    ours.iter().any(|ours| theirs.iter().any(|theirs| overlap(ours, theirs)))
}

/// Whether two ascending lists have a block in common.
fn overlap(mut a: &[Extent], mut b: &[Extent]) -> bool {
    while let (Some(first), Some(second)) = (a.first(), b.first()) {
        if first.overlaps(second) {
            return true;
        }
        if first.start < second.start { a = &a[1..] } else { b = &b[1..] }
    }
    false
}
