//! Closed regions, a changing length, promises, reserves, discards, classes, streams and transactions in
//! any order: no panic, no block owned twice, none lost.
#![no_main]

use std::time::Instant;

use arbitrary::Arbitrary;
use freemap::{
    AllocError, Allocator, Batch, Class, Direction, DiscardLimits, Discarder, Discarding, Extent,
    FreeError, Placement, Region, Request, Reservation, Shrink, Spill, Stream,
};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Call {
    Allocate { len: u16, scattered: bool, partial: bool, class: u8 },
    Many { len: u8, count: u8 },
    Stream { class: u8, len: u16, scattered: bool, near: Option<u16> },
    Free { nth: u8, from: u8, len: u16 },
    FreeMany { count: u8 },
    FreeWild { start: u32, len: u32 },
    Mark { start: u16, len: u16 },
    Transaction { len: u16, free: u8, commit: bool },
    Close { start: u16, len: u16 },
    Open { nth: u8 },
    Take { nth: u8 },
    Grow { blocks: u16 },
    Shrink { blocks: u16 },
    Finish,
    GiveUpShrink,
    Reserve { blocks: u16 },
    Split { nth: u8, blocks: u16 },
    Use { nth: u8, len: u16, scattered: bool },
    GiveUp { nth: u8 },
    Discard { waiting: u16, batch: u8, shortest: u8, granularity: u8, alignment: u8 },
    Step,
    Complete { nth: u8 },
    StopDiscarding,
    Survey,
}

#[derive(Arbitrary, Debug)]
struct Script {
    blocks: u16,
    region: Option<(u8, u8)>,
    down: bool,
    far: bool,
    reserve: u8,
    calls: Vec<Call>,
}

struct Model {
    allocator: Allocator,
    owned: Vec<Extent>,
    is_owned: Vec<bool>,
    regions: Vec<Region>,
    shrink: Option<Shrink>,
    reservations: Vec<Reservation>,
    discarder: Option<Discarder>,
    batches: Vec<Batch>,
    streams: Vec<(u8, Stream)>,
}

fn class(number: u8) -> Class {
    [Class::BULK, Class::METADATA, Class::user(0).unwrap()][usize::from(number % 3)]
}

impl Model {
    /// Blocks that `extents` name are the caller's now; `promised` ones may lie in closed regions.
    fn own(&mut self, extents: &[Extent], promised: bool) {
        for &extent in extents {
            assert!(extent.len > 0 && extent.end().unwrap() <= self.allocator.blocks(), "{extent}");
            for block in extent.start..extent.start + extent.len {
                let owned = &mut self.is_owned[block as usize];
                assert!(!*owned, "block {block} has two owners");
                *owned = true;
            }
            let closed = self.regions.iter().any(|region| region.extent().overlaps(&extent));
            assert!(promised || !closed, "{extent} lies in a closed region");
            self.owned.push(extent);
        }
    }

    fn allocate(&mut self, request: Request) {
        let before = self.allocator.free_blocks();
        match self.allocator.allocate_with(&request) {
            Ok(extents) => {
                // What its class has in reserve may lie anywhere.
                self.own(&extents, true);
            }
            Err(AllocError::NoSpace { requested, free }) => assert!(free < requested, "{before}"),
            Err(_) => {}
        }
    }

    fn free(&mut self, extent: Extent) {
        let range = extent.start..extent.start.saturating_add(extent.len);
        match self.allocator.free(extent) {
            Ok(()) => range.for_each(|block| {
                assert!(std::mem::take(&mut self.is_owned[block as usize]), "block {block}");
            }),
            Err(FreeError::DoubleFree { block }) => assert!(!self.is_owned[block as usize]),
            Err(_) => assert!(extent.len == 0 || range.end > self.allocator.blocks()),
        }
    }

    fn forget(&mut self, extent: Extent) {
        (extent.start..extent.start + extent.len).for_each(|b| self.is_owned[b as usize] = false);
    }

    fn run(&mut self, call: Call) {
        match call {
            Call::Allocate { len, scattered, partial, class: number } => {
                let request = Request::new(len.into()).class(class(number));
                let request = if scattered { request.scattered() } else { request };
                self.allocate(if partial { request.partial() } else { request });
            }
            Call::Many { len, count } => {
                let mut extents = vec![Extent::new(0, 0); count.into()];
                if self.allocator.allocate_many(len.into(), &mut extents).is_ok() {
                    self.own(&extents, true);
                }
            }
            Call::Stream { class: number, len, scattered, near } => {
                let number = number % 3;
                let place = self.streams.iter().position(|(class, _)| *class == number);
                let place = place.unwrap_or_else(|| {
                    self.streams.push((number, self.allocator.stream(class(number))));
                    self.streams.len() - 1
                });
                let request = Request::new(len.into());
                let request = if scattered { request.scattered() } else { request };
                let request = near.map_or(request, |near| request.near(near.into()));
                if let Ok(extents) = self.streams[place].1.allocate_with(&request) {
                    self.own(&extents, true);
                }
            }
            Call::Free { nth, from, len } if !self.owned.is_empty() => {
                let extent = self.owned.swap_remove(usize::from(nth) % self.owned.len());
                let from = u64::from(from) % extent.len;
                let len = u64::from(len).clamp(1, extent.len - from);
                self.free(Extent::new(extent.start + from, len));
                let (head, tail) = (extent.start, extent.start + from + len);
                let rest = [Extent::new(head, from), Extent::new(tail, extent.len - from - len)];
                self.owned.extend(rest.into_iter().filter(|extent| extent.len > 0));
            }
            Call::FreeMany { count } => {
                let count = usize::from(count).min(self.owned.len());
                let mut some = self.owned.split_off(self.owned.len() - count);
                self.allocator.free_many(&mut some).expect("they are ours");
                some.into_iter().for_each(|extent| self.forget(extent));
            }
            Call::FreeWild { start, len } => {
                let extent = Extent::new(start.into(), len.into());
                let end = extent.end().unwrap().min(self.is_owned.len() as u64);
                let ours = (extent.start.min(end)..end).any(|block| self.is_owned[block as usize]);
                if !ours {
                    assert!(self.allocator.free(extent).is_err(), "{extent} is not ours");
                }
            }
            Call::Mark { start, len } => {
                let extent = Extent::new(start.into(), len.into());
                if self.allocator.mark_allocated(extent).is_ok() {
                    self.own(&[extent], false);
                }
            }
            Call::Transaction { len, free, commit } => {
                let mut transaction = self.allocator.begin();
                let got = transaction.allocate_with(&Request::new(len.into()).scattered());
                let freed = (!self.owned.is_empty())
                    .then(|| self.owned.swap_remove(usize::from(free) % self.owned.len()));
                freed.iter().for_each(|&extent| transaction.free(extent).expect("it is ours"));
                if commit {
                    transaction.freeze().committed();
                    freed.into_iter().for_each(|extent| self.forget(extent));
                    self.own(&got.unwrap_or_default(), true);
                } else {
                    drop(transaction);
                    self.owned.extend(freed);
                }
            }
            Call::Close { start, len } => {
                let extent = Extent::new(start.into(), len.into());
                self.regions.extend(self.allocator.close(extent));
            }
            Call::Open { nth } if !self.regions.is_empty() => {
                self.regions.swap_remove(usize::from(nth) % self.regions.len());
            }
            Call::Take { nth } if !self.regions.is_empty() => {
                let region = self.regions.swap_remove(usize::from(nth) % self.regions.len());
                let live: u64 = region.live_extents().map(|extent| extent.len).sum();
                assert_eq!(live, region.live_blocks());
                match region.take() {
                    Ok(extent) => self.own(&[extent], false),
                    Err(region) => self.regions.push(region),
                }
            }
            Call::Grow { blocks } => {
                let _ = self.allocator.grow(blocks.into());
                self.is_owned.resize(self.is_owned.len().max(blocks.into()), false);
            }
            Call::Shrink { blocks } if self.shrink.is_none() => {
                self.shrink = self.allocator.shrink(blocks.into()).ok();
            }
            Call::Finish => {
                if let Some(shrink) = self.shrink.take() {
                    let tail = shrink.tail();
                    match shrink.finish() {
                        Ok(()) => {
                            let owned = &self.is_owned[tail.start as usize..];
                            assert!(owned.iter().all(|owned| !owned), "{tail} is in use");
                            assert_eq!(self.allocator.blocks(), tail.start);
                        }
                        Err(failed) => self.shrink = Some(failed.shrink),
                    }
                }
            }
            Call::GiveUpShrink => self.shrink = None,
            Call::Reserve { blocks } => {
                self.reservations.extend(self.allocator.reserve(blocks.into()));
            }
            Call::Split { nth, blocks } if !self.reservations.is_empty() => {
                let nth = usize::from(nth) % self.reservations.len();
                let part = self.reservations[nth].split(blocks.into());
                self.reservations.extend(part);
            }
            Call::Use { nth, len, scattered } if !self.reservations.is_empty() => {
                let nth = usize::from(nth) % self.reservations.len();
                let reservation = &mut self.reservations[nth];
                let request = Request::new(len.into());
                let request = if scattered { request.scattered() } else { request };
                let promised = u64::from(len) <= reservation.blocks() && len > 0;
                match reservation.allocate(&request) {
                    Ok(extents) => self.own(&extents, true),
                    Err(error) => assert!(!promised || !(scattered || len == 1), "{error}"),
                }
            }
            Call::GiveUp { nth } if !self.reservations.is_empty() => {
                self.reservations.swap_remove(usize::from(nth) % self.reservations.len());
            }
            Call::Discard { waiting, batch, shortest, granularity, alignment } => {
                let limits = DiscardLimits::new()
                    .waiting(waiting.into())
                    .batch(batch.into(), 4)
                    .shortest(shortest.into())
                    .granularity(granularity.into())
                    .alignment(alignment.into());
                self.discarder = self.discarder.take().or_else(|| self.allocator.discarder(limits));
            }
            Call::Step => {
                if let Some(Discarding::Batch(batch)) =
                    self.discarder.as_mut().map(|discarder| discarder.next(Instant::now()))
                {
                    for extent in batch.extents() {
                        let range = extent.start as usize..extent.end().unwrap() as usize;
                        assert!(self.is_owned[range].iter().all(|owned| !owned), "{extent}");
                    }
                    self.batches.push(batch);
                }
            }
            Call::Complete { nth } if !self.batches.is_empty() => {
                drop(self.batches.swap_remove(usize::from(nth) % self.batches.len()));
            }
            Call::StopDiscarding => self.discarder = None,
            Call::Survey => {
                let _ = self.allocator.survey().finish();
                let stats = self.allocator.stats();
                assert!(stats.free_blocks <= stats.blocks);
            }
            _ => {}
        }
    }
}

fuzz_target!(|script: Script| {
    let blocks = u64::from(script.blocks).max(1);
    let mut builder = Allocator::builder(blocks);
    let direction = if script.down { Direction::Down } else { Direction::Up };
    let spill = if script.far { Spill::Far } else { Spill::Near };
    let mut metadata = Placement::new().direction(direction).spill(spill);
    if let Some((start, len)) = script.region {
        let region = Extent::new(u64::from(start) * 512, u64::from(len) * 512);
        metadata = metadata.region(region);
    }
    builder = builder
        .placement(Class::METADATA, metadata)
        .placement(Class::user(0).unwrap(), Placement::new().reserve(script.reserve.into()));
    let Ok(allocator) = builder.build() else { return };
    let mut model = Model {
        allocator,
        owned: Vec::new(),
        is_owned: vec![false; blocks as usize],
        regions: Vec::new(),
        shrink: None,
        reservations: Vec::new(),
        discarder: None,
        batches: Vec::new(),
        streams: Vec::new(),
    };
    script.calls.into_iter().take(200).for_each(|call| model.run(call));

    // With everything given up, all blocks are free, owned, or in reserve or owed to it.
    let Model { allocator, owned, regions, shrink, reservations, discarder, batches, .. } = model;
    drop((regions, shrink, reservations, discarder, batches));
    allocator.collect();
    let found = allocator.verify();
    assert!(found.is_clean(), "{:?}", found.differences);
    for extent in owned {
        allocator.free(extent).expect("it is ours");
    }
    let reserve = u64::from(script.reserve).min(allocator.blocks());
    let (blocks, free) = (allocator.blocks(), allocator.free_blocks());
    assert_eq!(free, blocks - reserve, "of {blocks} blocks, {reserve} in reserve");
    let all = allocator.allocate_with(&Request::new(free.max(1)).scattered());
    assert!(all.is_ok() || free == 0, "{all:?}");
});
