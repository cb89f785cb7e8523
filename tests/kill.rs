//! The engine example is killed at random moments, again and again, and must find every object that
//! it had acknowledged: with the acknowledged version, or with the one that was being written when
//! it died; also while objects are moved for free runs, the device becomes longer and shorter, and what is
//! freed is discarded. Nothing is pass or fail by the clock. Its changes are made durable in each of the ways that
//! the space-map log offers; with the feature `rocksdb`, its store in RocksDB is killed too.
//!
//! `KILL_ROUNDS` sets how many times (12), `KILL_SEED` the random numbers (1).
//!
//! A killed process loses no write that it finished, so this tries the store's logic and the order of its
//! steps, not whether its flushes are where they must be: that is what the crash tests of the
//! space-map log are for, which lose writes too.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde_json::Value;

const THREADS: usize = 8;
const SIGKILL: i32 = 9;

/// Builds the engine as cargo would and says where it is: `cargo test --test kill` alone does not.
fn engine_path() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args(["build", "--quiet", "--example", "engine", "--message-format", "json"]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    if cfg!(feature = "rocksdb") {
        cargo.args(["--features", "rocksdb"]);
    }
    let output = cargo.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "the example does not build");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "engine")
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .expect("cargo names the example")
}

/// What one process told, as far as it came.
#[derive(Default)]
struct Told {
    /// The objects that it found, if it came so far.
    found: Option<BTreeMap<u64, u64>>,
    /// `begin` or `done`; the object; its version behind that, or none if it is deleted.
    steps: Vec<(bool, u64, Option<u64>)>,
}

fn told(path: &Path) -> Told {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut told = Told::default();
    let mut found = BTreeMap::new();
    // A line without its end was being written when the process died.
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse::<u64>().unwrap();
        match words[..] {
            ["found", id, version] => {
                found.insert(number(id), number(version));
            }
            ["ready"] => told.found = Some(std::mem::take(&mut found)),
            [stage @ ("begin" | "done"), "put", id, version] => {
                told.steps.push((stage == "done", number(id), Some(number(version))));
            }
            [stage @ ("begin" | "done"), "delete", id, _] => {
                told.steps.push((stage == "done", number(id), None));
            }
            _ => panic!("no event: {line}"),
        }
    }
    told
}

/// What must be there: for each object the version acknowledged last, none if there is none.
#[derive(Default)]
struct Model {
    acknowledged: BTreeMap<u64, u64>,
    /// What was begun and not acknowledged, and may be there instead.
    in_flight: BTreeMap<u64, Option<u64>>,
}

impl Model {
    /// Checks what a process found, which from then on is what must be there, and takes in what it
    /// did. The number of steps acknowledged.
    fn follow(&mut self, told: Told) -> usize {
        let Some(found) = told.found else {
            assert!(told.steps.is_empty(), "it worked before it was ready");
            return 0;
        };
        let ids = self.acknowledged.keys().chain(self.in_flight.keys()).chain(found.keys());
        for id in ids {
            let (now, known) = (found.get(id), self.acknowledged.get(id));
            let other = self.in_flight.get(id);
            assert!(
                now == known || other.is_some_and(|other| now == other.as_ref()),
                "object {id}: version {now:?} was found, {known:?} acknowledged, {other:?} in flight"
            );
        }
        *self = Self { acknowledged: found, in_flight: BTreeMap::new() };
        for &(done, id, version) in &told.steps {
            if !done {
                let before = self.in_flight.insert(id, version);
                assert_eq!(before, None, "object {id} is changed by two at once");
                continue;
            }
            assert_eq!(self.in_flight.remove(&id), Some(version), "done before it began");
            match version {
                Some(version) => self.acknowledged.insert(id, version),
                None => self.acknowledged.remove(&id),
            };
        }
        assert!(self.in_flight.len() <= THREADS, "more in flight than threads");
        told.steps.iter().filter(|step| step.0).count()
    }
}

/// What makes the engine's changes durable.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Log,
    Checked,
    Piggyback,
    #[cfg(feature = "rocksdb")]
    Rocksdb,
}

impl Kind {
    /// As the engine is told, and the name of what is there once a store has been created.
    fn names(self) -> [&'static str; 2] {
        match self {
            Self::Log => ["log", "metadata.freemap-engine"],
            Self::Checked => ["checked", "metadata.freemap-engine"],
            Self::Piggyback => ["piggyback", "metadata.freemap-engine"],
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => ["rocksdb", "rocksdb.freemap-engine"],
        }
    }
}

struct Rounds {
    engine: PathBuf,
    kind: Kind,
    dir: tempfile::TempDir,
    rng: Pcg64Mcg,
    model: Model,
    /// How often a longer device was found.
    longer: u64,
    /// Blocks of the device, and percent to keep in use.
    size: [&'static str; 2],
    /// Options that ask for more.
    services: &'static [&'static str],
}

impl Rounds {
    fn new(kind: Kind, size: [&'static str; 2], services: &'static [&'static str]) -> Self {
        Self {
            engine: engine_path(),
            kind,
            dir: tempfile::tempdir().unwrap(),
            rng: Pcg64Mcg::seed_from_u64(from_environment("KILL_SEED", 1)),
            model: Model::default(),
            longer: 0,
            size,
            services,
        }
    }

    fn events(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("events-{name}"))
    }

    /// What has its name from the moment on that there is a store: its metadata log, or its database.
    fn store(&self) -> PathBuf {
        let [_, name] = self.kind.names();
        self.dir.path().join(name)
    }

    fn command(&self, events: &Path, seconds: u64) -> Command {
        let mut command = Command::new(&self.engine);
        command.arg("--dir").arg(self.dir.path()).arg("--acknowledge").arg(events);
        let ([store, _], [blocks, fill]) = (self.kind.names(), self.size);
        command.args(["--json", "--store", store, "--blocks", blocks, "--fill", fill]);
        command.args(self.services);
        command.args(["--threads", &THREADS.to_string(), "--seconds", &seconds.to_string()]);
        if self.store().exists() {
            command.arg("--reopen");
        }
        command
    }

    /// Starts the engine and kills it: `early`, while it creates or recovers the store or soon
    /// after, or when it has acknowledged something.
    fn kill(&mut self, round: usize, early: bool) -> usize {
        let events = self.events(&format!("{round}"));
        let mut command = self.command(&events, 1_000_000);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        if !early {
            // Long enough for the device to become shorter.
            let most = if self.services.is_empty() { 300 } else { 6000 };
            let enough = self.rng.random_range(1..most);
            while alive(&mut child) && told(&events).steps.len() < enough {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let longest = if early { 60_000 } else { 6_000 };
        std::thread::sleep(Duration::from_micros(self.rng.random_range(0..longest)));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.signal(), Some(SIGKILL), "it ended by itself: {output:?}");
        self.model.follow(told(&events))
    }

    /// Has everything verified, or a store created where there is none yet. How many transactions
    /// were taken back.
    fn verify(&mut self, round: usize) -> u64 {
        let exists = self.store().exists();
        let Model { acknowledged, in_flight } = &self.model;
        assert!(exists || acknowledged.len() + in_flight.len() == 0, "the store is gone");
        let mut torn = Vec::new();
        if exists && self.store().is_file() {
            // What a torn write of the next group could leave.
            torn.resize(self.rng.random_range(0..100), 0);
            self.rng.fill(&mut torn[..]);
            let mut metadata = File::options().append(true).open(self.store()).unwrap();
            metadata.write_all(&torn).unwrap();
        }
        let events = self.events(&format!("{round}-verified"));
        let output = self.command(&events, 0).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(result["verified"], true, "{result}");
        let blocks = result["blocks"].as_u64().unwrap();
        let [expected, _] = self.size.map(|number| number.parse::<u64>().unwrap());
        self.longer += u64::from(blocks > expected);
        let longer = expected + expected / 4;
        let resized = self.services.contains(&"--resize") && blocks == longer;
        assert!(blocks == expected || resized, "{result}");
        if exists {
            // More if the kill cut a write, which the kernel does between two pages.
            let found = result["recovery"]["torn_bytes"].as_u64().unwrap();
            assert!(found >= torn.len() as u64, "{result}");
        }
        let told = told(&events);
        assert!(told.found.is_some(), "it was never ready");
        self.model.follow(told);
        result["recovery"]["taken_back"].as_u64().unwrap_or(0)
    }
}

fn alive(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_none()
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn rounds_wanted() -> usize {
    from_environment("KILL_ROUNDS", 12) as usize
}

fn kill_rounds(kind: Kind, size: [&'static str; 2], services: &'static [&'static str]) {
    let mut rounds = Rounds::new(kind, size, services);
    let (mut acknowledged, mut taken_back) = (0, 0);
    let count = rounds_wanted();
    for round in 0..count {
        acknowledged += rounds.kill(round, round % 3 == 0);
        taken_back += rounds.verify(round);
    }
    assert!(acknowledged > 0 || count < 2, "nothing was acknowledged");
    eprintln!(
        "{count} rounds, {acknowledged} changes acknowledged, {taken_back} transactions taken back, \
         a longer device found {} times, {} objects at the end",
        rounds.longer,
        rounds.model.acknowledged.len()
    );
}

/// Kills only while a store is created or soon after, in a folder where others may have been killed
/// so before.
fn kill_creations(kind: Kind) {
    let mut rounds = Rounds::new(kind, ROOMY, &[]);
    let mut cut_short = 0;
    let count = rounds_wanted();
    for round in 0..count {
        rounds.kill(round, true);
        cut_short += usize::from(!rounds.store().exists());
        if rounds.rng.random() {
            rounds.verify(round);
            rounds.dir = tempfile::tempdir().unwrap();
            rounds.model = Model::default();
        }
    }
    eprintln!("{count} rounds, {cut_short} creations cut short");
}

/// A device with room, and a full one: there, what is freed is reused at once, so blocks that are let
/// go too early are overwritten.
const ROOMY: [&str; 2] = ["4096", "80"];
const FULL: [&str; 2] = ["512", "99"];

/// Everything that moves objects or gives up blocks.
const SERVICES: &[&str] = &["--defrag", "512", "--discard", "--resize"];

#[test]
fn a_killed_engine_finds_what_it_acknowledged() {
    kill_rounds(Kind::Log, ROOMY, &[]);
}

#[test]
fn an_engine_killed_while_it_moves_and_resizes_finds_what_it_acknowledged() {
    kill_rounds(Kind::Log, ROOMY, SERVICES);
}

#[test]
fn a_killed_engine_on_a_full_device_finds_what_it_acknowledged() {
    kill_rounds(Kind::Log, FULL, &[]);
}

#[test]
fn an_engine_killed_at_creation_creates_its_store() {
    kill_creations(Kind::Log);
}

#[test]
fn a_killed_engine_that_checks_finds_what_it_acknowledged() {
    kill_rounds(Kind::Checked, ROOMY, &[]);
}

#[test]
fn an_engine_that_checks_killed_while_it_moves_and_resizes_finds_what_it_acknowledged() {
    kill_rounds(Kind::Checked, ROOMY, SERVICES);
}

#[test]
fn a_killed_engine_that_checks_on_a_full_device_finds_what_it_acknowledged() {
    kill_rounds(Kind::Checked, FULL, &[]);
}

#[test]
fn an_engine_that_checks_killed_at_creation_creates_its_store() {
    kill_creations(Kind::Checked);
}

#[test]
fn a_killed_engine_with_checkpoints_finds_what_it_acknowledged() {
    kill_rounds(Kind::Piggyback, ROOMY, &[]);
}

#[test]
fn an_engine_with_checkpoints_killed_while_it_moves_and_resizes_finds_what_it_acknowledged() {
    kill_rounds(Kind::Piggyback, ROOMY, SERVICES);
}

#[test]
fn a_killed_engine_with_checkpoints_on_a_full_device_finds_what_it_acknowledged() {
    kill_rounds(Kind::Piggyback, FULL, &[]);
}

#[test]
fn an_engine_with_checkpoints_killed_at_creation_creates_its_store() {
    kill_creations(Kind::Piggyback);
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_killed_engine_with_rocksdb_finds_what_it_acknowledged() {
    kill_rounds(Kind::Rocksdb, ROOMY, &[]);
}

#[cfg(feature = "rocksdb")]
#[test]
fn an_engine_with_rocksdb_killed_while_it_moves_and_resizes_finds_what_it_acknowledged() {
    kill_rounds(Kind::Rocksdb, ROOMY, SERVICES);
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_killed_engine_with_rocksdb_on_a_full_device_finds_what_it_acknowledged() {
    kill_rounds(Kind::Rocksdb, FULL, &[]);
}

#[cfg(feature = "rocksdb")]
#[test]
fn an_engine_with_rocksdb_killed_at_creation_creates_its_store() {
    kill_creations(Kind::Rocksdb);
}
