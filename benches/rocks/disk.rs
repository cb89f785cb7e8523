//! Bytes of the freelist's files, before and after it is folded.

use freemap::rocks::CreateOptions;

use super::engine::{BITMAP, Engine, FREE, half_full};
use super::{Run, print, row, table};

pub fn disk(run: &Run) {
    let folder = run.folder();
    let engine = Engine::open(folder.path(), vec![]);
    let opened = engine.create(&half_full(), &CreateOptions::new());
    engine.settle(true);
    let created = engine.bytes(FREE);
    opened.freelist.fold().expect("a healthy disk");
    let folded = engine.bytes(FREE);
    let mut table = table(&["", "bytes of files", "x the bitmap", "goal"]);
    let times = |bytes: u64| format!("{:.3}", bytes as f64 / BITMAP as f64);
    row(&mut table, &[&"created", &created, &times(created), &""]);
    row(&mut table, &[&"folded", &folded, &times(folded), &"1.3"]);
    print(table);
}
