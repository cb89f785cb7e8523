//! What is freed waits to be discarded (d).

use crate::space::discard_runs::Walk;
use crate::space::discards::Discards;

use super::*;

/// A device of which every block is in use, with a discarder.
struct Device<G: Geometry> {
    index: Bitmap<G>,
    discards: Discards<G>,
}

impl<G: Geometry<Word = u64>> Device<G> {
    fn new(blocks: u64) -> Arc<Self> {
        let index = Bitmap::from_words(blocks, 1, |_| 0).expect("memory");
        let discards = Discards::new(blocks).expect("memory");
        discards.set_limit(blocks, &mut |_, _| {});
        Arc::new(Self { index, discards })
    }

    fn free(&self) {
        let freed =
            if self.discards.has_room(1) { self.put(0, 1) } else { self.index.release(0, 1) };
        assert_eq!(freed, Ok(()), "a rightful free failed");
    }

    fn put(&self, start: u64, len: u64) -> Result<(), ReleaseError> {
        self.discards.put(start, len, &mut |word, bits| self.let_out(word, bits))
    }

    /// As `put`, in a course of events in which another thread wrongly frees some of it: that may be
    /// let out twice.
    fn put_wrongly(&self, start: u64, len: u64) -> Result<(), ReleaseError> {
        self.discards.put(start, len, &mut |word, bits| self.let_out_wrongly(word, bits))
    }

    fn let_out_wrongly(&self, word: WordIndex, bits: u64) {
        self.index.add_in_word(word, bits);
    }

    fn let_out(&self, word: WordIndex, bits: u64) {
        assert_eq!(self.index.release_in_word(word, bits), Ok(()), "a block is let out twice");
    }

    /// The end of the discarder.
    fn stop(&self) {
        self.discards.set_limit(0, &mut |word, bits| self.let_out(word, bits));
    }

    fn allocate(&self) -> Option<u64> {
        exact(&self.index, 1).ok().or_else(|| {
            let blocks = self.index.blocks();
            self.discards.let_out(0, blocks, u64::MAX, &mut |word, bits| self.let_out(word, bits));
            exact(&self.index, 1).ok()
        })
    }
}

/// A free while the discarder leaves.
pub fn d1() {
    let device = Device::<Bit>::new(1);
    let freeing = spawn(&device, Device::<Bit>::free);
    device.stop();
    join(freeing);
    assert_eq!(exact(&device.index, 1), Ok(0), "the block is free");
}

/// The discarder takes a block that an allocation wants.
pub fn d2() {
    let device = Device::<Bit>::new(1);
    device.free();
    let allocating = spawn(&device, Device::<Bit>::allocate);
    if let Some((start, len)) = device.discards.take(0, 1) {
        device.discards.give_back(start, len, |start, len| free(&device.index, start, len));
    }
    let mut got: Vec<u64> = join(allocating).into_iter().collect();
    got.extend(device.allocate());
    assert_eq!(got, [0], "one of them gets it");
}

/// Two threads free block 1, one of them together with block 0, while the discarder leaves. What
/// arrived before the first of the two was stopped does not wait for ever.
pub fn d3() {
    let device = Device::<Split>::new(2);
    let freeing = spawn(&device, |device| device.put_wrongly(0, 2));
    let other = device.put_wrongly(1, 1);
    device.discards.set_limit(0, &mut |word, bits| device.let_out_wrongly(word, bits));
    let nothing_freed = matches!(join(freeing), Err(ReleaseError::Free { .. }));
    assert_eq!(device.discards.first_in(0, 2), 2, "a block waits for a discarder that has left");
    assert!(!nothing_freed || other.is_ok(), "one of them frees block 1");
    settle(&device.index, if nothing_freed { &[(0, 1)] } else { &[] });
}

/// One discarder leaves and the next begins, beside a free: the block is free, or waits for the next.
pub fn d4() {
    let device = Device::<Bit>::new(1);
    let freeing = spawn(&device, Device::<Bit>::free);
    device.stop();
    device.discards.set_limit(1, &mut |_, _| {});
    join(freeing);
    device.stop();
    settle(&device.index, &[]);
}

/// The device is done with a block. A thread that gets it then may free it at once: it is not with
/// the device any more.
pub fn d5() {
    let device = Device::<Bit>::new(1);
    device.free();
    assert_eq!(device.discards.take(0, 1), Some((0, 1)));
    assert_eq!(device.discards.first_in(0, 1), 0, "it has no owner");
    let other = spawn(&device, |device| {
        if exact(&device.index, 1).is_ok() {
            assert_eq!(device.discards.first_in(0, 1), 1, "a rightful free is refused");
            device.free();
        }
    });
    device.discards.give_back(0, 1, |start, len| free(&device.index, start, len));
    join(other);
    device.stop();
    settle(&device.index, &[]);
}

/// A free completes a run with a block that waits, while a request goes through what waits. What
/// the request does not find, it finds the next time.
pub fn d6() {
    let device = Device::<Split>::new(2);
    assert_eq!(device.put(1, 1), Ok(()));
    let freeing = spawn(&device, |device| {
        let release = || device.index.release(0, 1);
        device.discards.noting_runs(&device.index, (0, 1), release)
    });
    let mut walk = None;
    let look = |walk: &mut Option<Walk>| {
        let free = &mut |word, bits| device.let_out(word, bits);
        device.discards.let_out_runs(&device.index, walk, (2, 1), 2, free) > 0
    };
    let found = look(&mut walk);
    assert_eq!(join(freeing), Ok(()));
    assert!(found || look(&mut walk), "a run is never found");
    assert_eq!(exact(&device.index, 2), Ok(0));
}

/// Two frees complete a run between them: one of them notes it.
pub fn d7() {
    let device = Device::<Split>::new(2);
    let mut walk = None;
    let look = |walk: &mut Option<Walk>| {
        let free = &mut |word, bits| device.let_out(word, bits);
        device.discards.let_out_runs(&device.index, walk, (2, 1), 2, free) > 0
    };
    assert!(!look(&mut walk));
    let freeing = spawn(&device, |device| {
        device.discards.noting_runs(&device.index, (0, 1), || device.index.release(0, 1))
    });
    let put = device.discards.noting_runs(&device.index, (1, 1), || device.put(1, 1));
    assert_eq!((put, join(freeing)), (Ok(()), Ok(())));
    assert!(look(&mut walk), "a run is never found");
    assert_eq!(exact(&device.index, 2), Ok(0));
}

/// A device of 24 leaves under two levels of nodes; block 92 is free and block 95 waits.
fn leaf_with_a_waiting_block() -> Arc<Device<Whole>> {
    let free = |word| u64::from(word == WordIndex::new(23));
    let index = Bitmap::from_words(96, 1, free).expect("memory");
    let discards = Discards::new(96).expect("memory");
    discards.set_limit(96, &mut |_, _| {});
    let device = Arc::new(Device { index, discards });
    assert_eq!(device.put(95, 1), Ok(()));
    device
}

/// A caller takes a waiting block by name and repairs the summary, while another block of that leaf
/// begins to wait and completes a run. Who goes through what waits reads the summary once, without
/// a watch: a repair must not hide that block.
pub fn d8() {
    let device = leaf_with_a_waiting_block();
    let naming = spawn(&device, |device| device.discards.take_from(95, 96));
    let mut walk = None;
    let look = |walk: &mut Option<Walk>| {
        let free = &mut |word, bits| device.let_out(word, bits);
        device.discards.let_out_runs(&device.index, walk, (2, 1), 2, free) > 0
    };
    let put = device.discards.noting_runs(&device.index, (93, 1), || device.put(93, 1));
    assert_eq!(put, Ok(()));
    let found = look(&mut walk);
    assert_eq!(join(naming), Some((95, 1)));
    assert!(found || look(&mut walk), "a run is never found");
}

/// The same, and the discarder leaves.
pub fn d9() {
    let device = leaf_with_a_waiting_block();
    let naming = spawn(&device, |device| device.discards.take_from(95, 96));
    assert_eq!(device.put(93, 1), Ok(()));
    device.stop();
    assert_eq!(join(naming).map_or(95, |(start, _)| start), 95);
    let first = device.discards.first_in(0, 96);
    assert_eq!(first, 96, "a block waits for a discarder that has left");
}
