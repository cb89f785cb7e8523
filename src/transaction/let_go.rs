//! The way of what transactions free, from the commit to the quarantine.

use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::request::thread_cursor;
use crate::space::gate::Pass;
use crate::values::extent::{Extent, Extents};
use crate::values::lsn::Lsn;

/// Lets go of what transaction `lsn` freed, and owns the free of: to the quarantine, or to wait at the gate.
pub(crate) fn let_go(core: &Core, cursor: &mut Cursor, lsn: Option<Lsn>, freed: Extents) {
    let blocks = freed.blocks();
    let (Some(gate), Some(lsn)) = (&core.space.gate, lsn) else {
        return retire(core, cursor, &freed);
    };
    // Counted first: nobody is to see fewer than there are.
    core.space.held_blocks.add(blocks);
    match gate.pass(lsn, freed) {
        Pass::Waits => {}
        Pass::Revoked(freed) => forget_held(core, &freed),
        Pass::Through(freed) => {
            core.space.held_blocks.add(blocks.wrapping_neg());
            retire(core, cursor, &freed);
        }
    }
}

/// Quarantines `extents`, whose free is durable and [ours](Self::own_frees), and lets out a little more than
/// came in. The committing handle remembers what comes out, as if it had freed that now.
pub(crate) fn retire(core: &Core, cursor: &mut Cursor, extents: &[Extent]) {
    core.space.quarantine.retire(extents, |extent| {
        core.space.let_out(cursor.lane, extent);
        core.placer.remember_freed(&core.space, cursor, extent);
    });
}

/// Transaction `lsn` was undone by `new`: what it freed stays allocated, what it allocated is let go as frees
/// of the new one are.
pub(crate) fn revoke(core: &Core, lsn: Lsn, new: Lsn, allocated: Extents) {
    let Some(gate) = &core.space.gate else { return };
    gate.revoke(lsn).iter().for_each(|freed| forget_held(core, freed));
    // Also what another transaction, which cannot be committed now, would free.
    core.space.mark_freed(allocated.iter().copied());
    let mut allocated = Some(allocated);
    thread_cursor::with_cursor(core, |cursor| {
        let allocated = allocated.take().unwrap_or_default();
        let_go(core, cursor, Some(new), allocated);
    });
}

/// What transaction `lsn` freed, and is counted as held, stays with nobody, unless that is undone.
pub(crate) fn keep_held(core: &Core, lsn: Option<Lsn>, freed: Extents) {
    let (Some(gate), Some(lsn)) = (&core.space.gate, lsn) else { return };
    if let Some(freed) = gate.keep(lsn, freed) {
        forget_held(core, &freed);
    }
}

/// What had been freed stays allocated.
fn forget_held(core: &Core, freed: &Extents) {
    core.space.disown_frees(freed.iter().copied());
    core.space.held_blocks.add(freed.blocks().wrapping_neg());
}

/// The engine's records are durable up to transaction `lsn`.
pub(crate) fn open_gate(core: &Core, lsn: Lsn) {
    let Some(gate) = &core.space.gate else { return };
    let mut through = gate.open(lsn).peekable();
    if through.peek().is_none() {
        return;
    }
    thread_cursor::with_cursor(core, |cursor| {
        for freed in &mut through {
            core.space.held_blocks.add(freed.blocks().wrapping_neg());
            retire(core, cursor, &freed);
        }
    });
}
