//! Packs records into frames.

use super::{Frames, Writer, mark};
use crate::stores::log::fault::{Fault, faulty};
use crate::stores::log::format::FRAME_MAGIC;
use crate::stores::log::frame::{BOUNDARY, CONTINUED, FrameHeader, HEADER};
use crate::stores::log::record::{Records, push_commit};
use crate::stores::log::state::Head;

/// Packs records into frames. A frame ends inside a transaction only if the transaction alone is
/// longer than a frame.
pub(super) struct Packer {
    head: Head,
    /// Transactions finished in the current frame, and blocks allocated after them.
    ended: u64,
    allocated: u64,
    /// No transaction is unfinished at the end of the current frame, or of the last one.
    boundary: bool,
    /// The current frame begins inside a transaction.
    inside: bool,
    records: Vec<u8>,
    frames: Frames,
    capacity: usize,
    sector: u64,
    durable: u64,
    incarnation: u32,
    /// The engine's position after the current frame.
    engine: u64,
}

impl Packer {
    pub(super) fn new(writer: &mut Writer) -> Self {
        let mut bytes = std::mem::take(&mut writer.buffer);
        bytes.clear();
        Self {
            head: writer.head,
            ended: 0,
            allocated: writer.head.allocated,
            engine: writer.head.engine,
            boundary: true,
            inside: false,
            records: Vec::new(),
            frames: Frames { bytes, ..Frames::default() },
            capacity: writer.layout.max_frame() as usize - HEADER - 4,
            sector: writer.layout.sector,
            durable: writer.head.sequence - 1,
            incarnation: writer.superblock.incarnation.get(),
        }
    }

    /// Adds image records, which belong to no transaction.
    pub(super) fn images(&mut self, records: &[u8]) {
        self.split(records, true);
    }

    /// The next transaction brings the engine to `position`.
    pub(super) fn position(&mut self, position: u64) {
        self.engine = position;
    }

    /// Adds one transaction, after which `allocated` blocks are allocated.
    pub(super) fn transaction(&mut self, records: &[u8], allocated: u64) {
        let len = records.len() + 8;
        if self.records.len() + len > self.capacity {
            self.close();
        }
        if len > self.capacity {
            self.split(records, false);
            if self.records.len() + 8 > self.capacity {
                self.close();
            }
        } else {
            self.records.extend_from_slice(records);
        }
        push_commit(&mut self.records);
        self.ended += 1;
        (self.allocated, self.boundary) = (allocated, true);
    }

    fn split(&mut self, bytes: &[u8], boundary: bool) {
        let mut records = Records::new(bytes);
        let mut start = 0;
        while records.next().is_some() {
            let record = &bytes[start..records.offset()];
            if self.records.len() + record.len() > self.capacity {
                self.close();
            }
            self.boundary = boundary || faulty(Fault::UnfinishedIsBoundary);
            self.records.extend_from_slice(record);
            start = records.offset();
        }
    }

    fn close(&mut self) {
        if self.records.is_empty() {
            return;
        }
        let len = ((HEADER + self.records.len() + 4) as u64).next_multiple_of(self.sector);
        let header = FrameHeader {
            magic: FRAME_MAGIC.into(),
            len: (len as u32).into(),
            sequence: self.head.sequence.into(),
            position: self.head.position.into(),
            lsn: self.head.lsn.into(),
            durable: self.durable.into(),
            allocated: self.allocated.into(),
            previous: self.head.crc.into(),
            incarnation: self.incarnation.into(),
            records: (self.records.len() as u32).into(),
            flags: self.flags().into(),
        };
        let crc = header.seal(&self.records, &mut self.frames.bytes);
        self.frames.marks.push(mark(&self.head));
        self.head.position += len;
        self.head.sequence += 1;
        self.head.lsn += self.ended;
        self.head.crc = crc;
        self.head.engine = self.engine;
        self.head.allocated = self.allocated;
        self.ended = 0;
        self.inside = !self.boundary;
        self.records.clear();
    }

    fn flags(&self) -> u32 {
        let boundary = if self.boundary { BOUNDARY } else { 0 };
        let continued = if self.inside { CONTINUED } else { 0 };
        boundary | continued
    }

    pub(super) fn finish(mut self) -> Frames {
        self.close();
        self.frames.head = Some(self.head);
        self.frames
    }
}
