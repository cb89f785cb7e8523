//! One thread of the store: what it does, and its measurements.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use freemap::{AllocError, Extent, Handle, Request, Transaction};
use hdrhistogram::Histogram;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::object::Object;
use super::store::Store;
use super::{Failure, Options, resize};

/// Longest object, in blocks; sizes are spread evenly over the powers of two up to here.
const LONGEST_OBJECT_ORDER: u32 = 6;

/// What one thread measured.
pub struct Measured {
    pub puts: u64,
    pub overwrites: u64,
    pub reads: u64,
    pub deletes: u64,
    pub refused: u64,
    pub extents: u64,
    /// Blocks whose content was not what had been written.
    pub corrupt_blocks: u64,
    /// Nanoseconds of each allocation.
    pub allocate: Histogram<u64>,
    /// Microseconds of each put, overwrite or delete from the write of its data to its
    /// acknowledgement.
    pub durable: Histogram<u64>,
    pub in_allocator: Duration,
}

pub struct Worker<'a> {
    store: &'a Store,
    handle: Handle,
    rng: Pcg64Mcg,
    /// Blocks of the device to keep in use.
    target_used: u64,
    /// Objects that only this thread changes; all threads read all objects.
    own: Vec<u64>,
    buffer: Vec<u8>,
    measured: Measured,
}

impl<'a> Worker<'a> {
    pub fn new(number: u64, options: &Options, store: &'a Store) -> Result<Self, Failure> {
        let allocator = store.allocator();
        let threads = u64::from(options.threads);
        let shortest = resize::shortest(options, store);
        let own = store.objects().keys().copied().filter(|id| id % threads == number).collect();
        let seed = options.seed.wrapping_mul(0x9E37_79B9).wrapping_add(number);
        Ok(Self {
            store,
            handle: allocator.handle(),
            rng: Pcg64Mcg::seed_from_u64(seed.wrapping_add(store.ids() << 32)),
            target_used: shortest - shortest * u64::from(100 - options.fill) / 100,
            own,
            buffer: Vec::new(),
            measured: Measured {
                puts: 0,
                overwrites: 0,
                reads: 0,
                deletes: 0,
                refused: 0,
                extents: 0,
                corrupt_blocks: 0,
                allocate: Histogram::new(3)?,
                durable: Histogram::new(3)?,
                in_allocator: Duration::ZERO,
            },
        })
    }

    /// Works until `stop`, or until it reads anything but what was written.
    pub fn run(mut self, stop: &AtomicBool, operations: &AtomicU64) -> Result<Measured, Failure> {
        while !stop.load(Ordering::Relaxed) && self.measured.corrupt_blocks == 0 {
            let allocator = self.store.allocator();
            let used = allocator.blocks().saturating_sub(allocator.free_blocks());
            if self.own.is_empty() || used + 64 < self.target_used {
                let id = self.store.new_id();
                if self.write(id, 0)? {
                    self.own.push(id);
                    self.measured.puts += 1;
                }
            } else {
                let pick = self.rng.random_range(0..self.own.len());
                match self.rng.random_range(0..10) {
                    0..4 => self.read()?,
                    4..8 => self.overwrite(pick)?,
                    _ => self.delete(pick)?,
                }
            }
            operations.fetch_add(1, Ordering::Relaxed);
        }
        Ok(self.measured)
    }

    fn overwrite(&mut self, pick: usize) -> Result<(), Failure> {
        let id = self.own[pick];
        let version = self.store.find(id).map_or(0, |old| old.version + 1);
        if self.write(id, version)? {
            self.measured.overwrites += 1;
            return Ok(());
        }
        self.delete(pick)
    }

    fn delete(&mut self, pick: usize) -> Result<(), Failure> {
        let id = self.own.swap_remove(pick);
        let started = Instant::now();
        self.store.delete(self.handle.begin(), id)?;
        self.measured.durable.record(started.elapsed().as_micros() as u64)?;
        self.measured.deletes += 1;
        Ok(())
    }

    /// Any object of the store, so that readers and writers meet.
    fn read(&mut self) -> Result<(), Failure> {
        let id = self.rng.random_range(0..self.store.ids().max(1));
        if let Some(corrupt) = self.store.read(id, &mut self.buffer)? {
            self.measured.corrupt_blocks += corrupt;
            self.measured.reads += 1;
        }
        Ok(())
    }

    /// Writes an object of random size; `false` if there is no room.
    fn write(&mut self, id: u64, version: u64) -> Result<bool, Failure> {
        let order = self.rng.random_range(0..LONGEST_OBJECT_ORDER);
        let len = self.rng.random_range(1u64 << order..2 << order);
        let len = len.min(self.store.allocator().blocks());
        let mut transaction = self.handle.begin();
        let Some(extents) = allocate(&mut transaction, len, &mut self.measured)? else {
            return Ok(false);
        };
        let started = Instant::now();
        self.store.put(transaction, Object { id, version, extents }, &mut self.buffer)?;
        self.measured.durable.record(started.elapsed().as_micros() as u64)?;
        Ok(true)
    }
}

/// Extents for `len` blocks, or `None` if there is no room.
fn allocate(
    transaction: &mut Transaction<'_>,
    len: u64,
    measured: &mut Measured,
) -> Result<Option<Vec<Extent>>, Failure> {
    let request = Request::new(len).scattered();
    let started = Instant::now();
    let result = transaction.allocate_with(&request);
    let took = started.elapsed();
    measured.in_allocator += took;
    measured.allocate.record(took.as_nanos() as u64)?;
    match result {
        Ok(extents) => {
            measured.extents += extents.len() as u64;
            Ok(Some(extents.to_vec()))
        }
        Err(AllocError::NoSpace { .. } | AllocError::NoContiguous { .. }) => {
            measured.refused += 1;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
