//! Promises of space (e).

use crate::space::class_reserve::Reserve;
use crate::space::closed::Closed;
use crate::space::escrow::Escrow;

use super::*;

struct Device {
    index: Bitmap<Bit>,
    escrow: Escrow<Bit>,
}

impl Device {
    /// Blocks of which those in `free` are free, those in `kept` in escrow with spare tokens, and the
    /// others somebody's.
    fn new(blocks: u64, free: &[u64], kept: &[u64]) -> Arc<Self> {
        let words = |word: WordIndex| u64::from(free.contains(&word.first_block::<Bit>()));
        let index = Bitmap::from_words(blocks, 1, words).expect("memory");
        let escrow = Escrow::new(blocks).expect("memory");
        kept.iter().for_each(|&block| {
            escrow.leave_tokens(escrow.put_blocks(block, 1));
        });
        Arc::new(Self { index, escrow })
    }

    fn promise(&self) -> bool {
        self.promise_blocks(1)
    }

    /// A promise of `blocks` blocks, which are put in one by one.
    fn promise_blocks(&self, blocks: u64) -> bool {
        let fill = |_| {
            let found = exact(&self.index, 1).ok();
            Ok::<_, ()>(found.map_or(0, |block| self.escrow.put_blocks(block, 1)))
        };
        self.escrow.promise(blocks, fill).expect("memory").is_ok()
    }

    /// An allocation by somebody who was promised nothing.
    fn allocate(&self) -> Option<u64> {
        exact(&self.index, 1).ok().or_else(|| {
            for _ in 0..self.escrow.take_all_but(0) {
                let (block, _) = self.escrow.take(1).expect("there is a block for each token");
                free(&self.index, block, 1);
            }
            exact(&self.index, 1).ok()
        })
    }

    /// An allocation by somebody who has a token.
    fn allocate_promised(&self) -> u64 {
        match exact(&self.index, 1) {
            Ok(block) => {
                self.escrow.leave_tokens(1);
                block
            }
            Err(_) => self.escrow.take(1).expect("there is a block for each token").0,
        }
    }
}

/// Two want to be promised the one block that is free.
pub fn e1() {
    let device = Device::new(1, &[0], &[]);
    let other = spawn(&device, |device| device.promise().then(|| device.allocate_promised()));
    let mine = device.promise().then(|| device.allocate_promised());
    let both = [mine, join(other)];
    assert_eq!(both.into_iter().flatten().collect::<Vec<_>>(), [0], "one of them gets it");
}

/// Two use their promises, one block is free: each gets a block of his own, and one stays.
pub fn e2() {
    let device = Device::new(3, &[0], &[1, 2]);
    assert_eq!(device.escrow.take_tokens(2), Ok(()));
    let other = spawn(&device, |device| device.allocate_promised());
    let mine = device.allocate_promised();
    assert_ne!(mine, join(other));
    assert!(device.allocate().is_some(), "the third block is spare");
    assert!(device.allocate().is_none());
}

/// One uses his promise while another takes whatever he finds, spare blocks too.
pub fn e3() {
    let device = Device::new(2, &[], &[0, 1]);
    assert_eq!(device.escrow.take_tokens(1), Ok(()));
    let other = spawn(&device, |device| device.allocate());
    let mine = device.allocate_promised();
    assert_ne!(Some(mine), join(other));
}

/// A promise is dropped while another looks for space, and a third is promised what he can get.
pub fn e4() {
    let device = Device::new(2, &[], &[0, 1]);
    assert_eq!(device.escrow.take_tokens(1), Ok(()));
    let looking = spawn(&device, |device| device.allocate());
    let promised = spawn(&device, |device| device.promise().then(|| device.allocate_promised()));
    device.escrow.leave_tokens(1);
    let mut got: Vec<u64> = [join(looking), join(promised)].into_iter().flatten().collect();
    got.extend(device.allocate());
    got.extend(device.allocate());
    got.sort_unstable();
    assert_eq!(got, [0, 1], "each block once");
}

/// Two want the one spare token.
pub fn e5() {
    let device = Device::new(1, &[], &[0]);
    let take =
        |device: &Device| device.escrow.take_tokens(1).is_ok().then(|| device.escrow.take(1));
    let other = spawn(&device, take);
    let mine = take(&device);
    let both = [mine, join(other)];
    assert_eq!(both.into_iter().flatten().collect::<Vec<_>>(), [Some((0, 1))]);
}

/// Two promises for which there is just room.
pub fn e7() {
    let device = Device::new(3, &[0, 1], &[2]);
    let other = spawn(&device, |device| device.promise_blocks(1));
    let mine = device.promise_blocks(2);
    assert!(mine && join(other));
    let mut blocks: Vec<u64> = (0..3).map(|_| device.allocate_promised()).collect();
    blocks.sort_unstable();
    assert_eq!(blocks, [0, 1, 2]);
}

/// Two promises of which one can be kept: they hold a part each, and one of them gets all.
pub fn e8() {
    let device = Device::new(2, &[0, 1], &[]);
    let other = spawn(&device, |device| device.promise_blocks(2));
    let mine = device.promise_blocks(2);
    assert!(mine ^ join(other), "one of them, and not both");
}

/// The block in escrow lies where a region is closed, and is exchanged for the free one, while the
/// owner of the promise uses it.
pub fn e9() {
    let device = Device::new(2, &[1], &[0]);
    assert_eq!(device.escrow.take_tokens(1), Ok(()));
    let other = spawn(&device, |device| device.allocate_promised());
    let mut moved = Vec::new();
    let fill = |_| exact(&device.index, 1).map_or(0, |block| device.escrow.put_blocks(block, 1));
    device.escrow.exchange(0, 1, fill, |start, len| moved.push((start, len)));
    let theirs = join(other);
    assert!(moved.iter().all(|&run| run == (0, 1) && theirs == 1), "each block has one owner");
    assert_eq!(device.escrow.held(), device.escrow.spare(), "there is a token for each block");
    let (held, free) = (device.escrow.held(), device.index.count_free());
    assert_eq!(1 + moved.len() as u64 + held + free, 2, "blocks were lost");
}

/// What a class has in reserve, in a device of which some is closed.
struct Kept {
    device: Arc<Device>,
    closed: Closed<Bit>,
    reserve: Reserve,
}

impl Kept {
    fn free(&self, block: u64) {
        let kept = self.closed.is_active()
            && self.reserve.refill(&self.closed, &self.device.escrow, block, 1) == 1;
        if !kept {
            free(&self.device.index, block, 1);
        }
        assert!(self.closed.is_active(), "nobody looks what is closed");
    }
}

/// The reserve is used, and made up for by frees.
pub fn e6() {
    let device = Device::new(2, &[], &[0]);
    let kept =
        Kept { device, closed: Closed::new(2).expect("memory"), reserve: Reserve::default() };
    assert_eq!(kept.device.escrow.take_tokens(1), Ok(()));
    kept.reserve.add(1);
    kept.closed.activate();
    let kept = Arc::new(kept);
    let freeing = spawn(&kept, |kept| kept.free(1));
    assert_eq!(kept.reserve.take(1, false), 1);
    let (block, _) = kept.device.escrow.take(1).expect("there is a block for each token");
    kept.reserve.owe(&kept.closed, 1);
    kept.free(block);
    join(freeing);
    assert_eq!(kept.reserve.tokens(), 1, "one of the two was kept");
    assert!(exact(&kept.device.index, 1).is_ok() && exact(&kept.device.index, 1).is_err());
    assert_eq!(kept.reserve.take(1, false), 1);
    assert!(kept.device.escrow.take(1).is_some());
    kept.closed.deactivate();
    assert!(!kept.closed.is_active());
}
