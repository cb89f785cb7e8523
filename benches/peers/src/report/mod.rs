//! What a run came to: tables, plots and raw figures.

pub mod figure;
pub mod plot;
pub mod section;
pub mod table;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::settings::Settings;
use section::Section;

/// The machine, as far as it is known.
#[derive(Serialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
}

impl Machine {
    pub fn this() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            processor: model.map_or("unknown", |(_, model)| model).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, |count| count.get()),
        }
    }
}

/// All of it.
#[derive(Serialize)]
pub struct Report {
    pub machine: Machine,
    pub settings: Settings,
    pub sections: Vec<Section>,
}

impl Report {
    /// Writes tables, raw figures and plots to `target/peers` of this crate and says where that is.
    pub fn write(&self) -> io::Result<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("tables.md"), table::markdown(self))?;
        fs::write(folder.join("results.json"), serde_json::to_string_pretty(self)?)?;
        plot::write(&self.sections, &folder).map_err(io::Error::other)?;
        Ok(folder)
    }
}
