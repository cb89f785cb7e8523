//! A scattered request for 1 MiB on a device 99 % full whose free blocks have no free neighbours.

use std::time::Instant;

use freemap::{Allocator, Request};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::{median, print, row, table};

const LEN: u64 = 256;

pub fn pieces(blocks: u64) {
    let mut rng = Pcg64Mcg::seed_from_u64(3);
    let mut allocated = vec![u64::MAX; (blocks / 64) as usize];
    for _ in 0..blocks / 100 {
        let block = rng.random_range(1..blocks - 1);
        let neighbours = block - 1..=block + 1;
        let lonely = |block: u64| allocated[(block / 64) as usize] >> (block % 64) & 1 == 1;
        if neighbours.into_iter().all(lonely) {
            allocated[(block / 64) as usize] &= !(1 << (block % 64));
        }
    }
    let allocator = Allocator::from_bitmap(blocks, &allocated).expect("memory");
    let mut handle = allocator.handle();
    let request = Request::new(LEN).scattered();
    let (mut times, mut leaves, mut pieces) = (vec![], 0, 0);
    // A tenth of the holes, so that the device stays as it is.
    for _ in 0..allocator.free_blocks() / LEN / 10 {
        let started = Instant::now();
        let (extents, effort) = handle.allocate_reported(&request).expect("there is room");
        times.push(started.elapsed().as_secs_f64() * 1e6);
        (leaves, pieces) = (leaves + effort.leaves, pieces + extents.len());
    }
    let mut figures = table(&["what", "median", "of one block"]);
    let requests = times.len() as f64;
    let (first, median) = (times[0], median(times));
    row(&mut figures, &[&"first request, us", &format!("{first:.1}"), &""]);
    let each = format!("{:.1} ns", 1e3 * median / LEN as f64);
    row(&mut figures, &[&"request, us", &format!("{median:.1}"), &each]);
    row(&mut figures, &[&"leaves looked into", &format!("{:.1}", leaves as f64 / requests), &""]);
    row(&mut figures, &[&"pieces", &format!("{:.1}", pieces as f64 / requests), &""]);
    print(figures);
}
