//! A delta as records of the log, also for engines that keep it in their own log.

use smallvec::SmallVec;

use super::record::{Item, MAX_FILL, RANGE_BLOCKS, Record, Records, items, push_fill, push_items};
use crate::values::delta::{DecodeError, Delta};
use crate::values::extent::Extent;
use crate::values::extent_set::ExtentSet;
use crate::values::op::Op;

impl Delta {
    /// Appends the delta in the encoding of the space-map log, for engines that keep it in their
    /// own log: 12 bytes for one extent, about 4.5 for each of many that lie close together. The
    /// bytes carry no length and no checksum; the engine's log has both.
    ///
    /// From here on the bytes may be written, so dropping a [`Frozen`](crate::Frozen) leaves it in
    /// doubt instead of rolling it back: see there.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        self.fate.iter().for_each(|fate| fate.take());
        encode(self, bytes);
    }

    /// As [`Delta::encode`], for a store that itself decides the fate of the bytes.
    pub(crate) fn encode_in_store(&self, bytes: &mut Vec<u8>) {
        encode(self, bytes);
    }

    /// The delta that [`Delta::encode`] wrote, for inspection or replay. It belongs to no
    /// transaction any more, so a log treats it as foreign.
    ///
    /// # Errors
    /// [`DecodeError`] if `bytes` is anything else. Never panics, and takes no more memory than a
    /// few times the length of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode(bytes)
    }
}

fn encode(delta: &Delta, bytes: &mut Vec<u8>) {
    let mut items: SmallVec<[(u32, u32); 16]> = SmallVec::new();
    for (extents, op) in [(&delta.allocated, Op::Allocate), (&delta.freed, Op::Free)] {
        for extent in extents {
            let (mut start, end) = (extent.start, extent.start + extent.len);
            while start < end {
                let range = (start / RANGE_BLOCKS) as u32;
                let within = start % RANGE_BLOCKS;
                let whole = ((end - start) / RANGE_BLOCKS).min(MAX_FILL.into());
                let len = if within == 0 && whole > 0 {
                    push_fill(bytes, range, whole as u32, op);
                    whole * RANGE_BLOCKS
                } else {
                    let len = (end - start).min(RANGE_BLOCKS - within);
                    let item = Item { start: within as u32, len: len as u32, op };
                    items.push((range, item.encode()));
                    len
                };
                start += len;
            }
        }
    }
    if !delta.freed.is_empty() {
        items.sort_unstable();
    }
    push_items(bytes, &items);
}

fn decode(bytes: &[u8]) -> Result<Delta, DecodeError> {
    let (mut allocated, mut freed) = (ExtentSet::default(), ExtentSet::default());
    let mut add = |op: Op, extent: Extent| {
        let new = allocated.overlap(extent).is_none() && freed.overlap(extent).is_none();
        if new {
            let set = if op == Op::Allocate { &mut allocated } else { &mut freed };
            set.insert(extent);
        }
        new
    };
    let mut records = Records::new(bytes);
    let mut offset = 0;
    while let Some(record) = records.next() {
        let good = match record {
            Ok(Record::Delta { range, items: of }) => items(of).all(|item| {
                item.is_some_and(|Item { start, len, op }| {
                    let start = u64::from(range) * RANGE_BLOCKS + u64::from(start);
                    add(op, Extent { start, len: u64::from(len) })
                })
            }),
            Ok(Record::Fill { first, count, op }) => {
                let (start, len) = (u64::from(first), u64::from(count));
                add(op, Extent { start: start * RANGE_BLOCKS, len: len * RANGE_BLOCKS })
            }
            _ => false,
        };
        if !good {
            return Err(DecodeError { offset });
        }
        offset = records.offset();
    }
    let (allocated, freed) = (allocated.into_extents(), freed.into_extents());
    Ok(Delta { allocated, freed, ..Delta::default() })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn delta(cuts: &[(u64, u64)]) -> Delta {
        let mut start = 0;
        let (mut allocated, mut freed) = (ExtentSet::default(), ExtentSet::default());
        for (number, &(gap, len)) in cuts.iter().enumerate() {
            start += gap;
            let set = if number % 3 == 0 { &mut freed } else { &mut allocated };
            set.insert(Extent { start, len });
            start += len;
        }
        let (allocated, freed) = (allocated.into_extents(), freed.into_extents());
        Delta { allocated, freed, ..Delta::default() }
    }

    #[test]
    fn sizes_are_those_of_the_format() {
        let size = |delta: &Delta| {
            let mut bytes = Vec::new();
            delta.encode(&mut bytes);
            bytes.len()
        };
        assert_eq!(size(&delta(&[(5, 1)])), 12);
        let sixteen: Vec<_> = (0..16).map(|_| (3, 2)).collect();
        assert_eq!(size(&delta(&sixteen)), 8 + 16 * 4);
        // A TiB in one piece: a fill for every 8 GiB.
        assert_eq!(size(&delta(&[(0, 1 << 28)])), 128 * 16);
    }

    proptest! {
        #[test]
        fn deltas_come_back(
            cuts in proptest::collection::vec((0u64..40_000, 1u64..100_000), 0..60)
        ) {
            let delta = delta(&cuts);
            let mut bytes = Vec::new();
            delta.encode(&mut bytes);
            prop_assert_eq!(Delta::decode(&bytes), Ok(delta));
            let short = bytes.len().checked_sub(2);
            if let Some(short) = short {
                prop_assert!(Delta::decode(&bytes[..short]).is_err());
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(delta) = Delta::decode(&bytes) {
                let mut again = Vec::new();
                delta.encode(&mut again);
                prop_assert_eq!(Delta::decode(&again), Ok(delta));
            }
        }
    }
}
