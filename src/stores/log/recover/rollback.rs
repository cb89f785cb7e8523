//! The transactions after the one that the engine asks for.

use super::frames::Log;
use crate::stores::log::known::Tail;
use crate::stores::log::record::{Record, Records};
use crate::values::lsn::Lsn;

impl Log {
    /// The transactions after `until`; those that the engine does not know are taken back. `before`
    /// is the state, as of `until`, of the ranges that they change. `None` if there are none.
    pub(super) fn tail_after(&self, until: Lsn, before: Vec<(u32, Vec<u64>)>) -> Option<Tail> {
        let transactions = || self.transactions_after(until);
        (self.head.lsn > until.0).then(|| Tail { before, transactions: transactions() })
    }

    fn transactions_after(&self, until: Lsn) -> Vec<(u64, u64, Vec<u8>)> {
        let mut found = Vec::new();
        let mut lsn = self.tail_lsn + 1;
        let mut current: Option<(u64, Vec<u8>)> = None;
        for frame in &self.frames {
            let bytes = &self.bytes[frame.records.clone()];
            let (mut records, mut start) = (Records::new(bytes), 0);
            while let Some(record) = records.next() {
                let raw = &bytes[start..records.offset()];
                start = records.offset();
                match record {
                    Ok(Record::Commit) => {
                        // Includes empty transactions: images must not contain them either.
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
