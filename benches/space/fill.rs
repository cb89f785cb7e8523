//! Speed by fill, on aged devices.
//!
//! Each device is filled and overwritten 20 times at its own fill, by the trace of `ageing`, then
//! topped up to exactly that fill. Measured are rounds that free pieces of the device's objects,
//! chosen at random all over the device, and allocate as many: single blocks in one case,
//! requests for 16 scattered blocks in the other. So the free space stays aged. Three ways:
//!
//! - *in short bursts*: the blocks of 64 requests (16, if they are for 16 blocks) are freed, and then so many
//!   allocated; allocations and frees have a clock of their own;
//! - *in turn*: a free, an allocation, and so on, as an engine goes on that writes anew and frees the old;
//! - *in long bursts*: 512 blocks are freed, and then 512 allocated.
//!
//! The fuller a device, the more cache lines its objects lie on, and what is freed at random is the less
//! often at hand. So everything is measured once more with frees in the lowest tenth of the device alone: as
//! many cache lines at each fill.
//!
//! Not measured: contiguous requests for more than a block (see `ageing`), a cache that does not hold the
//! bitmap, and what the device does after many times more single blocks were replaced than it has free: its
//! free space is single blocks then.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use freemap::{Extent, Handle, Request};
use rand::RngExt;

use crate::baseline::Space;
use crate::trace::{Freemap, Objects};
use crate::{median, print, table};

/// Blocks replaced in one round: less than are free at 99.9 % of the smallest device.
const ROUND: u64 = 512;
const ROUNDS: usize = 201;

/// What is freed lies below this part of the device.
const PARTS: [(&str, u64); 2] = [("all over the device", 1), ("in the lowest tenth", 10)];

pub fn fill(blocks: u64) {
    for (name, part) in PARTS {
        for len in [1, 16] {
            println!("requests for {len}, frees {name}; short bursts, in turn, long bursts:");
            by_fill(blocks, len, blocks / part);
        }
    }
    println!("medians of {ROUNDS} rounds, ns per request, and times the figure at 10 %");
}

fn by_fill(blocks: u64, len: u64, below: u64) {
    let header = [
        "fill %", "free run", "allocate", "x", "free", "x", "turn", "x", "floor", "x", "allocate",
        "x", "free", "x", "extents",
    ];
    let mut figures = table(&header);
    let mut at_10 = None;
    for per_mille in [100, 500, 900, 990, 999] {
        let mut space = Freemap::new(blocks);
        let mut objects = Objects::new(blocks);
        objects.fill(&mut space, per_mille);
        objects.overwrite(&mut space, 20, per_mille);
        objects.fill(&mut space, per_mille);
        let runs = space.runs();
        let figure = Figures::of(&mut space, &mut objects, len, below);
        let first = at_10.get_or_insert(figure);
        let mut cells = vec![
            format!("{:.1}", objects.fill_percent()),
            format!("{:.1}", runs.iter().sum::<u64>() as f64 / runs.len() as f64),
        ];
        for (time, first) in figure.times.iter().zip(first.times) {
            cells.extend([format!("{time:.1}"), format!("{:.2}", time / first)]);
        }
        cells.push(format!("{:.2}", figure.extents));
        figures.add_row(cells);
    }
    print(figures);
}

#[derive(Clone, Copy)]
struct Figures {
    /// Nanoseconds for a request: allocation and free in short bursts; both in turn; what no allocator can do
    /// without for that, a bit set where the block is that is freed, and cleared again; allocation and free
    /// in long bursts.
    times: [f64; 6],
    extents: f64,
}

impl Figures {
    fn of(space: &mut Freemap, objects: &mut Objects, len: u64, below: u64) -> Self {
        let bare: Vec<AtomicU64> = (0..space.allocator.blocks() / 64).map(AtomicU64::new).collect();
        let short = if len == 1 { 64 } else { 256 };
        let mut times = [const { Vec::new() }; 6];
        let mut replaced = Replaced::new(len);
        for _ in 0..ROUNDS {
            objects.shed(ROUND, len, below, &mut replaced.old);
            let short = replaced.in_bursts(space, objects, short);
            objects.shed(ROUND, len, below, &mut replaced.old);
            let floor = replaced.floor(&bare);
            let turn = replaced.in_turn(space, objects);
            objects.shed(ROUND, len, below, &mut replaced.old);
            let long = replaced.in_bursts(space, objects, ROUND);
            let round = [short[1], short[0], turn, floor, long[1], long[0]];
            times.iter_mut().zip(round).for_each(|(times, time)| times.push(time));
        }
        let requests = 3 * ROUNDS as u64 * ROUND / len;
        Self { times: times.map(median), extents: replaced.extents as f64 / requests as f64 }
    }
}

/// What a round frees and allocates.
struct Replaced {
    len: u64,
    old: Vec<Extent>,
    new: Vec<Extent>,
    /// Extents allocated so far.
    extents: usize,
}

impl Replaced {
    fn new(len: u64) -> Self {
        Self { len, old: Vec::new(), new: Vec::with_capacity(ROUND as usize), extents: 0 }
    }

    /// Frees at least `burst` blocks, then allocates as many, and so on; the time of the frees and that of the
    /// allocations.
    fn in_bursts(&mut self, space: &mut Freemap, objects: &mut Objects, burst: u64) -> [f64; 2] {
        let mut times = [Duration::ZERO; 2];
        let (mut next, mut room) = (0, 0);
        while next < self.old.len() {
            let started = Instant::now();
            while room < burst && next < self.old.len() {
                room += self.old[next].len;
                space.free(self.old[next]);
                next += 1;
            }
            let freed = Instant::now();
            while room >= self.len {
                allocate(&mut space.handle, self.len, &mut self.new);
                room -= self.len;
            }
            times[1] += freed.elapsed();
            times[0] += freed - started;
        }
        self.store(objects);
        times.map(|time| self.each(time))
    }

    /// The same with as little freed as one request takes.
    fn in_turn(&mut self, space: &mut Freemap, objects: &mut Objects) -> f64 {
        let started = Instant::now();
        in_turn(&mut space.handle, self.len, self.old.drain(..), &mut self.new);
        let time = self.each(started.elapsed());
        self.store(objects);
        time
    }

    fn floor(&self, bare: &[AtomicU64]) -> f64 {
        let started = Instant::now();
        for extent in &self.old {
            let (word, bit) = (&bare[(extent.start / 64) as usize], 1 << (extent.start % 64));
            black_box(word.fetch_or(bit, Ordering::AcqRel));
            black_box(word.fetch_and(!bit, Ordering::AcqRel));
        }
        self.each(started.elapsed())
    }

    /// Nanoseconds for one request, if all of a round took `time`.
    fn each(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e9 / (ROUND / self.len) as f64
    }

    fn store(&mut self, objects: &mut Objects) {
        self.extents += self.new.len();
        objects.store(&mut self.new);
        self.old.clear();
    }
}

/// Frees each of `old`, and allocates as soon as there is enough for a request.
pub fn in_turn(
    handle: &mut Handle,
    len: u64,
    old: impl Iterator<Item = Extent>,
    new: &mut Vec<Extent>,
) {
    let mut room = 0;
    for extent in old {
        handle.free(extent).expect("ours");
        room += extent.len;
        while room >= len {
            allocate(handle, len, new);
            room -= len;
        }
    }
}

fn allocate(handle: &mut Handle, len: u64, new: &mut Vec<Extent>) {
    if len == 1 {
        new.push(handle.allocate(1).expect("as much as was freed"));
    } else {
        let request = Request::new(len).scattered();
        handle.allocate_into(&request, new).expect("as much as was freed");
    }
}

impl Objects {
    /// Takes `count` blocks from the ends of objects chosen at random that end below block `below`, at
    /// most `most` from one.
    pub fn shed(&mut self, count: u64, most: u64, below: u64, old: &mut Vec<Extent>) {
        let mut left = count;
        while left > 0 {
            let victim = self.rng.random_range(0..self.held.len());
            let Some(last) = self.held[victim].last_mut() else {
                self.held.swap_remove(victim);
                continue;
            };
            if last.start + last.len > below {
                continue;
            }
            let len = last.len.min(most).min(left);
            last.len -= len;
            old.push(Extent::new(last.start + last.len, len));
            left -= len;
            if last.len == 0 {
                self.held[victim].pop();
            }
        }
    }
    /// Makes an object of every extent.
    pub fn store(&mut self, new: &mut Vec<Extent>) {
        self.held.extend(new.drain(..).map(|extent| vec![extent]));
    }
}
