//! Changing the chunk size, in place and in steps.
//!
//! A unit is what the larger of the two chunk sizes covers. A step moves some units: one atomic
//! batch deletes the old keys of a unit, puts its new ones, and records in the description how many
//! units are done. So at any moment a known part of the freelist is in either size, and an
//! interrupted change resumes where it was.
//!
//! Old and new keys are numbers in the same space, and none may be overwritten before it was read.
//! With `r` the ratio of the sizes:
//! - smaller chunks: unit `u` has the old key `u` and the new keys from `u * r`. Units go from the
//!   last to the first, so that the unread keys are below `u`, and `u * r` is not.
//! - larger chunks: unit `u` has the old keys from `u * r` and the new key `u`. Units go from the
//!   first to the last, so that the unread keys are from `(u + 1) * r` on, and `u` is below.

use std::ops::{ControlFlow, Range};

use rocksdb::{DBWithThreadMode, WriteBatch};

use crate::stores::rocks::error::RocksError;
use crate::stores::rocks::family::{self, Lease, Mode};
use crate::stores::rocks::meta::{self, Meta, Rechunking};
use crate::stores::rocks::open::{write, write_meta};
use crate::stores::rocks::options::chunk_order;
use crate::stores::rocks::scan::{read, read_meta, scan};
use crate::stores::rocks::{RocksFreelist, chunk};

/// Bytes of bitmap that one step moves, or one unit if that is more.
pub(super) const STEP_BYTES: usize = 1 << 20;

/// The progress of a change of the chunk size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Units done; a chunk of the larger size covers one.
    pub units: u64,
    /// All units.
    pub of: u64,
}

impl<M: Mode> RocksFreelist<M> {
    /// Gives the freelist in `family` chunks of `chunk_blocks` blocks: see
    /// [`CreateOptions::chunk_blocks`](crate::stores::rocks::CreateOptions::chunk_blocks). No
    /// freelist may be open there. In place: takes no more room than the column family and the
    /// write-ahead log of what is moved.
    ///
    /// `progress` is called after every step, of 1 MiB of bitmap, and may end the call. After that,
    /// or after a crash at any point, the freelist cannot be opened until the same call has
    /// finished the change; it resumes where it was. Returns `true` once finished.
    ///
    /// # Errors
    /// [`RocksError::Rechunking`] if a change to another size has begun, which must be finished
    /// first; [`RocksError::Damaged`], before anything was written unless the damage came while the
    /// call was interrupted; [`RocksError::Config`] without memory for the bitmap;
    /// [`RocksError::Option`], [`RocksError::InUse`], [`RocksError::Database`].
    pub fn rechunk(
        db: &DBWithThreadMode<M>,
        family: &str,
        chunk_blocks: u64,
        mut progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<bool, RocksError> {
        let _lease = Lease::take(db, family)?;
        let target = chunk_order(chunk_blocks)?;
        let mut meta = read_meta(db, &db.snapshot(), family)?;
        match meta.rechunking {
            Some(begun) if begun.target != target => {
                let (family, target) = (family.to_string(), begun.target.blocks());
                return Err(RocksError::Rechunking { family, target });
            }
            None if meta.chunk == target => return Ok(true),
            Some(_) => {}
            None => {
                // Damage would stop the change half way.
                scan(db, family)?;
                meta.rechunking = Some(Rechunking { target, units: 0 });
                write_meta(db, family, &meta)?;
            }
        }
        while let Some(Rechunking { units, .. }) = meta.rechunking {
            let unit = meta.chunk.max(target);
            let of = unit.count(meta.blocks);
            let at_once = (STEP_BYTES / unit.bytes()).max(1) as u64;
            let end = (units + at_once).min(of);
            step(db, family, &mut meta, units..end)?;
            if progress(Progress { units: end, of }).is_break() {
                return Ok(meta.rechunking.is_none());
            }
        }
        Ok(true)
    }
}

/// Moves the units whose turns are `turns`, in one batch with the updated description.
fn step<M: Mode>(
    db: &DBWithThreadMode<M>,
    family: &str,
    meta: &mut Meta,
    turns: Range<u64>,
) -> Result<(), RocksError> {
    let Some(Rechunking { target, .. }) = meta.rechunking else { return Ok(()) };
    let handle = family::find(db, family)?;
    let snapshot = db.snapshot();
    let mut batch = WriteBatch::default();
    let of = meta.chunk.max(target).count(meta.blocks);
    for turn in turns.clone() {
        let unit = if target < meta.chunk { of - 1 - turn } else { turn };
        let mut words = vec![0; meta.chunk.max(target).words()];
        let chunks = (words.len() / meta.chunk.words()) as u64;
        let range = (Some(unit * chunks), Some((unit + 1) * chunks));
        read(db, &snapshot, family, meta, range, &mut words, |key| batch.delete_cf(&handle, key))?;
        let first = unit * (words.len() / target.words()) as u64;
        for (number, words) in (first..).zip(words.chunks(target.words())) {
            if words.iter().any(|&word| word != 0) {
                let key = chunk::key(number);
                batch.put_cf(&handle, key, chunk::encode(&key, words.iter().copied()));
            }
        }
    }
    if turns.end < of {
        meta.rechunking = Some(Rechunking { target, units: turns.end });
    } else {
        (meta.chunk, meta.rechunking) = (target, None);
    }
    batch.put_cf(&handle, meta::KEY, meta.encode());
    write(db, family, batch, "change the chunk size")
}
