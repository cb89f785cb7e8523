//! The longest single call of each kind beside its median, on a device that is nearly full, with
//! readers that come and go, a discarder, promises, and closed regions.

use std::time::Instant;

use freemap::{
    Allocator, DiscardLimits, Discarding, Extent, ReadGuard, Region, Request, Reservation,
};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::{median, print, row, table};

/// Calls for each block of the device, in all: about an hour at ten thousand a second on the device
/// of 2^22 blocks.
const CALLS: u64 = 8;

/// Every so many calls, a reader comes or goes, a region is closed or opened, the device is told of
/// discards.
const EVENTS: u64 = 20_000;

const KINDS: [&str; 6] =
    ["one block", "a run of 8", "64 in pieces", "a free", "a commit of 4", "a promise of 16"];

pub fn longest(blocks: u64) {
    let allocator = Allocator::new(blocks).expect("memory");
    let mut handle = allocator.handle();
    let mut random = Pcg64Mcg::seed_from_u64(11);
    let mut discarder = allocator.discarder(DiscardLimits::new()).expect("the first");
    let mut held: Vec<Extent> = Vec::new();
    let mut guards: Vec<ReadGuard<'static>> = Vec::new();
    let mut regions: Vec<Region> = Vec::new();
    let mut promises: Vec<Reservation> = Vec::new();
    let mut used = 0;
    let mut times: [Vec<f64>; 6] = Default::default();
    for call in 0..CALLS * blocks {
        if call % EVENTS == 0 {
            match random.random_range(0..4) {
                0 if guards.len() < 8 => guards.push(allocator.pin_owned()),
                0 | 1 => drop(guards.pop()),
                2 if regions.len() < 64 => {
                    let at = Extent::new(random.random_range(0..blocks), 1);
                    regions.extend(allocator.close(at));
                }
                _ => drop(regions.pop()),
            }
            if let Discarding::Batch(batch) = discarder.next(Instant::now()) {
                drop(batch);
            }
        }
        let full = used > blocks / 100 * 98;
        let kind = if full { random.random_range(3..5) } else { random.random_range(0..6) };
        let pick = |held: &mut Vec<Extent>, random: &mut Pcg64Mcg| {
            (!held.is_empty()).then(|| held.swap_remove(random.random_range(0..held.len())))
        };
        let gone: Vec<Extent> = match kind {
            3 => pick(&mut held, &mut random).into_iter().collect(),
            4 => (0..4).filter_map(|_| pick(&mut held, &mut random)).collect(),
            _ => Vec::new(),
        };
        let request = Request::new([1, 8, 64, 0, 0, 0][kind]);
        let started = Instant::now();
        let new = match kind {
            0 => handle.allocate(1).into_iter().collect(),
            1 => handle.allocate_with(&request).unwrap_or_default(),
            2 => handle.allocate_with(&request.scattered()).unwrap_or_default(),
            3 => {
                gone.iter().for_each(|&extent| handle.free(extent).expect("ours"));
                Default::default()
            }
            4 => {
                let mut transaction = handle.begin();
                gone.iter().for_each(|&extent| transaction.free(extent).expect("ours"));
                transaction.freeze().committed();
                Default::default()
            }
            _ => {
                promises.extend(allocator.reserve(16));
                Default::default()
            }
        };
        times[kind].push(started.elapsed().as_secs_f64() * 1e6);
        used += new.blocks();
        used -= gone.iter().map(|extent| extent.len).sum::<u64>();
        held.extend(new);
        if promises.len() > 100 {
            promises.clear();
        }
    }
    let mut figures = table(&["call", "calls", "median, us", "99.99 %, us", "longest, us"]);
    for (kind, mut times) in KINDS.into_iter().zip(times) {
        times.sort_by(f64::total_cmp);
        let rare = times[(times.len() - 1) * 9_999 / 10_000];
        let longest = times[times.len() - 1];
        row(
            &mut figures,
            &[
                &kind,
                &times.len(),
                &format!("{:.2}", median(times)),
                &format!("{rare:.1}"),
                &format!("{longest:.1}"),
            ],
        );
    }
    print(figures);
}
