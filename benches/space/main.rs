//! What becomes of the free space as a device ages, and how fast it is allocated when it is short.
//!
//! `cargo bench --bench space` prints everything; `-- ageing`, `fill`, `threads`, `pieces`, `bounds` or `longest` one part, `--
//! --quick` everything on a smaller device. One thread but in `threads`.
//!
//! - `ageing`: a device is filled to 90 % with objects of 4 KiB to 1 MiB, which are then overwritten at
//!   random until 20 times its capacity is written, with each allocator in turn. What is left: how
//!   long free runs are, how many objects had to be split. Goal: mean free run and score at least as
//!   good as the better of the two baselines in `baseline.rs`.
//! - `fill`: time per allocation on devices that were aged so, each at its own fill. Goals: one block
//!   and 16 scattered blocks at 99.9 % in twice the time at 10 %; from 10 % to 99 % flat within 25 %.
//! - `threads`: the same with a power of two of threads, up to the number of cores.
//! - `pieces`: 1 MiB of single free blocks.
//! - `longest`: the longest single call of each kind beside its median, amid all that keeps blocks.
//! - `bounds`: pieces with bounds against pieces without. Goal: no request takes 20 times as long.

mod ageing;
mod baseline;
mod bounds;
mod fill;
mod longest;
#[path = "../support/median.rs"]
mod median;
mod pieces;
mod score;
#[path = "../support/table.rs"]
mod table;
mod threads;
mod trace;

use std::time::Instant;

use self::median::median;
use self::table::{print, row, table};

/// A part of the run by its name; it is given the number of blocks of its device.
type Part = (&'static str, fn(u64));

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted: Vec<&String> = arguments.iter().filter(|arg| !arg.starts_with('-')).collect();
    let blocks = if arguments.iter().any(|arg| arg == "--quick") { 1 << 20 } else { 1 << 22 };
    let parts: [Part; 6] = [
        ("ageing", ageing::ageing),
        ("fill", fill::fill),
        ("threads", threads::threads),
        ("pieces", pieces::pieces),
        ("bounds", bounds::bounds),
        ("longest", longest::longest),
    ];
    for (name, part) in parts {
        if wanted.is_empty() || wanted.iter().any(|wanted| *wanted == name) {
            let started = Instant::now();
            println!("--- {name}: {} GiB of 4 KiB blocks", blocks >> 18);
            part(blocks);
            println!("({:.0} s)", started.elapsed().as_secs_f64());
        }
    }
}
