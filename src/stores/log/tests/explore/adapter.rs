//! The calls of the log that an engine's own log goes with, in one place.

use std::ops::Range;

use super::engine::Ask;
use crate::stores::log::{CommitError, OpenOptions, Opened};
use crate::transaction::{CommitFailed, Frozen};
use crate::values::delta::Delta;
use crate::values::lsn::Lsn;

/// Hands over the delta that `span` of the engine's log carries.
pub(super) fn absorb(
    opened: &Opened,
    frozen: Frozen,
    span: Range<u64>,
) -> Result<(), CommitFailed<'static, CommitError>> {
    opened.log.absorb(frozen, span)
}

/// Feeds in again, after a crash, what `span` carries.
pub(super) fn replay(opened: &Opened, delta: &Delta, span: Range<u64>) -> Result<(), CommitError> {
    opened.replay(delta, span)
}

/// Declares that `span` carries nothing.
pub(super) fn skip(opened: &Opened, span: Range<u64>) -> Result<(), CommitError> {
    opened.log.skip(span)
}

/// The engine's own log is durable up to this transaction.
pub(super) fn stable(opened: &Opened, lsn: u64) -> Result<(), CommitError> {
    opened.log.stable(Lsn(lsn))
}

/// The engine's own log has this one.
pub(super) fn recorded(opened: &Opened, lsn: u64) -> Result<(), CommitError> {
    opened.log.recorded(Lsn(lsn))
}

/// What the engine's own log has, if there is word of it.
pub(super) fn recover(ask: &Ask) -> OpenOptions {
    let options = OpenOptions::new();
    match ask.until {
        Some(lsn) => {
            options.recover_until(Lsn(lsn)).recover_also(ask.also.iter().copied().map(Lsn))
        }
        None => options,
    }
}
