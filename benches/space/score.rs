//! How far free space is in pieces, as Ceph counts it.

use freemap::{Extent, Runs};

/// Bytes per block.
const BLOCK_BYTES: u32 = 4096;

/// 0 if all free space is worth as much as in one piece, 1 if it is single blocks: see
/// [`Runs::ceph_score`].
pub fn ceph(runs: &[u64]) -> f64 {
    // The score asks for lengths alone, so that the places need not be right.
    let runs: Runs = runs.iter().map(|&len| Extent::new(0, len)).collect();
    runs.ceph_score(BLOCK_BYTES)
}
