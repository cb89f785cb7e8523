//! The one writer of a log. It turns transactions into frames, and keeps images, directory, tail
//! and superblocks behind them. Everything written between two flushes is a *window*.
//!
//! The writer is locked while it works, during I/O as well. State that must not wait for the disk
//! is in [`Shared`], behind locks that are held for moments: figures, sizes and the last
//! transaction, which the writer publishes after each window; and the committed state, which
//! absorbed transactions change beside a checkpoint. A checkpoint copies the ranges that changed,
//! the count of allocated blocks and the mark under one lock, so all of them are of one moment.
//! Then it writes without that lock; what is absorbed meanwhile is left for the next checkpoint.
//!
//! - this file: the structure, committing; `write`: writing a window; `settle`: updating the state
//!   after its flush;
//! - `plan`: images, directory pages and superblocks of a window; `pack`: its frames;
//! - `demand`: making room, condensing, checkpoints; `resize`: growing and shrinking the device.
//!
//! Ordering rules (tested by simulation, and by the crash tests beside this):
//! 1. A transaction counts when its last frame does; frames before it are flushed with it or
//!    before.
//! 2. An image goes to the slot that the newest durable image of its range does not use. It holds
//!    the state before the transactions of its own window. The log has a record of it.
//! 3. A directory page names only images whose record is durable. It is written to the stale copy,
//!    and in the next window, with the same bytes, to the other.
//! 4. The tail moves to the oldest frame that either copy of the directory still needs, or in which
//!    a transaction begins that the engine has not called stable.
//! 5. A new tail goes to the older superblock slot of both places. The ring behind it is used again
//!    only after that.
//! 6. Superblocks are written when both copies of every directory page are the same, and no window
//!    has both a superblock and a directory page, so that it is clear which versions of the pages a
//!    superblock counts. After a window with either of them failed, and may have left some of it,
//!    the same is written again before the other.

mod demand;
mod pack;
mod plan;
mod resize;
mod settle;
mod write;

use std::collections::VecDeque;
use std::sync::Arc;

use smallvec::SmallVec;

pub(super) use plan::image;
pub(super) use resize::NewArea;

use pack::Packer;

use crate::stores::log::authority::Authority;
use crate::stores::log::commit_error::CommitError;
use crate::stores::log::condense::Payments;
use crate::stores::log::disk::Disk;
use crate::stores::log::fault::{Fault, faulty};
use crate::stores::log::format::{Superblock, Tail, Version};
use crate::stores::log::io_failure::IoFailure;
use crate::stores::log::layout::{DirectoryPlace, Layout};
use crate::stores::log::report::Figures;
use crate::stores::log::shared::Shared;
use crate::stores::log::state::{Base, Bases, COUNTER_END, Head, Mark, PageFound, Recovered};
use crate::values::lsn::Lsn;

/// The most images that one window writes: 4 MiB.
const MAX_IMAGES: usize = 1024;

/// A transaction to be committed, and its result.
pub(super) struct Work<'a> {
    pub records: &'a [u8],
    /// It takes back other transactions: room was kept for it, and its size is theirs.
    pub undo: bool,
    pub result: Option<Result<Lsn, CommitError>>,
}

/// A directory page, and the progress of writing its two copies.
struct Directory {
    place: DirectoryPlace,
    version: Version,
    /// The copy written last.
    newest: usize,
    /// One of its ranges has an image that the page does not name.
    outdated: bool,
    /// One copy is durable, and these bytes must go to the other; with the base of each range.
    half: Option<(Vec<u8>, Vec<u64>)>,
    /// A window that wrote it failed: the disk may have it in an unknown version.
    suspect: bool,
}

impl Directory {
    fn new(page: &PageFound, outdated: bool) -> Self {
        let PageFound { place, version, newest, .. } = *page;
        Self { place, version, newest, outdated, half: None, suspect: false }
    }
}

/// What a window does beside the transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// As much as the growth of the log has paid for.
    Paid,
    /// Everything that keeps the tail before this position.
    Until(u64),
}

/// Everything to be written in one window, and the state once it is durable.
#[derive(Default)]
struct Window {
    writes: Vec<(u64, Vec<u8>)>,
    images: Vec<(u32, Base)>,
    /// Image records.
    records: Vec<u8>,
    /// Pages whose first copy is written, with the new version, bytes and bases.
    first_copies: Vec<(usize, Version, Vec<u8>, Vec<u64>)>,
    second_copies: Vec<usize>,
    superblock: Option<Superblock>,
    frames: Frames,
    /// Ranges that the transactions change.
    touched: Vec<u32>,
}

#[derive(Default)]
struct Frames {
    bytes: Vec<u8>,
    marks: Vec<Mark>,
    head: Option<Head>,
}

pub(super) struct Writer {
    pub disk: Arc<dyn Disk>,
    pub layout: Layout,
    pub shared: Arc<Shared>,
    pub head: Head,
    /// The newest superblock.
    pub superblock: Superblock,
    /// A window that wrote a superblock failed.
    superblock_suspect: bool,
    /// The ring behind this may be used again.
    pub free_from: u64,
    /// The position of the log's end at which the tail is computed again.
    tail_check: u64,
    ranges: Vec<Bases>,
    /// The number of ranges whose list of images is on the heap: it once had more than fit inline.
    spilled: usize,
    directory: Vec<Directory>,
    directory_next: usize,
    directory_money: f64,
    /// Ranges by when they first changed after their newest image; entries may be stale.
    changed: VecDeque<(u64, u32)>,
    payments: Payments,
    /// One mark for each frame that the log still needs.
    marks: VecDeque<Mark>,
    /// Transactions that the engine has not called stable: images must not contain them.
    unstable: VecDeque<(u64, u64, Vec<u8>)>,
    /// Bytes of their records.
    unstable_bytes: u64,
    /// Images wait until the engine has called transactions stable.
    keep_unstable: bool,
    /// Transactions come without records: images are written only with a checkpoint.
    pub piggyback: bool,
    failed: Option<IoFailure>,
    /// The buffer of the last window's frames, to be reused.
    buffer: Vec<u8>,
    pub figures: Figures,
}

impl Writer {
    pub(super) fn new(recovered: Recovered) -> Self {
        let Recovered { disk, layout, superblock, mirror, head, ranges, pages, marks } = recovered;
        let directory = pages
            .iter()
            .map(|page| {
                let of_page = &ranges[page.place.first_range as usize..][..page.place.count];
                Directory::new(page, !page.whole || of_page.iter().any(|bases| bases.len() > 1))
            })
            .collect();
        let mut changed: Vec<(u64, u32)> = ranges
            .iter()
            .enumerate()
            .filter_map(|(range, bases)| Some((bases.last()?.after?, range as u32)))
            .collect();
        changed.sort_unstable();
        let mut payments = Payments::new(layout.limit, superblock.tail.position.get());
        changed.iter().for_each(|&(position, _)| payments.changed(position));
        let free_from = superblock.tail.position.get();
        let authority = Authority::decode(superblock.mode);
        Self {
            disk,
            shared: Arc::new(Shared::new(mirror, head.engine)),
            head,
            superblock,
            superblock_suspect: false,
            free_from,
            tail_check: head.position,
            spilled: ranges.iter().filter(|bases| bases.spilled()).count(),
            ranges,
            directory,
            directory_next: 0,
            directory_money: 0.0,
            changed: changed.into(),
            payments,
            marks,
            unstable: VecDeque::new(),
            unstable_bytes: 0,
            keep_unstable: authority == Some(Authority::Engine),
            piggyback: authority == Some(Authority::Piggyback),
            failed: None,
            buffer: Vec::new(),
            figures: Figures::default(),
            layout,
        }
    }

    pub(super) fn is_clean(&self) -> bool {
        self.superblock.tail.position.get() == self.head.position
            && self.free_from == self.head.position
    }

    /// Commits `works` in order, in as few windows as the ring allows, and sets each result.
    pub(super) fn commit(&mut self, works: &mut [Work<'_>]) {
        let max = self.layout.max_commit();
        let mut rest = works;
        while !rest.is_empty() {
            let (mut count, mut bytes) = (0, 0);
            while let Some(work) = rest.get(count) {
                bytes += work.records.len() as u64 + 8;
                if count > 0 && bytes > max / 2 {
                    break;
                }
                count += 1;
            }
            let (now, later) = rest.split_at_mut(count);
            self.commit_window(now);
            rest = later;
        }
    }

    fn commit_window(&mut self, works: &mut [Work<'_>]) {
        let bytes: u64 = works.iter().map(|work| work.records.len() as u64 + 8).sum();
        let undo = works.iter().any(|work| work.undo);
        let room = if undo { Ok(()) } else { self.make_room(bytes) };
        if let Err(error) = self.check_failed().and(room) {
            return fail_all(works, error);
        }
        let mut window = Window::default();
        self.plan(&mut window, Pace::Paid);
        let before = self.head.allocated;
        let totals = self.apply(works, &mut window);
        if !works.iter().any(is_good) {
            self.abandon(&window);
            return;
        }
        let behind =
            self.write_behind(&window).or_else(|failure| self.put_off(&mut window, failure));
        let written = behind.map_err(CommitError::Write).and_then(|()| {
            let mut packer = Packer::new(self);
            packer.images(&window.records);
            let mut totals = totals.into_iter();
            for work in works.iter().filter(|work| is_good(work)) {
                packer.transaction(work.records, totals.next().unwrap_or(before));
            }
            window.frames = packer.finish();
            self.write_frames(&mut window)
        });
        if let Err(error) = written {
            self.undo(works);
            self.abandon(&window);
            return fail_all(works, error);
        }
        self.note_committed(works, window_start(&window, self.head));
        self.settle(window);
    }

    /// Applies `works` to the committed state, one by one; each learns its number or why it does
    /// not fit. Answers with the allocated blocks after each that fits.
    fn apply(&mut self, works: &mut [Work<'_>], window: &mut Window) -> SmallVec<[u64; 16]> {
        let (mut lsn, max) = (self.head.lsn, self.layout.max_commit());
        let mut totals = SmallVec::new();
        let mut state = self.shared.state();
        for work in works.iter_mut() {
            if work.records.len() as u64 > max && !work.undo {
                let bytes = work.records.len() as u64;
                work.result = Some(Err(CommitError::TooLarge { bytes, max }));
                continue;
            }
            let untouched = window.touched.len();
            let applied = state.mirror.apply(work.records, |range| window.touched.push(range));
            work.result = Some(match applied {
                Ok(()) => {
                    lsn += 1;
                    totals.push(state.mirror.allocated());
                    Ok(Lsn(lsn))
                }
                Err(misfit) => {
                    window.touched.truncate(untouched);
                    Err(misfit.into())
                }
            });
        }
        totals
    }

    /// Takes back what `apply` did: the last transaction first, since each may build on those before.
    fn undo(&self, works: &mut [Work<'_>]) {
        if faulty(Fault::UndoneForward) {
            works.reverse();
        }
        let mut state = self.shared.state();
        for work in works.iter().rev().filter(|work| is_good(work)) {
            state.mirror.undo(work.records);
        }
    }

    /// Counts the transactions of a window that began at `start`, and keeps those that the engine has
    /// not called stable.
    fn note_committed(&mut self, works: &[Work<'_>], start: u64) {
        for work in works {
            let Some(Ok(lsn)) = work.result else { continue };
            self.figures.commits += 1;
            self.figures.record_bytes += work.records.len() as u64;
            if self.keep_unstable {
                self.unstable_bytes += work.records.len() as u64 + 8;
                self.unstable.push_back((lsn.0, start, work.records.to_vec()));
            }
        }
    }

    /// Refuses everything from now on.
    pub(super) fn refuse(&mut self, failure: IoFailure) {
        self.failed.get_or_insert(failure);
    }

    pub(super) fn check_failed(&self) -> Result<(), CommitError> {
        if let Some(failure) = &self.failed {
            return Err(CommitError::Refused(failure.clone()));
        }
        // Far enough from the end that condensing can go on.
        let end = COUNTER_END - (1 << 32);
        let Head { position, sequence, lsn, .. } = self.head;
        if position.max(sequence).max(lsn) < end { Ok(()) } else { Err(CommitError::Exhausted) }
    }

    /// Images must not contain these transactions (number, position, records) until they are called
    /// stable.
    pub(super) fn keep(&mut self, transactions: Vec<(u64, u64, Vec<u8>)>) {
        if self.keep_unstable {
            let bytes = |(_, _, records): &(u64, u64, Vec<u8>)| records.len() as u64 + 8;
            self.unstable_bytes += transactions.iter().map(bytes).sum::<u64>();
            self.unstable.extend(transactions);
        }
    }

    /// The records of a transaction that the engine has not called stable.
    pub(super) fn unstable(&self, lsn: u64) -> Option<&[u8]> {
        let index = self.unstable.binary_search_by_key(&lsn, |&(of, ..)| of).ok()?;
        Some(&self.unstable[index].2)
    }

    /// The last transaction that the engine cannot take back.
    fn stable_lsn(&self) -> u64 {
        self.unstable.front().map_or(self.head.lsn, |&(lsn, ..)| lsn - 1)
    }

    /// The engine's own log has everything up to this transaction, durably.
    pub(super) fn stable(&mut self, lsn: u64) {
        while let Some((_, _, records)) = self.unstable.front().filter(|&&(of, ..)| of <= lsn) {
            self.unstable_bytes -= records.len() as u64 + 8;
            self.unstable.pop_front();
        }
    }
}

/// Whether the transaction fits and is to be written.
fn is_good(work: &Work<'_>) -> bool {
    matches!(work.result, Some(Ok(_)))
}

/// Tells all of `works` but those that failed already.
fn fail_all(works: &mut [Work<'_>], error: CommitError) {
    works.iter_mut().filter(|work| !matches!(work.result, Some(Err(_)))).for_each(|work| {
        work.result = Some(Err(error.clone()));
    });
}

fn window_start(window: &Window, head: Head) -> u64 {
    window.frames.marks.first().map_or(head.position, |mark| mark.position.get())
}

fn mark(head: &Head) -> Mark {
    Tail {
        position: head.position.into(),
        sequence: head.sequence.into(),
        lsn: head.lsn.into(),
        allocated: head.allocated.into(),
        engine: head.engine.into(),
        previous: head.crc.into(),
        zero: 0.into(),
    }
}
