//! Tables as the benchmarks print them.

use std::fmt::Display;

use comfy_table::{CellAlignment, Table, presets};

/// A table with this header.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header.iter().copied());
    table
}

/// Adds a row.
pub fn row(table: &mut Table, cells: &[&dyn Display]) {
    table.add_row(cells.iter().map(ToString::to_string));
}

/// Prints the table: names on the left, figures to the right.
pub fn print(mut table: Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
}
