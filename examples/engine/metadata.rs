//! The metadata log: which objects there are. Records are appended in the order of their LSNs and
//! flushed in groups.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use freemap::Lsn;

use super::Failure;
use super::record::Record;

/// A metadata log that is open for appending.
pub struct MetadataLog {
    file: File,
    /// Flushed before every group of records, so that no record is durable before the data that it
    /// makes findable.
    data: Arc<File>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Where the next group is written.
    end: u64,
    /// The LSN of the next record to be written; all below are durable or being flushed.
    next: u64,
    /// All below are durable.
    durable_below: u64,
    /// Records that wait for their turn, or for one that comes before them.
    waiting: BTreeMap<u64, Vec<u8>>,
    flushing: bool,
    /// Why a flush failed: what is durable is unknown then, so nothing more is taken.
    failed: Option<String>,
    figures: MetadataFigures,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct MetadataFigures {
    pub records: u64,
    /// Groups of records, each with one fdatasync of the data and one of the log.
    pub groups: u64,
    pub bytes: u64,
}

impl MetadataLog {
    /// Appends to `file` from byte `end` on, first the record with the LSN `next`.
    pub fn new(file: File, end: u64, next: Lsn, data: Arc<File>) -> Self {
        let state = State {
            end,
            next: next.0,
            durable_below: next.0,
            waiting: BTreeMap::new(),
            flushing: false,
            failed: None,
            figures: MetadataFigures::default(),
        };
        Self { file, data, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn figures(&self) -> MetadataFigures {
        self.lock().figures
    }

    /// Returns when the records of `lsn` and all before it are durable. Whoever finds the next
    /// record in line and nobody flushing does so, for all that follow without a gap.
    pub fn append(&self, lsn: Lsn, records: &[Record]) -> Result<(), Failure> {
        let bytes = records.iter().flat_map(|record| record.encode(lsn)).collect();
        let mut state = self.lock();
        state.waiting.insert(lsn.0, bytes);
        loop {
            if state.durable_below > lsn.0 {
                return Ok(());
            }
            if let Some(failed) = &state.failed {
                return Err(failed.clone().into());
            }
            let group = if state.flushing { Vec::new() } else { take_group(&mut state) };
            if group.is_empty() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.flushing = true;
            let (end, bytes) = (state.end, group.concat());
            drop(state);
            let flushed = self.flush(end, &bytes);
            state = self.lock();
            state.flushing = false;
            match flushed {
                Ok(()) => {
                    state.end += bytes.len() as u64;
                    state.durable_below = state.next;
                    state.figures.records += group.len() as u64;
                    state.figures.groups += 1;
                    state.figures.bytes += bytes.len() as u64;
                }
                Err(error) => state.failed = Some(format!("metadata log: {error}")),
            }
            self.changed.notify_all();
        }
    }

    fn flush(&self, end: u64, bytes: &[u8]) -> io::Result<()> {
        self.data.sync_data()?;
        self.file.write_all_at(bytes, end)?;
        self.file.sync_data()
    }
}

/// The records that are next in line, up to the first gap.
fn take_group(state: &mut State) -> Vec<Vec<u8>> {
    let mut group = Vec::new();
    while let Some(record) = state.waiting.remove(&state.next) {
        group.push(record);
        state.next += 1;
    }
    group
}
