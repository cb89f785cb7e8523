//! A disk that forgets: what was not flushed may survive a crash or not, sector by sector, in any
//! version that was written, and sometimes as garbage.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard};

use rand::{Rng, RngExt};
use rand_pcg::Pcg64Mcg;

use crate::log::disk::Disk;

const SECTOR: usize = 512;

#[derive(Debug, Default)]
pub struct SimDisk {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What a reader sees.
    current: Vec<u8>,
    /// Sectors as they were at the last flush, and every version written since but the newest.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Writes and flushes so far.
    operations: u64,
    /// The operation at which the power fails.
    crash_at: Option<u64>,
    /// How much of the write that the power failed in got through, from 0 to 255.
    torn: u8,
    crashed: bool,
    /// Errors that the device will give.
    faults: Vec<Refusal>,
}

/// What a device can refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Read,
    Write,
    Sync,
    /// A write or a flush.
    Change,
}

/// An error that the device will give, once.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    pub operation: Operation,
    /// So many of them are done first.
    pub after: u64,
    pub error: io::ErrorKind,
    /// What of a refused write is there all the same: sector i if bit i % 64 is set.
    pub arrives: u64,
}

impl SimDisk {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { state: Mutex::new(State { current: bytes, ..State::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics under the lock")
    }

    /// The power fails in the `operations`-th write or flush from now.
    pub fn crash_after(&self, operations: u64, torn: u8) {
        let mut state = self.state();
        state.crash_at = Some(state.operations + operations);
        state.torn = torn;
    }

    pub fn has_crashed(&self) -> bool {
        self.state().crashed
    }

    /// The device answers the next `operation` with `error`, once for each call.
    pub fn refuse(&self, operation: Operation, error: io::ErrorKind) {
        self.refuse_later(Refusal { operation, after: 0, error, arrives: 0 });
    }

    pub fn refuse_later(&self, refusal: Refusal) {
        self.state().faults.push(refusal);
    }

    /// The device is well again; what it would still have refused.
    pub fn take_refusals(&self) -> Vec<Refusal> {
        std::mem::take(&mut self.state().faults)
    }

    /// What is found after the power came back.
    pub fn after_crash(&self, rng: &mut Pcg64Mcg) -> Vec<u8> {
        let state = self.state();
        let mut bytes = state.current.clone();
        for (&sector, versions) in &state.unsynced {
            let place = &mut bytes[sector * SECTOR..(sector + 1) * SECTOR];
            // The newest version is in place already.
            let version = rng.random_range(0..=versions.len());
            if let Some(older) = versions.get(version) {
                place.copy_from_slice(older);
            }
            if rng.random_ratio(1, 25) {
                rng.fill_bytes(place);
            }
        }
        bytes
    }

    /// What is found if of the unsynced sectors just those in `survive` got through.
    pub fn after_losing(&self, survive: impl Fn(usize) -> bool) -> Vec<u8> {
        let state = self.state();
        let mut bytes = state.current.clone();
        for (&sector, versions) in state.unsynced.iter().filter(|&(&sector, _)| !survive(sector)) {
            bytes[sector * SECTOR..(sector + 1) * SECTOR].copy_from_slice(&versions[0]);
        }
        bytes
    }

    /// What is there now.
    pub fn bytes(&self) -> Vec<u8> {
        self.state().current.clone()
    }
}

impl State {
    /// Counts an operation; an error if the power is off, `Ok(false)` if it fails right now.
    fn operate(&mut self) -> io::Result<bool> {
        if self.crashed {
            return Err(io::Error::other("no power"));
        }
        self.operations += 1;
        self.crashed = self.crash_at.is_some_and(|at| self.operations >= at);
        Ok(!self.crashed)
    }

    /// The error that the device gives to this operation, if it is not to be done.
    fn refusal(&mut self, operation: Operation) -> Option<Refusal> {
        let asked = |of: Operation| {
            of == operation || of == Operation::Change && operation != Operation::Read
        };
        let index = self.faults.iter().position(|fault| asked(fault.operation))?;
        match &mut self.faults[index].after {
            0 => Some(self.faults.remove(index)),
            after => {
                *after -= 1;
                None
            }
        }
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        assert!(
            offset.is_multiple_of(SECTOR) && bytes.len().is_multiple_of(SECTOR),
            "whole sectors"
        );
        for (index, sector) in bytes.chunks(SECTOR).enumerate() {
            let at = offset + index * SECTOR;
            let old = self.current[at..at + SECTOR].to_vec();
            self.unsynced.entry(at / SECTOR).or_default().push(old);
            self.current[at..at + SECTOR].copy_from_slice(sector);
        }
    }
}

impl Disk for SimDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().current.len() as u64)
    }

    fn grow(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        let len = (len as usize).max(state.current.len());
        state.current.resize(len, 0);
        Ok(())
    }

    fn cut(&self, len: u64) -> io::Result<()> {
        self.state().current.truncate(len as usize);
        self.state().unsynced.retain(|&sector, _| ((sector * SECTOR) as u64) < len);
        Ok(())
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut state = self.state();
        if let Some(refusal) = state.refusal(Operation::Read) {
            return Err(refusal.error.into());
        }
        let end = offset as usize + bytes.len();
        let from = state.current.get(offset as usize..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(from);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        if !state.crashed
            && let Some(refusal) = state.refusal(Operation::Write)
        {
            for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                if refusal.arrives >> (index % 64) & 1 == 1 {
                    state.put(offset as usize + index * SECTOR, sector);
                }
            }
            return Err(refusal.error.into());
        }
        if state.operate()? {
            state.put(offset as usize, bytes);
            return Ok(());
        }
        let through = bytes.len() / SECTOR * usize::from(state.torn) / 256 * SECTOR;
        state.put(offset as usize, &bytes[..through]);
        Err(io::Error::other("the power failed"))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        if !state.crashed
            && let Some(refusal) = state.refusal(Operation::Sync)
        {
            return Err(refusal.error.into());
        }
        if state.operate()? {
            state.unsynced.clear();
            return Ok(());
        }
        Err(io::Error::other("the power failed"))
    }

    fn name(&self) -> String {
        "simulated disk".to_string()
    }
}
