//! Tables, for the terminal and as Markdown.

use comfy_table::{CellAlignment, Table, presets};

use super::figure::human;
use super::section::{Column, Outcome, Section, Shown, Unit};
use super::{Machine, Report};
use crate::subject::roster::FLOOR;

/// All tables as Markdown.
pub fn markdown(report: &Report) -> String {
    let Machine { processor, cores } = &report.machine;
    let mut text = format!("# freemap and its peers\n\n{processor}, {cores} cores");
    text += &format!(", median of {} rounds. ", report.settings.rounds);
    if report.settings.quick {
        text += "A quick run: these figures show that it works, and little else. ";
    }
    text += "In brackets: times the floor.\n";
    for section in &report.sections {
        text += &format!("\n## {}\n\n{}\n\n", section.title, section.caption);
        let (table, notes) = table(section);
        text += &render(table, presets::ASCII_MARKDOWN);
        if !notes.is_empty() {
            text += "\n";
        }
        for (mark, note) in marked(&notes) {
            text += &format!("\n- [{mark}] {note}");
        }
        text += "\n";
    }
    text
}

/// One table for the terminal.
pub fn terminal(section: &Section) -> String {
    let (table, notes) = table(section);
    let mut text = format!("{}\n{}\n", section.title, section.caption);
    text += &render(table, presets::UTF8_FULL_CONDENSED);
    for (mark, note) in marked(&notes) {
        text += &format!("\n[{mark}] {note}");
    }
    text
}

fn render(mut table: Table, style: comfy_table::TableStyle) -> String {
    table.load_style(style);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// The notes with the letters that refer to them.
fn marked(notes: &[String]) -> impl Iterator<Item = (char, &String)> {
    ('a'..='z').zip(notes)
}

/// The table and its footnotes in the order of their marks.
fn table(section: &Section) -> (Table, Vec<String>) {
    let mut notes = Vec::new();
    let mut table = Table::new();
    let names = section.columns.iter().map(|column| column.name.clone());
    table.set_header(std::iter::once(String::new()).chain(names));
    for row in &section.rows {
        let cells = row.outcomes.iter().enumerate().map(|(column, outcome)| {
            let floor = section.floor(column).filter(|_| row.subject != FLOOR);
            text(outcome, &section.columns[column], floor, &mut notes)
        });
        let cells: Vec<String> = cells.collect();
        table.add_row(std::iter::once(row.subject.to_owned()).chain(cells));
    }
    (table, notes)
}

/// A cell: what was measured, how many times the floor that is, and the mark of its note.
fn text(outcome: &Outcome, column: &Column, floor: Option<f64>, notes: &mut Vec<String>) -> String {
    let (mut text, note) = match outcome {
        Outcome::Measured(cell) => (human(cell.value, column.unit), cell.note.as_ref()),
        Outcome::Missing { why } => ("-".to_owned(), Some(why)),
    };
    if let (Some(cell), Some(floor)) = (outcome.cell(), floor)
        && matches!(column.unit, Unit::Nanoseconds | Unit::PerSecond)
        && matches!(column.shown, Shown::Median)
    {
        text += &format!(" ({})", ratio(cell.value / floor));
    }
    if let Some(note) = note {
        let known = notes.iter().position(|known| known == note);
        let index = known.unwrap_or_else(|| {
            notes.push(note.clone());
            notes.len() - 1
        });
        text += &format!(" [{}]", (b'a' + index as u8) as char);
    }
    text
}

fn ratio(ratio: f64) -> String {
    match ratio {
        100.0.. => format!("{ratio:.0}"),
        0.1.. => format!("{ratio:.1}"),
        _ => format!("{ratio:.3}"),
    }
}
