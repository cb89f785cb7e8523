//! Going back to an earlier transaction, as the transaction that undoes the later ones.

use super::Report;
use super::frames::Log;
use crate::delta::Delta;
use crate::extent::Extent;
use crate::log::mirror::Mirror;
use crate::log::record::{RANGE_BLOCKS, Record, Records};
use crate::store::Lsn;

/// What undoes the transactions after a certain one, and these: number, position, records.
pub type Rollback = (Delta, Vec<(u64, u64, Vec<u8>)>);

pub(super) struct Undo<'a> {
    pub log: &'a Log,
    pub tail_lsn: u64,
}

impl Undo<'_> {
    /// What takes the state back to `until`, and the transactions behind it one by one.
    pub fn rollback(
        &self,
        until: Lsn,
        mirror: &Mirror,
        before: &[(u32, Vec<u64>)],
        report: &mut Report,
    ) -> Option<Rollback> {
        report.taken_back = report.last.0 - until.0;
        if report.taken_back == 0 {
            return None;
        }
        let (mut allocated, mut freed) =
            (crate::extent_set::ExtentSet::default(), crate::extent_set::ExtentSet::default());
        let mut before: Vec<&(u32, Vec<u64>)> = before.iter().collect();
        before.sort_by_key(|(range, _)| *range);
        for (range, then) in before {
            for (index, (&now, &then)) in mirror.range(*range).iter().zip(then).enumerate() {
                let start = u64::from(*range) * RANGE_BLOCKS + 64 * index as u64;
                let mut changed = now ^ then;
                while changed != 0 {
                    let bit = changed.trailing_zeros();
                    changed &= changed - 1;
                    let block = Extent::new(start + u64::from(bit), 1);
                    let set = if now >> bit & 1 == 1 { &mut freed } else { &mut allocated };
                    set.insert(block);
                }
            }
        }
        let delta = Delta {
            allocated: allocated.into_extents(),
            freed: freed.into_extents(),
            origin: None,
            conflict: None,
        };
        Some((delta, self.transactions_after(until)))
    }

    fn transactions_after(&self, until: Lsn) -> Vec<(u64, u64, Vec<u8>)> {
        let mut found = Vec::new();
        let mut lsn = self.tail_lsn + 1;
        let mut current: Option<(u64, Vec<u8>)> = None;
        for frame in &self.log.frames {
            let bytes = &self.log.bytes[frame.records.clone()];
            let (mut records, mut start) = (Records::new(bytes), 0);
            while let Some(record) = records.next() {
                let raw = &bytes[start..records.offset()];
                start = records.offset();
                match record {
                    Ok(Record::Commit) => {
                        // Empty ones too: images must not claim to know of them.
                        let nothing = (frame.header.position.get(), Vec::new());
                        let (position, bytes) = current.take().unwrap_or(nothing);
                        if lsn > until.0 {
                            found.push((lsn, position, bytes));
                        }
                        lsn += 1;
                    }
                    Ok(Record::Delta { .. } | Record::Fill { .. }) if lsn > until.0 => {
                        let position = frame.header.position.get();
                        current.get_or_insert((position, Vec::new())).1.extend_from_slice(raw);
                    }
                    _ => {}
                }
            }
        }
        found
    }
}
