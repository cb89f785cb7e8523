//! Recipes: the engine keeps its metadata in a file, which is compared with the log at each opening
//! (`Authority::Log`); what is freed is held one by one, or by the log.

use std::sync::Arc;

use freemap::{Allocator, HeldFrees, Lsn, OpenOptions, Opened, SpaceMapLog};

use crate::engine::{
    BLOCKS, Change, Data, Fault, Objects, Recipe, Result, Table, enter, is_full, place, small,
};
use crate::world::World;

/// What both have.
struct File {
    opened: Opened,
    data: Data,
    table: Table,
    objects: Objects,
    fault: Fault,
}

impl File {
    fn create(world: &Arc<World>) -> Result<()> {
        Table::create(world)?;
        SpaceMapLog::create(world.volume("log"), BLOCKS, &small())?;
        Ok(())
    }

    /// The metadata says which extents are in use. A crash may have left ones that it names and the log has
    /// freed (nobody has written there), and ones that are allocated for what it does not know.
    fn open(world: &Arc<World>, fault: Fault, options: &OpenOptions) -> Result<Self> {
        let (table, objects) = Table::open(world, fault)?;
        let opened = SpaceMapLog::open(world.volume("log"), &options.clone().shards(1))?;
        let found = opened.check(objects.values().map(|place| place.extent));
        opened.repair(&found)?;
        Ok(Self { opened, data: Data::new(world)?, table, objects, fault })
    }

    fn is_consistent(&self) -> bool {
        self.opened.check(self.objects.values().map(|place| place.extent)).is_clean()
    }
}

/// Each transaction holds what it frees until the metadata is durable.
pub struct Holding {
    file: File,
    held: Vec<HeldFrees>,
}

impl Recipe for Holding {
    fn create(world: &Arc<World>) -> Result<()> {
        File::create(world)
    }

    fn open(world: &Arc<World>, fault: Fault) -> Result<Self> {
        Ok(Self { file: File::open(world, fault, &OpenOptions::new())?, held: Vec::new() })
    }

    fn change(&mut self, group: &[Change]) -> Result<()> {
        for &change in group {
            match self.commit(change) {
                Err(error) if is_full(&*error) => {
                    self.release()?;
                    match self.commit(change) {
                        Err(error) if is_full(&*error) => {}
                        done => done?,
                    }
                }
                done => done?,
            }
        }
        self.release()
    }

    fn objects(&self) -> &Objects {
        &self.file.objects
    }

    fn allocator(&self) -> &Allocator {
        &self.file.opened.allocator
    }

    fn is_consistent(&self) -> bool {
        self.file.is_consistent()
    }
}

impl Holding {
    /// The data, the log, the metadata; the first two flushed.
    fn commit(&mut self, change: Change) -> Result<()> {
        let File { opened: Opened { log, allocator, .. }, data, table, objects, fault } =
            &mut self.file;
        let mut transaction = allocator.begin();
        let new = place(&mut transaction, data, change, objects.get(&change.0))?;
        data.sync()?;
        let committed = transaction.commit_holding(log).map_err(|failed| failed.into_error());
        let (lsn, held) = committed?;
        match fault {
            Fault::Early => held.release(),
            _ => self.held.push(held),
        }
        table.write(lsn, change.0, new)?;
        enter(objects, change.0, new);
        Ok(())
    }

    /// The metadata is flushed, once for all of them.
    fn release(&mut self) -> Result<()> {
        self.file.table.sync()?;
        self.held.drain(..).for_each(HeldFrees::release);
        Ok(())
    }
}

/// The log holds what all commits free, until it hears how far the metadata is: for commits that are
/// flushed in groups, by whatever threads.
pub struct Group {
    file: File,
    last: Lsn,
}

impl Recipe for Group {
    fn create(world: &Arc<World>) -> Result<()> {
        File::create(world)
    }

    fn open(world: &Arc<World>, fault: Fault) -> Result<Self> {
        let options = OpenOptions::new();
        let options = if fault == Fault::Early { options } else { options.hold_until_stable() };
        let file = File::open(world, fault, &options)?;
        file.opened.log.stable(file.opened.log.last())?;
        Ok(Self { file, last: Lsn(0) })
    }

    fn change(&mut self, group: &[Change]) -> Result<()> {
        let mut rest = group;
        let mut retried = false;
        while !rest.is_empty() {
            // As if two threads came at a time, the next ones before the metadata is flushed.
            let part = &rest[..rest.len().min(2)];
            let done = self.commit(part)?;
            if done < part.len() {
                self.release()?;
            }
            // With nothing held, one that finds no room is left out.
            let left_out = usize::from(done == 0 && retried);
            retried = done == 0 && !retried;
            rest = &rest[done + left_out..];
        }
        self.release()
    }

    fn objects(&self) -> &Objects {
        &self.file.objects
    }

    fn allocator(&self) -> &Allocator {
        &self.file.opened.allocator
    }

    fn is_consistent(&self) -> bool {
        self.file.is_consistent()
    }
}

impl Group {
    /// The metadata is flushed, once for all of them.
    fn release(&mut self) -> Result<()> {
        self.file.table.sync()?;
        self.file.opened.log.stable(self.last)?;
        Ok(())
    }

    /// As many as there is room for, with one flush of the data and one of the log.
    fn commit(&mut self, group: &[Change]) -> Result<usize> {
        let File { opened: Opened { log, allocator, .. }, data, table, objects, .. } =
            &mut self.file;
        let mut queued = Vec::new();
        for &change in group {
            let mut transaction = allocator.begin();
            match place(&mut transaction, data, change, objects.get(&change.0)) {
                Ok(new) => queued.push((change.0, new, transaction.freeze())),
                Err(error) if is_full(&*error) => break,
                Err(error) => return Err(error),
            }
        }
        data.sync()?;
        let mut pending = Vec::new();
        for (id, new, frozen) in queued {
            let submitted = log.submit(frozen).map_err(|failed| failed.into_error())?;
            pending.push((id, new, submitted));
        }
        log.flush();
        let done = pending.len();
        for (id, new, submitted) in pending {
            let lsn = submitted.wait().map_err(|failed| failed.into_error())?;
            table.write(lsn, id, new)?;
            enter(objects, id, new);
            self.last = lsn;
        }
        Ok(done)
    }
}
