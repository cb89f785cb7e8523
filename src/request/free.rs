//! Frees without a transaction.

use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::values::error::FreeError;
use crate::values::extent::Extent;

/// Frees `extent`, or says why not.
#[inline(always)]
pub(crate) fn free(core: &Core, cursor: &mut Cursor, extent: Extent) -> Result<(), FreeError> {
    if core.space.committed.is_some() {
        core.space.refuse_committed(extent)?;
    }
    core.space.release(cursor.lane, extent)?;
    core.placer.remember_freed(&core.space, cursor, extent);
    Ok(())
}
