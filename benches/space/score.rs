//! How far free space is in pieces, as Ceph counts it.

/// Bytes per block.
const BLOCK_BYTES: u64 = 4096;

/// A byte in a piece of twice the length is worth so many times as much, up to 1 MiB. From there the
/// factor falls in equal steps to 1 at 128 MiB.
const DOUBLING: f64 = 1.2;
const SMALL: i32 = 20;
const HUGE: i32 = 27;

/// What a free piece of `blocks` blocks is worth: between powers of two in a straight line.
fn worth(blocks: u64) -> f64 {
    let bytes = blocks * BLOCK_BYTES;
    let order = bytes.ilog2() as i32;
    let per_byte = |order: i32| {
        (1..=order).fold(1.0, |worth, step| {
            let beyond = f64::from((step - SMALL).clamp(0, HUGE - SMALL)) / f64::from(HUGE - SMALL);
            worth * (DOUBLING + (1.0 - DOUBLING) * beyond)
        })
    };
    let low = (1u64 << order) as f64;
    let part = (bytes as f64 - low) / low;
    low * per_byte(order) * (1.0 - part) + 2.0 * low * per_byte(order + 1) * part
}

/// 0 if all free space is worth as much as in one piece, 1 if it is single blocks: what
/// `Allocator::get_fragmentation_score` of Ceph's BlueStore says (src/os/bluestore/Allocator.cc).
pub fn ceph(runs: &[u64]) -> f64 {
    let free: u64 = runs.iter().sum();
    if free <= 1 {
        return 0.0;
    }
    let actual: f64 = runs.iter().map(|&run| worth(run)).sum();
    let (ideal, terrible) = (worth(free), free as f64 * worth(1));
    (ideal - actual) / (ideal - terrible)
}
