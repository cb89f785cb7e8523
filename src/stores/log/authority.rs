//! Which log decides after a crash.

/// Which log decides after a crash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Authority {
    /// This log: what was committed here happened. The engine's metadata is in the same state, or
    /// can be brought there.
    #[default]
    Log,
    /// The engine's log. The engine commits here first and keeps the LSN in its own log. After a
    /// crash it opens with [`OpenOptions::recover_until`](crate::OpenOptions::recover_until) and
    /// the last LSN that its own log has (and
    /// [`OpenOptions::recover_also`](crate::OpenOptions::recover_also), if that log has gaps).
    /// Until it calls [`SpaceMapLog::stable`](crate::SpaceMapLog::stable) or
    /// [`SpaceMapLog::recorded`](crate::SpaceMapLog::recorded), a transaction can be taken back,
    /// and its freed blocks are held: nothing is reused before the engine's own record is durable,
    /// whichever call committed it. So a device can run out of space although much was freed
    /// ([`Stats::held_blocks`](crate::Stats::held_blocks)): the engine then makes its records
    /// durable, calls `stable`, and tries again. Opening without `recover_until` makes everything
    /// found stable.
    Engine,
    /// The engine's log; this log is only its checkpoint. The engine keeps the encoded deltas in
    /// its own log and hands each to [`SpaceMapLog::absorb`](crate::SpaceMapLog::absorb) when it is
    /// durable there, in any order (its freed blocks are released when everything before it has
    /// come). It calls [`SpaceMapLog::checkpoint`](crate::SpaceMapLog::checkpoint) now and then,
    /// and after a crash feeds what came later to [`Opened::replay`](crate::Opened::replay).
    Piggyback,
}

impl Authority {
    pub(crate) fn encode(self) -> u8 {
        match self {
            Self::Log => 0,
            Self::Engine => 1,
            Self::Piggyback => 2,
        }
    }

    pub(crate) fn decode(byte: u8) -> Option<Self> {
        [Self::Log, Self::Engine, Self::Piggyback].into_iter().find(|mode| mode.encode() == byte)
    }
}
