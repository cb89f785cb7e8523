//! Going back to the transactions that the engine knows.

use std::collections::{BTreeMap, BTreeSet};

use crate::stores::log::mirror::{Mirror, apply_item};
use crate::stores::log::record::{Item, RANGE_BLOCKS, Record, Records, items};
use crate::values::delta::Delta;
use crate::values::extent::Extent;
use crate::values::extent_set::ExtentSet;
use crate::values::lsn::Lsn;
use crate::values::op::Op;

/// Which transactions the engine's own log has: everything up to `until`, and these later ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub until: u64,
    pub later: BTreeSet<u64>,
}

/// The end of the log, behind what the engine certainly knows.
pub(super) struct Tail {
    /// The state of the ranges that its transactions change, before those transactions.
    pub before: Vec<(u32, Vec<u64>)>,
    /// Number, position, records.
    pub transactions: Vec<(u64, u64, Vec<u8>)>,
}

/// Transaction `known` needs `block` in a state that only transaction `unknown` gave it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dependent {
    pub known: u64,
    pub unknown: u64,
    pub block: u64,
}

impl Known {
    /// Later ones that follow without a gap extend `until`: images may contain them.
    pub(super) fn new(until: Lsn, later: &[Lsn]) -> Self {
        let mut new = Self { until: until.0, later: BTreeSet::new() };
        new.later.extend(later.iter().map(|lsn| lsn.0).filter(|&lsn| lsn > until.0));
        while new.later.remove(&(new.until + 1)) {
            new.until += 1;
        }
        new
    }

    fn has(&self, lsn: u64) -> bool {
        lsn <= self.until || self.later.contains(&lsn)
    }

    /// How many of `transactions` are unknown.
    pub(super) fn unknown(&self, transactions: &[(u64, u64, Vec<u8>)]) -> u64 {
        transactions.iter().filter(|(lsn, ..)| !self.has(*lsn)).count() as u64
    }

    /// The delta from `now`, the state after all of `tail`, to the state after the known ones,
    /// carried out one by one and strictly. O(ranges changed, and bytes of the records).
    pub(super) fn undo(&self, tail: &Tail, now: &Mirror) -> Result<Delta, Dependent> {
        let mut wanted: BTreeMap<u32, Vec<u64>> = tail.before.iter().cloned().collect();
        for (lsn, _, records) in tail.transactions.iter().filter(|(lsn, ..)| self.has(*lsn)) {
            changes(records, |range, item| {
                let Some(words) = wanted.get_mut(&range) else { return Ok(()) };
                apply_item(words.as_mut_slice(), item).map_err(|at| {
                    let block = u64::from(range) * RANGE_BLOCKS + u64::from(at);
                    Dependent { known: *lsn, unknown: self.culprit(tail, *lsn, block), block }
                })
            })?;
        }
        let (mut allocated, mut freed) = (ExtentSet::default(), ExtentSet::default());
        for (&range, then) in &wanted {
            for (index, (&now, &then)) in now.range(range).iter().zip(then).enumerate() {
                let start = u64::from(range) * RANGE_BLOCKS + 64 * index as u64;
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
        let (allocated, freed) = (allocated.into_extents(), freed.into_extents());
        Ok(Delta { allocated, freed, ..Delta::default() })
    }

    /// The last unknown transaction before `lsn` that changed `block`.
    fn culprit(&self, tail: &Tail, lsn: u64, block: u64) -> u64 {
        let touches = |records: &[u8]| {
            let found = changes(records, |range, item| {
                let start = u64::from(range) * RANGE_BLOCKS + u64::from(item.start);
                let inside = (start..start + u64::from(item.len)).contains(&block);
                if inside { Err(()) } else { Ok(()) }
            });
            found.is_err()
        };
        let before = tail.transactions.iter().rev().filter(|(of, ..)| *of < lsn && !self.has(*of));
        before.clone().find(|(.., records)| touches(records)).map_or(0, |(lsn, ..)| *lsn)
    }
}

/// Calls `look` with each change in `records`, in order.
fn changes<E>(records: &[u8], mut look: impl FnMut(u32, Item) -> Result<(), E>) -> Result<(), E> {
    for record in Records::new(records).flatten() {
        match record {
            Record::Delta { range, items: all } => {
                items(all).flatten().try_for_each(|item| look(range, item))?;
            }
            Record::Fill { first, count, op } => {
                let whole = Item { start: 0, len: RANGE_BLOCKS as u32, op };
                (first..first + count).try_for_each(|range| look(range, whole))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The delta that undoes the transaction with these `records`.
pub(super) fn inverse(records: &[u8]) -> Delta {
    let (mut allocated, mut freed) = (ExtentSet::default(), ExtentSet::default());
    let read: Result<(), ()> = changes(records, |range, item| {
        let start = u64::from(range) * RANGE_BLOCKS + u64::from(item.start);
        let set = if item.op == Op::Allocate { &mut freed } else { &mut allocated };
        set.insert(Extent::new(start, item.len.into()));
        Ok(())
    });
    debug_assert_eq!(read, Ok(()), "nothing in it fails");
    let (allocated, freed) = (allocated.into_extents(), freed.into_extents());
    Delta { allocated, freed, ..Delta::default() }
}
