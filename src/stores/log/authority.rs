//! Whose log is right.

/// Whose log is right after a crash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Authority {
    /// This one's: what was committed here happened. The engine's metadata is in the same state, or
    /// can be brought there.
    #[default]
    Log,
    /// The engine's: it commits here first, keeps the LSN in its own log, and after a crash opens
    /// with [`OpenOptions::recover_until`](crate::OpenOptions::recover_until) the last LSN that its own log knows of (and
    /// [`OpenOptions::recover_also`](crate::OpenOptions::recover_also), if that has gaps). Until it calls [`SpaceMapLog::stable`](crate::SpaceMapLog::stable) or
    /// [`SpaceMapLog::recorded`](crate::SpaceMapLog::recorded), a transaction can be taken back, and what it freed is held: nothing is
    /// reused before the engine's own record is durable, whichever call committed it. So a device can
    /// have no space although much was freed ([`Stats::held_blocks`](crate::Stats::held_blocks)): an engine
    /// that is told so makes its records durable, says `stable`, and tries again. Opening without
    /// `recover_until` calls everything stable that is found.
    Engine,
    /// The engine's, and this log is only its checkpoint: the engine keeps the encoded deltas in its
    /// own log, hands each to [`SpaceMapLog::absorb`](crate::SpaceMapLog::absorb) when it is durable there, in any order (what it freed is
    /// let go when everything before it has come), calls [`SpaceMapLog::checkpoint`](crate::SpaceMapLog::checkpoint) now and then, and after
    /// a crash feeds what came later to [`Opened::replay`](crate::Opened::replay).
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
