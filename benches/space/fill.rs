//! Speed by fill, on aged devices.
//!
//! Each device is filled and overwritten 20 times at its own fill, by the trace of `ageing`, then
//! topped up to exactly that fill. Measured are rounds that free pieces of the device's objects,
//! chosen at random all over the device, and allocate as many: single blocks in one case,
//! requests for 16 scattered blocks in the other. So the free space stays aged. Two ways:
//!
//! - *in turn*: a free, an allocation, and so on, as an engine goes on that writes anew and frees the old;
//! - *in bursts*: 512 blocks are freed, and then 512 allocated, each mostly where no cache line is at hand.
//!
//! Not measured: several threads, contiguous requests for more than a block (see `ageing`), a cache
//! that holds the whole bitmap of a larger device, and what the device does after many times more
//! single blocks were replaced than it has free: its free space is single blocks then.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use freemap::{Extent, Request};
use rand::RngExt;

use crate::baseline::Space;
use crate::trace::{Freemap, Objects};
use crate::{median, print, row, table};

/// Blocks replaced in one round: less than are free at 99.9 % of the smallest device.
const ROUND: u64 = 512;
const ROUNDS: usize = 101;

pub fn fill(blocks: u64) {
    let header = [
        "fill %",
        "mean free run",
        "1 in turn ns",
        "to 10 %",
        "floor ns",
        "to 10 %",
        "16 in turn ns",
        "to 10 %",
        "1 in bursts: allocate ns",
        "free ns",
        "both, to 10 %",
        "16 in bursts: allocate ns",
        "free ns",
        "both, to 10 %",
        "16: extents",
    ];
    let mut figures = table(&header);
    let mut first = None;
    for per_mille in [100, 500, 900, 990, 999] {
        let mut space = Freemap::new(blocks);
        let mut objects = Objects::new(blocks);
        objects.fill(&mut space, per_mille);
        objects.overwrite(&mut space, 20, per_mille);
        objects.fill(&mut space, per_mille);
        let runs = space.runs();
        let [one, sixteen] = [1, 16].map(|len| Figures::of(&mut space, &mut objects, len));
        let [one_at_10, sixteen_at_10] = first.get_or_insert([one, sixteen]);
        row(
            &mut figures,
            &[
                &format!("{:.1}", objects.fill_percent()),
                &format!("{:.1}", runs.iter().sum::<u64>() as f64 / runs.len() as f64),
                &format!("{:.1}", one.in_turn),
                &format!("{:.2}", one.in_turn / one_at_10.in_turn),
                &format!("{:.1}", one.floor),
                &format!("{:.2}", one.floor / one_at_10.floor),
                &format!("{:.1}", sixteen.in_turn),
                &format!("{:.2}", sixteen.in_turn / sixteen_at_10.in_turn),
                &format!("{:.1}", one.allocate),
                &format!("{:.1}", one.free),
                &format!("{:.2}", one.both() / one_at_10.both()),
                &format!("{:.1}", sixteen.allocate),
                &format!("{:.1}", sixteen.free),
                &format!("{:.2}", sixteen.both() / sixteen_at_10.both()),
                &format!("{:.2}", sixteen.extents),
            ],
        );
    }
    print(figures);
    println!("medians of {ROUNDS} rounds, time per request; extents per request");
}

#[derive(Clone, Copy)]
struct Figures {
    /// Nanoseconds of a free and an allocation.
    in_turn: f64,
    /// Nanoseconds of what no allocator can do without for that: a bit set where the block is that is
    /// freed, and cleared again.
    floor: f64,
    /// Nanoseconds.
    allocate: f64,
    /// Nanoseconds.
    free: f64,
    extents: f64,
}

impl Figures {
    fn both(&self) -> f64 {
        self.allocate + self.free
    }

    fn of(space: &mut Freemap, objects: &mut Objects, len: u64) -> Self {
        let (mut turns, mut floors, mut allocates, mut frees) = (vec![], vec![], vec![], vec![]);
        let bare: Vec<AtomicU64> = (0..space.allocator.blocks() / 64).map(AtomicU64::new).collect();
        let requests = ROUND / len;
        let each = |time: Duration| time.as_secs_f64() * 1e9 / requests as f64;
        let (mut old, mut new) = (vec![], Vec::with_capacity(ROUND as usize));
        let mut extents = 0;
        let request = Request::new(len).scattered();
        let allocate = |space: &mut Freemap, new: &mut Vec<Extent>| {
            if len == 1 {
                new.push(space.handle.allocate(1).expect("as much as was freed"));
            } else {
                space.handle.allocate_into(&request, new).expect("as much as was freed");
            }
        };
        for _ in 0..ROUNDS {
            objects.shed(ROUND, len, &mut old);
            let started = Instant::now();
            for extent in &old {
                let (word, bit) = (&bare[(extent.start / 64) as usize], 1 << (extent.start % 64));
                black_box(word.fetch_or(bit, Ordering::AcqRel));
                black_box(word.fetch_and(!bit, Ordering::AcqRel));
            }
            floors.push(each(started.elapsed()));
            let mut room = 0;
            let started = Instant::now();
            for extent in old.drain(..) {
                space.free(extent);
                room += extent.len;
                while room >= len {
                    allocate(space, &mut new);
                    room -= len;
                }
            }
            turns.push(each(started.elapsed()));
            objects.store(&mut new);

            objects.shed(ROUND, len, &mut old);
            let started = Instant::now();
            for extent in old.drain(..) {
                space.free(extent);
            }
            frees.push(each(started.elapsed()));
            let started = Instant::now();
            for _ in 0..requests {
                allocate(space, &mut new);
            }
            allocates.push(each(started.elapsed()));
            extents += new.len();
            objects.store(&mut new);
        }
        Self {
            in_turn: median(turns),
            floor: median(floors),
            allocate: median(allocates),
            free: median(frees),
            extents: extents as f64 / (ROUNDS as u64 * requests) as f64,
        }
    }
}

impl Objects {
    /// Takes `count` blocks from the ends of objects chosen at random, at most `most` from one.
    fn shed(&mut self, count: u64, most: u64, old: &mut Vec<Extent>) {
        let mut left = count;
        while left > 0 {
            let victim = self.rng.random_range(0..self.held.len());
            let Some(last) = self.held[victim].last_mut() else {
                self.held.swap_remove(victim);
                continue;
            };
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
    fn store(&mut self, new: &mut Vec<Extent>) {
        self.held.extend(new.drain(..).map(|extent| vec![extent]));
    }
}
