//! What the store has begun and what it has acknowledged, line by line, for a test that kills it.
//!
//! ```text
//! found 7 2          object 7 was found with version 2 when the store was opened
//! ready              all were
//! begin put 7 3      from here on, object 7 may have version 3
//! done put 7 3       from here on, it has
//! begin delete 7 3
//! done delete 7 3
//! ```

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::object::{Change, Object};

/// A file of events; each is one write, so it is there as a whole even if the process is killed.
pub struct Events(File);

impl Events {
    pub fn create(path: &Path) -> io::Result<Self> {
        File::options().create(true).append(true).open(path).map(Self)
    }

    pub fn ready<'a>(&self, found: impl Iterator<Item = &'a Object>) -> io::Result<()> {
        let mut lines: String =
            found.map(|object| format!("found {} {}\n", object.id, object.version)).collect();
        lines.push_str("ready\n");
        (&self.0).write_all(lines.as_bytes())
    }

    /// Tells `stage` (begin or done) of `change`.
    pub fn tell(&self, stage: &str, change: &Change) -> io::Result<()> {
        let (what, id, version) = match change {
            Change::Put(object) => ("put", object.id, object.version),
            Change::Delete { id, version } => ("delete", *id, *version),
        };
        (&self.0).write_all(format!("{stage} {what} {id} {version}\n").as_bytes())
    }
}
