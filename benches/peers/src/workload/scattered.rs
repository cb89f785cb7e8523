//! 256 blocks in whatever pieces: 1 MiB of 4 KiB blocks for an object that may be in many.

use std::time::{Duration, Instant};

use rand::seq::SliceRandom;

use super::size;
use crate::clock::Timed;
use crate::compare::{self, Alone, Round, Workload};
use crate::device::{BlockMap, Devices, Fill, rng};
use crate::report::section::{Column, Section};
use crate::settings::Settings;
use crate::subject::{Piece, Subject};

/// Blocks of an object.
const OBJECT: u32 = 256;
/// The most objects that are held at a time.
const MOST_OBJECTS: u64 = 1024;
/// The part of the free blocks that they may take, so that the fill stays what it is said to be.
const PART: u64 = 8;

struct Scattered<F> {
    fill: Fill,
    blocks: u64,
    round: Duration,
    devices: Devices<F>,
}

impl<F: Fn(u64) -> BlockMap> Workload for Scattered<F> {
    fn columns(&self) -> Vec<Column> {
        let column = |operation| Column::time(format!("{}: {operation}", self.fill));
        vec![column("allocate"), column("free")]
    }

    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn free_runs(&self, blocks: u64) -> u64 {
        self.fill.free_runs(blocks)
    }

    fn in_batches(&self) -> bool {
        true
    }
}

impl<F: Fn(u64) -> BlockMap> Alone for Scattered<F> {
    fn prepare<S: Subject>(&self, blocks: u64) -> Round {
        let device = self.devices.of(blocks);
        let (mut subject, _) = S::with_state(&device.map, &[]);
        let most = device.map.free_blocks() / PART / u64::from(OBJECT);
        let count = most.clamp(1, MOST_OBJECTS) as usize;
        let mut objects: Vec<Vec<Piece<S::Held>>> =
            (0..count).map(|_| Vec::with_capacity(OBJECT as usize)).collect();
        let (round, mut rng) = (self.round, rng(10));
        Box::new(move || {
            let (mut allocate, mut free) = (Timed::default(), Timed::default());
            while allocate.time + free.time < round {
                subject.begin_round();
                let start = Instant::now();
                for object in &mut objects {
                    subject.allocate_scattered(OBJECT, object);
                }
                allocate.add(start, count);
                objects.shuffle(&mut rng);
                let start = Instant::now();
                for object in &objects {
                    subject.free_scattered(object);
                }
                free.add(start, count);
                objects.iter_mut().for_each(Vec::clear);
            }
            vec![allocate.per_operation(), free.per_operation()]
        })
    }
}

pub fn run(settings: &Settings) -> Vec<Section> {
    let title = format!("Scattered 1 MiB, {}", size(settings.blocks));
    let caption = "256 blocks in whatever pieces on a device filled at random: one request where \
                   there is such a thing, 256 single blocks elsewhere. Up to 1024 such objects are \
                   allocated, then freed in random order. Time per object.";
    let mut section = Section::new("scattered", title, caption);
    for fill in [Fill::PerMille(500), Fill::PerMille(900), Fill::PerMille(990)] {
        let Settings { blocks, round, .. } = *settings;
        let devices = Devices::new(|blocks| BlockMap::random(blocks, fill.free_blocks(blocks)));
        compare::alone(settings, &Scattered { fill, blocks, round, devices }, &mut section);
    }
    vec![section]
}
