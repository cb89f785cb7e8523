//! Reads a whole freelist as of one moment, in parallel, word by word.

use rayon::prelude::*;
use rocksdb::{DBWithThreadMode, ReadOptions, SnapshotWithThreadMode};

use crate::stores::rocks::chunk::{self, Flaw};
use crate::stores::rocks::error::{Place, RocksError};
use crate::stores::rocks::family::{self, Mode};
use crate::stores::rocks::meta::{self, Meta};
use crate::values::plain_bitmap::{on_device, zeroed};

/// Key ranges per thread: several, so that a thread with full ones does not hold up the others.
const PARTS_PER_THREAD: usize = 4;

/// The key of the probe, beside those of chunks and the description: what is written there shows
/// whether the column family has our merge operator.
pub(super) const PROBE: &[u8] = b"probe";

/// What a scan found.
#[derive(Debug)]
pub(super) struct Scanned {
    pub meta: Meta,
    /// One bit per block, 1 = allocated; 0 beyond the last block.
    pub words: Vec<u64>,
    /// Chunks that have a key.
    pub chunks: u64,
}

/// The freelist in `family` as of now. Runs beside writers; missing keys cost nothing.
pub(super) fn scan<M: Mode>(db: &DBWithThreadMode<M>, family: &str) -> Result<Scanned, RocksError> {
    let snapshot = db.snapshot();
    let meta = read_meta(db, &snapshot, family)?;
    if let Some(rechunking) = meta.rechunking {
        let target = rechunking.target.blocks();
        return Err(RocksError::Rechunking { family: family.to_string(), target });
    }
    let per_chunk = meta.chunk.words();
    let count = meta.chunk.count(meta.blocks) as usize;
    let mut words = zeroed(count * per_chunk)?;
    let parts = (PARTS_PER_THREAD * rayon::current_num_threads()).min(count);
    let chunks_per_part = count.div_ceil(parts);
    let scan_part = |(part, words): (usize, &mut [u64])| {
        let first = (part * chunks_per_part) as u64;
        let last = first as usize + chunks_per_part >= count;
        // The first and the last part also see keys that are no chunk's.
        let from = (first > 0).then_some(first);
        let until = (!last).then_some(first + chunks_per_part as u64);
        read(db, &snapshot, family, &meta, (from, until), words, |_| ())
    };
    let parts = words.par_chunks_mut(chunks_per_part * per_chunk).enumerate().map(scan_part);
    let chunks = parts.try_reduce(|| 0, |one, other| Ok(one + other))?;
    words.truncate(meta.blocks.div_ceil(64) as usize);
    Ok(Scanned { meta, words, chunks })
}

/// The description, validated.
pub(super) fn read_meta<M: Mode>(
    db: &DBWithThreadMode<M>,
    snapshot: &SnapshotWithThreadMode<'_, DBWithThreadMode<M>>,
    family: &str,
) -> Result<Meta, RocksError> {
    let handle = family::find(db, family)?;
    let found = snapshot.get_pinned_cf(&handle, meta::KEY);
    let found = found.map_err(|error| read_failed(error, family))?;
    let bytes = found.ok_or_else(|| RocksError::NoFreelist { family: family.to_string() })?;
    Meta::decode(&bytes, family)
}

pub(super) fn read_failed(error: rocksdb::Error, family: &str) -> RocksError {
    RocksError::of(error, "read the freelist", family)
}

/// Reads the chunks `from..until` into their `words`; a missing bound stands for the first key or
/// the last. Passes each chunk's key to `show`, and returns how many there are.
pub(super) fn read<M: Mode>(
    db: &DBWithThreadMode<M>,
    snapshot: &SnapshotWithThreadMode<'_, DBWithThreadMode<M>>,
    family: &str,
    meta: &Meta,
    (from, until): (Option<u64>, Option<u64>),
    words: &mut [u64],
    mut show: impl FnMut(&[u8]),
) -> Result<u64, RocksError> {
    let mut options = ReadOptions::default();
    options.set_snapshot(snapshot);
    // Correct whatever prefix extractor the family has.
    options.set_total_order_seek(true);
    options.fill_cache(false);
    options.set_readahead_size(2 << 20);
    if let Some(from) = from {
        options.set_iterate_lower_bound(chunk::key(from));
    }
    if let Some(until) = until {
        options.set_iterate_upper_bound(chunk::key(until));
    }
    let damaged = |place| RocksError::Damaged { family: family.to_string(), place };
    let part = Part { meta, first: from.unwrap_or(0) };
    let mut iterator = db.raw_iterator_cf_opt(&family::find(db, family)?, options);
    let mut chunks = 0;
    iterator.seek_to_first();
    while let Some((key, value)) = iterator.item() {
        if let Some(number) = chunk::number(key) {
            part.read_chunk(number, key, value, words).map_err(damaged)?;
            show(key);
            chunks += 1;
        } else if key != meta::KEY && key != PROBE {
            return Err(damaged(Place::Key(key.to_vec())));
        }
        iterator.next();
    }
    iterator.status().map_err(|error| read_failed(error, family))?;
    Ok(chunks)
}

/// A range of chunks.
struct Part<'a> {
    meta: &'a Meta,
    first: u64,
}

impl Part<'_> {
    fn read_chunk(
        &self,
        number: u64,
        key: &[u8],
        value: &[u8],
        words: &mut [u64],
    ) -> Result<(), Place> {
        let Meta { chunk: order, blocks, .. } = *self.meta;
        let bits = value_bits(order, number, key, value)?;
        if number >= order.count(blocks) {
            return Err(Place::Beyond { chunk: number });
        }
        let words = &mut words[(number - self.first) as usize * order.words()..][..order.words()];
        words.iter_mut().zip(chunk::words(bits)).for_each(|(word, bits)| *word = bits);
        if number + 1 == order.count(blocks) {
            let start = number as usize * order.words();
            let beyond =
                |(index, &word): (usize, &u64)| word & !on_device(blocks, start + index) != 0;
            if words.iter().enumerate().any(beyond) {
                return Err(Place::Beyond { chunk: number });
            }
        }
        Ok(())
    }
}

/// The bits of the chunk `number` of order `order`.
fn value_bits<'v>(
    order: chunk::ChunkOrder,
    number: u64,
    key: &[u8],
    value: &'v [u8],
) -> Result<&'v [u8], Place> {
    let expected = chunk::value_len(order);
    match chunk::decode(key, value) {
        Ok((found, bits)) if found == order => Ok(bits),
        Err(Flaw::Checksum) if value.len() == expected => Err(Place::Checksum { chunk: number }),
        _ => Err(Place::Length { chunk: number, found: value.len(), expected }),
    }
}
