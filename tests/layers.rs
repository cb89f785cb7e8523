//! Layers that only look down, and files that do not need each other: read from what the sources import.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The layers, lowest first. Each may use itself and those before it.
const LAYERS: [&str; 18] = [
    "base",
    "values",
    "index",
    "quarantine",
    "space",
    "placement",
    "gate",
    "core",
    "request",
    "insight",
    "held",
    "transaction",
    "handle",
    "builder",
    "allocator",
    "build",
    "stores",
    "lib",
];

/// What waits for another thread, by the names that the sources would use.
const WAITS: [&str; 10] = [
    "Barrier", "Condvar", "LazyLock", "Mutex", "Once", "OnceLock", "RwLock", "mpsc", "park",
    "sleep",
];

/// The files that may use them: the locks themselves, and the path of commits, which wait anyway.
const MAY_WAIT: [&str; 3] = ["base/sync/blocking", "gate", "stores"];

/// The files of the crate by module path (`index/mod.rs` is `index`, `index/leaf.rs` is `index/leaf`). Without what
/// is there for tests and for the model checker alone.
struct Sources(BTreeMap<String, Source>);

struct Source {
    /// The paths that it names.
    paths: BTreeSet<String>,
    /// Without comments, tests and re-exports.
    code: String,
}

impl Sources {
    fn read() -> Self {
        let mut sources = Self(BTreeMap::new());
        sources.read_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "");
        sources
    }

    fn read_folder(&mut self, folder: &Path, prefix: &str) {
        let entries = fs::read_dir(folder).expect("a folder of sources");
        for entry in entries.map(|entry| entry.expect("an entry")) {
            let (path, name) = (entry.path(), entry.file_name().into_string().expect("UTF-8"));
            let name = name.trim_end_matches(".rs");
            if ["tests", "model"].contains(&name) {
                continue;
            }
            let module = format!("{prefix}{name}");
            if path.is_dir() {
                self.read_folder(&path, &format!("{module}/"));
            } else {
                let module = module.trim_end_matches("/mod").to_string();
                let text = fs::read_to_string(&path).expect("a source");
                let parent = match module == prefix.trim_end_matches('/') {
                    true => Path::new(&module),
                    false => Path::new(prefix.trim_end_matches('/')),
                };
                let code = code_of(&text);
                let paths = paths_in(&code, &module, &parent.display().to_string());
                self.0.insert(module, Source { paths, code });
            }
        }
    }

    /// The file that a path of modules and items leads into: the longest beginning that is one.
    fn file_of(&self, path: &str) -> Option<&str> {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let found = ends.rev().find_map(|end| self.0.get_key_value(&path[..end]));
        found.map(|(file, _)| file.as_str())
    }

    /// The files that `file` needs.
    fn needs<'a>(&'a self, file: &'a str) -> impl Iterator<Item = &'a str> {
        let found = self.0[file].paths.iter().filter_map(|path| self.file_of(path));
        found.filter(move |&other| other != file)
    }
}

/// The code of a file, without comments, strings of documentation, and the unit tests at its end.
fn code_of(text: &str) -> String {
    let text = text.split("\nmod tests {").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    // Whatever is re-exported is another file's.
    let mut code = String::new();
    let mut reexport = false;
    for line in lines {
        let begins = line.trim_start();
        reexport |= begins.starts_with("pub use ") || begins.starts_with("pub(crate) use ");
        if !reexport {
            code += line;
            code += "\n";
        }
        reexport &= !line.contains(';');
    }
    code
}

/// Everything of the crate that `code`, of module `module`, a child of `parent`, names: as `a/b/Item`.
fn paths_in(code: &str, module: &str, parent: &str) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for (root, base) in [("crate::", ""), ("super::", parent), ("self::", module)] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':') {
                expand(base, &code[at + root.len()..], &mut paths);
            }
        }
    }
    paths
}

/// Adds the paths that the tree at the beginning of `rest` stands for: `a::{b, c::d}` under `base`.
fn expand(base: &str, rest: &str, paths: &mut BTreeSet<String>) {
    let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let (name, rest) = rest.split_at(word);
    let here = match (base, name) {
        (base, "" | "self") => base.to_string(),
        ("", name) => name.to_string(),
        (base, name) => format!("{base}/{name}"),
    };
    if let Some(deeper) = rest.strip_prefix("::") {
        return expand(&here, deeper, paths);
    }
    let Some(list) = rest.strip_prefix('{').filter(|_| name.is_empty()) else {
        paths.insert(here);
        return;
    };
    let (mut depth, mut start) = (0, 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                let item = list[start..at].trim();
                if !item.is_empty() {
                    expand(&here, item, paths);
                }
                if c == '}' {
                    return;
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

fn layer_of(file: &str) -> &str {
    file.split('/').next().unwrap_or(file)
}

fn rank(layer: &str) -> usize {
    let rank = LAYERS.iter().position(|&other| other == layer);
    rank.unwrap_or_else(|| panic!("{layer} is no layer: see LAYERS"))
}

#[test]
fn layers_look_down() {
    let sources = Sources::read();
    let mut found = BTreeSet::new();
    for file in sources.0.keys() {
        for other in sources.needs(file) {
            if rank(layer_of(other)) > rank(layer_of(file)) {
                found.insert((file.as_str(), other));
            }
        }
    }
    assert!(found.is_empty(), "these look up: {found:?}");
}

#[test]
fn no_two_files_need_each_other() {
    let sources = Sources::read();
    // What is left when files that need nothing that is left are taken away again and again.
    let mut left: BTreeSet<&str> = sources.0.keys().map(String::as_str).collect();
    loop {
        let free = |&&file: &&&str| !sources.needs(file).any(|other| left.contains(other));
        let free: Vec<&str> = left.iter().filter(free).copied().collect();
        if free.is_empty() {
            break;
        }
        left.retain(|file| !free.contains(file));
    }
    // Of those, the ones that others need: what only needs a circle is in none.
    loop {
        let needed: BTreeSet<&str> = left.iter().flat_map(|file| sources.needs(file)).collect();
        let before = left.len();
        left.retain(|file| needed.contains(file));
        if left.len() == before {
            break;
        }
    }
    assert!(left.is_empty(), "a circle of imports is among {left:?}");
}

/// Whether `source` may wait for another thread.
fn waits(source: &Source) -> bool {
    let mut words = source.code.split(|c: char| !c.is_alphanumeric() && c != '_');
    let mut paths = source.paths.iter();
    words.any(|word| WAITS.contains(&word))
        || paths.any(|path| path.starts_with("base/sync/blocking/"))
}

#[test]
fn nothing_waits_below_the_commits() {
    let may_wait = |file: &str| MAY_WAIT.iter().any(|&path| Path::new(file).starts_with(path));
    let sources = Sources::read();
    let waiting = sources.0.iter().filter(|(_, source)| waits(source));
    let waiting: Vec<&str> = waiting.map(|(file, _)| file.as_str()).collect();
    assert!(waiting.contains(&"gate"), "the gate has a lock: it must be found");
    let found: Vec<&&str> = waiting.iter().filter(|file| !may_wait(file)).collect();
    assert!(found.is_empty(), "these wait: {found:?}");
}

#[test]
fn imports_are_read_as_the_compiler_reads_them() {
    let text = "//! crate::not::this\npub use crate::values::extent::Extent;\n\
        use crate::index::{self, leaf::{Leaf, Leaves}, Bitmap};\nuse super::release::free; // super::no\n\
        fn f() { crate::space::lanes::g(); }\n#[cfg(test)]\nmod tests {\n use crate::lib::X; }";
    let paths: Vec<String> =
        paths_in(&code_of(text), "space/escrow", "space").into_iter().collect();
    let expected = [
        "index",
        "index/Bitmap",
        "index/leaf/Leaf",
        "index/leaf/Leaves",
        "space/lanes/g",
        "space/release/free",
    ];
    assert_eq!(paths, expected);
}
