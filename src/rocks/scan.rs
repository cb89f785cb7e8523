//! Reading a whole freelist at one moment, in parallel, word by word.

use rayon::prelude::*;
use rocksdb::{DBAccess, DBWithThreadMode, ReadOptions, SnapshotWithThreadMode};

use crate::error::ConfigError;
use crate::rocks::chunk::{self, Flaw};
use crate::rocks::error::{Place, RocksError};
use crate::rocks::family::{self, Mode};
use crate::rocks::meta::{self, Meta};

/// Key ranges per thread, so that a thread that got the full ones does not hold up the others.
const PARTS_PER_THREAD: usize = 4;

/// A key beside those of chunks and the description: what is written there shows whether the column
/// family has our merge operator.
pub const PROBE: &[u8] = b"probe";

/// What a scan found.
#[derive(Debug)]
pub struct Scanned {
    pub meta: Meta,
    /// 1 = allocated, nothing beyond the last block.
    pub words: Vec<u64>,
    /// Chunks that have a key.
    pub chunks: u64,
}

/// The freelist in `family` as of now. Runs beside whatever writes to it; keys that are not there
/// cost nothing.
pub fn scan<M: Mode>(db: &DBWithThreadMode<M>, family: &str) -> Result<Scanned, RocksError> {
    let snapshot = db.snapshot();
    let meta = read_meta(db, &snapshot, family)?;
    if let Some(rechunking) = meta.rechunking {
        let target = rechunking.target.blocks();
        return Err(RocksError::Rechunking { family: family.to_string(), target });
    }
    let per_chunk = meta.chunk.words();
    let count = meta.chunk.count(meta.blocks) as usize;
    let mut words = zeros(count * per_chunk)?;
    let parts = (PARTS_PER_THREAD * rayon::current_num_threads()).min(count);
    let chunks_per_part = count.div_ceil(parts);
    let scan_part = |(part, words): (usize, &mut [u64])| {
        let first = (part * chunks_per_part) as u64;
        let last = first as usize + chunks_per_part >= count;
        let mut options = read_options(&snapshot);
        // The first and the last part also see what is no chunk.
        if first > 0 {
            options.set_iterate_lower_bound(chunk::key(first));
        }
        if !last {
            options.set_iterate_upper_bound(chunk::key(first + chunks_per_part as u64));
        }
        let families = family::find(db, family)?;
        let mut iterator = snapshot_iterator(db, &families, options);
        let part = Part { family, meta: &meta, first };
        part.read(&mut iterator, words)
    };
    let parts = words.par_chunks_mut(chunks_per_part * per_chunk).enumerate().map(scan_part);
    let chunks = parts.try_reduce(|| 0, |one, other| Ok(one + other))?;
    words.truncate(meta.blocks.div_ceil(64) as usize);
    Ok(Scanned { meta, words, chunks })
}

/// Zeroed memory that is not touched, so that what stays free costs nothing.
fn zeros(words: usize) -> Result<Vec<u64>, RocksError> {
    let mut probe: Vec<u64> = Vec::new();
    if probe.try_reserve_exact(words).is_err() {
        return Err(ConfigError::OutOfMemory { bytes: 8 * words as u64 }.into());
    }
    drop(probe);
    Ok(vec![0; words])
}

/// What every scan reads with.
pub fn read_options<D: DBAccess>(snapshot: &SnapshotWithThreadMode<'_, D>) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_snapshot(snapshot);
    // Whatever prefixes the family may have been given.
    options.set_total_order_seek(true);
    options.fill_cache(false);
    options.set_readahead_size(2 << 20);
    options
}

fn snapshot_iterator<'d, M: Mode>(
    db: &'d DBWithThreadMode<M>,
    family: &M::Family<'_>,
    options: ReadOptions,
) -> rocksdb::DBRawIteratorWithThreadMode<'d, DBWithThreadMode<M>> {
    db.raw_iterator_cf_opt(family, options)
}

/// The description, checked.
pub fn read_meta<M: Mode>(
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

pub fn read_failed(error: rocksdb::Error, family: &str) -> RocksError {
    RocksError::of(error, "read the freelist", family)
}

/// A range of chunks.
struct Part<'a> {
    family: &'a str,
    meta: &'a Meta,
    first: u64,
}

impl Part<'_> {
    /// Reads what `iterator` has into the words of this part; the number of chunks.
    fn read<D: DBAccess>(
        &self,
        iterator: &mut rocksdb::DBRawIteratorWithThreadMode<'_, D>,
        words: &mut [u64],
    ) -> Result<u64, RocksError> {
        let mut chunks = 0;
        iterator.seek_to_first();
        while let Some((key, value)) = iterator.item() {
            if let Some(number) = chunk::number(key) {
                self.read_chunk(number, key, value, words)?;
                chunks += 1;
            } else if key != meta::KEY && key != PROBE {
                return Err(self.damaged(Place::Key(key.to_vec())));
            }
            iterator.next();
        }
        iterator.status().map_err(|error| read_failed(error, self.family))?;
        Ok(chunks)
    }

    fn read_chunk(
        &self,
        number: u64,
        key: &[u8],
        value: &[u8],
        words: &mut [u64],
    ) -> Result<(), RocksError> {
        let order = self.meta.chunk;
        let bits = value_bits(order, number, key, value).map_err(|place| self.damaged(place))?;
        let left = self.meta.blocks.saturating_sub(number.saturating_mul(order.blocks()));
        if left == 0 {
            return Err(self.damaged(Place::Beyond { chunk: number }));
        }
        let words = &mut words[(number - self.first) as usize * order.words()..][..order.words()];
        words.iter_mut().zip(chunk::words(bits)).for_each(|(word, bits)| *word = bits);
        if left < order.blocks() {
            let beyond = |(index, &word): (usize, &u64)| {
                let valid = left.saturating_sub(64 * index as u64);
                valid < 64 && word >> valid != 0
            };
            if words.iter().enumerate().any(beyond) {
                return Err(self.damaged(Place::Beyond { chunk: number }));
            }
        }
        Ok(())
    }

    fn damaged(&self, place: Place) -> RocksError {
        RocksError::Damaged { family: self.family.to_string(), place }
    }
}

/// The bits of the chunk `number` of order `order`.
pub fn value_bits<'v>(
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
