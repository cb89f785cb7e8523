//! What came after the transaction that the engine asks for.

use super::frames::Log;
use crate::stores::log::known::Tail;
use crate::stores::log::record::{Record, Records};
use crate::values::lsn::Lsn;

impl Log {
    /// What comes after `until`, to be taken back as far as the engine does not know it; `before` are the ranges
    /// that it changes, as of then. `None` if there is nothing.
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
