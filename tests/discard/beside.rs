//! Refusals beside everything else: two handles, bounded requests in pieces, readers, reservations,
//! a device that becomes shorter and longer, regions, discarders that come and go, long frees. While
//! nothing else runs, a refusal is true if a new allocator with the same blocks refuses, too.

use std::time::{Duration, Instant};

use freemap::{
    AllocError, Allocator, Batch, DiscardLimits, Discarder, Discarding, Extent, Handle, ReadGuard,
    Region, Request, Reservation,
};
use proptest::prelude::*;

const LEAF: u64 = 512;
/// Where things happen: around the border of the first leaf and at the end of the second.
const LONG: u64 = 2 * LEAF;

#[derive(Clone, Copy, Debug)]
struct Wish {
    len: u64,
    align: u64,
    /// Pieces of so many blocks; 0 for one extent.
    min: u64,
    unit: u64,
    partial: bool,
}

impl Wish {
    fn request(&self) -> Request {
        let request = Request::new(self.len * self.unit).align(self.align).unit(self.unit);
        if self.min == 0 {
            return request;
        }
        let request = request.scattered().min_extent(self.min);
        if self.partial { request.partial() } else { request }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Ask { handle: usize, wish: usize },
    One { handle: usize },
    Free { start: u64, len: u64, commit: bool },
    Mark { start: u64, len: u64 },
    NextBatch,
    CompleteBatch { pick: usize },
    Close { leaf: u64 },
    Open,
    Pin,
    Unpin,
    Reserve { blocks: u64 },
    Unreserve,
    Shrink { blocks: u64 },
    Grow { blocks: u64 },
    Stop,
    Start,
    Check,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..2usize, 0..4usize).prop_map(|(handle, wish)| Step::Ask { handle, wish }),
        1 => (0..2usize).prop_map(|handle| Step::One { handle }),
        6 => (0..LONG, 1..5u64, any::<bool>())
            .prop_map(|(start, len, commit)| Step::Free { start, len, commit }),
        2 => (0..LONG, 1..20u64, any::<bool>())
            .prop_map(|(start, len, commit)| Step::Free { start, len, commit }),
        2 => (0..LONG, 20..200u64, any::<bool>())
            .prop_map(|(start, len, commit)| Step::Free { start, len, commit }),
        3 => (0..LONG, 1..30u64).prop_map(|(start, len)| Step::Mark { start, len }),
        2 => Just(Step::NextBatch),
        2 => any::<usize>().prop_map(|pick| Step::CompleteBatch { pick }),
        1 => (0..3u64).prop_map(|leaf| Step::Close { leaf }),
        1 => Just(Step::Open),
        1 => Just(Step::Pin),
        1 => Just(Step::Unpin),
        1 => (1..40u64).prop_map(|blocks| Step::Reserve { blocks }),
        1 => Just(Step::Unreserve),
        1 => (LEAF - 60..LONG).prop_map(|blocks| Step::Shrink { blocks }),
        1 => (LEAF - 60..LONG).prop_map(|blocks| Step::Grow { blocks }),
        1 => Just(Step::Stop),
        1 => Just(Step::Start),
        1 => Just(Step::Check),
    ]
}

struct World {
    handles: [Handle; 2],
    discarder: Option<Discarder>,
    limits: DiscardLimits,
    batches: Vec<Batch>,
    region: Option<(Region, Extent)>,
    pin: Option<ReadGuard<'static>>,
    reservation: Option<Reservation>,
    wishes: Vec<Wish>,
    /// Blocks in use.
    used: Vec<bool>,
    now: Instant,
    allocator: Allocator,
}

impl World {
    fn new(waiting: u64, granularity: u64, wishes: Vec<Wish>) -> Self {
        let allocator = Allocator::builder(LONG).build_allocated().expect("memory");
        let limits = DiscardLimits::new().waiting(waiting).granularity(granularity);
        let limits = limits.linger(Duration::from_secs(5)).batch(32, 4);
        Self {
            handles: [allocator.handle(), allocator.handle()],
            discarder: allocator.discarder(limits),
            limits,
            batches: Vec::new(),
            region: None,
            pin: None,
            reservation: None,
            wishes,
            used: vec![true; LONG as usize],
            now: Instant::now(),
            allocator,
        }
    }

    fn set(&mut self, extent: Extent, used: bool) {
        for block in extent.start..extent.start + extent.len {
            assert!(self.used[block as usize] != used, "block {block} of {extent} twice");
            self.used[block as usize] = used;
        }
    }

    /// What a new allocator with these blocks says.
    fn fits(&self, request: &Request) -> bool {
        let mut taken = self.used.clone();
        for extent in self.batches.iter().flat_map(|batch| batch.extents()) {
            taken[extent.start as usize..][..extent.len as usize].fill(true);
        }
        if let Some((_, closed)) = &self.region {
            taken[closed.start as usize..][..closed.len as usize].fill(true);
        }
        let mut words = vec![0u64; taken.len().div_ceil(64)];
        for (block, _) in taken.iter().enumerate().filter(|(_, taken)| **taken) {
            words[block / 64] |= 1 << (block % 64);
        }
        let fresh = Allocator::from_bitmap(taken.len() as u64, &words).expect("memory");
        fresh.allocate_with(request).is_ok()
    }

    fn ask(&mut self, handle: usize, request: &Request) {
        match self.handles[handle].allocate_with(request) {
            Ok(extents) => extents.iter().for_each(|&extent| self.set(extent, true)),
            Err(AllocError::NoSpace { .. } | AllocError::NoContiguous { .. }) => {
                if self.pin.is_none() && self.reservation.is_none() {
                    assert!(!self.fits(request), "{request:?} was refused");
                }
            }
            Err(AllocError::InvalidRequest(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn run(&mut self, step: Step) {
        let blocks = self.used.len() as u64;
        match step {
            Step::Ask { handle, wish } => {
                let request = self.wishes[wish % self.wishes.len()].request();
                self.ask(handle, &request);
            }
            Step::One { handle } => self.ask(handle, &Request::new(1)),
            Step::Free { start, len, commit } => {
                let start = start % blocks;
                let extent = Extent::new(start, len.min(blocks - start));
                let end = extent.start + extent.len;
                if !(extent.start..end).all(|block| self.used[block as usize]) {
                    return;
                }
                if commit {
                    let mut transaction = self.handles[0].begin();
                    transaction.free(extent).expect("in use");
                    transaction.freeze().committed();
                } else {
                    self.handles[1].free(extent).expect("in use");
                }
                self.set(extent, false);
            }
            Step::Mark { start, len } => {
                let start = start % blocks;
                let extent = Extent::new(start, len.min(blocks - start));
                if self.allocator.mark_allocated(extent).is_ok() {
                    self.set(extent, true);
                }
            }
            Step::NextBatch => {
                self.now += Duration::from_secs(1);
                let next = self.discarder.as_mut().map(|discarder| discarder.next(self.now));
                if let Some(Discarding::Batch(batch)) = next {
                    self.batches.push(batch);
                }
            }
            Step::CompleteBatch { pick } if !self.batches.is_empty() => {
                let pick = pick % self.batches.len();
                drop(self.batches.swap_remove(pick));
            }
            Step::CompleteBatch { .. } => {}
            Step::Close { leaf } => {
                if self.region.is_none()
                    && let Ok(region) = self.allocator.close(Extent::new(leaf * LEAF % blocks, 1))
                {
                    let extent = region.extent();
                    self.region = Some((region, extent));
                }
            }
            Step::Open => self.region = None,
            Step::Pin => self.pin = Some(self.allocator.pin_owned()),
            Step::Unpin => self.pin = None,
            Step::Reserve { blocks } => {
                self.reservation = None;
                self.reservation = self.allocator.reserve(blocks).ok();
            }
            Step::Unreserve => self.reservation = None,
            Step::Shrink { blocks: to } => {
                if to < blocks
                    && let Ok(shrink) = self.allocator.shrink(to)
                    && shrink.finish().is_ok()
                {
                    assert!(!self.used[to as usize..].contains(&true));
                    self.used.truncate(to as usize);
                }
            }
            Step::Grow { blocks: to } => {
                if to > blocks && self.allocator.grow(to).is_ok() {
                    self.used.resize(to as usize, false);
                    if let Some((_, extent)) = &mut self.region {
                        // The last leaf grows with the device.
                        let end = (extent.start + extent.len).next_multiple_of(LEAF);
                        extent.len = end.min(to) - extent.start;
                    }
                }
            }
            Step::Check => self.check(),
            Step::Stop => self.discarder = None,
            Step::Start => {
                if self.discarder.is_none() {
                    self.discarder = self.allocator.discarder(self.limits);
                }
            }
        }
    }

    /// Each block is in one place.
    fn check(&self) {
        let used = self.used.iter().filter(|used| **used).count() as u64;
        let with_device: u64 = self.batches.iter().map(Batch::blocks).sum();
        let stats = self.allocator.stats();
        let waiting = self.discarder.as_ref().map_or(0, Discarder::waiting_blocks);
        let all = stats.free_blocks
            + stats.reserved_blocks
            + stats.quarantined_blocks
            + stats.closed_blocks
            + waiting
            + with_device
            + used;
        assert_eq!(
            all,
            self.used.len() as u64,
            "{stats:?}, waiting {waiting}, with the device {with_device}, used {used}"
        );
    }
}

fn wish() -> impl Strategy<Value = Wish> {
    (1..40u64, 0..5u32, 0..6u64, 1..4u64, any::<bool>()).prop_map(
        |(len, align, min, unit, partial)| Wish { len, align: 1 << align, min, unit, partial },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_new_allocator_would_refuse_as_well(
        waiting in 1..1000u64,
        granularity in 1..5u64,
        wishes in prop::collection::vec(wish(), 1..4),
        steps in prop::collection::vec(steps(), 1..150),
    ) {
        let mut world = World::new(waiting, granularity, wishes);
        steps.into_iter().for_each(|step| world.run(step));
        world.check();
        let verification = world.allocator.verify();
        prop_assert!(verification.is_clean(), "{:?}", verification.differences);
    }
}
