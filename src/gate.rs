//! Layer 6: durable frees that wait until the engine's own record of them is durable, too.
//!
//! What a transaction freed may go to the quarantine when its free is durable in the store. If the engine
//! keeps its metadata elsewhere, that may still name the old extents after a crash; so the store lets frees
//! wait here, by the numbers of their transactions, until the engine says how far its own records are.
//!
//! A commit takes the lock for a moment, and so does the engine's word; allocations never look. Whoever
//! opens the gate pays for what goes through it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::core::Core;
use crate::cursor::Cursor;
use crate::extent::Extents;
use crate::local;
use crate::store::Lsn;

/// Frees by the numbers of their transactions.
#[derive(Debug, Default)]
pub struct Gate(Mutex<State>);

/// What becomes of frees at the gate.
#[derive(Debug)]
enum Pass {
    Through(Extents),
    Waits,
    /// They were undone, and stay allocated.
    Revoked,
}

#[derive(Debug, Default)]
struct State {
    /// Open for transactions up to this one.
    open: u64,
    /// What later ones freed.
    held: BTreeMap<u64, Vec<Extents>>,
    /// About how many bytes that takes.
    bytes: usize,
    /// Later ones that were undone: what they freed is allocated again.
    revoked: BTreeSet<u64>,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one insertion or removal: nothing is ever half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What transaction `lsn` freed, if the gate is open for it; otherwise it waits.
    fn pass(&self, lsn: Lsn, freed: Extents) -> Pass {
        let mut state = self.state();
        if state.revoked.contains(&lsn.0) {
            return Pass::Revoked;
        }
        if lsn.0 <= state.open {
            return Pass::Through(freed);
        }
        state.bytes += bytes_of(&freed);
        state.held.entry(lsn.0).or_default().push(freed);
        Pass::Waits
    }

    /// Transaction `lsn` was undone: what it had freed and now waits is forgotten. Its blocks.
    fn revoke(&self, lsn: Lsn) -> u64 {
        let mut state = self.state();
        state.revoked.insert(lsn.0);
        let held = state.held.remove(&lsn.0).unwrap_or_default();
        state.bytes -= held.iter().map(bytes_of).sum::<usize>();
        held.iter().map(Extents::blocks).sum()
    }

    /// Opens it for transactions up to `lsn`: what they freed.
    fn open(&self, lsn: Lsn) -> impl Iterator<Item = Extents> + use<> {
        let mut state = self.state();
        state.open = state.open.max(lsn.0);
        let later = state.open.checked_add(1).map(|next| state.held.split_off(&next));
        let through = std::mem::replace(&mut state.held, later.unwrap_or_default());
        state.bytes -= through.values().flatten().map(bytes_of).sum::<usize>();
        through.into_values().flatten()
    }

    /// About how many bytes wait.
    pub fn bytes(&self) -> usize {
        self.state().bytes
    }
}

/// Bytes of what one transaction freed: its number, its place in a list, and its list.
fn bytes_of(freed: &Extents) -> usize {
    size_of::<(u64, Vec<Extents>)>() + 4 * size_of::<Extents>() + freed.heap_bytes()
}

impl Core {
    /// Lets go of what transaction `lsn` freed: to the quarantine, or to wait at the gate.
    pub fn let_go(&self, cursor: &mut Cursor, lsn: Option<Lsn>, freed: Extents) {
        let blocks = freed.blocks();
        let (Some(gate), Some(lsn)) = (&self.gate, lsn) else { return self.retire(cursor, &freed) };
        // Counted first: nobody is to see fewer than there are.
        self.held_blocks.add(blocks);
        match gate.pass(lsn, freed) {
            Pass::Waits => {}
            Pass::Revoked => self.held_blocks.add(blocks.wrapping_neg()),
            Pass::Through(freed) => {
                self.held_blocks.add(blocks.wrapping_neg());
                self.retire(cursor, &freed);
            }
        }
    }

    /// Transaction `lsn` was undone by `new`: what it freed stays allocated, what it allocated is let go as frees
    /// of the new one are.
    pub fn revoke(&self, lsn: Lsn, new: Lsn, allocated: Extents) {
        let Some(gate) = &self.gate else { return };
        self.held_blocks.add(gate.revoke(lsn).wrapping_neg());
        let mut allocated = Some(allocated);
        local::with_cursor(self, |cursor| {
            let allocated = allocated.take().unwrap_or_default();
            self.let_go(cursor, Some(new), allocated);
        });
    }

    /// The engine's records are durable up to transaction `lsn`.
    pub fn open_gate(&self, lsn: Lsn) {
        let Some(gate) = &self.gate else { return };
        let mut through = gate.open(lsn).peekable();
        if through.peek().is_none() {
            return;
        }
        local::with_cursor(self, |cursor| {
            for freed in &mut through {
                self.held_blocks.add(freed.blocks().wrapping_neg());
                self.retire(cursor, &freed);
            }
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::extent::Extent;

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
        // Late, but behind the engine's word.
        assert!(matches!(gate.pass(Lsn(2), freed(20)), Pass::Through(_)));
        assert!(matches!(gate.pass(Lsn(5), freed(5)), Pass::Waits));
        assert_eq!(gate.revoke(Lsn(4)), 1);
        assert!(matches!(gate.pass(Lsn(4), freed(40)), Pass::Revoked));
        assert_eq!(through(u64::MAX), [3, 5]);
        assert!(matches!(gate.pass(Lsn(u64::MAX), freed(6)), Pass::Through(_)));
    }
}
