//! The way of what transactions free, from the commit to the quarantine.

use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::request::thread_cursor;
use crate::space::gate::Pass;
use crate::values::extent::Extents;
use crate::values::lsn::Lsn;

impl Core {
    /// Lets go of what transaction `lsn` freed, and owns the free of: to the quarantine, or to wait at the gate.
    pub(crate) fn let_go(&self, cursor: &mut Cursor, lsn: Option<Lsn>, freed: Extents) {
        let blocks = freed.blocks();
        let (Some(gate), Some(lsn)) = (&self.gate, lsn) else { return self.retire(cursor, &freed) };
        // Counted first: nobody is to see fewer than there are.
        self.held_blocks.add(blocks);
        match gate.pass(lsn, freed) {
            Pass::Waits => {}
            Pass::Revoked(freed) => self.forget_held(&freed),
            Pass::Through(freed) => {
                self.held_blocks.add(blocks.wrapping_neg());
                self.retire(cursor, &freed);
            }
        }
    }

    /// Transaction `lsn` was undone by `new`: what it freed stays allocated, what it allocated is let go as frees
    /// of the new one are.
    pub(crate) fn revoke(&self, lsn: Lsn, new: Lsn, allocated: Extents) {
        let Some(gate) = &self.gate else { return };
        gate.revoke(lsn).iter().for_each(|freed| self.forget_held(freed));
        // Also what another transaction, which cannot be committed now, would free.
        self.mark_freed(allocated.iter().copied());
        let mut allocated = Some(allocated);
        thread_cursor::with_cursor(self, |cursor| {
            let allocated = allocated.take().unwrap_or_default();
            self.let_go(cursor, Some(new), allocated);
        });
    }

    /// What transaction `lsn` freed, and is counted as held, stays with nobody, unless that is undone.
    pub(crate) fn keep_held(&self, lsn: Option<Lsn>, freed: Extents) {
        let (Some(gate), Some(lsn)) = (&self.gate, lsn) else { return };
        if let Some(freed) = gate.keep(lsn, freed) {
            self.forget_held(&freed);
        }
    }

    /// What had been freed stays allocated.
    fn forget_held(&self, freed: &Extents) {
        self.disown_frees(freed.iter().copied());
        self.held_blocks.add(freed.blocks().wrapping_neg());
    }

    /// The engine's records are durable up to transaction `lsn`.
    pub(crate) fn open_gate(&self, lsn: Lsn) {
        let Some(gate) = &self.gate else { return };
        let mut through = gate.open(lsn).peekable();
        if through.peek().is_none() {
            return;
        }
        thread_cursor::with_cursor(self, |cursor| {
            for freed in &mut through {
                self.held_blocks.add(freed.blocks().wrapping_neg());
                self.retire(cursor, &freed);
            }
        });
    }
}
