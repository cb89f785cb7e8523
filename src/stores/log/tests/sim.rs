//! A disk that forgets: what was not flushed may survive a crash or not, sector by sector, in any
//! version that was written, and sometimes as garbage. It can refuse, lose and misplace single calls.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::stores::log::disk::Disk;

pub(super) const SECTOR: usize = 512;

/// What lies before and behind a region, and must stay as it is.
const GUARD: usize = 4096;
const GUARD_BYTE: u8 = 0xA5;

#[derive(Debug, Default)]
pub(super) struct SimDisk {
    /// Where the log's area begins in the medium.
    offset: usize,
    /// The length of a region that cannot grow.
    fixed: Option<usize>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The whole medium, as a reader sees it.
    current: Vec<u8>,
    /// Bytes of the medium at the last flush.
    flushed_len: usize,
    /// Sectors as they were at the last flush, and every version written since but the newest.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Writes and flushes so far.
    operations: u64,
    /// The operation at which the power fails.
    crash_at: Option<u64>,
    /// How much of the write that the power failed in got through, from 0 to 255.
    torn: u8,
    crashed: bool,
    /// Answers to later calls: errors that the device gives.
    refusals: Vec<Refusal>,
    /// Calls refused so far.
    refused: u64,
    probe: Option<Probe>,
    mischief: Option<Mischief>,
    /// The content at the last flush that was asked for, for [`SimDisk::revert`].
    older: Option<Vec<u8>>,
}

/// What a device can refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Read,
    Write,
    Sync,
    /// A write or a flush.
    Change,
}

/// An error that the device will give, once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    pub operation: Operation,
    /// So many of them are done first.
    pub after: u64,
    pub error: io::ErrorKind,
    /// What of a refused write is there all the same: sector i if bit i % 64 is set.
    pub arrives: u64,
}

/// Takes down what a power failure would leave, at some of the operations.
#[derive(Debug)]
struct Probe {
    rng: Pcg64Mcg,
    one_in: u32,
    found: Vec<(u64, Vec<u8>)>,
}

/// Something that a device does without saying so, once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mischief {
    /// Writes that are carried out before.
    pub after: u64,
    /// Where the write goes instead: a number that is taken modulo the places there are. Nowhere, if
    /// there is none.
    pub to: Option<u64>,
}

impl SimDisk {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self::on(0, None, bytes)
    }

    /// A region of `len` bytes in a larger medium, all zeros.
    pub(super) fn region(len: usize) -> Self {
        let mut bytes = vec![GUARD_BYTE; len + 2 * GUARD];
        bytes[GUARD..GUARD + len].fill(0);
        Self::on(GUARD, Some(len), bytes)
    }

    fn on(offset: usize, fixed: Option<usize>, bytes: Vec<u8>) -> Self {
        let flushed_len = bytes.len();
        let state = State { current: bytes, flushed_len, ..State::default() };
        Self { offset, fixed, state: Mutex::new(state) }
    }

    /// The same area of another medium.
    pub(super) fn restarted(&self, bytes: Vec<u8>) -> Self {
        Self::on(self.offset, self.fixed, bytes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn is_region(&self) -> bool {
        self.fixed.is_some()
    }

    /// Where the log's area lies in a medium of `len` bytes.
    pub(super) fn area(&self, len: usize) -> Range<usize> {
        self.offset..self.fixed.map_or(len, |fixed| self.offset + fixed)
    }

    /// Whether everything outside the log's area is as it was.
    pub(super) fn is_alone(&self) -> bool {
        let state = self.state();
        let area = self.area(state.current.len());
        let outside = [&state.current[..area.start], &state.current[area.end..]];
        outside.into_iter().flatten().all(|&byte| byte == GUARD_BYTE)
    }

    /// The power fails in the `operations`-th write or flush from now.
    pub(super) fn crash_after(&self, operations: u64, torn: u8) {
        let mut state = self.state();
        state.crash_at = Some(state.operations + operations);
        state.torn = torn;
    }

    pub(super) fn has_crashed(&self) -> bool {
        self.state().crashed
    }

    /// The process was killed, and not the power: what it wrote is there, flushed or not.
    pub(super) fn revive(&self) {
        self.state().crashed = false;
        self.calm();
    }

    /// Nothing that was arranged happens any more.
    pub(super) fn calm(&self) {
        let mut state = self.state();
        (state.crash_at, state.probe, state.mischief) = (None, None, None);
        state.refusals.clear();
    }

    /// The device answers the next `operation` with `error`, once for each call.
    pub(super) fn refuse(&self, operation: Operation, error: io::ErrorKind) {
        self.refuse_later(Refusal { operation, after: 0, error, arrives: 0 });
    }

    pub(super) fn refuse_later(&self, refusal: Refusal) {
        self.state().refusals.push(refusal);
    }

    /// The device is well again; what it would still have refused.
    pub(super) fn take_refusals(&self) -> Vec<Refusal> {
        std::mem::take(&mut self.state().refusals)
    }

    /// Whether everything is flushed.
    pub(super) fn is_settled(&self) -> bool {
        self.state().unsynced.is_empty()
    }

    /// How many calls were refused.
    pub(super) fn refused(&self) -> u64 {
        self.state().refused
    }

    /// Takes down what a power failure would leave, at one in `one_in` operations from now.
    pub(super) fn probe(&self, seed: u64, one_in: u32) {
        let rng = Pcg64Mcg::seed_from_u64(seed);
        self.state().probe = Some(Probe { rng, one_in, found: Vec::new() });
    }

    /// What was taken down: the number of the operation, and the medium.
    pub(super) fn probed(&self) -> Vec<(u64, Vec<u8>)> {
        self.state().probe.take().map_or_else(Vec::new, |probe| probe.found)
    }

    pub(super) fn mischief(&self, mischief: Mischief) {
        self.state().mischief = Some(mischief);
    }

    /// Remembers the content at the last flush, for [`SimDisk::revert`].
    pub(super) fn remember(&self) {
        let flushed = self.after_losing(|_| false);
        self.state().older = Some(flushed);
    }

    /// What is there if `len` bytes that are aligned went back to what was remembered; one of those
    /// places where it makes a difference, if there is any.
    pub(super) fn revert(&self, len: usize, rng: &mut Pcg64Mcg) -> Option<Vec<u8>> {
        let state = self.state();
        let older = state.older.as_ref()?;
        let both = older.len().min(state.current.len());
        let differs = |&at: &usize| {
            let place = at..(at + len).min(both);
            older[place.clone()] != state.current[place]
        };
        let places: Vec<usize> = (0..both).step_by(len).filter(differs).collect();
        let at = *places.get(rng.random_range(0..places.len().max(1)))?;
        let mut bytes = state.current.clone();
        let place = at..(at + len).min(both);
        bytes[place.clone()].copy_from_slice(&older[place]);
        Some(bytes)
    }

    /// What is found after the power came back.
    pub(super) fn after_crash(&self, rng: &mut Pcg64Mcg) -> Vec<u8> {
        self.state().outcome(rng)
    }

    /// What is found if of the unsynced sectors just those in `survive` got through.
    pub(super) fn after_losing(&self, survive: impl Fn(usize) -> bool) -> Vec<u8> {
        let state = self.state();
        let mut bytes = state.current.clone();
        for (&sector, versions) in state.unsynced.iter().filter(|&(&sector, _)| !survive(sector)) {
            bytes[sector * SECTOR..(sector + 1) * SECTOR].copy_from_slice(&versions[0]);
        }
        bytes
    }

    /// What is there now.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.state().current.clone()
    }
}

impl State {
    fn outcome(&self, rng: &mut Pcg64Mcg) -> Vec<u8> {
        let mut bytes = self.current.clone();
        for (&sector, versions) in &self.unsynced {
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
        // The new length of a file is metadata, which waits for a flush as well.
        if self.flushed_len < bytes.len() && rng.random() {
            bytes.truncate(self.flushed_len);
        }
        bytes
    }

    /// The error that the device gives to this operation, if it is not to be done.
    fn refuse(&mut self, operation: Operation) -> Option<Refusal> {
        let asked = |of: Operation| {
            of == operation || of == Operation::Change && operation != Operation::Read
        };
        let index = self.refusals.iter().position(|refusal| asked(refusal.operation))?;
        match &mut self.refusals[index].after {
            0 => {
                self.refused += 1;
                Some(self.refusals.remove(index))
            }
            after => {
                *after -= 1;
                None
            }
        }
    }

    /// Counts an operation; `false` if the power fails right now.
    fn operate(&mut self) -> bool {
        self.operations += 1;
        self.crashed = self.crash_at.is_some_and(|at| self.operations >= at);
        !self.crashed
    }

    fn look(&mut self) {
        let Some(mut probe) = self.probe.take() else { return };
        if probe.rng.random_ratio(1, probe.one_in) {
            let outcome = self.outcome(&mut probe.rng);
            probe.found.push((self.operations, outcome));
        }
        self.probe = Some(probe);
    }

    /// Where a write of `len` bytes in `area` to `offset` really goes.
    fn divert(&mut self, offset: usize, len: usize, area: Range<usize>) -> Option<usize> {
        match &mut self.mischief {
            Some(mischief) if mischief.after == 0 => {
                let Mischief { to, .. } = self.mischief.take()?;
                let places = (area.len() - len) / SECTOR + 1;
                to.map(|to| area.start + (to % places as u64) as usize * SECTOR)
            }
            Some(mischief) => {
                mischief.after -= 1;
                Some(offset)
            }
            None => Some(offset),
        }
    }

    fn put(&mut self, offset: usize, bytes: &[u8], through: impl Fn(usize) -> bool) {
        assert!(
            offset.is_multiple_of(SECTOR) && bytes.len().is_multiple_of(SECTOR),
            "whole sectors"
        );
        let sectors = bytes.chunks(SECTOR).enumerate();
        for (index, sector) in sectors.filter(|&(index, _)| through(index)) {
            let at = offset + index * SECTOR;
            let old = self.current[at..at + SECTOR].to_vec();
            self.unsynced.entry(at / SECTOR).or_default().push(old);
            self.current[at..at + SECTOR].copy_from_slice(sector);
        }
    }
}

fn no_power() -> io::Error {
    io::Error::other("no power")
}

impl Disk for SimDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.area(self.state().current.len()).len() as u64)
    }

    fn grow(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        if state.crashed {
            return Err(no_power());
        }
        match self.fixed {
            Some(fixed) if len > fixed as u64 => Err(io::ErrorKind::StorageFull.into()),
            Some(_) => Ok(()),
            None => {
                let len = (len as usize).max(state.current.len());
                state.current.resize(len, 0);
                Ok(())
            }
        }
    }

    fn cut(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        if state.crashed {
            return Err(no_power());
        }
        if self.fixed.is_none() {
            state.current.truncate(len as usize);
            state.flushed_len = state.flushed_len.min(len as usize);
            state.unsynced.retain(|&sector, _| ((sector * SECTOR) as u64) < len);
        }
        Ok(())
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut state = self.state();
        if let Some(refusal) = state.refuse(Operation::Read) {
            return Err(refusal.error.into());
        }
        let area = self.area(state.current.len());
        let start = area.start + offset as usize;
        let place = start..start + bytes.len();
        if place.end > area.end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.copy_from_slice(&state.current[place]);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let area = self.area(state.current.len());
        let offset = area.start + offset as usize;
        if state.crashed {
            return Err(no_power());
        }
        if offset + bytes.len() > area.end {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if let Some(refusal) = state.refuse(Operation::Write) {
            state.put(offset, bytes, |sector| refusal.arrives >> (sector % 64) & 1 == 1);
            return Err(refusal.error.into());
        }
        let on = state.operate();
        let through =
            if on { usize::MAX } else { bytes.len() / SECTOR * usize::from(state.torn) / 256 };
        if let Some(offset) = state.divert(offset, bytes.len(), area) {
            state.put(offset, bytes, |sector| sector < through);
        }
        state.look();
        if on { Ok(()) } else { Err(io::Error::other("the power failed")) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.crashed {
            return Err(no_power());
        }
        if let Some(refusal) = state.refuse(Operation::Sync) {
            return Err(refusal.error.into());
        }
        state.look();
        if !state.operate() {
            return Err(io::Error::other("the power failed"));
        }
        state.unsynced.clear();
        state.flushed_len = state.current.len();
        Ok(())
    }

    fn name(&self) -> String {
        "simulated disk".to_string()
    }
}
