//! The state that recovery hands to the writer.

use std::collections::VecDeque;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::stores::log::disk::Disk;
use crate::stores::log::format::{DirectoryPage, Superblock, Tail, Version};
use crate::stores::log::layout::{DirectoryPlace, Layout};
use crate::stores::log::mirror::Mirror;
use crate::stores::log::record::{Image, RANGE_BLOCKS, State};

/// The bound on a log's counters, so that nothing computed from them overflows: no device lives for
/// as many bytes or transactions. The writer stops before it, so that what it wrote can be opened.
pub(super) const COUNTER_END: u64 = 1 << 62;

/// The state read from disk, with which a writer goes on.
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

/// The images of a range that matter: the first is the one that both copies of the directory name,
/// the last is the newest.
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
    /// Blocks allocated after the last transaction. (Absorbed transactions may have allocated
    /// more.)
    pub allocated: u64,
}

/// The tail that would begin at this frame.
pub(super) type Mark = Tail;

/// One directory page as found.
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

/// A directory page of ranges that were never changed. Superblocks before that of `stamp` do not
/// count it.
pub(super) fn empty_page(index: usize, place: &DirectoryPlace, stamp: u32) -> DirectoryPage {
    let entries = vec![NOTHING; place.count];
    DirectoryPage { page: index as u32, sequence: 1, previous: 0, stamp, entries }
}
