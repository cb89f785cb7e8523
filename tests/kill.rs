//! The engine example is killed at random moments, again and again, and must find every object that
//! it had acknowledged: with the acknowledged version, or with the one that was being written when
//! it died. Nothing is pass or fail by the clock.
//!
//! `KILL_ROUNDS` sets how many times (12), `KILL_SEED` the random numbers (1).
//!
//! A killed process loses no write that it made, so this tries the store's logic and the order of its
//! steps, not whether its flushes are where they must be: that is what the crash tests of the
//! space-map log are for, which lose writes too.
#![cfg(unix)]

use std::collections::BTreeMap;
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

struct Rounds {
    engine: PathBuf,
    dir: tempfile::TempDir,
    rng: Pcg64Mcg,
    model: Model,
    /// Blocks of the device, and percent to keep in use.
    size: [&'static str; 2],
}

impl Rounds {
    fn events(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("events-{name}"))
    }

    /// There is a store from the moment on that its metadata log has its name.
    fn store_exists(&self) -> bool {
        self.dir.path().join("metadata.freemap-engine").exists()
    }

    fn command(&self, events: &Path, seconds: u64) -> Command {
        let mut command = Command::new(&self.engine);
        command.arg("--dir").arg(self.dir.path()).arg("--acknowledge").arg(events);
        let [blocks, fill] = self.size;
        command.args(["--json", "--blocks", blocks, "--fill", fill]);
        command.args(["--threads", &THREADS.to_string(), "--seconds", &seconds.to_string()]);
        if self.store_exists() {
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
            let enough = self.rng.random_range(1..300);
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

    /// Has everything verified. How many transactions were taken back.
    fn verify(&mut self, round: usize) -> u64 {
        if !self.store_exists() {
            let Model { acknowledged, in_flight } = &self.model;
            assert!(acknowledged.is_empty() && in_flight.is_empty(), "the store is gone");
            return 0;
        }
        // What a torn write of the next group could leave.
        let torn: Vec<u8> = (0..self.rng.random_range(0..100)).map(|_| self.rng.random()).collect();
        let metadata = self.dir.path().join("metadata.freemap-engine");
        std::fs::File::options().append(true).open(metadata).unwrap().write_all(&torn).unwrap();

        let events = self.events(&format!("{round}-verified"));
        let output = self.command(&events, 0).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(result["verified"], true, "{result}");
        assert_eq!(result["recovery"]["torn_bytes"], torn.len(), "{result}");
        let told = told(&events);
        assert!(told.found.is_some(), "it was never ready");
        self.model.follow(told);
        result["recovery"]["taken_back"].as_u64().unwrap()
    }
}

fn alive(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_none()
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn kill_rounds(size: [&'static str; 2]) {
    let mut rounds = Rounds {
        engine: engine_path(),
        dir: tempfile::tempdir().unwrap(),
        rng: Pcg64Mcg::seed_from_u64(from_environment("KILL_SEED", 1)),
        model: Model::default(),
        size,
    };
    let (mut acknowledged, mut taken_back) = (0, 0);
    let count = from_environment("KILL_ROUNDS", 12) as usize;
    for round in 0..count {
        acknowledged += rounds.kill(round, round % 3 == 0);
        taken_back += rounds.verify(round);
    }
    assert!(acknowledged > 0 || count < 2, "nothing was acknowledged");
    eprintln!(
        "{count} rounds, {acknowledged} changes acknowledged, {taken_back} transactions taken back, \
         {} objects at the end",
        rounds.model.acknowledged.len()
    );
}

#[test]
fn a_killed_engine_finds_what_it_acknowledged() {
    kill_rounds(["4096", "80"]);
}

/// What is freed is reused at once, so blocks that are let go too early are overwritten.
#[test]
fn a_killed_engine_on_a_full_device_finds_what_it_acknowledged() {
    kill_rounds(["512", "99"]);
}
