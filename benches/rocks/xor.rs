//! A freelist in Ceph's manner, to be compared with: values of 16 bytes for 128 blocks each, under
//! big-endian keys, changed by XOR. It is told flips only, so nothing notices a double free. Its
//! column family has the options of ours but for the operator.

use rocksdb::{
    BlockBasedOptions, ColumnFamilyDescriptor, DBCompressionType, MergeOperands, Options,
    WriteBatch,
};

use super::engine::{BLOCKS, Engine};

/// Its column family.
pub const XOR: &str = "xor";
const BLOCKS_PER_KEY: u64 = 128;

pub fn family() -> ColumnFamilyDescriptor {
    let mut options = Options::default();
    options.set_merge_operator_associative("xor", merge);
    options.set_write_buffer_size(16 << 20);
    options.set_level_zero_file_num_compaction_trigger(4);
    let mut table = BlockBasedOptions::default();
    table.set_block_size(64 << 10);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::None);
    ColumnFamilyDescriptor::new(XOR, options)
}

fn merge(_: &[u8], value: Option<&[u8]>, operands: &MergeOperands) -> Option<Vec<u8>> {
    let number = |bytes: &[u8]| bytes.try_into().map(u128::from_ne_bytes).unwrap_or(0);
    let start = value.map_or(0, number);
    let all = operands.iter().fold(start, |bits, operand| bits ^ number(operand));
    Some(all.to_ne_bytes().to_vec())
}

/// Writes a whole bitmap.
pub fn create(engine: &Engine, words: &[u64]) {
    let family = engine.db.cf_handle(XOR).expect("a family");
    let pairs = words.as_chunks::<2>().0;
    for (part, pairs) in pairs.chunks(1 << 15).enumerate() {
        let mut batch = WriteBatch::default();
        for (number, [low, high]) in ((part << 15) as u64..).zip(pairs) {
            let bits = u128::from(*low) | u128::from(*high) << 64;
            batch.put_cf(family, number.to_be_bytes(), bits.to_le_bytes());
        }
        engine.db.write(batch).expect("a healthy disk");
    }
}

/// Adds the flip of `block` to a batch.
pub fn stage(engine: &Engine, batch: &mut WriteBatch, block: u64) {
    let family = engine.db.cf_handle(XOR).expect("a family");
    let bit = 1u128 << (block % BLOCKS_PER_KEY);
    batch.merge_cf(family, (block / BLOCKS_PER_KEY).to_be_bytes(), bit.to_le_bytes());
}

/// Writes all out, and leaves no pending flips.
pub fn fold(engine: &Engine) {
    let family = engine.db.cf_handle(XOR).expect("a family");
    engine.db.flush_cf(family).expect("a healthy disk");
    engine.db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
}

/// The bitmap as it is read at a restart.
pub fn scan(engine: &Engine) -> Vec<u64> {
    let mut words = vec![0; (BLOCKS / 64) as usize];
    engine.iterate(XOR, |key, value| {
        let number = u64::from_be_bytes(key.try_into().expect("a key"));
        let at = (number * BLOCKS_PER_KEY / 64) as usize;
        let (found, _) = value.as_chunks::<8>();
        words[at..][..found.len()].iter_mut().zip(found).for_each(|(word, bytes)| {
            *word = u64::from_le_bytes(*bytes);
        });
    });
    words
}
