//! Requests in pieces with bounds, against the same requests without, on copies of the free space of
//! an aged XFS file system. Goal: no request takes 20 times as long.

use std::time::Instant;

use freemap::{Allocator, Extent, Request};

use crate::{median, print, row, table};

/// Blocks of the file system.
const BLOCKS: u64 = 1 << 18;

/// How often each request is made; in turn with the one without bounds.
const ROUNDS: u64 = 9;

pub fn bounds(blocks: u64) {
    let copies = 64.min(blocks / BLOCKS * 4);
    let allocator = aged(copies);
    let free = allocator.free_blocks();
    let mut figures =
        table(&["bounds", "blocks", "us", "without, us", "ratio", "exact searches", "pieces"]);
    let plain = |len: u64| Request::new(len).scattered();
    type Bounds = fn(Request) -> Request;
    let bounds: [(&str, Bounds); 9] = [
        ("at least 2", |request| request.min_extent(2)),
        ("at least 16", |request| request.min_extent(16)),
        ("at least 256", |request| request.min_extent(256)),
        ("at most 8", |request| request.max_extent(8)),
        ("6 to 9", |request| request.min_extent(6).max_extent(9)),
        ("aligned to 8", |request| request.align(8)),
        ("aligned to 16, at most 40", |request| request.align(16).max_extent(40)),
        ("units of 4", |request| request.unit(4)),
        ("units of 16", |request| request.unit(16)),
    ];
    for (name, bound) in bounds {
        for (len, partial) in [
            (240, false),
            (24_000, false),
            (free / 4 / 240 * 240, false),
            (free / 2 / 240 * 240, false),
            (free, true), // cannot be met: the runs are listed, and cut as well as can be
        ] {
            let [mut with, mut without] = [Vec::new(), Vec::new()];
            let (mut searches, mut pieces) = (0, 0);
            let mut handle = allocator.handle();
            for _ in 0..ROUNDS {
                for (request, times) in [(plain(len), &mut without), (bound(plain(len)), &mut with)]
                {
                    let request = if partial { request.partial() } else { request };
                    let before = allocator.stats().counters.exact_searches;
                    let started = Instant::now();
                    let extents = handle.allocate_with(&request);
                    times.push(started.elapsed().as_secs_f64() * 1e6);
                    searches = allocator.stats().counters.exact_searches - before;
                    let mut extents: Vec<Extent> = extents.into_iter().flatten().collect();
                    pieces = extents.len();
                    handle.free_many(&mut extents).expect("ours");
                }
            }
            let (with, without) = (median(with), median(without));
            let met = if pieces == 0 { "refused".to_string() } else { pieces.to_string() };
            row(
                &mut figures,
                &[
                    &name,
                    &len,
                    &format!("{with:.1}"),
                    &format!("{without:.1}"),
                    &format!("{:.1}", with / without),
                    &searches,
                    &met,
                ],
            );
        }
    }
    print(figures);
}

/// `copies` of the file system, one behind the other.
fn aged(copies: u64) -> Allocator {
    let allocator = Allocator::builder(copies * BLOCKS).build_allocated().expect("memory");
    let extents = include_str!("../../tests/data/aged-xfs.free.csv");
    for line in extents.lines() {
        let (start, len) = line.split_once(',').expect("start,len");
        let (start, len): (u64, u64) =
            (start.parse().expect("a block"), len.parse().expect("a length"));
        for copy in 0..copies {
            allocator.mark_free(Extent::new(copy * BLOCKS + start, len)).expect("allocated");
        }
    }
    allocator
}
