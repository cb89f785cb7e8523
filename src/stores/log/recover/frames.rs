//! Reads the log from its tail to its end, and decides whether it ends there because something was
//! lost.

use std::collections::VecDeque;
use std::ops::Range;

use super::loader::Loader;
use crate::stores::log::error::{LogError, Part};
use crate::stores::log::fault::{Fault, faulty};
use crate::stores::log::format::{Superblock, is_later_u32};
use crate::stores::log::frame::{BOUNDARY, CONTINUED, FrameHeader, HEADER};
use crate::stores::log::layout::Layout;
use crate::stores::log::record::{Image, Record, Records};
use crate::stores::log::state::{Head, Mark};

/// Bytes read at a time.
const CHUNK: u64 = 1 << 20;

/// An intact frame of the log.
#[derive(Debug)]
pub(super) struct Frame {
    pub header: FrameHeader,
    /// Its records in `Log::bytes`.
    pub records: Range<usize>,
    /// The engine's position behind it.
    engine: u64,
}

/// The live part of the ring.
#[derive(Debug)]
pub(super) struct Log {
    pub frames: Vec<Frame>,
    pub bytes: Vec<u8>,
    /// Images that its records name, and the position of the frame that each is in.
    pub images: Vec<(u32, Image, u64)>,
    /// Frames at the end that do not end a transaction.
    pub cut_frames: usize,
    pub head: Head,
    /// The last transaction before the first frame; then blocks allocated and the engine's
    /// position, at that time.
    pub tail_lsn: u64,
    at_tail: (u64, u64),
    /// The smallest incarnation that the next frame may have.
    incarnation: Option<u32>,
    /// Where the log is damaged behind its end, if it is.
    pub damaged_at: Option<u64>,
}

impl Loader {
    /// Reads the log from the tail, as far as magic, checksum, sequence, position, incarnation and
    /// the chain of checksums hold, and cuts it behind the last frame that ends a transaction.
    pub(super) fn scan(&self, layout: &Layout, superblock: &Superblock) -> Result<Log, LogError> {
        let mut log = Log::empty(superblock);
        let end = superblock.tail.position.get() + layout.ring_len;
        loop {
            self.read_frames(layout, superblock, &mut log, end)?;
            let found = self.later_frame(layout, superblock, &log, end)?;
            let found = found.filter(|_| !faulty(Fault::NoLookBehind));
            let Some(at) = found else { break };
            let before = log.frames.len();
            // If the log is in use, frames may have been written between the two looks.
            self.read_frames(layout, superblock, &mut log, end)?;
            if log.frames.len() == before {
                log.damaged_at = Some(at);
                break;
            }
        }
        log.cut_unfinished();
        Ok(log)
    }

    fn read_frames(
        &self,
        layout: &Layout,
        superblock: &Superblock,
        log: &mut Log,
        end: u64,
    ) -> Result<(), LogError> {
        let mut start = log.head.position;
        let mut window: Vec<u8> = Vec::new();
        while log.head.position < end {
            let at = (log.head.position - start) as usize;
            let missing = end - start - window.len() as u64;
            if ((window.len() - at) as u64) < layout.max_frame() && missing > 0 {
                window.drain(..at);
                start = log.head.position;
                let old = window.len();
                let more = CHUNK.max(2 * layout.max_frame()).min(missing) as usize;
                window.resize(old + more, 0);
                self.read_ring(layout, start + old as u64, &mut window[old..])?;
                continue;
            }
            if !self.take_frame(layout, superblock, log, &window[at..])? {
                break;
            }
        }
        Ok(())
    }

    /// Adds the frame at the beginning of `bytes`, if it continues the log.
    fn take_frame(
        &self,
        layout: &Layout,
        superblock: &Superblock,
        log: &mut Log,
        bytes: &[u8],
    ) -> Result<bool, LogError> {
        let Some(header) = FrameHeader::parse(bytes, layout.sector, layout.max_frame()) else {
            return Ok(false);
        };
        let Head { position, sequence, crc, .. } = log.head;
        let incarnation = header.incarnation.get();
        let fits = header.position.get() == position
            && header.sequence.get() == sequence
            && header.previous.get() == crc
            && header.lsn.get() == log.head.lsn
            && !is_later_u32(incarnation, superblock.incarnation.get())
            && !log.incarnation.is_some_and(|before| is_later_u32(before, incarnation));
        let Some(crc) = header.verify(bytes).filter(|_| fits) else { return Ok(false) };
        let records = &bytes[HEADER..header.sealed()];
        for record in Records::new(records) {
            self.steps.add(1);
            match record {
                Ok(Record::Commit) => log.head.lsn += 1,
                Ok(Record::Position(position)) => log.head.engine = position,
                Ok(Record::Image { range, image }) => log.images.push((range, image, position)),
                Ok(_) => {}
                Err(_) => return Err(self.damage(Part::Record, layout.ring_offset(position))),
            }
        }
        let start = log.bytes.len();
        log.bytes.extend_from_slice(records);
        let records = start..log.bytes.len();
        log.frames.push(Frame { header, records, engine: log.head.engine });
        log.head.position += u64::from(header.len.get());
        log.head.sequence += 1;
        log.head.crc = crc;
        log.head.allocated = header.allocated.get();
        log.incarnation = Some(incarnation);
        Ok(true)
    }

    pub(super) fn read_ring(
        &self,
        layout: &Layout,
        position: u64,
        bytes: &mut [u8],
    ) -> Result<(), LogError> {
        let offset = layout.ring_offset(position);
        let room = (layout.ring_start + layout.ring_len - offset) as usize;
        let (first, second) = bytes.split_at_mut(bytes.len().min(room));
        self.read(offset, first)?;
        if second.is_empty() { Ok(()) } else { self.read(layout.ring_start, second) }
    }

    /// Looks behind the end of the log for a frame which says that the missing ones were durable.
    /// Returns the offset of the damage. Searches while there are frames of this round of the ring,
    /// and for [`CHUNK`] bytes behind the last of them: longer damage cannot be detected.
    fn later_frame(
        &self,
        layout: &Layout,
        superblock: &Superblock,
        log: &Log,
        end: u64,
    ) -> Result<Option<u64>, LogError> {
        let head = log.head;
        let mut proof = None;
        self.frames_behind(layout, head.position, end, |header| {
            let proves = header.sequence.get() > head.sequence
                && header.durable.get() >= head.sequence
                && !is_later_u32(header.incarnation.get(), superblock.incarnation.get());
            proof = proves.then(|| layout.ring_offset(head.position));
            !proves
        })?;
        Ok(proof)
    }

    /// Calls `found` with the intact frames of this round of the ring from `position` on, while it
    /// returns `true`.
    pub(super) fn frames_behind(
        &self,
        layout: &Layout,
        position: u64,
        end: u64,
        mut found: impl FnMut(&FrameHeader) -> bool,
    ) -> Result<(), LogError> {
        let sector = layout.sector as usize;
        let (mut start, mut last) = (position, position);
        while start < end && start - last < CHUNK {
            // Reads enough of what follows that a frame which begins in this part is whole.
            let part = CHUNK.min(end - start);
            let mut bytes = vec![0; (part + layout.max_frame()).min(end - start) as usize];
            self.read_ring(layout, start, &mut bytes)?;
            for at in (0..part as usize).step_by(sector) {
                let header = FrameHeader::parse(&bytes[at..], layout.sector, layout.max_frame());
                let in_place = |header: &FrameHeader| {
                    header.position.get() == start + at as u64
                        && header.verify(&bytes[at..]).is_some()
                };
                let Some(header) = header.filter(in_place) else { continue };
                last = start + at as u64;
                if !found(&header) {
                    return Ok(());
                }
            }
            start += part;
        }
        Ok(())
    }
}

impl Log {
    fn empty(superblock: &Superblock) -> Self {
        let tail = &superblock.tail;
        let head = Head {
            position: tail.position.get(),
            sequence: tail.sequence.get(),
            lsn: tail.lsn.get(),
            crc: tail.previous.get(),
            engine: tail.engine.get(),
            allocated: tail.allocated.get(),
        };
        Self {
            tail_lsn: head.lsn,
            at_tail: (head.allocated, head.engine),
            frames: Vec::new(),
            bytes: Vec::new(),
            images: Vec::new(),
            cut_frames: 0,
            head,
            incarnation: None,
            damaged_at: None,
        }
    }

    /// Drops the frames behind the last one that ends a transaction.
    fn cut_unfinished(&mut self) {
        let unfinished = faulty(Fault::UnfinishedReplayed);
        let ends = |frame: &Frame| frame.header.flags.get() & BOUNDARY != 0 || unfinished;
        let whole = self.frames.iter().rposition(ends).map_or(0, |last| last + 1);
        self.cut_frames = self.frames.len() - whole;
        let Some(first) = self.frames.get(whole) else { return };
        let position = first.header.position.get();
        self.head.position = position;
        self.head.sequence = first.header.sequence.get();
        self.head.crc = first.header.previous.get();
        self.head.lsn = first.header.lsn.get();
        self.frames.truncate(whole);
        self.images.retain(|&(.., frame)| frame < position || faulty(Fault::CutImagesKept));
        (self.head.allocated, self.head.engine) = match self.frames.last() {
            Some(last) => (last.header.allocated.get(), last.engine),
            None => self.at_tail,
        };
    }

    /// Whether the log begins inside a transaction, whose first changes it lacks.
    pub(super) fn is_cut(&self) -> bool {
        let is_cut = |frame: &Frame| frame.header.flags.get() & CONTINUED != 0;
        self.frames.first().is_some_and(is_cut) && !faulty(Fault::CutTransactionReplayed)
    }

    /// A mark for each frame.
    pub(super) fn marks(&self, superblock: &Superblock) -> VecDeque<Mark> {
        let mut mark = superblock.tail;
        let mut marks = VecDeque::with_capacity(self.frames.len());
        for frame in &self.frames {
            let header = &frame.header;
            mark.position = header.position;
            mark.sequence = header.sequence;
            mark.lsn = header.lsn;
            mark.previous = header.previous;
            marks.push_back(mark);
            mark.allocated = header.allocated;
            mark.engine = frame.engine.into();
        }
        marks
    }
}
