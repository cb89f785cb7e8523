//! Recipes: the engine has a log of its own, and this one follows it (`Authority::Engine`), or is its
//! checkpoint (`Authority::Piggyback`).

use std::sync::Arc;

use freemap::{Allocator, Authority, Delta, Frozen, Lsn, OpenOptions, Opened, SpaceMapLog};

use crate::engine::{
    BLOCKS, Change, Data, Fault, Objects, Place, Recipe, Result, Wal, enter, is_full, place, small,
};
use crate::world::World;

pub struct EngineLog {
    opened: Opened,
    data: Data,
    wal: Wal,
    objects: Objects,
    /// Committed here, and not yet in the engine's log.
    unrecorded: Vec<(Lsn, u64, Option<Place>)>,
    fault: Fault,
}

impl Recipe for EngineLog {
    fn create(world: &Arc<World>) -> Result<()> {
        Wal::create(world)?;
        let options = small().authority(Authority::Engine);
        SpaceMapLog::create(world.volume("log"), BLOCKS, &options)?;
        Ok(())
    }

    /// The engine's log says what happened; whatever this one has beyond that is taken back.
    fn open(world: &Arc<World>, fault: Fault) -> Result<Self> {
        let (wal, records) = Wal::open(world, fault)?;
        let last = records.last().map_or(Lsn(0), |record| record.lsn);
        let options = OpenOptions::new().recover_until(last).shards(1);
        let opened = SpaceMapLog::open(world.volume("log"), &options)?;
        let mut objects = Objects::new();
        for record in records {
            enter(&mut objects, record.id, record.place);
        }
        Ok(Self { opened, data: Data::new(world)?, wal, objects, unrecorded: Vec::new(), fault })
    }

    fn change(&mut self, group: &[Change]) -> Result<()> {
        for &change in group {
            match self.commit(change) {
                // What was freed is held until the engine's log is durable.
                Err(error) if is_full(&*error) => {
                    self.record()?;
                    match self.commit(change) {
                        Err(error) if is_full(&*error) => {}
                        done => done?,
                    }
                }
                done => done?,
            }
        }
        self.record()
    }

    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn allocator(&self) -> &Allocator {
        &self.opened.allocator
    }

    fn is_consistent(&self) -> bool {
        self.opened.check(self.objects.values().map(|place| place.extent)).is_clean()
    }
}

impl EngineLog {
    /// First the data and this log, in any order ...
    fn commit(&mut self, change: Change) -> Result<()> {
        let Self { opened: Opened { log, allocator, .. }, data, objects, .. } = self;
        let mut transaction = allocator.begin();
        let new = place(&mut transaction, data, change, objects.get(&change.0))?;
        let lsn = transaction.commit(log).map_err(|failed| failed.into_error())?;
        if self.fault == Fault::Early {
            log.stable(lsn)?;
        }
        enter(&mut self.objects, change.0, new);
        self.unrecorded.push((lsn, change.0, new));
        Ok(())
    }

    /// ... then the engine's log, one flush for all of them, and then the word that it is durable.
    fn record(&mut self) -> Result<()> {
        let Some(&(last, ..)) = self.unrecorded.last() else { return Ok(()) };
        self.data.sync()?;
        for (lsn, id, place) in self.unrecorded.drain(..) {
            self.wal.append(lsn, (id, place), Vec::new())?;
        }
        self.wal.sync()?;
        self.opened.log.stable(last)?;
        Ok(())
    }
}

/// The engine's log carries the deltas.
pub struct Checkpointed {
    opened: Opened,
    data: Data,
    wal: Wal,
    objects: Objects,
    /// In the engine's log, and not flushed yet; with the number of the record.
    unflushed: Vec<(u64, Frozen)>,
    groups: u64,
    fault: Fault,
}

impl Recipe for Checkpointed {
    fn create(world: &Arc<World>) -> Result<()> {
        Wal::create(world)?;
        let options = small().authority(Authority::Piggyback);
        SpaceMapLog::create(world.volume("log"), BLOCKS, &options)?;
        Ok(())
    }

    /// What the engine's log has behind the last checkpoint is replayed.
    fn open(world: &Arc<World>, fault: Fault) -> Result<Self> {
        let (wal, records) = Wal::open(world, fault)?;
        let options = OpenOptions::new().shards(1);
        let opened = SpaceMapLog::open(world.volume("log"), &options)?;
        let mut objects = Objects::new();
        for (number, record) in (1..).zip(&records) {
            enter(&mut objects, record.id, record.place);
            if number > opened.position {
                opened.replay(&Delta::decode(&record.delta)?, number - 1..number)?;
            }
        }
        let (data, unflushed) = (Data::new(world)?, Vec::new());
        Ok(Self { opened, data, wal, objects, unflushed, groups: 0, fault })
    }

    fn change(&mut self, group: &[Change]) -> Result<()> {
        for &change in group {
            match self.append(change) {
                Err(error) if is_full(&*error) => {
                    self.flush()?;
                    match self.append(change) {
                        Err(error) if is_full(&*error) => {}
                        done => done?,
                    }
                }
                done => done?,
            }
        }
        self.flush()?;
        self.groups += 1;
        if self.groups.is_multiple_of(2) {
            self.opened.log.checkpoint()?; // the engine could cut its log here
        }
        Ok(())
    }

    fn objects(&self) -> &Objects {
        &self.objects
    }

    fn allocator(&self) -> &Allocator {
        &self.opened.allocator
    }

    fn is_consistent(&self) -> bool {
        self.opened.check(self.objects.values().map(|place| place.extent)).is_clean()
    }
}

impl Checkpointed {
    /// The data is flushed before the record that names it is written.
    fn append(&mut self, change: Change) -> Result<()> {
        let Self { opened: Opened { allocator, .. }, data, wal, objects, .. } = self;
        let mut transaction = allocator.begin();
        let new = place(&mut transaction, data, change, objects.get(&change.0))?;
        data.sync()?;
        let frozen = transaction.freeze();
        let mut delta = Vec::new();
        frozen.delta().encode(&mut delta);
        wal.append(Lsn(0), (change.0, new), delta)?;
        enter(objects, change.0, new);
        self.unflushed.push((self.wal.len(), frozen));
        if self.fault == Fault::Early {
            self.absorb()?;
        }
        Ok(())
    }

    /// One flush for all of them; then this log has them, too, and what they freed is let go.
    fn flush(&mut self) -> Result<()> {
        self.wal.sync()?;
        self.absorb()
    }

    fn absorb(&mut self) -> Result<()> {
        for (number, frozen) in self.unflushed.drain(..) {
            let span = number - 1..number;
            self.opened.log.absorb(frozen, span).map_err(|failed| failed.into_error())?;
        }
        Ok(())
    }
}
