//! CPU of a transaction up to its batch, which is not written, against one that allocates and frees
//! the same and is dropped. Blocks are adjacent, or each at a random place, in a chunk of its own.

use std::time::Instant;

use freemap::rocks::{CreateOptions, Opened};
use freemap::{Extent, Transaction};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use rocksdb::{SingleThreaded, WriteBatch};

use super::engine::{Engine, half_full, one_block, random_block};
use super::{Run, median, print, row, table};

/// What a transaction does.
#[derive(Clone, Copy)]
struct Work {
    name: &'static str,
    /// Blocks allocated, and if it frees, as many of those before are freed.
    blocks: usize,
    frees: bool,
    random: bool,
}

const WORKS: [Work; 4] = [
    Work { name: "1 allocation", blocks: 1, frees: false, random: false },
    Work { name: "1 allocation, at random", blocks: 1, frees: false, random: true },
    Work { name: "4 allocations, 4 frees", blocks: 4, frees: true, random: false },
    Work { name: "4 allocations, 4 frees, at random", blocks: 4, frees: true, random: true },
];

const TRANSACTIONS: u32 = 20_000;

pub fn stage(run: &Run) {
    let folder = run.folder();
    let engine = Engine::open(folder.path(), vec![]);
    let opened = engine.create(&half_full(), &CreateOptions::new());
    let mut rng = Pcg64Mcg::seed_from_u64(4);
    let mut table = table(&[
        "transaction",
        "dropped ns",
        "frozen ns",
        "staged ns",
        "staged - dropped",
        "batch B",
    ]);
    for work in WORKS {
        let (mut dropped, mut frozen, mut staged, mut more) = (vec![], vec![], vec![], vec![]);
        let mut bytes = 0;
        for _ in 0..run.count(15) {
            let (bare, _) = rounds(&opened, work, &mut rng, End::Drop);
            let (middle, _) = rounds(&opened, work, &mut rng, End::Freeze);
            let (whole, batch) = rounds(&opened, work, &mut rng, End::Stage);
            dropped.push(bare);
            frozen.push(middle);
            staged.push(whole);
            more.push(whole - bare);
            bytes = batch;
        }
        let short = |values| format!("{:.0}", median(values));
        let cells: [&dyn std::fmt::Display; 6] =
            [&work.name, &short(dropped), &short(frozen), &short(staged), &short(more), &bytes];
        row(&mut table, &cells);
    }
    print(table);
}

/// How a transaction ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Drop,
    Freeze,
    Stage,
}

/// Nanoseconds of a transaction, and bytes of the last batch.
fn rounds(
    opened: &Opened<SingleThreaded>,
    work: Work,
    rng: &mut Pcg64Mcg,
    end: End,
) -> (f64, usize) {
    let mut handle = opened.allocator.handle();
    let nears: Vec<[u64; 4]> =
        (0..TRANSACTIONS).map(|_| std::array::from_fn(|_| random_block(rng))).collect();
    let mut batch = WriteBatch::default();
    let mut bytes = 0;
    let mut transaction = handle.begin();
    allocate(&mut transaction, work, &nears[0]);
    let mut held: Vec<Extent> = transaction.allocated().filter(|_| work.frees).collect();
    transaction.freeze().committed();
    let started = Instant::now();
    for near in &nears {
        let mut transaction = handle.begin();
        allocate(&mut transaction, work, near);
        held.iter().for_each(|&old| transaction.free(old).expect("ours"));
        if end == End::Drop {
            continue;
        }
        if work.frees {
            held.clear();
            held.extend(transaction.allocated());
        }
        let frozen = transaction.freeze();
        if end == End::Stage {
            opened.freelist.stage(&mut batch, frozen.delta()).expect("ours");
            bytes = batch.size_in_bytes();
            batch.clear();
        }
        frozen.committed();
    }
    let spent = started.elapsed();
    let mut transaction = handle.begin();
    held.iter().for_each(|&old| transaction.free(old).expect("ours"));
    transaction.freeze().committed();
    (1e9 * spent.as_secs_f64() / f64::from(TRANSACTIONS), bytes)
}

fn allocate(transaction: &mut Transaction<'_>, work: Work, near: &[u64; 4]) {
    for &near in &near[..work.blocks] {
        if work.random {
            transaction.allocate_with(&one_block(near)).expect("room");
        } else {
            transaction.allocate(1).expect("room");
        }
    }
}
