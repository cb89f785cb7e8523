//! The figures of one table.

use serde::Serialize;

use crate::clock::Reading;
use crate::subject::roster::FLOOR;

/// What a column's values are.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Nanoseconds,
    PerSecond,
    Percent,
    Bytes,
}

/// What of the rounds a table shows.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    Median,
    Largest,
}

/// One column.
#[derive(Clone, Serialize)]
pub struct Column {
    pub name: String,
    pub unit: Unit,
    pub shown: Shown,
}

impl Column {
    fn new(name: impl Into<String>, unit: Unit, shown: Shown) -> Self {
        Self { name: name.into(), unit, shown }
    }

    /// Nanoseconds for one operation.
    pub fn time(name: impl Into<String>) -> Self {
        Self::new(name, Unit::Nanoseconds, Shown::Median)
    }

    /// The longest time that one operation took.
    pub fn longest(name: impl Into<String>) -> Self {
        Self::new(name, Unit::Nanoseconds, Shown::Largest)
    }

    /// Operations in a second.
    pub fn rate(name: impl Into<String>) -> Self {
        Self::new(name, Unit::PerSecond, Shown::Median)
    }

    /// Of a hundred operations.
    pub fn percent(name: impl Into<String>) -> Self {
        Self::new(name, Unit::Percent, Shown::Median)
    }

    /// Memory.
    pub fn bytes(name: impl Into<String>) -> Self {
        Self::new(name, Unit::Bytes, Shown::Median)
    }
}

/// What the rounds of one subject came to in one column.
#[derive(Serialize)]
pub struct Cell {
    /// What the table shows of them.
    pub value: f64,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub rounds: Vec<f64>,
    /// Operations in all rounds.
    pub operations: u64,
    /// Size of the device.
    pub blocks: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Cell {
    pub fn new(column: &Column, blocks: u64, readings: &[Reading], note: Option<&str>) -> Self {
        let rounds: Vec<f64> = readings.iter().map(|reading| reading.value).collect();
        let mut sorted = rounds.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
        let median = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
        let remark = readings.iter().find_map(|reading| reading.remark);
        Self {
            value: match column.shown {
                Shown::Median => median,
                Shown::Largest => max,
            },
            median,
            min,
            max,
            rounds,
            operations: readings.iter().map(|reading| reading.operations).sum(),
            blocks,
            note: match (note, remark) {
                (Some(note), Some(remark)) => Some(format!("{note}; {remark}")),
                (note, remark) => note.or(remark).map(str::to_owned),
            },
        }
    }
}

/// What a table has at the crossing of a subject and a column.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Measured(Cell),
    Missing { why: String },
}

impl Outcome {
    pub fn cell(&self) -> Option<&Cell> {
        match self {
            Outcome::Measured(cell) => Some(cell),
            Outcome::Missing { .. } => None,
        }
    }
}

/// One subject's row.
#[derive(Serialize)]
pub struct Row {
    pub subject: &'static str,
    pub outcomes: Vec<Outcome>,
}

/// One table.
#[derive(Serialize)]
pub struct Section {
    /// What plots and readers of the raw figures find it by.
    pub name: &'static str,
    pub title: String,
    /// What is measured.
    pub caption: &'static str,
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
}

impl Section {
    pub fn new(name: &'static str, title: impl Into<String>, caption: &'static str) -> Self {
        Self { name, title: title.into(), caption, columns: Vec::new(), rows: Vec::new() }
    }

    /// Adds columns. Each time the subjects are the same.
    pub fn add(&mut self, columns: Vec<Column>, outcomes: Vec<(&'static str, Vec<Outcome>)>) {
        self.columns.extend(columns);
        for (subject, outcomes) in outcomes {
            match self.rows.iter_mut().find(|row| row.subject == subject) {
                Some(row) => row.outcomes.extend(outcomes),
                None => self.rows.push(Row { subject, outcomes }),
            }
        }
    }

    /// Moves the columns from `column` on to a section of their own.
    pub fn split_off(&mut self, column: usize, title: String) -> Self {
        let split =
            |row: &mut Row| Row { subject: row.subject, outcomes: row.outcomes.split_off(column) };
        Self {
            rows: self.rows.iter_mut().map(split).collect(),
            columns: self.columns.split_off(column),
            title,
            ..*self
        }
    }

    /// The floor's value in a column.
    pub fn floor(&self, column: usize) -> Option<f64> {
        let floor = self.rows.iter().find(|row| row.subject == FLOOR)?;
        Some(floor.outcomes[column].cell()?.value)
    }
}
