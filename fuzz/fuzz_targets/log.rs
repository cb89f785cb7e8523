//! Hostile bytes where a log should be: an answer or an error, no panic, no memory beyond the file's
//! size, and nothing written. Patches are put over a good log, and the checksums of what they hit
//! made right again, so that what lies behind the checksums is reached.
#![no_main]

use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use arbitrary::Arbitrary;
use freemap::{CreateOptions, Delta, Disk, Extent, OpenOptions, SpaceMapLog};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    patches: Vec<Patch>,
    delta: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
enum Patch {
    /// All superblock slots, with their checksums made right.
    Superblock { at: u16, value: u64, width: u8 },
    /// A frame of the log, with its checksum made right.
    Frame { frame: u8, at: u16, value: u32 },
    /// A directory page, with its checksum made right.
    Directory { copy: bool, at: u16, value: u32 },
    /// Anything, as it is.
    Raw { at: u32, value: u8 },
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn bytes(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().expect("no panic")
    }
}

impl Disk for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }
    fn grow(&self, len: u64) -> io::Result<()> {
        self.bytes().resize(len as usize, 0);
        Ok(())
    }
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes();
        let end = offset as usize + into.len();
        into.copy_from_slice(bytes.get(offset as usize..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
    fn write(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        self.bytes()[offset as usize..][..from.len()].copy_from_slice(from);
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn name(&self) -> String {
        "memory".to_string()
    }
}

/// Where superblocks, the ring, and the two copies of the directory lie: see docs/format.md.
const SLOTS: [usize; 4] = [0, 4096, 128 << 10, (128 << 10) + 4096];
const RING: usize = (128 << 10) + 2 * 4096;
const COPIES_BEFORE_END: [usize; 2] = [18 * 4096, 4096];
const FRAMES: usize = 6;

/// A log with a few transactions, one frame of 512 bytes each, and an image.
fn good() -> &'static [u8] {
    static GOOD: OnceLock<Vec<u8>> = OnceLock::new();
    GOOD.get_or_init(|| {
        let disk = Memory::default();
        let options = CreateOptions::new().limit(64 << 10).sector(512).uuid([1; 16]).shards(1);
        let opened = SpaceMapLog::create(disk.clone(), 100_000, &options).expect("empty");
        for round in 0..FRAMES as u64 {
            let mut transaction = opened.allocator.begin();
            transaction.mark_allocated(Extent::new(round * 9000, 5000)).expect("free");
            transaction.commit(&opened.log).expect("memory");
        }
        let bytes = disk.bytes().clone();
        bytes
    })
}

fn seal(page: &mut [u8], end: usize) {
    let crc = crc32c::crc32c(&page[..end]);
    page[end..end + 4].copy_from_slice(&crc.to_le_bytes());
}

fn apply(bytes: &mut [u8], patch: &Patch) {
    match *patch {
        Patch::Superblock { at, value, width } => {
            for slot in SLOTS {
                let page = &mut bytes[slot..slot + 4096];
                let (at, width) = (usize::from(at) % 1700, usize::from(width) % 8 + 1);
                page[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
                seal(page, 4092);
            }
        }
        Patch::Frame { frame, at, value } => {
            let start = RING + usize::from(frame) % FRAMES * 512;
            let frame = &mut bytes[start..start + 512];
            let at = usize::from(at) % 200;
            frame[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let records = u32::from_le_bytes([frame[56], frame[57], frame[58], frame[59]]) as usize;
            if records < 512 - 68 {
                seal(frame, 64 + records);
            }
            // The next frame names this one's checksum.
        }
        Patch::Directory { copy, at, value } => {
            let start = bytes.len() - COPIES_BEFORE_END[usize::from(copy)];
            let page = &mut bytes[start..][..4096];
            let at = 4 + usize::from(at) % 4080;
            page[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let crc = crc32c::crc32c(&page[4..]);
            page[..4].copy_from_slice(&crc.to_le_bytes());
        }
        Patch::Raw { at, value } => {
            let len = bytes.len();
            bytes[at as usize % len] = value;
        }
    }
}

fuzz_target!(|input: Input| {
    if let Ok(delta) = Delta::decode(&input.delta) {
        let mut again = Vec::new();
        delta.encode(&mut again);
        assert_eq!(Delta::decode(&again), Ok(delta));
    }
    let mut bytes = good().to_vec();
    input.patches.iter().for_each(|patch| apply(&mut bytes, patch));
    let disk = Memory(Arc::new(Mutex::new(bytes.clone())));
    let inspected = SpaceMapLog::inspect(disk.clone(), &OpenOptions::new());
    assert!(*disk.bytes() == bytes, "a look changes nothing");
    match SpaceMapLog::open(disk.clone(), &OpenOptions::new()) {
        Ok(opened) => {
            let (allocator, _) = inspected.expect("what can be opened can be looked at");
            assert_eq!(allocator.free_blocks(), opened.allocator.free_blocks());
            let mut transaction = opened.allocator.begin();
            if transaction.allocate(1).is_ok() {
                let _either = transaction.commit(&opened.log);
            }
            let _either = opened.log.condense();
        }
        Err(_) => assert!(*disk.bytes() == bytes, "an error writes nothing"),
    }
});
