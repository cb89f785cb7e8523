//! Planning what a window writes beside the transactions: images, directory pages, superblocks.

use super::{MAX_IMAGES, Pace, Window, Writer, mark};
use crate::stores::log::fault::{Fault, faulty};
use crate::stores::log::format::{DirectoryPage, PAGE, Superblock, directory_crc};
use crate::stores::log::layout::{ranges_of, slot_offsets};
use crate::stores::log::mirror::{survey, undo_in_range};
use crate::stores::log::record::{Image, RANGE_BLOCKS, State, push_image};
use crate::stores::log::state::{Base, Bases, Mark, NOTHING};

impl Writer {
    pub(super) fn plan(&mut self, window: &mut Window, pace: Pace) {
        self.plan_images(window, pace);
        self.plan_second_copies(window);
        let suspect = self.directory.iter().any(|page| page.suspect);
        let next = if suspect { None } else { self.next_superblock(pace) };
        match next {
            // Rule 6. The superblock can wait for a window.
            Some(_) if !window.second_copies.is_empty() => {}
            Some(next) => self.plan_superblock(window, next),
            None => self.plan_first_copies(window, pace),
        }
    }

    fn plan_images(&mut self, window: &mut Window, pace: Pace) {
        if self.piggyback {
            return;
        }
        let stable_before = self.unstable.front().map_or(u64::MAX, |&(_, position, _)| position);
        while let Some(&(position, range)) = self.changed.front() {
            let current = self.ranges[range as usize].last().and_then(|base| base.after);
            if current != Some(position) || window.images.iter().any(|&(other, _)| other == range) {
                self.changed.pop_front();
                continue;
            }
            let wanted = window.images.len() < MAX_IMAGES
                && match pace {
                    Pace::Paid if position >= stable_before => {
                        self.payments.drop_money();
                        false
                    }
                    Pace::Paid => self.payments.afford(position, self.head.position),
                    Pace::Until(until) => position < until.min(stable_before),
                };
            if !wanted {
                let young = self.head.position - position < self.layout.limit / 2;
                if pace == Pace::Paid && young {
                    self.payments.drop_money();
                }
                return;
            }
            if pace == Pace::Paid {
                self.payments.spend();
            }
            self.changed.pop_front();
            let (base, page) =
                (self.stable_lsn(), self.shared.state().mirror.range(range).to_vec());
            self.plan_image(window, range, base, page);
        }
        if pace == Pace::Paid {
            self.payments.drop_money();
        }
    }

    /// Plans an image of `range`: its state as of the last stable transaction, `base`, computed
    /// from the current state `page`, for the slot that may be written.
    pub(super) fn plan_image(
        &mut self,
        window: &mut Window,
        range: u32,
        base: u64,
        mut page: Vec<u64>,
    ) {
        let after = self.take_back_unstable(range, &mut page);
        let used = self.ranges[range as usize].last().map_or(0, |newest| newest.image.slot);
        let slot = if faulty(Fault::ImageInPlace) { used } else { 1 - used };
        let (image, bytes) = image(&page, base, slot);
        if let Some(bytes) = bytes {
            window.writes.push((self.layout.image_offset(range, slot), bytes));
        }
        push_image(&mut window.records, range, &image);
        window.images.push((range, Base { image, after }));
    }

    /// Undoes in `page` the transactions that the engine has not called stable. Returns the
    /// position of the first of them.
    fn take_back_unstable(&self, range: u32, page: &mut [u64]) -> Option<u64> {
        let mut first = None;
        for (_, position, records) in self.unstable.iter().rev() {
            if undo_in_range(records, range, page) {
                first = Some(*position);
            }
        }
        first
    }

    /// What the last window wrote to one copy of the directory goes to the other.
    fn plan_second_copies(&mut self, window: &mut Window) {
        for index in 0..self.directory.len() {
            if let Some((bytes, _)) = &self.directory[index].half {
                let page = &self.directory[index];
                window.writes.push((page.place.copies[1 - page.newest], bytes.clone()));
                window.second_copies.push(index);
            }
        }
    }

    fn plan_first_copies(&mut self, window: &mut Window, pace: Pace) {
        if pace != Pace::Paid {
            for index in 0..self.directory.len() {
                self.plan_first_copy(window, index);
            }
            return;
        }
        self.plan_suspect_copies(window);
        for _ in 0..self.directory.len() {
            if self.directory_money < 0.0 {
                return;
            }
            let index = self.directory_next;
            self.directory_next = (index + 1) % self.directory.len();
            if self.plan_first_copy(window, index) {
                self.directory_money -= 2.0 * PAGE as f64;
            }
        }
        self.directory_money = self.directory_money.min(0.0);
    }

    /// Plans the pages that a failed window may have left on the disk.
    fn plan_suspect_copies(&mut self, window: &mut Window) {
        for index in 0..self.directory.len() {
            if self.directory[index].suspect {
                self.plan_first_copy(window, index);
            }
        }
    }

    /// Plans what an earlier window left unfinished in directory and superblocks.
    pub(super) fn plan_unfinished(&mut self, window: &mut Window) {
        self.plan_second_copies(window);
        self.plan_suspect_copies(window);
        if self.superblock_suspect
            && window.writes.is_empty()
            && let Some(next) = self.next_superblock(Pace::Paid)
        {
            self.plan_superblock(window, next);
        }
    }

    /// Plans a page that names all durable images, unless it is being written already or has
    /// nothing new. The images of this window are not known to be durable yet, so it never names
    /// them.
    fn plan_first_copy(&mut self, window: &mut Window, index: usize) -> bool {
        let page = &self.directory[index];
        let planned = || window.first_copies.iter().any(|&(other, ..)| other == index);
        if page.half.is_some() || !page.outdated || planned() {
            return false;
        }
        let first = page.place.first_range;
        let in_window = |range: u32| {
            let undurable = faulty(Fault::DirectoryBeforeImage);
            let mut images = window.images.iter().filter(|_| undurable);
            images.find(|&&(other, _)| other == range).map(|(_, base)| base.image)
        };
        let entries: Vec<Image> = (first..first + page.place.count as u32)
            .map(|range| {
                let newest = self.ranges[range as usize].last().map(|base| base.image);
                in_window(range).or(newest).unwrap_or(NOTHING)
            })
            .collect();
        let bases = entries.iter().map(|image| image.base).collect();
        let (before, stamp) = (page.version, self.superblock.stamp());
        // Of several versions under one superblock, the superblock counts the one before the first.
        let previous = if before.stamp == stamp { before.previous } else { before.crc };
        let sequence = before.sequence + 1;
        let page = DirectoryPage { page: index as u32, sequence, previous, stamp, entries };
        let bytes = page.to_bytes(self.superblock.identity());
        let version = page.version(&bytes);
        let stale = 1 - self.directory[index].newest;
        window.writes.push((self.directory[index].place.copies[stale], bytes.clone()));
        if faulty(Fault::DirectoryBothCopies) {
            window.writes.push((self.directory[index].place.copies[1 - stale], bytes.clone()));
        }
        window.first_copies.push((index, version, bytes, bases));
        true
    }

    /// The next superblock, if one is due.
    fn next_superblock(&mut self, pace: Pace) -> Option<Superblock> {
        let due =
            self.superblock_suspect || pace != Pace::Paid || self.head.position >= self.tail_check;
        if !due {
            return None;
        }
        let often = if faulty(Fault::RingBeforeSuperblock) { 2 } else { 32 };
        let step = (self.layout.limit / often).max(self.layout.sector);
        let (tail, old) = (self.tail(), self.superblock.tail.position.get());
        let far = if pace == Pace::Paid { step } else { 1 };
        if tail.position.get() < old + far && !self.superblock_suspect {
            self.tail_check = self.head.position + step;
            return None;
        }
        let mut next = self.superblock.clone();
        next.tail = tail;
        next.clean = u8::from(tail.position.get() == self.head.position);
        self.follow(&mut next);
        Some(next)
    }

    /// Makes `next` the successor of the newest superblock.
    pub(super) fn follow(&self, next: &mut Superblock) {
        next.generation = self.superblock.generation.get().wrapping_add(1).into();
        next.directory = directory_crc(self.directory.iter().map(|page| page.version.crc)).into();
    }

    fn plan_superblock(&self, window: &mut Window, next: Superblock) {
        let page = next.to_page();
        let places = if faulty(Fault::SuperblockInOnePlace) { 1 } else { 2 };
        let offsets = slot_offsets(next.generation.get()).into_iter().take(places);
        window.writes.extend(offsets.map(|offset| (offset, page.clone())));
        window.superblock = Some(next);
    }

    /// The oldest frame that either copy of the directory needs: everything is durable now. Also
    /// the frame of the first transaction that the engine has not called stable, whatever it
    /// changed: an opening knows only from the log's frames what may be taken back.
    pub(in crate::stores::log) fn tail(&self) -> Mark {
        let needed = |bases: &Bases| {
            let index = if faulty(Fault::TailBeforeDirectory) { bases.len() - 1 } else { 0 };
            bases.get(index).and_then(|base| base.after)
        };
        let ranges = match faulty(Fault::ShrinkForgetsImages) {
            true => &self.ranges[..ranges_of(self.layout.blocks) as usize],
            false => &self.ranges[..],
        };
        let unstable = self.unstable.front().filter(|_| !faulty(Fault::TailBeforeStable));
        let unstable = unstable.map(|&(_, position, _)| position);
        let oldest = ranges.iter().filter_map(needed).chain(unstable).min();
        let position = oldest.unwrap_or(self.head.position);
        let index = self.marks.partition_point(|mark| mark.position.get() < position);
        self.marks.get(index).copied().unwrap_or_else(|| self.mark())
    }

    /// The mark of a tail at the end of the log.
    pub(crate) fn mark(&self) -> Mark {
        mark(&self.head)
    }
}

/// The image of a range whose state is `words`, and its page if it needs one. The device's end does
/// not matter: blocks behind it are free, and may be on the device later.
pub(crate) fn image(words: &[u64], base: u64, slot: u8) -> (Image, Option<Vec<u8>>) {
    let (free, largest) = survey(words);
    let state = match u64::from(free) {
        0 => State::AllUsed,
        RANGE_BLOCKS => State::AllFree,
        _ => State::Page,
    };
    let bytes = (state == State::Page)
        .then(|| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>());
    let crc = bytes.as_deref().map_or(0, crc32c::crc32c);
    (Image { base, crc, free, largest, slot, state }, bytes)
}
