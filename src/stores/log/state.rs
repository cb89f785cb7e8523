//! What is known of a log between its bytes and its writer.

use std::collections::VecDeque;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::stores::log::disk::Disk;
use crate::stores::log::format::{DirectoryPage, Superblock, Tail, Version};
use crate::stores::log::layout::{DirectoryPlace, Layout};
use crate::stores::log::mirror::Mirror;
use crate::stores::log::record::{Image, RANGE_BLOCKS, State};

/// Counters of a log stay below this, so that nothing computed from them overflows: no device lives for as
/// many bytes or transactions. The writer stops before it, so that what it wrote can be opened.
pub(super) const COUNTER_END: u64 = 1 << 62;

/// What the bytes say, with which a writer goes on.
pub(super) struct Recovered {
    pub disk: Arc<dyn Disk>,
    pub layout: Layout,
    pub superblock: Superblock,
    pub mirror: Mirror,
    pub head: Head,
    pub ranges: Vec<Bases>,
    pub pages: Vec<PageFound>,
    pub marks: VecDeque<Mark>,
}

/// An image, and the ring position of the first window with a change after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Base {
    pub image: Image,
    pub after: Option<u64>,
}

/// The images of a range that matter: first the one that both copies of the directory name, last
/// the newest.
pub(super) type Bases = SmallVec<[Base; 2]>;

/// Where the next frame goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub position: u64,
    pub sequence: u64,
    /// The last transaction.
    pub lsn: u64,
    pub crc: u32,
    /// The engine's position, in piggyback mode.
    pub engine: u64,
    /// Blocks allocated after the last transaction. (More may be absorbed.)
    pub allocated: u64,
}

/// What a tail at this frame would say.
pub(super) type Mark = Tail;

/// What was found of one directory page.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageFound {
    pub place: DirectoryPlace,
    pub version: Version,
    /// The copy that has it.
    pub newest: usize,
    /// The other copy has it as well.
    pub whole: bool,
}

/// The image of a range that was never changed.
pub(super) const NOTHING: Image = Image {
    base: 0,
    crc: 0,
    free: RANGE_BLOCKS as u32,
    largest: RANGE_BLOCKS as u32,
    slot: 1,
    state: State::AllFree,
};

/// A directory page of ranges that were never changed, which no superblock before that of `stamp` counts.
pub(super) fn empty_page(index: usize, place: &DirectoryPlace, stamp: u32) -> DirectoryPage {
    let entries = vec![NOTHING; place.count];
    DirectoryPage { page: index as u32, sequence: 1, previous: 0, stamp, entries }
}
