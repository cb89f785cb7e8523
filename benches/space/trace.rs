//! Objects that come, are overwritten, and go.

use std::time::{Duration, Instant};

use freemap::{Allocator, Extent, Handle, Request};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::baseline::Space;

/// The most blocks of an object: 1 MiB.
const LARGEST: u64 = 256;

/// freemap through one handle: contiguous, and scattered if no run is long enough.
pub struct Freemap {
    pub allocator: Allocator,
    pub handle: Handle,
}

impl Freemap {
    pub fn new(blocks: u64) -> Self {
        let allocator = Allocator::new(blocks).expect("memory");
        let handle = allocator.handle();
        Self { allocator, handle }
    }
}

impl Space for Freemap {
    fn allocate(&mut self, len: u64, extents: &mut Vec<Extent>) -> bool {
        match self.handle.allocate(len) {
            Ok(extent) => {
                extents.push(extent);
                true
            }
            Err(_) => self.handle.allocate_into(&Request::new(len).scattered(), extents).is_ok(),
        }
    }

    fn free(&mut self, extent: Extent) {
        self.handle.free(extent).expect("ours");
    }

    fn runs(&self) -> Vec<u64> {
        self.allocator.free_extents().map(|extent| extent.len).collect()
    }
}

/// The objects of a device. Sizes are log-uniform from 1 to 256 blocks: as many objects from 4 to 8
/// KiB as from 512 KiB to 1 MiB.
pub struct Objects {
    pub held: Vec<Vec<Extent>>,
    pub rng: Pcg64Mcg,
    pub failures: u64,
    blocks: u64,
    stored: u64,
}

impl Objects {
    pub fn new(blocks: u64) -> Self {
        Self::of_trace(blocks, 0)
    }

    /// The same for another trace.
    pub fn of_trace(blocks: u64, trace: u64) -> Self {
        let rng = Pcg64Mcg::seed_from_u64(11 + trace);
        Self { held: Vec::new(), rng, failures: 0, blocks, stored: 0 }
    }

    fn size(&mut self) -> u64 {
        let log = self.rng.random_range(0.0..(LARGEST as f64).log2());
        log.exp2().round() as u64
    }

    /// Stores new objects until `per_mille` of the device is in use.
    pub fn fill(&mut self, space: &mut impl Space, per_mille: u64) {
        while self.stored < self.blocks * per_mille / 1000 {
            let len = self.size().min(self.blocks * per_mille / 1000 - self.stored);
            let mut extents = Vec::with_capacity(1);
            assert!(space.allocate(len, &mut extents), "there is room");
            self.stored += len;
            self.held.push(extents);
        }
    }

    /// Overwrites objects at random, until `times` the capacity of the device is written: a size is
    /// drawn anew, the new version allocated, and the old one freed then. The objects are as many
    /// as before, so the fill stays about what it was; where it would go beyond `per_mille` of the
    /// device, the size is drawn again. Time per overwrite.
    pub fn overwrite(&mut self, space: &mut impl Space, times: u64, per_mille: u64) -> Duration {
        let (mut written, mut count) = (0, 0);
        let started = Instant::now();
        while written < times * self.blocks {
            let victim = self.rng.random_range(0..self.held.len());
            let len = self.size();
            let old: u64 = self.held[victim].iter().map(|extent| extent.len).sum();
            if self.stored + len - old > self.blocks * per_mille / 1000 {
                continue;
            }
            let mut extents = Vec::with_capacity(1);
            if !space.allocate(len, &mut extents) {
                self.failures += 1;
                continue;
            }
            std::mem::swap(&mut self.held[victim], &mut extents);
            extents.into_iter().for_each(|extent| space.free(extent));
            self.stored += len;
            self.stored -= old;
            written += len;
            count += 1;
        }
        started.elapsed() / count
    }

    /// The part of the device in use, in per cent.
    pub fn fill_percent(&self) -> f64 {
        100.0 * self.stored as f64 / self.blocks as f64
    }

    /// Objects in more than one extent, in per cent, and the mean number of extents.
    pub fn split(&self) -> (f64, f64) {
        let objects = self.held.len() as f64;
        let split = self.held.iter().filter(|extents| extents.len() > 1).count() as f64;
        let extents: usize = self.held.iter().map(Vec::len).sum();
        (100.0 * split / objects, extents as f64 / objects)
    }
}
