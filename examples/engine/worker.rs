//! One thread of the store: its objects, its handle, its measurements.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use freemap::{AllocError, Allocator, Extent, Handle, Request};
use hdrhistogram::Histogram;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::start::Start;
use super::{Failure, Options};

/// Longest object, in blocks; sizes are spread evenly over the powers of two up to here.
const LONGEST_OBJECT_ORDER: u32 = 8;

struct Object {
    id: u64,
    version: u64,
    extents: Vec<Extent>,
}

/// What one thread measured.
pub struct Measured {
    pub puts: u64,
    pub overwrites: u64,
    pub reads: u64,
    pub deletes: u64,
    pub refused: u64,
    pub extents: u64,
    pub objects: u64,
    pub held_blocks: u64,
    /// Blocks whose content was not what had been written.
    pub corrupt_blocks: u64,
    pub allocate: Histogram<u64>,
    pub free: Histogram<u64>,
    pub in_allocator: Duration,
    /// What is still held, for the check that no two objects share a block.
    pub held: Vec<Extent>,
}

pub struct Worker<'a> {
    id: u64,
    allocator: &'a Allocator,
    handle: Handle,
    file: &'a File,
    rng: Pcg64Mcg,
    /// Free blocks of the device to stay at.
    target_free: u64,
    objects: Vec<Object>,
    buffer: Vec<u8>,
    measured: Measured,
}

impl<'a> Worker<'a> {
    pub fn new(id: u64, options: &Options, start: &'a Start, file: &'a File) -> Self {
        let allocator = &start.allocator;
        let histogram = || Histogram::new(3).expect("three digits are allowed");
        Self {
            id,
            allocator,
            handle: allocator.handle(),
            file,
            rng: Pcg64Mcg::seed_from_u64(options.seed.wrapping_mul(0x9E37_79B9).wrapping_add(id)),
            target_free: allocator.blocks() * u64::from(100 - options.fill) / 100,
            objects: Vec::new(),
            buffer: Vec::new(),
            measured: Measured {
                puts: 0,
                overwrites: 0,
                reads: 0,
                deletes: 0,
                refused: 0,
                extents: 0,
                objects: 0,
                held_blocks: 0,
                corrupt_blocks: 0,
                allocate: histogram(),
                free: histogram(),
                in_allocator: Duration::ZERO,
                held: Vec::new(),
            },
        }
    }

    /// Works until `stop`, then reads back everything it still holds.
    pub fn run(mut self, stop: &AtomicBool, operations: &AtomicU64) -> Result<Measured, Failure> {
        let mut next = self.id << 40;
        while !stop.load(Ordering::Relaxed) {
            let free = self.allocator.free_blocks();
            if self.objects.is_empty() || free > self.target_free + 64 {
                next += 1;
                self.put(next)?;
            } else {
                let pick = self.rng.random_range(0..self.objects.len());
                match self.rng.random_range(0..10) {
                    0..4 => self.read(pick)?,
                    4..8 => self.overwrite(pick)?,
                    _ => self.delete(pick)?,
                }
            }
            operations.fetch_add(1, Ordering::Relaxed);
        }
        for pick in 0..self.objects.len() {
            self.read(pick)?;
        }
        self.measured.objects = self.objects.len() as u64;
        self.measured.held = self.objects.iter().flat_map(|o| o.extents.clone()).collect();
        self.measured.held_blocks = self.measured.held.iter().map(|extent| extent.len).sum();
        Ok(self.measured)
    }

    fn put(&mut self, id: u64) -> Result<(), Failure> {
        let Some(extents) = self.allocate()? else {
            return Ok(());
        };
        let object = Object { id, version: 0, extents };
        self.write(&object)?;
        self.objects.push(object);
        self.measured.puts += 1;
        Ok(())
    }

    fn overwrite(&mut self, pick: usize) -> Result<(), Failure> {
        let Some(extents) = self.allocate()? else {
            return self.delete(pick);
        };
        let (id, version) = (self.objects[pick].id, self.objects[pick].version + 1);
        let object = Object { id, version, extents };
        self.write(&object)?;
        let old = std::mem::replace(&mut self.objects[pick], object);
        self.measured.overwrites += 1;
        self.free(&old.extents)
    }

    fn delete(&mut self, pick: usize) -> Result<(), Failure> {
        let old = self.objects.swap_remove(pick);
        self.measured.deletes += 1;
        self.free(&old.extents)
    }

    fn read(&mut self, pick: usize) -> Result<(), Failure> {
        let block_size = self.allocator.block_size() as usize;
        let object = &self.objects[pick];
        for extent in &object.extents {
            self.buffer.resize(extent.len as usize * block_size, 0);
            self.file.read_exact_at(&mut self.buffer, extent.start * block_size as u64)?;
            for (block, bytes) in (extent.start..).zip(self.buffer.chunks_exact(block_size)) {
                let right = stamp(object, block);
                let whole = bytes.chunks_exact(32).all(|part| part == right);
                self.measured.corrupt_blocks += u64::from(!whole);
            }
        }
        self.measured.reads += 1;
        Ok(())
    }

    fn write(&mut self, object: &Object) -> Result<(), Failure> {
        let block_size = self.allocator.block_size() as usize;
        for extent in &object.extents {
            self.buffer.clear();
            for block in extent.start..extent.start + extent.len {
                let stamp = stamp(object, block);
                for _ in 0..block_size / stamp.len() {
                    self.buffer.extend_from_slice(&stamp);
                }
            }
            self.file.write_all_at(&self.buffer, extent.start * block_size as u64)?;
        }
        Ok(())
    }

    /// Extents for an object of random size, or `None` if there is no room.
    fn allocate(&mut self) -> Result<Option<Vec<Extent>>, Failure> {
        let order = self.rng.random_range(0..LONGEST_OBJECT_ORDER);
        let len = self.rng.random_range(1u64 << order..2 << order);
        let request = Request::new(len.min(self.allocator.blocks())).scattered();
        let started = Instant::now();
        let result = self.handle.allocate_with(&request);
        let took = started.elapsed();
        self.measured.in_allocator += took;
        self.measured.allocate.record(took.as_nanos() as u64)?;
        match result {
            Ok(extents) => {
                self.measured.extents += extents.len() as u64;
                Ok(Some(extents.to_vec()))
            }
            Err(AllocError::NoSpace { .. }) => {
                self.measured.refused += 1;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn free(&mut self, extents: &[Extent]) -> Result<(), Failure> {
        for &extent in extents {
            let started = Instant::now();
            self.handle.free(extent)?;
            let took = started.elapsed();
            self.measured.in_allocator += took;
            self.measured.free.record(took.as_nanos() as u64)?;
        }
        Ok(())
    }
}

/// What every 32 bytes of `block` hold while it belongs to `object`.
fn stamp(object: &Object, block: u64) -> [u8; 32] {
    let mut stamp = *b"freemap!................________";
    stamp[8..16].copy_from_slice(&object.id.to_le_bytes());
    stamp[16..24].copy_from_slice(&object.version.to_le_bytes());
    stamp[24..].copy_from_slice(&block.to_le_bytes());
    stamp
}
