//! Durable frees that wait until the engine's own record of them is durable, too.
//!
//! Freed extents may go to the quarantine when their free is durable in the store. If the engine
//! keeps its metadata elsewhere, that may still name the old extents after a crash. So the store
//! makes frees wait here, by transaction number, until the engine says how far its own records are
//! durable.
//!
//! A commit takes the lock for a moment, and so does the engine's report; allocations and frees
//! never look. So it is no part of the space, whose layers have no lock. The thread that opens the
//! gate does the work for what goes through it.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::sync::blocking::{Guard, Mutex, lock};
use crate::values::extent::Extents;
use crate::values::lsn::Lsn;

/// Waiting frees by transaction number.
#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<State>);

/// What becomes of frees at the gate.
#[derive(Debug)]
pub(crate) enum Pass {
    Through(Extents),
    Waits,
    /// The transaction was undone: the extents stay allocated.
    Revoked(Extents),
}

#[derive(Debug, Default)]
struct State {
    /// Open for transactions up to this number.
    open: u64,
    /// Waiting frees of later transactions.
    held: BTreeMap<u64, Vec<Extents>>,
    /// Approximate bytes of the frees in `held` and `kept`.
    bytes: usize,
    /// Later transactions that were undone: what they freed is allocated again.
    revoked: BTreeSet<u64>,
    /// Frees of later transactions that will not be released, since the engine lost track of them.
    kept: BTreeMap<u64, Vec<Extents>>,
}

impl Gate {
    fn state(&self) -> Guard<'_, State> {
        lock(&self.0)
    }

    /// Lets what transaction `lsn` freed pass if the gate is open for it; otherwise it waits.
    pub(crate) fn pass(&self, lsn: Lsn, freed: Extents) -> Pass {
        let mut state = self.state();
        if state.revoked.contains(&lsn.0) {
            return Pass::Revoked(freed);
        }
        if lsn.0 <= state.open {
            return Pass::Through(freed);
        }
        state.bytes += bytes_of(&freed);
        state.held.entry(lsn.0).or_default().push(freed);
        Pass::Waits
    }

    /// Records that transaction `lsn` was undone. Returns what it freed and what was kept for it.
    pub(crate) fn revoke(&self, lsn: Lsn) -> Vec<Extents> {
        let mut state = self.state();
        state.revoked.insert(lsn.0);
        let mut held = state.held.remove(&lsn.0).unwrap_or_default();
        held.append(&mut state.kept.remove(&lsn.0).unwrap_or_default());
        state.bytes -= held.iter().map(bytes_of).sum::<usize>();
        held
    }

    /// Keeps frees that will not be released unless `lsn` is undone. If it is undone already,
    /// returns them.
    pub(crate) fn keep(&self, lsn: Lsn, freed: Extents) -> Option<Extents> {
        let mut state = self.state();
        if state.revoked.contains(&lsn.0) {
            return Some(freed);
        }
        if lsn.0 <= state.open {
            return None;
        }
        state.bytes += bytes_of(&freed);
        state.kept.entry(lsn.0).or_default().push(freed);
        None
    }

    /// Opens the gate for transactions up to `lsn`. Returns what they freed.
    pub(crate) fn open(&self, lsn: Lsn) -> impl Iterator<Item = Extents> + use<> {
        let mut state = self.state();
        state.open = state.open.max(lsn.0);
        let open = state.open;
        let through = up_to(&mut state.held, open);
        // These transactions can no longer be undone.
        let forgotten = up_to(&mut state.kept, open);
        let gone = through.values().chain(forgotten.values()).flatten();
        state.bytes -= gone.map(bytes_of).sum::<usize>();
        through.into_values().flatten()
    }

    /// Approximate bytes of what waits.
    pub(crate) fn bytes(&self) -> usize {
        self.state().bytes
    }
}

/// Takes out the frees of transactions up to `lsn`.
fn up_to(freed: &mut BTreeMap<u64, Vec<Extents>>, lsn: u64) -> BTreeMap<u64, Vec<Extents>> {
    let later = lsn.checked_add(1).map(|next| freed.split_off(&next));
    std::mem::replace(freed, later.unwrap_or_default())
}

/// Bytes for what one transaction freed: its number, its place in a list, and its list.
fn bytes_of(freed: &Extents) -> usize {
    size_of::<(u64, Vec<Extents>)>() + 4 * size_of::<Extents>() + freed.heap_bytes()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::values::extent::Extent;

    #[test]
    fn the_gate_opens_in_order_of_numbers_whatever_came_first() {
        let gate = Gate::default();
        let freed = |start| Extents::from_iter([Extent::new(start, 1)]);
        let through = |lsn| gate.open(Lsn(lsn)).map(|extents| extents[0].start).collect::<Vec<_>>();
        for lsn in [3, 1, 4, 2] {
            assert!(matches!(gate.pass(Lsn(lsn), freed(lsn)), Pass::Waits));
        }
        assert!(through(0).is_empty());
        assert_eq!(through(2), [1, 2]);
        assert!(through(1).is_empty(), "and stays open");
        // Late, but covered by what the engine has reported.
        assert!(matches!(gate.pass(Lsn(2), freed(20)), Pass::Through(_)));
        assert!(matches!(gate.pass(Lsn(5), freed(5)), Pass::Waits));
        assert_eq!(gate.revoke(Lsn(4)), [freed(4)]);
        assert!(matches!(gate.pass(Lsn(4), freed(40)), Pass::Revoked(_)));
        // The engine lost track of these: before one was undone, after it, and when none can be
        // undone.
        assert_eq!(gate.keep(Lsn(6), freed(6)), None);
        assert_eq!(gate.revoke(Lsn(6)), [freed(6)]);
        assert_eq!(gate.keep(Lsn(6), freed(60)), Some(freed(60)));
        assert_eq!(gate.keep(Lsn(7), freed(7)), None);
        assert_eq!(through(u64::MAX), [3, 5]);
        assert_eq!((gate.revoke(Lsn(7)), gate.bytes()), (Vec::new(), 0));
        assert_eq!((gate.keep(Lsn(8), freed(8)), gate.bytes()), (None, 0));
        assert!(matches!(gate.pass(Lsn(u64::MAX), freed(6)), Pass::Through(_)));
    }
}
