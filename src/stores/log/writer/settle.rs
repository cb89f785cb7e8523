//! Updating the writer's state once a window is durable.

use crate::stores::log::fault::{Fault, faulty};
use crate::stores::log::format::PAGE;
use crate::stores::log::layout::Layout;
use crate::stores::log::memory::LogMemory;
use crate::stores::log::record::State;
use crate::stores::log::shared::Seen;
use crate::stores::log::state::{Base, Bases, Mark};
use crate::stores::log::writer::{Directory, Window, Writer, window_start};

/// Bytes of directory pages per byte of log: every page, both copies, each time the log grows by an
/// eighth of its limit.
pub(super) fn directory_rate(pages: usize, layout: &Layout) -> f64 {
    (pages * 2 * PAGE) as f64 / (layout.limit / 8) as f64
}

impl Writer {
    /// Applies a durable window to the writer's state.
    pub(super) fn settle(&mut self, window: Window) {
        let start = window_start(&window, self.head);
        let images =
            window.images.iter().filter(|(_, base)| base.image.state == State::Page).count();
        let burst = (images * PAGE) as u64;
        self.figures.max_image_burst = self.figures.max_image_burst.max(burst);
        self.figures.log_bytes += window.frames.bytes.len() as u64;
        let pages = window.first_copies.len()
            + window.second_copies.len()
            + usize::from(window.superblock.is_some());
        self.figures.directory_bytes += (pages * PAGE) as u64;
        self.figures.image_bytes += burst;
        for index in window.second_copies {
            self.settle_directory(index);
        }
        for (index, version, bytes, bases) in window.first_copies {
            let page = &mut self.directory[index];
            (page.version, page.newest) = (version, 1 - page.newest);
            (page.half, page.outdated, page.suspect) = (Some((bytes, bases)), false, false);
        }
        for (range, base) in window.images {
            self.settle_image(range, base);
        }
        if let Some(superblock) = window.superblock {
            self.free_ring(superblock.tail.position.get());
            self.superblock = superblock;
            self.superblock_suspect = false;
        }
        if let Some(head) = window.frames.head {
            self.directory_money +=
                (head.position - start) as f64 * directory_rate(self.directory.len(), &self.layout);
            self.payments.earn(start, head.position);
            self.marks.extend(window.frames.marks);
            self.head = head;
        }
        for range in window.touched {
            self.changed_at(range, start);
        }
        self.buffer = window.frames.bytes;
        let oldest = self.changed.front().map_or(self.head.position, |&(position, _)| position);
        self.figures.max_live = self.figures.max_live.max(self.head.position - oldest);
        self.show();
    }

    /// Publishes the progress to readers that do not wait for the writer.
    pub(in crate::stores::log) fn show(&self) {
        self.shared.show(Seen {
            figures: self.figures,
            memory: self.memory(),
            last: self.head.lsn,
            blocks: self.layout.blocks,
            max_blocks: self.layout.max_blocks(),
        });
    }

    /// Bytes of the writer's state. O(directory pages).
    pub(super) fn memory(&self) -> LogMemory {
        let half = |page: &Directory| {
            page.half
                .as_ref()
                .map_or(0, |(bytes, bases)| bytes.capacity() + size_of_val(&bases[..]))
        };
        let directory = self.directory.capacity() * size_of::<Directory>();
        let halves: usize = self.directory.iter().map(half).sum();
        let ranges = self.ranges.capacity() * size_of::<Bases>();
        let spilled = self.spilled * 2 * size_of::<Bases>();
        let marks = self.marks.capacity() * size_of::<Mark>();
        let changed = self.changed.capacity() * size_of::<(u64, u32)>();
        let unstable = self.unstable.capacity() * size_of::<(u64, u64, Vec<u8>)>();
        LogMemory {
            ranges: ranges + spilled + directory + halves,
            live: marks + changed + unstable + self.unstable_bytes as usize,
            buffer: self.buffer.capacity(),
            ..LogMemory::default()
        }
    }

    pub(super) fn settle_image(&mut self, range: u32, base: Base) {
        let page = self.directory.partition_point(|page| page.place.first_range <= range) - 1;
        self.directory[page].outdated = true;
        let on_its_way = self.directory[page]
            .half
            .as_ref()
            .filter(|_| !faulty(Fault::OnItsWayForgotten))
            .map(|(_, bases)| bases[(range - self.directory[page].place.first_range) as usize]);
        let bases = &mut self.ranges[range as usize];
        // Of the images between the directory's and the newest, only the one being written to the
        // directory matters.
        let first = bases.first().map(|base| base.image.base);
        bases.retain(|kept| Some(kept.image.base) == first || Some(kept.image.base) == on_its_way);
        let spilled = bases.spilled();
        bases.push(base);
        self.spilled += usize::from(bases.spilled() && !spilled);
        if let Some(position) = base.after {
            self.requeue(position, range);
        }
    }

    /// Both copies of the page are durable: images older than those in it are not needed.
    pub(super) fn settle_directory(&mut self, index: usize) {
        let Some((_, lsns)) = self.directory[index].half.take() else { return };
        let first = self.directory[index].place.first_range as usize;
        for (bases, lsn) in self.ranges[first..].iter_mut().zip(lsns) {
            if let Some(named) = bases.iter().position(|base| base.image.base == lsn) {
                bases.drain(..named);
            }
        }
    }

    pub(super) fn free_ring(&mut self, position: u64) {
        self.free_from = position;
        while self.marks.front().is_some_and(|mark| mark.position.get() < position) {
            self.marks.pop_front();
        }
    }

    /// A transaction in the window that began at `position` changed `range`.
    pub(super) fn changed_at(&mut self, range: u32, position: u64) {
        if let Some(base) = self.ranges[range as usize].last_mut()
            && base.after.is_none()
        {
            base.after = Some(position);
            self.changed.push_back((position, range));
            self.payments.changed(position);
        }
    }

    /// Puts a range that is still changed after its image back into the queue, in order.
    pub(super) fn requeue(&mut self, position: u64, range: u32) {
        let index = self.changed.partition_point(|&(other, _)| other <= position);
        self.changed.insert(index, (position, range));
        self.payments.changed(self.head.position);
    }
}
