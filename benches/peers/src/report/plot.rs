//! Plots as SVG: lines of all subjects over the columns of a section.

use std::io;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::figure::human;
use super::section::{Section, Unit};
use crate::subject::roster::{self, FLOOR, FREEMAP};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<io::Error>>;

/// Colours of the peers, in the order of the roster; not of the floor and of freemap.
const COLOURS: [RGBColor; 11] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(227, 119, 194),
    RGBColor(188, 189, 34),
    RGBColor(23, 190, 207),
    RGBColor(57, 59, 121),
    RGBColor(174, 199, 232),
    RGBColor(152, 223, 138),
];
const LEGEND_WIDTH: u32 = 170;
const LEGEND_LINE: i32 = 22;

/// Writes a plot of churn by fill and one of throughput by threads, of the sections that are there.
pub fn write(sections: &[Section], folder: &Path) -> Drawn {
    let named = |prefix: &str| {
        let matching = sections.iter().filter(|section| section.name.starts_with(prefix));
        matching.collect::<Vec<&Section>>()
    };
    if let Some(&churn) = named("churn").first() {
        draw(&[churn], (900, 560), &folder.join("churn.svg"))?;
    }
    let threads = named("threads-");
    if !threads.is_empty() {
        draw(&threads, (1200, 900), &folder.join("threads.svg"))?;
    }
    Ok(())
}

/// A panel for each section, two in a row, and the legend at the right.
fn draw(sections: &[&Section], size: (u32, u32), path: &Path) -> Drawn {
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    let (panels, legend) = root.split_horizontally(size.0 - LEGEND_WIDTH);
    let columns = sections.len().min(2);
    let areas = panels.split_evenly((sections.len().div_ceil(columns), columns));
    for (section, area) in sections.iter().zip(&areas) {
        panel(section, area)?;
    }
    draw_legend(sections[0], &legend)?;
    root.present()?;
    Ok(())
}

/// Colour and width of a subject's line.
fn style(subject: &str) -> ShapeStyle {
    match subject {
        FLOOR => BLACK.stroke_width(2),
        FREEMAP => RED.stroke_width(3),
        _ => {
            let place = roster::names().iter().position(|name| *name == subject).unwrap_or(0);
            COLOURS[place % COLOURS.len()].stroke_width(2)
        }
    }
}

fn panel(section: &Section, area: &Area) -> Drawn {
    let unit = section.columns.first().map_or(Unit::Nanoseconds, |column| column.unit);
    let cells = section.rows.iter().flat_map(|row| &row.outcomes);
    let values = cells.filter_map(|outcome| Some(outcome.cell()?.value));
    let (least, most) = values.fold((f64::INFINITY, 0.0), |(least, most): (f64, f64), value| {
        (least.min(value), most.max(value))
    });
    if most <= 0.0 {
        return Ok(());
    }
    let last = section.columns.len() as f64 - 1.0;
    let mut chart = ChartBuilder::on(area)
        .caption(&section.title, ("sans-serif", 18))
        .margin(10)
        .margin_right(40)
        .x_label_area_size(32)
        .y_label_area_size(90)
        .build_cartesian_2d(0.0..last.max(1.0), (least / 1.5..most * 1.5).log_scale())?;
    let name = |place: &f64| {
        let column = section.columns.get(place.round() as usize);
        column.filter(|_| place.fract() == 0.0).map_or(String::new(), |column| column.name.clone())
    };
    chart
        .configure_mesh()
        .x_labels(section.columns.len())
        .x_label_formatter(&name)
        .y_label_formatter(&|value| human(*value, unit))
        .y_desc(match unit {
            Unit::PerSecond => "pairs per second",
            _ => "time per pair",
        })
        .light_line_style(TRANSPARENT)
        .draw()?;
    for row in &section.rows {
        let points = row.outcomes.iter().enumerate();
        let points = points.filter_map(|(x, outcome)| Some((x as f64, outcome.cell()?.value)));
        let points: Vec<(f64, f64)> = points.collect();
        let style = style(row.subject);
        let dots = points.iter().map(|&point| Circle::new(point, 3, style.filled()));
        chart.draw_series(dots)?;
        chart.draw_series(LineSeries::new(points, style))?;
    }
    Ok(())
}

fn draw_legend(section: &Section, area: &Area) -> Drawn {
    for (row, y) in section.rows.iter().zip((60..).step_by(LEGEND_LINE as usize)) {
        area.draw(&PathElement::new([(0, y), (24, y)], style(row.subject)))?;
        let font = ("sans-serif", 14).into_font();
        area.draw(&Text::new(row.subject, (30, y - 7), font))?;
    }
    Ok(())
}
