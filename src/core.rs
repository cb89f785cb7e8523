//! What an allocator and its handles have in common: its parts.

use std::fmt::{Debug, Formatter};

use crate::placement::Placer;
use crate::space::Space;
use crate::space::survey_records::SurveyRecords;

pub(crate) struct Core {
    /// What there is on the device, and who has it.
    pub(crate) space: Space,
    /// Where to look for it.
    pub(crate) placer: Placer,
    /// What surveys have found.
    pub(crate) surveyed: SurveyRecords,
    /// Bytes of a block.
    pub(crate) block_size: u32,
    /// Tells allocators of one process apart.
    pub(crate) id: u64,
}

/// In short: tables of a large device would take megabytes.
impl Debug for Core {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("space", &self.space).finish_non_exhaustive()
    }
}
