//! The merge operator, and the filter that removes all-free chunks. RocksDB calls both from C++, on
//! its own threads, and groups operands in any way. They never panic and never fail: a merge that
//! fails during a compaction would stop the whole database.
//!
//! So damage stays, and opening or checking the freelist finds it: a flawed value is passed on as
//! it is, whatever is merged into it, and an invalid operand turns the value into a flawed one.
//! (One exception does no harm: a sound value of zeros that is foreign, for example of another
//! chunk size, means all free, as no key does, and a compaction removes it.)

use rocksdb::compaction_filter::Decision;
use rocksdb::{MergeOperands, Options};

use crate::stores::rocks::chunk;
use crate::stores::rocks::operand::Masks;

/// RocksDB records by this name which operator wrote a file. A format that this one cannot read
/// takes another name.
const NAME: &str = "freemap.bits.1";

/// Installs the merge operator and the filter in a family's `options`.
pub(super) fn install(options: &mut Options) {
    options.set_merge_operator(
        NAME,
        |key: &[u8], value: Option<&[u8]>, operands: &MergeOperands| {
            Some(merge(key, value, operands.iter()))
        },
        |_: &[u8], first: Option<&[u8]>, operands: &MergeOperands| {
            combine(first.into_iter().chain(operands.iter()))
        },
    );
    options.set_compaction_filter(NAME, |_, key: &[u8], value: &[u8]| {
        if is_all_free(key, value) { Decision::Remove } else { Decision::Keep }
    });
}

/// The value of `key` after `operands`.
pub(super) fn merge<'o>(
    key: &[u8],
    value: Option<&[u8]>,
    operands: impl Iterator<Item = &'o [u8]>,
) -> Vec<u8> {
    let Some(masks) = sum(operands) else { return damaged(value) };
    match value.map(|value| chunk::decode(key, value)) {
        None => chunk::encode(key, masks.apply(std::iter::repeat_n(0, masks.order().words()))),
        Some(Ok((order, bits))) if order == masks.order() => {
            chunk::encode(key, masks.apply(chunk::words(bits)))
        }
        Some(_) => damaged(value),
    }
}

/// Several operands as one, if all are sound and for the same chunk size.
pub(super) fn combine<'o>(operands: impl Iterator<Item = &'o [u8]>) -> Option<Vec<u8>> {
    Some(sum(operands)?.encode())
}

fn sum<'o>(mut operands: impl Iterator<Item = &'o [u8]>) -> Option<Masks> {
    let first = operands.next()?;
    let mut masks = Masks::new(Masks::order_of(first)?);
    masks.then(first)?;
    operands.try_for_each(|operand| masks.then(operand))?;
    Some(masks)
}

/// `value` with a flaw: its own, or an extra byte. No sound value has 5 bytes more than whole
/// words.
fn damaged(value: Option<&[u8]>) -> Vec<u8> {
    let value = value.unwrap_or_default();
    let mut damaged = value.to_vec();
    if value.len() % 8 == 4 || value.is_empty() {
        damaged.push(0);
    }
    damaged
}

/// Whether this is the sound value of a chunk without allocated blocks, which needs no key.
fn is_all_free(key: &[u8], value: &[u8]) -> bool {
    chunk::number(key).is_some()
        && chunk::decode(key, value).is_ok_and(|(_, bits)| bits.iter().all(|&byte| byte == 0))
}
