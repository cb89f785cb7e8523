//! What the recipes have in common: objects on a device, and the engine's own records of where they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use freemap::{AllocError, Allocator, CreateOptions, Disk, Extent, Lsn, Transaction};

use crate::world::{SECTOR, Volume, World};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Blocks of the device, of a sector each.
pub const BLOCKS: u64 = 20;
/// Objects that there can be.
pub const IDS: u64 = 5;

/// Changes that are flushed together, at most.
pub const GROUP: usize = 3;

/// A mistake, to see whether it is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// What was freed is let go before the engine's record is durable.
    Early,
    /// What is found after a restart is believed without flushing it.
    Believe,
}

/// Where an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub version: u64,
    pub extent: Extent,
}

pub type Objects = BTreeMap<u64, Place>;

/// What is to become of an object: a new version, or nothing.
pub type Change = (u64, Option<u64>);

/// An engine, by one of the recipes.
pub trait Recipe: Sized {
    /// The files of an engine without objects.
    fn create(world: &Arc<World>) -> Result<()>;
    /// What is there after a restart.
    fn open(world: &Arc<World>, fault: Fault) -> Result<Self>;
    /// Carries out changes of different objects, which are durable when it returns.
    fn change(&mut self, group: &[Change]) -> Result<()>;
    fn objects(&self) -> &Objects;
    fn allocator(&self) -> &Allocator;
    /// Whether the log has what the objects take, and nothing else.
    fn is_consistent(&self) -> bool;
}

/// Options of all the logs here.
pub fn small() -> CreateOptions {
    CreateOptions::new().limit(64 << 10).sector(SECTOR as u32).uuid([7; 16]).shards(1)
}

/// Blocks of object `id`.
pub fn len(id: u64) -> u64 {
    1 + id % 3
}

/// The device.
pub struct Data(Volume);

impl Data {
    pub fn new(world: &Arc<World>) -> Result<Self> {
        let volume = world.volume("data");
        volume.grow(BLOCKS * SECTOR as u64)?;
        Ok(Self(volume))
    }

    fn block(id: u64, version: u64, index: u64) -> Vec<u8> {
        let words = [id, version, index].map(u64::to_le_bytes).concat();
        words.into_iter().cycle().take(SECTOR).collect()
    }

    pub fn write(&self, id: u64, Place { version, extent }: Place) -> Result<()> {
        let blocks = (0..extent.len).flat_map(|index| Self::block(id, version, index));
        Ok(self.0.write(extent.start * SECTOR as u64, &blocks.collect::<Vec<u8>>())?)
    }

    pub fn sync(&self) -> Result<()> {
        Ok(self.0.sync()?)
    }

    /// Whether the object is where it should be.
    pub fn holds(&self, id: u64, Place { version, extent }: Place) -> bool {
        let mut found = vec![0; SECTOR * extent.len as usize];
        self.0.read(extent.start * SECTOR as u64, &mut found).unwrap();
        let mut blocks = (0..).zip(found.chunks(SECTOR));
        blocks.all(|(index, block)| block == Self::block(id, version, index))
    }
}

/// Writes a new version of an object to a new place, or nothing, and frees the old one in `transaction`.
pub fn place(
    transaction: &mut Transaction<'_>,
    data: &Data,
    (id, version): Change,
    old: Option<&Place>,
) -> Result<Option<Place>> {
    let new = match version {
        Some(version) => {
            let place = Place { version, extent: transaction.allocate(len(id))? };
            data.write(id, place)?;
            Some(place)
        }
        None => None,
    };
    if let Some(old) = old {
        transaction.free(old.extent)?;
    }
    Ok(new)
}

/// Whether there may be room when what is held is let go.
pub fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(
        error.downcast_ref(),
        Some(AllocError::NoSpace { .. } | AllocError::NoContiguous { .. })
    )
}

/// One sector of the engine's own: what has become of an object, and in which transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Ties it to what came before.
    pub previous: u64,
    pub lsn: Lsn,
    pub id: u64,
    pub place: Option<Place>,
    /// The encoded delta, where it is kept here.
    pub delta: Vec<u8>,
}

impl Record {
    pub fn to_sector(&self) -> Vec<u8> {
        let none = Place { version: 0, extent: Extent::new(0, 0) };
        let Place { version, extent } = self.place.unwrap_or(none);
        let (start, len) = (extent.start, extent.len);
        let bytes = self.delta.len() as u64;
        let words = [self.previous, self.lsn.0, self.id, version, start, len, bytes];
        let mut sector = words.map(u64::to_le_bytes).concat();
        sector.extend(&self.delta);
        sector.resize(SECTOR - 4, 0);
        sector.extend(crc32c::crc32c(&sector).to_le_bytes());
        sector
    }

    pub fn from_sector(sector: &[u8]) -> Option<Self> {
        let (body, crc) = sector.split_last_chunk()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) || body.iter().all(|&byte| byte == 0) {
            return None;
        }
        let mut words =
            body.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        let mut next = || words.next().unwrap();
        let (previous, lsn, id, version) = (next(), Lsn(next()), next(), next());
        let extent = Extent::new(next(), next());
        let place = (extent.len > 0).then_some(Place { version, extent });
        let delta = body[56..].get(..next() as usize)?.to_vec();
        Some(Self { previous, lsn, id, place, delta })
    }
}

/// The engine's own log: a record a sector, each with the checksum of the one before.
pub struct Wal {
    volume: Volume,
    next: u64,
    previous: u64,
}

impl Wal {
    pub fn create(world: &Arc<World>) -> Result<()> {
        Ok(world.volume("wal").grow(400 * SECTOR as u64)?)
    }

    /// The records that are there, in order.
    pub fn open(world: &Arc<World>, fault: Fault) -> Result<(Self, Vec<Record>)> {
        // Not 0, so that no record is all zeros.
        let mut wal = Self { volume: world.volume("wal"), next: 0, previous: 1 };
        let mut records = Vec::new();
        let mut sector = vec![0; SECTOR];
        loop {
            wal.volume.read(wal.next * SECTOR as u64, &mut sector)?;
            let record = Record::from_sector(&sector);
            let Some(record) = record.filter(|record| record.previous == wal.previous) else {
                break;
            };
            wal.follow(&sector);
            records.push(record);
        }
        if fault != Fault::Believe {
            // What was written behind a record that is lost must not follow another one, and what is found
            // is not durable yet if only the process was killed.
            let torn = [0; GROUP * SECTOR];
            wal.volume.write(wal.next * SECTOR as u64, &torn)?;
            wal.volume.sync()?;
        }
        Ok((wal, records))
    }

    fn follow(&mut self, sector: &[u8]) {
        self.next += 1;
        // Never 0, so that the first record is none of a later one's.
        self.previous = u64::from(crc32c::crc32c(sector)) | 1 << 32;
    }

    pub fn append(
        &mut self,
        lsn: Lsn,
        (id, place): (u64, Option<Place>),
        delta: Vec<u8>,
    ) -> Result<()> {
        let sector = Record { previous: self.previous, lsn, id, place, delta }.to_sector();
        self.volume.write(self.next * SECTOR as u64, &sector)?;
        self.follow(&sector);
        Ok(())
    }

    pub fn sync(&self) -> Result<()> {
        Ok(self.volume.sync()?)
    }

    /// Records so far.
    pub fn len(&self) -> u64 {
        self.next
    }
}

/// A metadata file: two sectors for each object, written in turn, of which the newer one counts.
pub struct Table {
    volume: Volume,
    /// The newest record of each object.
    newest: BTreeMap<u64, u64>,
}

impl Table {
    pub fn create(world: &Arc<World>) -> Result<()> {
        Ok(world.volume("table").grow(2 * IDS * SECTOR as u64)?)
    }

    pub fn open(world: &Arc<World>, fault: Fault) -> Result<(Self, Objects)> {
        let mut table = Self { volume: world.volume("table"), newest: BTreeMap::new() };
        if fault != Fault::Believe {
            table.volume.sync()?;
        }
        let mut objects = Objects::new();
        let mut sectors = vec![0; 2 * SECTOR];
        for id in 0..IDS {
            table.volume.read(2 * id * SECTOR as u64, &mut sectors)?;
            let records = sectors.chunks(SECTOR).filter_map(Record::from_sector);
            // The number of the record, in place of the checksum of the one before.
            if let Some(record) = records.max_by_key(|record| record.previous) {
                table.newest.insert(id, record.previous);
                objects.extend(record.place.map(|place| (id, place)));
            }
        }
        Ok((table, objects))
    }

    pub fn write(&mut self, lsn: Lsn, id: u64, place: Option<Place>) -> Result<()> {
        let number = self.newest.entry(id).or_default();
        *number += 1;
        let delta = Vec::new();
        let sector = Record { previous: *number, lsn, id, place, delta }.to_sector();
        let slot = 2 * id + *number % 2;
        Ok(self.volume.write(slot * SECTOR as u64, &sector)?)
    }

    pub fn sync(&self) -> Result<()> {
        Ok(self.volume.sync()?)
    }
}

/// Takes what has become of an object into the list.
pub fn enter(objects: &mut Objects, id: u64, place: Option<Place>) {
    match place {
        Some(place) => drop(objects.insert(id, place)),
        None => drop(objects.remove(&id)),
    }
}
