//! Files that a power failure forgets: what was not flushed may be there or not, sector by sector, in any
//! version that was written, and sometimes as garbage.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use freemap::Disk;
use rand::{Rng, RngExt};
use rand_pcg::Pcg64Mcg;

pub const SECTOR: usize = 512;

/// Everything that an engine has on its devices.
#[derive(Default)]
pub struct World(Mutex<State>);

#[derive(Default)]
struct State {
    files: BTreeMap<&'static str, File>,
    /// Writes and flushes so far, of all files.
    operations: u64,
    /// The one at which the power fails.
    crash_at: Option<u64>,
    crashed: bool,
}

#[derive(Clone, Default)]
struct File {
    bytes: Vec<u8>,
    /// Sectors as they were at the last flush, and every version since but the newest.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
}

/// One file.
#[derive(Clone)]
pub struct Volume {
    world: Arc<World>,
    name: &'static str,
}

impl World {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn volume(self: &Arc<Self>, name: &'static str) -> Volume {
        Volume { world: self.clone(), name }
    }

    /// The power fails at the `operations`-th write or flush from now.
    pub fn crash_after(&self, operations: u64) {
        let mut state = self.state();
        state.crash_at = Some(state.operations + operations);
    }

    pub fn has_crashed(&self) -> bool {
        self.state().crashed
    }

    /// What is found when only the process is gone: everything, flushed or not.
    pub fn killed(&self) -> Arc<Self> {
        let files = self.state().files.clone();
        Arc::new(Self(Mutex::new(State { files, ..State::default() })))
    }

    /// What is found after the power came back.
    pub fn survivor(&self, rng: &mut Pcg64Mcg) -> Arc<Self> {
        let state = self.state();
        let files = state.files.iter().map(|(&name, file)| {
            let mut bytes = file.bytes.clone();
            for (&sector, versions) in &file.unsynced {
                let place = &mut bytes[sector * SECTOR..(sector + 1) * SECTOR];
                // The newest version is in place already.
                if let Some(older) = versions.get(rng.random_range(0..=versions.len())) {
                    place.copy_from_slice(older);
                }
                if rng.random_ratio(1, 25) {
                    rng.fill_bytes(place);
                }
            }
            (name, File { bytes, ..File::default() })
        });
        Arc::new(Self(Mutex::new(State { files: files.collect(), ..State::default() })))
    }
}

impl State {
    /// Counts an operation on `name`: its file, and whether the power fails right now.
    fn operate(&mut self, name: &'static str) -> io::Result<(&mut File, bool)> {
        if self.crashed {
            return Err(io::Error::other("no power"));
        }
        self.operations += 1;
        self.crashed = self.crash_at.is_some_and(|at| self.operations >= at);
        Ok((self.files.entry(name).or_default(), self.crashed))
    }
}

impl Disk for Volume {
    fn len(&self) -> io::Result<u64> {
        Ok(self.world.state().files.get(self.name).map_or(0, |file| file.bytes.len() as u64))
    }

    fn grow(&self, len: u64) -> io::Result<()> {
        let mut state = self.world.state();
        let bytes = &mut state.files.entry(self.name).or_default().bytes;
        bytes.resize(bytes.len().max(len as usize), 0);
        Ok(())
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let state = self.world.state();
        let file = state.files.get(self.name).ok_or(io::ErrorKind::NotFound)?;
        let range = offset as usize..offset as usize + bytes.len();
        bytes.copy_from_slice(file.bytes.get(range).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(SECTOR as u64) && bytes.len().is_multiple_of(SECTOR));
        let mut state = self.world.state();
        let (file, fails) = state.operate(self.name)?;
        for (index, sector) in bytes.chunks(SECTOR).enumerate() {
            let number = offset as usize / SECTOR + index;
            let place = file.bytes.get_mut(number * SECTOR..(number + 1) * SECTOR);
            let place = place.ok_or(io::ErrorKind::StorageFull)?;
            file.unsynced.entry(number).or_default().push(place.to_vec());
            place.copy_from_slice(sector);
        }
        if fails { Err(io::Error::other("no power")) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.world.state();
        let (file, fails) = state.operate(self.name)?;
        if fails {
            return Err(io::Error::other("no power"));
        }
        file.unsynced.clear();
        Ok(())
    }

    fn name(&self) -> String {
        self.name.to_string()
    }
}
