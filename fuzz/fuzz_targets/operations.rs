//! Any sequence of calls with any arguments: no panic, no block owned twice, no block lost, a clean
//! index at the end.
#![no_main]

use arbitrary::Arbitrary;
use freemap::{AllocError, Allocator, Extent, FreeError, Request};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Call {
    Allocate { len: u16 },
    With { len: u16, align: u16, near: Option<u32> },
    Scattered { len: u16, min: u8, max: u16, align: u8, partial: bool },
    Many { len: u8, count: u8 },
    FreeMany { extents: Vec<(u16, u8)> },
    Wild { len: u64, align: u64, near: u64, min: u64, max: u64, scattered: bool, partial: bool },
    Free { start: u32, len: u16 },
    FreeWild { start: u64, len: u64 },
    Mark { start: u32, len: u16 },
    Walk { from: u64 },
}

#[derive(Arbitrary, Debug)]
struct Script {
    blocks: u16,
    allocated: Vec<u64>,
    calls: Vec<Call>,
}

struct Model {
    allocator: Allocator,
    free: Vec<bool>,
}

impl Model {
    fn allocate(&mut self, request: Request) {
        match self.allocator.allocate_with(&request) {
            Ok(extents) => extents.into_iter().for_each(|extent| self.take(extent)),
            Err(AllocError::NoSpace { free, .. } | AllocError::NoContiguous { free, .. }) => {
                assert_eq!(free, self.free.iter().filter(|&&free| free).count() as u64);
            }
            Err(_) => {}
        }
    }

    fn allocate_many(&mut self, len: u64, count: usize) {
        let mut extents = vec![Extent::new(0, 0); count];
        match self.allocator.allocate_many(len, &mut extents) {
            Ok(()) => extents.into_iter().for_each(|extent| self.take(extent)),
            Err(AllocError::NoSpace { free, .. } | AllocError::NoContiguous { free, .. }) => {
                assert_eq!(free, self.free.iter().filter(|&&free| free).count() as u64);
            }
            Err(_) => {}
        }
    }

    fn free_many(&mut self, extents: &mut [Extent]) {
        match self.allocator.free_many(extents) {
            Ok(()) => {
                for extent in extents {
                    let range = extent.start as usize..(extent.start + extent.len) as usize;
                    assert!(self.free[range.clone()].iter().all(|&free| !free));
                    self.free[range].fill(true);
                }
            }
            Err(error) => assert_eq!(error.freed, 0),
        }
    }

    fn take(&mut self, extent: Extent) {
        let range = extent.start as usize..(extent.start + extent.len) as usize;
        assert!(self.free[range.clone()].iter().all(|&free| free), "{extent} was not free");
        self.free[range].fill(false);
    }

    fn free(&mut self, extent: Extent) {
        match self.allocator.free(extent) {
            Ok(()) => {
                let range = extent.start as usize..(extent.start + extent.len) as usize;
                assert!(self.free[range.clone()].iter().all(|&free| !free));
                self.free[range].fill(true);
            }
            Err(FreeError::DoubleFree { block }) => assert!(self.free[block as usize]),
            Err(_) => assert!(
                extent.end().is_none_or(|end| { extent.len == 0 || end > self.allocator.blocks() })
            ),
        }
    }
}

fuzz_target!(|script: Script| {
    let blocks = u64::from(script.blocks).max(1);
    let mut bitmap = script.allocated;
    bitmap.resize((blocks as usize).div_ceil(64), 0);
    let allocator = Allocator::from_bitmap(blocks, &bitmap).unwrap();
    let free = (0..blocks as usize).map(|i| bitmap[i / 64] >> (i % 64) & 1 == 0).collect();
    let mut model = Model { allocator, free };
    for call in script.calls.into_iter().take(200) {
        match call {
            Call::Allocate { len } => model.allocate(Request::new(len.into())),
            Call::With { len, align, near } => {
                let request = Request::new(len.into()).align(align.into());
                let request = near.map_or(request, |near| request.near(near.into()));
                model.allocate(request);
            }
            Call::Scattered { len, min, max, align, partial } => {
                let request = Request::new(len.into()).scattered().align(align.into());
                let request = request.min_extent(min.into()).max_extent(max.into());
                model.allocate(if partial { request.partial() } else { request });
            }
            Call::Many { len, count } => model.allocate_many(len.into(), count.into()),
            Call::FreeMany { extents } => {
                let extent = |&(start, len): &(u16, u8)| Extent::new(start.into(), len.into());
                model.free_many(&mut extents.iter().map(extent).collect::<Vec<_>>());
            }
            Call::Wild { len, align, near, min, max, scattered, partial } => {
                let request = Request::new(len).align(align).near(near);
                let request = request.min_extent(min).max_extent(max);
                let request = if scattered { request.scattered() } else { request };
                model.allocate(if partial { request.partial() } else { request });
            }
            Call::Free { start, len } => model.free(Extent::new(start.into(), len.into())),
            Call::FreeWild { start, len } => model.free(Extent::new(start, len)),
            Call::Mark { start, len } => {
                let extent = Extent::new(start.into(), len.into());
                if model.allocator.mark_allocated(extent).is_ok() {
                    model.take(extent);
                }
            }
            Call::Walk { from } => {
                let shown: u64 =
                    model.allocator.free_extents_from(from).map(|extent| extent.len).sum();
                let from = usize::try_from(from).unwrap_or(usize::MAX).min(model.free.len());
                assert_eq!(shown, model.free[from..].iter().filter(|&&free| free).count() as u64);
            }
        }
    }
    let found = model.allocator.verify();
    assert!(found.is_clean(), "{:?}", found.differences);
    assert_eq!(found.free_blocks, model.allocator.free_blocks());
});
