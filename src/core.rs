//! What an allocator shares with its handles.

use std::fmt::{Debug, Formatter};

use crate::gate::Gate;
use crate::placement::Placer;
use crate::space::Space;
use crate::space::survey_records::SurveyRecords;

pub(crate) struct Core {
    /// The blocks of the device and who owns them.
    pub(crate) space: Space,
    /// Hints about where to look for free blocks.
    pub(crate) placer: Placer,
    /// Where durable frees wait for the engine's report, if the store wants that.
    pub(crate) gate: Option<Gate>,
    /// The results of surveys.
    pub(crate) surveyed: SurveyRecords,
    /// Bytes of a block.
    pub(crate) block_size: u32,
    /// Distinguishes the allocators of one process.
    pub(crate) id: u64,
}

/// Short: the tables of a large device would take megabytes.
impl Debug for Core {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("space", &self.space).finish_non_exhaustive()
    }
}
