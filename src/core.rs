//! What an allocator and its handles have in common: its parts.

use crate::placement::Placer;
use crate::space::Space;
use crate::space::survey_records::SurveyRecords;

#[derive(Debug)]
pub(crate) struct Core {
    /// What there is on the device, and who has it.
    pub(crate) space: Space,
    /// Where to look for it.
    pub(crate) placer: Placer,
    /// What surveys have found.
    pub surveyed: SurveyRecords,
    pub block_size: u32,
    /// Tells allocators of one process apart.
    pub id: u64,
}
