//! Rounds of all subjects in turn, so that what disturbs the machine for a while disturbs them all.

use crate::clock::Reading;
use crate::report::section::{Cell, Column, Outcome, Section};
use crate::settings::Settings;
use crate::subject::roster::{self, SharedVisitor, Visitor};
use crate::subject::{Limits, Shared, Subject};

/// One round of one subject: a reading for each column.
pub type Round = Box<dyn FnMut() -> Vec<Reading>>;

/// What a workload asks of its subjects.
pub trait Workload {
    /// What a round reads.
    fn columns(&self) -> Vec<Column>;

    /// The device.
    fn blocks(&self) -> u64;

    /// Free runs to expect on a device of `blocks` blocks.
    fn free_runs(&self, blocks: u64) -> u64;

    /// The longest run it asks for.
    fn longest_run(&self) -> u32 {
        1
    }

    /// Whether those take part that are used for many extents at a time.
    fn in_batches(&self) -> bool {
        false
    }
}

/// A workload for one thread.
pub trait Alone: Workload {
    /// Prepares a subject on a device of `blocks` blocks, and brings it to the steady state.
    fn prepare<S: Subject>(&self, blocks: u64) -> Round;
}

/// A workload for several threads.
pub trait Together: Workload {
    /// Prepares a subject on a device of `blocks` blocks.
    fn prepare<S: Shared>(&self, blocks: u64) -> Round;
}

/// Runs `workload` for all subjects, and adds its columns to `section`.
pub fn alone(settings: &Settings, workload: &impl Alone, section: &mut Section) {
    let mut contest = Contest::new(settings, workload);
    roster::for_each(workload.blocks(), &mut contest);
    contest.run(section);
}

/// Runs `workload` for all subjects that threads can share, and adds its columns to `section`.
pub fn together(settings: &Settings, workload: &impl Together, section: &mut Section) {
    let mut contest = Contest::new(settings, workload);
    roster::for_each_shared(workload.blocks(), &mut contest);
    contest.run(section);
}

/// A subject that is ready, or why it is not.
struct Entry {
    subject: &'static str,
    round: Result<Round, &'static str>,
    /// That its device is smaller and why, if it is.
    note: Option<String>,
    blocks: u64,
    /// Of each round, a reading for each column.
    readings: Vec<Vec<Reading>>,
}

impl Entry {
    fn outcome(&self, index: usize, column: &Column) -> Outcome {
        match self.round {
            Ok(_) => {
                let of = |round: &Vec<Reading>| round[index];
                let readings: Vec<Reading> = self.readings.iter().map(of).collect();
                let note = self.note.as_deref();
                Outcome::Measured(Cell::new(column, self.blocks, &readings, note))
            }
            Err(why) => Outcome::Missing { why: why.to_owned() },
        }
    }
}

struct Contest<'a, W> {
    settings: &'a Settings,
    workload: &'a W,
    entries: Vec<Entry>,
}

impl<W: Alone> Visitor for Contest<'_, W> {
    fn visit<S: Subject>(&mut self, name: &'static str) {
        self.enter::<S>(name, |workload, blocks| workload.prepare::<S>(blocks));
    }
}

impl<W: Together> SharedVisitor for Contest<'_, W> {
    fn visit<S: Shared>(&mut self, name: &'static str) {
        self.enter::<S>(name, |workload, blocks| workload.prepare::<S>(blocks));
    }
}

impl<'a, W: Workload> Contest<'a, W> {
    fn new(settings: &'a Settings, workload: &'a W) -> Self {
        Self { settings, workload, entries: Vec::new() }
    }

    fn enter<S: Subject>(&mut self, subject: &'static str, prepare: impl Fn(&W, u64) -> Round) {
        if !self.settings.includes(subject) || S::BATCHES && !self.workload.in_batches() {
            return;
        }
        let wanted = self.workload.blocks();
        let (round, blocks) = match device(&S::LIMITS, self.workload) {
            Ok(blocks) => (Ok(prepare(self.workload, blocks)), blocks),
            Err(why) => (Err(why), wanted),
        };
        let why = S::LIMITS.free_runs.why;
        let note = (blocks < wanted).then(|| format!("on 2^{} blocks: {why}", blocks.ilog2()));
        self.entries.push(Entry { subject, round, note, blocks, readings: Vec::new() });
    }

    /// Runs the rounds, the first of which does not count.
    fn run(mut self, section: &mut Section) {
        for number in 0..=self.settings.rounds {
            for entry in &mut self.entries {
                if let Ok(round) = &mut entry.round {
                    let readings = round();
                    if number > 0 {
                        entry.readings.push(readings);
                    }
                }
            }
        }
        let columns = self.workload.columns();
        let outcomes = self.entries.iter().map(|entry| {
            let columns = columns.iter().enumerate();
            (entry.subject, columns.map(|(index, column)| entry.outcome(index, column)).collect())
        });
        let outcomes = outcomes.collect();
        section.add(columns, outcomes);
    }
}

/// The largest device up to the workload's own on which the subject can do it.
fn device(limits: &Limits, workload: &impl Workload) -> Result<u64, &'static str> {
    let mut blocks = workload.blocks();
    if workload.longest_run() > limits.run.most {
        return Err(limits.run.why);
    }
    if blocks > limits.blocks.most {
        return Err(limits.blocks.why);
    }
    while workload.free_runs(blocks) > limits.free_runs.most {
        blocks /= 2;
    }
    Ok(blocks)
}
