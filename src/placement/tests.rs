//! What the habits of placement bring, on small traces: how many accesses a request costs, and how
//! free space is laid out. `docs/placement.md` has the same for each habit, on larger ones. One
//! thread, so all figures are exact; the limits leave a tenth or more.

use crate::base::sync::work;
use crate::{Allocator, Extents, Handle, Request};

const BLOCKS: u64 = 1 << 18;

/// xorshift64: the same numbers each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }
}

struct World {
    allocator: Allocator,
    handle: Handle,
    held: Vec<Extents>,
    used: u64,
    random: Random,
}

impl World {
    fn new() -> Self {
        let allocator = Allocator::builder(BLOCKS).shards(8).build().expect("memory");
        let handle = allocator.handle();
        Self { allocator, handle, held: Vec::new(), used: 0, random: Random(0x9e37_79b9_7f4a_7c15) }
    }

    fn free(&mut self) {
        let place = self.random.below(self.held.len() as u64) as usize;
        for &extent in self.held.swap_remove(place).iter() {
            self.handle.free(extent).expect("in use");
            self.used -= extent.len;
        }
    }

    /// In one extent, or in pieces if there is none so long. Returns how many.
    fn allocate(&mut self, request: Request) -> usize {
        let pieces = Request::new(request.len).scattered();
        let got = self.handle.allocate_with(&request);
        let got = got.or_else(|_| self.handle.allocate_with(&pieces)).expect("room");
        let extents = got.len();
        self.used += got.blocks();
        self.held.push(got);
        extents
    }

    /// Fills the device by `request`s, then frees some at random until `percent` are in use.
    fn filled(mut self, percent: u64, request: fn(&mut Random) -> Request) -> Self {
        while let Ok(got) = self.handle.allocate_with(&request(&mut self.random)) {
            self.used += got.blocks();
            self.held.push(got);
        }
        self.free_down_to(BLOCKS * percent / 100);
        self
    }

    fn free_down_to(&mut self, used: u64) {
        while self.used > used {
            self.free();
        }
    }

    /// Accesses for a free and a request, on average.
    fn cost(mut self, request: fn(&mut Random) -> Request) -> u64 {
        let used = self.used;
        let mut churn = || {
            for _ in 0..PAIRS {
                let request = request(&mut self.random);
                self.free();
                self.free_down_to(used.saturating_sub(request.len));
                self.allocate(request);
            }
        };
        churn();
        work::of(churn) / PAIRS
    }

    /// Overwrites objects of 1 to 256 blocks at 90 %, until five times the device is written.
    /// Returns the accesses for each.
    fn age(&mut self) -> u64 {
        let size = |random: &mut Random| {
            let magnitude = 1 << random.below(8);
            Request::new(magnitude + random.below(magnitude + 1))
        };
        let (mut written, mut count) = (0, 0);
        let cost = work::of(|| {
            while written < 6 * BLOCKS {
                let request = size(&mut self.random);
                self.free_down_to(BLOCKS * 9 / 10 - request.len);
                self.allocate(request);
                (written, count) = (written + request.len, count + 1);
            }
        });
        cost / count
    }
}

const PAIRS: u64 = 20_000;

fn singles(_: &mut Random) -> Request {
    Request::new(1)
}

fn aligned(_: &mut Random) -> Request {
    Request::new(16).align(16)
}

fn orders(random: &mut Random) -> Request {
    Request::new(1 << random.below(9))
}

fn aligned_orders(random: &mut Random) -> Request {
    let len = 1 << random.below(9);
    Request::new(len).align(len)
}

#[test]
fn requests_cost_what_they_did() {
    type Trace = (&'static str, u64, fn(&mut Random) -> Request, u64);
    let traces: [Trace; 7] = [
        ("single blocks", 50, singles, 24),
        ("single blocks", 90, singles, 24),
        ("single blocks", 99, singles, 24),
        ("16 aligned blocks", 90, aligned, 30),
        ("orders 0 to 8", 80, orders, 43),
        ("orders 0 to 8", 95, orders, 42),
        ("aligned orders 0 to 8", 90, aligned_orders, 42),
    ];
    for (name, percent, request, most) in traces {
        let cost = World::new().filled(percent, request).cost(request);
        assert!(cost <= most, "{name} at {percent} %: {cost} accesses");
    }
}

#[test]
fn an_aged_device_keeps_long_runs() {
    let mut world = World::new();
    let cost = world.age();
    let runs = world.allocator.free_extents().count() as u64;
    let mean = world.allocator.free_blocks() / runs;
    assert!(cost <= 47, "{cost} accesses");
    assert!(mean >= 28, "{mean} blocks");
}

#[test]
fn pieces_of_an_aged_device_are_few() {
    let mut world = World::new();
    world.age();
    // These stay.
    world.held.clear();
    while world.used < BLOCKS - BLOCKS / 64 {
        world.allocate(Request::new(64).scattered());
    }
    world.held.clear();
    while world.used < BLOCKS - BLOCKS / 1000 {
        world.allocate(Request::new(16).scattered());
    }
    let pieces = |world: &mut World| {
        world.free();
        world.allocate(Request::new(16).scattered()) as u64
    };
    (0..PAIRS).for_each(|_| {
        pieces(&mut world);
    });
    let mut extents = 0;
    let cost = work::of(|| extents = (0..PAIRS).map(|_| pieces(&mut world)).sum()) / PAIRS;
    assert!(cost <= 60, "{cost} accesses");
    assert!(10 * extents <= 26 * PAIRS, "{extents} extents");
}

/// A device that was nearly full has room again: what is allocated in a row lies in a row.
#[test]
fn a_device_that_was_full_is_filled_in_sequence_again() {
    let mut world = World::new().filled(99, singles);
    for _ in 0..PAIRS {
        world.free();
        world.allocate(Request::new(1));
    }
    world.free_down_to(BLOCKS / 2);
    let (mut rows, mut in_row) = (0, 0);
    for _ in 0..PAIRS / 16 {
        let row = |world: &mut World| {
            world.allocate(Request::new(1));
            world.held[world.held.len() - 1][0].start
        };
        let blocks: Vec<u64> = (0..16).map(|_| row(&mut world)).collect();
        in_row += blocks.windows(2).filter(|two| two[1] == two[0] + 1).count();
        rows += 15;
        (0..16).for_each(|_| world.free());
    }
    assert!(10 * in_row >= 4 * rows, "{in_row} of {rows}");
}
