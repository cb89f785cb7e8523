//! The path of freed extents from the commit to the quarantine.

use crate::core::Core;
use crate::gate::Pass;
use crate::placement::cursor::Cursor;
use crate::request::thread_cursor;
use crate::values::extent::{Extent, Extents};
use crate::values::lsn::Lsn;

/// Releases the extents `freed` by transaction `lsn`, whose frees the caller owns: to the
/// quarantine, or to wait at the gate.
pub(crate) fn let_go(core: &Core, cursor: &mut Cursor, lsn: Option<Lsn>, freed: Extents) {
    let blocks = freed.blocks();
    let (Some(gate), Some(lsn)) = (&core.gate, lsn) else {
        return retire(core, cursor, &freed);
    };
    // Count first: no reader may see fewer than there are.
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

/// Quarantines `extents`, whose free is durable and [owned](crate::space::Space::own_frees) by the
/// caller, and lets out a little more than came in. The committing handle remembers the extents
/// that come out, as if it had freed them now.
pub(crate) fn retire(core: &Core, cursor: &mut Cursor, extents: &[Extent]) {
    core.space.quarantine.retire(extents, |extent| {
        core.space.let_out(cursor.lane, extent);
        core.placer.remember_freed(&core.space, cursor, extent);
    });
}

/// Transaction `new` has undone transaction `lsn`: what `lsn` freed stays allocated, and what it
/// allocated is released like the frees of `new`.
pub(crate) fn revoke(core: &Core, lsn: Lsn, new: Lsn, allocated: Extents) {
    let Some(gate) = &core.gate else { return };
    gate.revoke(lsn).iter().for_each(|freed| forget_held(core, freed));
    let mut allocated = Some(allocated);
    thread_cursor::with_cursor(core, |cursor| {
        let allocated = allocated.take().unwrap_or_default();
        let_go(core, cursor, Some(new), allocated);
    });
}

/// Keeps what transaction `lsn` freed, already counted as held, allocated unless `lsn` is undone.
pub(crate) fn keep_held(core: &Core, lsn: Option<Lsn>, freed: Extents) {
    let (Some(gate), Some(lsn)) = (&core.gate, lsn) else { return };
    if let Some(freed) = gate.keep(lsn, freed) {
        forget_held(core, &freed);
    }
}

/// Drops the frees: the extents stay allocated, and are no longer held.
fn forget_held(core: &Core, freed: &Extents) {
    core.space.disown_frees(freed.iter().copied());
    core.space.held_blocks.add(freed.blocks().wrapping_neg());
}

/// The engine's records are durable up to transaction `lsn`: releases what waited for that.
pub(crate) fn open_gate(core: &Core, lsn: Lsn) {
    let Some(gate) = &core.gate else { return };
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
