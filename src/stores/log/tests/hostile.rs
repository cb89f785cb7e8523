//! Files that nobody's log wrote, with every checksum right: opening one takes no more reads and steps than
//! the bytes that matter are worth, and ends in a sound state or an error that wrote nothing. What is bounded
//! is counted, never timed.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use super::{SLOTS, small};
use crate::stores::log::disk::Disk;
use crate::stores::log::format::{FRAME_MAGIC, PAGE, Superblock};
use crate::stores::log::frame::{BOUNDARY, FrameHeader, HEADER};
use crate::stores::log::layout::{Layout, ranges_of};
use crate::stores::log::record::{
    Image, MAX_FILL, RANGE_BLOCKS, State, push_commit, push_fill, push_image,
};
use crate::stores::log::recover::{Loaded, Loader};
use crate::stores::log::{CommitError, CreateOptions, LogError, OpenOptions, Part, SpaceMapLog};
use crate::values::extent::Extent;
use crate::values::op::Op;

/// Bytes of the ring that opening may read beside the live log: what it reads ahead, and what a crash may
/// have left behind the end.
const RING_SLACK: u64 = 4 << 20;

/// A disk of pages, of which those never written take no memory, that counts what is read.
#[derive(Default)]
struct Sparse {
    pages: Mutex<BTreeMap<u64, Box<[u8; PAGE]>>>,
    len: Mutex<u64>,
    /// Offset and length of every read.
    reads: Mutex<Vec<(u64, u64)>>,
    writes: Mutex<u64>,
}

impl Sparse {
    /// Bytes read that lie in `within`.
    fn read_in(&self, within: std::ops::Range<u64>) -> u64 {
        let inside =
            |&(at, len): &(u64, u64)| within.end.min(at + len).saturating_sub(within.start.max(at));
        self.reads.lock().expect("no panic").iter().map(inside).sum()
    }

    fn forget_reads(&self) {
        self.reads.lock().expect("no panic").clear();
    }

    fn writes(&self) -> u64 {
        *self.writes.lock().expect("no panic")
    }

    /// Calls `part` for each page of `offset..offset + len`: its number, where in it, where in the bytes.
    fn parts(
        offset: u64,
        len: usize,
        mut part: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>),
    ) {
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let within = (at % PAGE as u64) as usize;
            let count = (PAGE - within).min(len - done);
            part(at / PAGE as u64, within..within + count, done..done + count);
            done += count;
        }
    }
}

impl Disk for Sparse {
    fn len(&self) -> io::Result<u64> {
        Ok(*self.len.lock().expect("no panic"))
    }

    fn grow(&self, len: u64) -> io::Result<()> {
        let mut now = self.len.lock().expect("no panic");
        *now = len.max(*now);
        Ok(())
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        if offset + bytes.len() as u64 > self.len()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.reads.lock().expect("no panic").push((offset, bytes.len() as u64));
        let pages = self.pages.lock().expect("no panic");
        Self::parts(offset, bytes.len(), |page, within, place| match pages.get(&page) {
            Some(page) => bytes[place].copy_from_slice(&page[within]),
            None => bytes[place].fill(0),
        });
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        *self.writes.lock().expect("no panic") += 1;
        let mut pages = self.pages.lock().expect("no panic");
        Self::parts(offset, bytes.len(), |page, within, place| {
            let zero = bytes[place.clone()].iter().all(|&byte| byte == 0);
            if !zero || pages.contains_key(&page) {
                let page = pages.entry(page).or_insert_with(|| Box::new([0; PAGE]));
                page[within].copy_from_slice(&bytes[place]);
            }
        });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn name(&self) -> String {
        "a hostile disk".to_string()
    }
}

/// Writes frames behind an empty log, in the order and with the numbers that a writer would.
struct Forger {
    disk: Arc<Sparse>,
    superblock: Superblock,
    layout: Layout,
    position: u64,
    sequence: u64,
    lsn: u64,
    previous: u32,
    /// Blocks allocated so far.
    allocated: u64,
    records: Vec<u8>,
    /// Transactions that end in the records at hand.
    ended: u64,
}

impl Forger {
    /// A new log of `blocks` blocks.
    fn new(blocks: u64, options: &CreateOptions) -> Self {
        let disk = Arc::new(Sparse::default());
        drop(SpaceMapLog::create(disk.clone(), blocks, options).expect("an empty disk"));
        let superblock = newest(&disk);
        let layout = Layout::from_superblock(&superblock).expect("ours");
        let tail = superblock.tail;
        disk.forget_reads();
        Self {
            disk,
            layout,
            position: tail.position.get(),
            sequence: tail.sequence.get(),
            lsn: tail.lsn.get(),
            previous: tail.previous.get(),
            allocated: tail.allocated.get(),
            superblock,
            records: Vec::new(),
            ended: 0,
        }
    }

    /// Room for records in one frame.
    fn capacity(&self) -> usize {
        self.layout.max_frame() as usize - HEADER - 4
    }

    /// Adds one record, or several that belong into one frame.
    fn add(&mut self, record: &[u8]) {
        if self.records.len() + record.len() > self.capacity() {
            self.close();
        }
        self.records.extend_from_slice(record);
    }

    fn commit(&mut self) {
        let mut record = Vec::new();
        push_commit(&mut record);
        self.add(&record);
        self.ended += 1;
    }

    /// Adds a fill as a transaction of its own.
    fn fill(&mut self, first: u32, count: u32, op: Op) {
        let mut records = Vec::new();
        push_fill(&mut records, first, count, op);
        push_commit(&mut records);
        self.add(&records);
        self.ended += 1;
        let blocks = u64::from(count) * RANGE_BLOCKS;
        match op {
            Op::Allocate => self.allocated += blocks,
            Op::Free => self.allocated -= blocks,
        }
    }

    /// Writes the frame at hand.
    fn close(&mut self) {
        let len = ((HEADER + self.records.len() + 4) as u64).next_multiple_of(self.layout.sector);
        let header = FrameHeader {
            magic: FRAME_MAGIC.into(),
            len: (len as u32).into(),
            sequence: self.sequence.into(),
            position: self.position.into(),
            lsn: self.lsn.into(),
            durable: (self.sequence - 1).into(),
            allocated: self.allocated.into(),
            previous: self.previous.into(),
            incarnation: self.superblock.incarnation,
            records: (self.records.len() as u32).into(),
            flags: BOUNDARY.into(),
        };
        let mut frame = Vec::new();
        self.previous = header.seal(&self.records, &mut frame);
        let offset = self.layout.ring_offset(self.position);
        assert!(self.position + len <= self.layout.ring_len, "the ring is not used twice");
        self.disk.write(offset, &frame).expect("memory");
        self.position += len;
        self.sequence += 1;
        self.lsn += std::mem::take(&mut self.ended);
        self.records.clear();
    }

    /// Opens what was forged, without writing, on one thread; with the steps that it took.
    fn load(&mut self) -> (Result<Loaded, LogError>, Cost) {
        if !self.records.is_empty() {
            self.close();
        }
        let disk = self.disk.clone();
        let (writes, loader) = (disk.writes(), Loader::new(disk.clone()));
        disk.forget_reads();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
        let loaded = pool.install(|| loader.load(None));
        assert_eq!(disk.writes(), writes, "looking writes nothing");
        let ring = self.layout.ring_start..self.layout.ring_start + self.layout.ring_len;
        let (all, of_ring) = (disk.read_in(0..u64::MAX), disk.read_in(ring));
        (loaded, Cost { steps: loader.steps(), ring: of_ring, beside: all - of_ring })
    }

    /// Bytes of live log.
    fn log_bytes(&self) -> u64 {
        self.position - self.superblock.tail.position.get()
    }

    /// What opening may cost. It may read the log once, each superblock a few times, each directory page once,
    /// and at most both image slots of `imaged` ranges, one of them twice. It may do a few steps for each range and one for
    /// each byte of the log, a record having at least eight, and `written` more.
    fn assert_bounded(&self, cost: &Cost, imaged: u64, written: u64) {
        let pages = 64 + 2 * self.layout.directory().len() as u64 + 3 * imaged;
        let most = Cost {
            steps: 8 * u64::from(self.layout.ranges()) + self.log_bytes() + written,
            ring: self.log_bytes() + RING_SLACK,
            beside: pages * PAGE as u64,
        };
        let within =
            cost.steps <= most.steps && cost.ring <= most.ring && cost.beside <= most.beside;
        assert!(within, "{cost:?}, of {most:?}");
    }
}

/// What opening took.
#[derive(Debug)]
struct Cost {
    steps: u64,
    /// Bytes read of the ring, and of everything else.
    ring: u64,
    beside: u64,
}

/// The superblocks, and where each lies.
fn slots(disk: &Sparse) -> impl Iterator<Item = (u64, Superblock)> {
    SLOTS.into_iter().filter_map(|offset| {
        let mut page = vec![0; PAGE];
        disk.read(offset as u64, &mut page).expect("as long as that");
        Some((offset as u64, Superblock::from_page(&page).ok()?))
    })
}

fn newest(disk: &Sparse) -> Superblock {
    let superblocks = slots(disk).map(|(_, slot)| slot);
    superblocks.max_by_key(|slot| slot.generation.get()).expect("one is intact")
}

/// Changes all superblocks of `disk`, with the right checksums.
fn patch(disk: &Sparse, change: impl Fn(&mut Superblock)) {
    for (offset, mut slot) in slots(disk) {
        change(&mut slot);
        disk.write(offset, &slot.to_page()).expect("memory");
    }
}

/// A ring that takes 15 MB of frames.
fn roomy() -> CreateOptions {
    CreateOptions::new().limit(16 << 20).sector(512).uuid([7; 16]).shards(1).sparse()
}

/// Image record `number` of range 0: no two are the same, and none names a page that is there.
fn image(number: u32) -> Image {
    let slot = (number % 2) as u8;
    Image { base: 0, crc: number, free: 1, largest: 1, slot, state: State::Page }
}

/// Image record `number` of range 0: it has the checksum of the page that is there, of zeros, and another count
/// of free blocks.
fn miscounted(number: u32) -> Image {
    Image { crc: crc32c::crc32c(&[0; PAGE]), free: number % RANGE_BLOCKS as u32, ..image(number) }
}

/// 15 MB of image records for one range, in frames as they should be. Each was compared with all before it,
/// and then the page was read for each: minutes, and 2 GB.
#[test]
fn many_images_of_one_range_cost_no_more_than_their_bytes() {
    for image in [image, miscounted] {
        let mut forger = Forger::new(3 * RANGE_BLOCKS, &roomy());
        for number in 0..15_000_000 / 32 {
            let mut record = Vec::new();
            push_image(&mut record, 0, &image(number));
            forger.add(&record);
        }
        let (_, cost) = forger.load();
        forger.assert_bounded(&cost, 3, 0);
    }
}

/// The same with changes of the range behind the images: each change looked at every image.
#[test]
fn changes_behind_many_images_cost_no_more_than_their_bytes() {
    let mut forger = Forger::new(3 * RANGE_BLOCKS, &roomy());
    for number in 0..3_000_000 / 32 {
        let mut record = Vec::new();
        push_image(&mut record, 0, &image(number));
        forger.add(&record);
    }
    for _ in 0..1000 {
        forger.fill(0, 1, Op::Allocate);
        forger.fill(0, 1, Op::Free);
    }
    let (_, cost) = forger.load();
    forger.assert_bounded(&cost, 3, 2000 * (RANGE_BLOCKS / 64 + 2));
}

/// Records of 16 bytes that fill and empty the whole device again and again: each costs the blocks of 64
/// ranges at most.
#[test]
fn fills_cost_no_more_than_64_ranges_each() {
    let blocks = 1024 * RANGE_BLOCKS;
    let mut forger = Forger::new(blocks, &roomy());
    let mut fills = 0;
    for op in [Op::Allocate, Op::Free, Op::Allocate] {
        for first in (0..ranges_of(blocks)).step_by(MAX_FILL as usize) {
            forger.fill(first, MAX_FILL, op);
            fills += 1;
        }
    }
    let (loaded, cost) = forger.load();
    let loaded = loaded.map_err(|error| error.to_string()).expect("a log like others");
    assert_eq!(loaded.recovered.mirror.allocated(), blocks);
    forger.assert_bounded(&cost, 0, fills * u64::from(MAX_FILL) * (RANGE_BLOCKS / 64 + 2));
}

/// A longer fill is no record of this format: 4 KiB of them were seconds.
#[test]
fn a_fill_of_more_than_64_ranges_is_damage() {
    let blocks = 1024 * RANGE_BLOCKS;
    for (count, good) in [(MAX_FILL, true), (MAX_FILL + 1, false), (1024, false)] {
        let mut forger = Forger::new(blocks, &roomy());
        forger.fill(0, count, Op::Allocate);
        let (loaded, cost) = forger.load();
        match loaded {
            Ok(_) => assert!(good, "a fill of {count} ranges was taken"),
            Err(LogError::Damaged { part: Part::Record, .. }) => assert!(!good, "{count}"),
            Err(error) => panic!("a fill of {count} ranges is called: {error}"),
        }
        if !good {
            forger.assert_bounded(&cost, 0, 0);
        }
    }
}

/// Records of transactions without changes, and of nothing but their end: as many steps as there are records.
#[test]
fn empty_transactions_cost_no_more_than_their_bytes() {
    let mut forger = Forger::new(RANGE_BLOCKS, &roomy());
    (0..200_000).for_each(|_| forger.commit());
    let (loaded, cost) = forger.load();
    let loaded = loaded.map_err(|error| error.to_string()).expect("a log like others");
    assert_eq!(loaded.recovered.head.lsn, 200_000);
    forger.assert_bounded(&cost, 0, 0);
}

/// The ring of a device of 16 TiB has 450 MB, of which an empty log uses nothing.
#[test]
fn an_empty_ring_is_not_read() {
    let options = CreateOptions::new().uuid([7; 16]).sparse();
    let mut forger = Forger::new(1 << 32, &options);
    let (loaded, cost) = forger.load();
    assert!(loaded.is_ok());
    forger.assert_bounded(&cost, 0, 0);
}

/// The same ring with a short live log, at its beginning and across its end.
#[test]
fn a_short_log_in_a_long_ring_is_all_that_is_read_of_it() {
    let options = CreateOptions::new().uuid([7; 16]).sparse();
    let mut forger = Forger::new(1 << 32, &options);
    for _ in 0..100 {
        forger.fill(5, 3, Op::Allocate);
        forger.fill(5, 3, Op::Free);
    }
    let (loaded, cost) = forger.load();
    assert!(loaded.is_ok());
    forger.assert_bounded(&cost, 0, 200 * 3 * (RANGE_BLOCKS / 64 + 2));
}

/// Opens, commits, condenses and opens again, several times: what can be opened once can be opened again.
/// An error must come at once, and leave the bytes as they are.
fn survives(disk: &Arc<Sparse>, what: &str) -> bool {
    for round in 0..4 {
        let writes = disk.writes();
        let opened = match SpaceMapLog::open(disk.clone(), &OpenOptions::new()) {
            Ok(opened) => opened,
            Err(error) => {
                assert_eq!(round, 0, "{what}: opened before, and not any more: {error}");
                assert_eq!(disk.writes(), writes, "{what}: an error writes nothing");
                return false;
            }
        };
        let mut transaction = opened.allocator.begin();
        transaction.mark_allocated(Extent::new(round, 1)).expect("free");
        let lsn = match transaction.commit(&opened.log).map_err(|failed| failed.into_error()) {
            Ok(lsn) => lsn,
            // It can be read, for as long as it lives.
            Err(CommitError::Exhausted) => continue,
            Err(error) => panic!("{what}: {error}"),
        };
        opened.log.condense().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(opened.log.last(), lsn, "{what}");
        opened.log.verify().unwrap_or_else(|error| panic!("{what}: {error}"));
        drop(opened);
    }
    true
}

/// A counter that is nearly at its end was opened, raised, and refused the next time.
#[test]
fn what_opens_once_opens_again_whatever_the_counters_say() {
    type Change = fn(&mut Superblock, u64);
    let fields: [(&str, Change); 5] = [
        ("generation", |slot, value| {
            // Each slot keeps its parity, which says where it lies.
            let parity = slot.generation.get() % 2;
            slot.generation = (value & !1 | parity).into();
        }),
        ("incarnation", |slot, value| slot.incarnation = (value as u32).into()),
        ("tail position", |slot, value| slot.tail.position = (value & !4095).into()),
        ("tail sequence", |slot, value| slot.tail.sequence = value.into()),
        ("tail LSN", |slot, value| slot.tail.lsn = value.into()),
    ];
    let near =
        |end: u64| (0..40).flat_map(move |step| [end.wrapping_sub(step), end.wrapping_add(step)]);
    for (field, change) in fields {
        let values: Vec<u64> = match field {
            "incarnation" => near(u64::from(u32::MAX)).collect(),
            _ => near(1 << 62).chain(near(1 << 63)).chain(near(0)).chain([1 << 61]).collect(),
        };
        let mut opened = 0;
        for value in values {
            let disk = Arc::new(Sparse::default());
            drop(SpaceMapLog::create(disk.clone(), RANGE_BLOCKS, &small()).expect("an empty disk"));
            patch(&disk, |slot| change(slot, value));
            opened += u64::from(survives(&disk, &format!("{field} {value:#x}")));
        }
        assert!(opened > 0, "{field}: none was opened, so that nothing was tried");
    }
}

/// All of them at the largest value that was ever taken for sound, at once.
#[test]
fn a_log_at_the_end_of_all_counters_is_refused_or_goes_on() {
    let disk = Arc::new(Sparse::default());
    drop(SpaceMapLog::create(disk.clone(), RANGE_BLOCKS, &small()).expect("an empty disk"));
    patch(&disk, |slot| {
        let last = (1u64 << 62) - 1;
        slot.generation = (last - 1 + slot.generation.get() % 2).into();
        slot.incarnation = (u32::MAX - 1).into();
        slot.tail.position = (last & !4095).into();
        slot.tail.sequence = last.into();
        slot.tail.lsn = last.into();
    });
    survives(&disk, "the last of all");
}
