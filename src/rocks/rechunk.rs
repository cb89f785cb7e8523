//! Changing the chunk size, in place and in steps.
//!
//! A unit is what the larger of the two chunk sizes covers. A step moves some units: one atomic
//! batch deletes the old keys of a unit, puts its new ones, and says in the description how many
//! units are done. So there is a freelist with a known part in either size at any moment, and a
//! change that was cut short goes on where it was.
//!
//! Old and new keys are numbers in the same space, and none may be overwritten before it was read.
//! With `r` the ratio of the sizes:
//! - smaller chunks: unit `u` has the old key `u` and the new keys from `u * r`. Units go from the
//!   last to the first, so that what is left to read is below `u`, and `u * r` is not.
//! - larger chunks: unit `u` has the old keys from `u * r` and the new key `u`. Units go from the
//!   first to the last, so that what is left to read is from `(u + 1) * r` on, and `u` is below.

use std::ops::{ControlFlow, Range};

use rocksdb::{DBWithThreadMode, WriteBatch};

use crate::rocks::RocksFreelist;
use crate::rocks::chunk::{self, ChunkOrder};
use crate::rocks::error::{Place, RocksError};
use crate::rocks::family::{self, Lease, Mode};
use crate::rocks::meta::{self, Meta, Rechunking};
use crate::rocks::open::{chunk_order, write, write_meta};
use crate::rocks::scan::{read_failed, read_meta, read_options, scan, value_bits};

/// Bytes of bitmap that one step moves, if a unit is not more.
const STEP_BYTES: usize = 1 << 20;

/// How far a change of the chunk size is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Units done; one is what a chunk of the larger size covers.
    pub units: u64,
    /// All units.
    pub of: u64,
}

impl<M: Mode> RocksFreelist<M> {
    /// Gives the freelist in `family` chunks of `chunk_blocks` blocks: see
    /// [`CreateOptions::chunk_blocks`](crate::rocks::CreateOptions::chunk_blocks). While no freelist
    /// is open there. In place: takes no more room than the column family and the write-ahead log
    /// of what is moved.
    ///
    /// `progress` is told after every step, of 1 MiB of bitmap, and may end the call. After that, or
    /// after a crash at any point, the freelist cannot be opened until the same call has finished it;
    /// it goes on where it was. `true` if it has.
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
                // Damage would stop it half way.
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

/// Moves the units whose turn is in `turns`, in one batch with the description that says so.
fn step<M: Mode>(
    db: &DBWithThreadMode<M>,
    family: &str,
    meta: &mut Meta,
    turns: Range<u64>,
) -> Result<(), RocksError> {
    let Some(Rechunking { target, .. }) = meta.rechunking else { return Ok(()) };
    let handle = family::find(db, family)?;
    let mut batch = WriteBatch::default();
    let of = meta.chunk.max(target).count(meta.blocks);
    for turn in turns.clone() {
        let unit = if target < meta.chunk { of - 1 - turn } else { turn };
        let words = take_unit(db, family, meta.chunk, target, unit, &mut batch)?;
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

/// The words of a unit, whose old keys `batch` deletes.
fn take_unit<M: Mode>(
    db: &DBWithThreadMode<M>,
    family: &str,
    old: ChunkOrder,
    target: ChunkOrder,
    unit: u64,
    batch: &mut WriteBatch,
) -> Result<Vec<u64>, RocksError> {
    let handle = family::find(db, family)?;
    let mut words = vec![0; old.max(target).words()];
    let chunks = (words.len() / old.words()) as u64;
    let first = unit * chunks;
    let snapshot = db.snapshot();
    let mut options = read_options(&snapshot);
    options.set_iterate_lower_bound(chunk::key(first));
    options.set_iterate_upper_bound(chunk::key(first + chunks));
    let mut iterator = db.raw_iterator_cf_opt(&handle, options);
    iterator.seek_to_first();
    while let Some((key, value)) = iterator.item() {
        let damaged = |place| RocksError::Damaged { family: family.to_string(), place };
        let number = chunk::number(key).ok_or_else(|| damaged(Place::Key(key.to_vec())))?;
        let bits = value_bits(old, number, key, value).map_err(damaged)?;
        let at = (number - first) as usize * old.words();
        words[at..].iter_mut().zip(chunk::words(bits)).for_each(|(word, bits)| *word = bits);
        batch.delete_cf(&handle, key);
        iterator.next();
    }
    iterator.status().map_err(|error| read_failed(error, family))?;
    Ok(words)
}
