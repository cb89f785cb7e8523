//! freemap beside the allocators one could use instead. See README.md.

mod clock;
mod compare;
mod device;
mod report;
mod settings;
mod subject;
mod victims;
mod workload;

use std::time::Instant;

use clap::Parser;

use report::{Machine, Report, table};
use settings::{Arguments, Settings};

fn main() -> std::io::Result<()> {
    let settings = Settings::new(Arguments::parse());
    let start = Instant::now();
    let mut sections = Vec::new();
    for &workload in &settings.workloads {
        for section in workload::run(workload, &settings) {
            println!("{}\n", table::terminal(&section));
            sections.push(section);
        }
    }
    let report = Report { machine: Machine::this(), settings, sections };
    let folder = report.write()?;
    println!("{:.0} s; written to {}", start.elapsed().as_secs_f64(), folder.display());
    Ok(())
}
