//! The ledger of what frozen transactions will have done (l).

use crate::space::ledger::Ledger;
use crate::values::extent::Extent;
use crate::values::op::Op;
use loom::sync::Arc;
use loom::thread;

use super::geometries::Bit;
use super::{allocate, free, index, join, spawn};

/// Blocks 1 to 5 are committed. Two transactions free some of them, 3 among those.
pub fn l1() {
    let ledger = Arc::new(Ledger::new(vec![0b11_1110]));
    let (one, two) = ([(Extent::new(2, 2), Op::Free)], [(Extent::new(3, 2), Op::Free)]);
    let other = spawn(&ledger, move |ledger| ledger.enter(two.into_iter()));
    let mine = ledger.enter(one.into_iter());
    let expected = match (mine, join(other)) {
        (Ok(()), Err(3)) => 0b11_0010,
        (Err(3), Ok(())) => 0b10_0110,
        both => panic!("{both:?}"),
    };
    assert_eq!(ledger.word(0), expected);
}

/// A transaction is given up that had the last block; another gets it, and enters it.
pub fn l2() {
    let change = |block| [(Extent::new(block, 1), Op::Allocate)].into_iter();
    let index = index::<Bit>(2, 1, &[]);
    let ledger = Arc::new(Ledger::new(vec![0b11]));
    ledger.leave(change(1));
    assert_eq!(ledger.enter(change(1)), Ok(()));
    let next = {
        let (index, ledger) = (index.clone(), ledger.clone());
        thread::spawn(move || {
            let block = allocate(&index, 1);
            block.map(|block| ledger.enter(change(block)))
        })
    };
    ledger.give_up(change(1), || free(&index, 1, 1));
    let expected = match join(next) {
        None => 0b01,
        Some(entered) => {
            assert_eq!(entered, Ok(()), "the new owner finds his block taken");
            0b11
        }
    };
    assert_eq!(ledger.word(0), expected);
}
