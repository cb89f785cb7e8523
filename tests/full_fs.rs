//! Real file systems that are full, and that are shut down under a process: a log on ext4 and on xfs, on
//! a loop device. A process commits transactions, grows its device, and goes on whatever fails for
//! want of room, while the file system is filled and emptied. Then the process is stopped, the file
//! system shut down with what was not flushed lost, and mounted again. Everything acknowledged is there,
//! and of the rest at most the transaction under way.
//!
//! Needs root, loop devices, `mke2fs`, `mkfs.xfs` and `xfs_io`; says so and checks nothing without.
//! `FULL_FS_ROUNDS` sets how many rounds each file system has (2), `FULL_FS_SEED` the random numbers (1).
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use freemap::{
    CommitError, CreateOptions, Delta, Extent, FileDisk, LogError, OpenOptions, Opened, SpaceMapLog,
};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

const BLOCKS: u64 = 300_000;

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().unwrap())
}

fn tool(name: &str) -> Option<PathBuf> {
    let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists());
    if found.is_none() {
        println!("{name} is not installed: nothing was checked");
    }
    found
}

fn run(program: &Path, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{}: {told}", program.display())) }
}

/// A file system on a file, mounted.
struct Mounted {
    image: PathBuf,
    at: PathBuf,
}

impl Mounted {
    fn make(dir: &Path, maker: &str, options: &[&str]) -> Option<Self> {
        let (maker, _, _) = (tool(maker)?, tool("xfs_io")?, tool("mount")?);
        let (image, at) = (dir.join("image"), dir.join("mounted"));
        File::create(&image).unwrap().set_len(320 << 20).unwrap();
        std::fs::create_dir_all(&at).unwrap();
        run(&maker, &[options, &[image.to_str().unwrap()]].concat()).unwrap();
        let mounted = Self { image, at };
        match mounted.mount() {
            Ok(()) => Some(mounted),
            Err(told) => {
                println!("cannot mount ({}): nothing was checked", told.trim());
                None
            }
        }
    }

    fn mount(&self) -> Result<(), String> {
        let (image, at) = (self.image.to_str().unwrap(), self.at.to_str().unwrap());
        run(Path::new("mount"), &["-o", "loop", image, at])
    }

    fn unmount(&self) {
        run(Path::new("umount"), &[self.at.to_str().unwrap()]).unwrap();
    }

    /// Loses what was not flushed, as far as the file system gets to know.
    fn shut_down(&self) {
        let at = self.at.to_str().unwrap();
        run(&tool("xfs_io").unwrap(), &["-x", "-c", "shutdown", at]).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Not there any more, if all went well.
        drop(Command::new("umount").arg(&self.at).output());
    }
}

/// The process under test: told where its log is, and where to write down what it does.
#[test]
fn works_until_it_is_killed() {
    let Some(log) = std::env::var_os("FULL_FS_LOG").map(PathBuf::from) else { return };
    let mut told =
        File::options().append(true).open(std::env::var("FULL_FS_TOLD").unwrap()).unwrap();
    let disk = FileDisk::open_existing(&log).unwrap();
    let opened = SpaceMapLog::open(disk, &OpenOptions::new()).unwrap();
    let mut rng = Pcg64Mcg::seed_from_u64(variable("FULL_FS_SEED", 1));
    let mut held: Vec<Extent> = used(&opened);
    writeln!(told, "ready").unwrap();
    loop {
        if rng.random_ratio(1, 50) {
            let blocks = opened.log.blocks();
            let more = (blocks + rng.random_range(0..4_000_000)).min(opened.log.max_blocks());
            match opened.log.grow(&opened.allocator, more) {
                Ok(()) => writeln!(told, "size {more}").unwrap(),
                Err(LogError::Commit(error)) if goes_on(&error) => {
                    writeln!(told, "small {error}").unwrap();
                }
                Err(error) => return writeln!(told, "stopped size {more} {error}").unwrap(),
            }
            continue;
        }
        opened.allocator.collect();
        let mut transaction = opened.allocator.begin();
        let mut kept = held.clone();
        for _ in 0..rng.random_range(0..6) {
            if let Ok(extent) = transaction.allocate(rng.random_range(1..200)) {
                kept.push(extent);
            }
        }
        for _ in 0..rng.random_range(0..4).min(held.len()) {
            let index = rng.random_range(0..held.len());
            let victim = held.swap_remove(index);
            if transaction.free(victim).is_ok() {
                kept.retain(|&extent| extent != victim);
            }
        }
        let frozen = transaction.freeze();
        let mut bytes = Vec::new();
        frozen.delta().encode(&mut bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(told, "begin {hex}").unwrap();
        match frozen.reopen().commit(&opened.log) {
            Ok(lsn) => {
                writeln!(told, "done {}", lsn.0).unwrap();
                held = kept;
            }
            Err(failed) if goes_on(&failed.error) => {
                writeln!(told, "failed {}", failed.error).unwrap();
                drop(failed);
                held = used(&opened);
            }
            Err(failed) => return writeln!(told, "stopped {}", failed.error).unwrap(),
        }
    }
}

/// Nothing was committed, for want of room.
fn goes_on(error: &CommitError) -> bool {
    match error {
        CommitError::Write(failure) => matches!(failure.error.kind(), ErrorKind::StorageFull),
        _ => false,
    }
}

/// What is allocated, in pieces of at most 200 blocks.
fn used(opened: &Opened) -> Vec<Extent> {
    let (blocks, words) = opened.log.committed();
    let taken =
        |block: u64| block < blocks && words[(block / 64) as usize] >> (block % 64) & 1 == 1;
    let mut extents: Vec<Extent> = Vec::new();
    for block in (0..blocks).filter(|&block| taken(block)) {
        match extents.last_mut() {
            Some(last) if last.start + last.len == block && last.len < 200 => last.len += 1,
            _ => extents.push(Extent::new(block, 1)),
        }
    }
    extents
}

/// What must be there.
struct Model {
    words: Vec<u64>,
    lsn: u64,
    blocks: u64,
    figures: Figures,
}

#[derive(Debug, Default)]
struct Figures {
    rounds: u64,
    commits: u64,
    failed: u64,
    grown: u64,
    /// Growths refused.
    stayed: u64,
    shut_down: u64,
}

impl Model {
    fn apply(&mut self, delta: &Delta) {
        for extent in delta.allocated().iter().chain(delta.freed()) {
            for block in extent.start..extent.start + extent.len {
                let word = (block / 64) as usize;
                self.words.resize(self.words.len().max(word + 1), 0);
                self.words[word] ^= 1 << (block % 64);
            }
        }
        self.lsn += 1;
    }

    /// Takes in what a process wrote down; the change that it had begun.
    fn follow(&mut self, told: &str) -> Option<Delta> {
        let mut begun = None;
        for line in told.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "ready" => {}
                "begin" => {
                    let bytes: Vec<u8> = (0..rest.len() / 2)
                        .map(|at| u8::from_str_radix(&rest[2 * at..2 * at + 2], 16).unwrap())
                        .collect();
                    begun = Some(Delta::decode(&bytes).unwrap());
                }
                "done" => {
                    let lsn: u64 = rest.parse().unwrap();
                    let delta = begun.take().unwrap();
                    // An empty one has no number.
                    if !(delta.allocated().is_empty() && delta.freed().is_empty()) {
                        self.apply(&delta);
                    }
                    assert_eq!(self.lsn, lsn);
                    self.figures.commits += 1;
                }
                "small" => self.figures.stayed += 1,
                "failed" => {
                    begun = None;
                    self.figures.failed += 1;
                }
                "size" => {
                    self.blocks = rest.parse().unwrap();
                    self.figures.grown += 1;
                }
                _ => panic!("{line}"),
            }
        }
        begun
    }

    fn check(&mut self, opened: &Opened, begun: Option<Delta>) {
        if opened.log.last().0 == self.lsn + 1
            && let Some(delta) = &begun
        {
            self.apply(delta);
        }
        assert_eq!(opened.log.last().0, self.lsn);
        assert!(opened.log.blocks() >= self.blocks, "{} blocks", opened.log.blocks());
        self.blocks = opened.log.blocks();
        let (_, words) = opened.log.committed();
        self.words.resize(words.len(), 0);
        assert!(words == self.words, "another state");
        opened.log.verify().unwrap();
    }
}

fn start(log: &Path, told: &Path, seed: u64) -> Child {
    File::create(told).unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "works_until_it_is_killed", "--quiet", "--test-threads", "1"])
        .env("FULL_FS_LOG", log)
        .env("FULL_FS_TOLD", told)
        .env("FULL_FS_SEED", seed.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits until the process has written down `more` lines, or has ended.
fn wait_for(child: &mut Child, told: &Path, more: usize) {
    let lines = || std::fs::read(told).unwrap().iter().filter(|&&byte| byte == b'\n').count();
    let before = lines();
    while lines() < before + more && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Stops the process, so that it does not take an error of the file system that goes away for an answer.
fn stop(child: &Child) {
    let id = child.id().to_string();
    run(Path::new("kill"), &["-STOP", &id]).unwrap();
    let stopped = || {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
        stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
    };
    while !stopped() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Fills the file system to the last block.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for len in [1 << 20, 4096] {
        while file.write_all(&vec![1; len]).is_ok() {}
    }
    drop(file.sync_all());
}

fn rounds(maker: &str, options: &[&str], sparse: bool) {
    let dir = tempfile::tempdir().unwrap();
    let Some(mounted) = Mounted::make(dir.path(), maker, options) else { return };
    let (log, filler) = (mounted.at.join("free.log"), mounted.at.join("filler"));
    let told = dir.path().join("told");
    let limit = CreateOptions::new().limit(1 << 20);
    let create = if sparse { limit.sparse() } else { limit };
    let opened = SpaceMapLog::create(FileDisk::open(&log).unwrap(), BLOCKS, &create).unwrap();
    drop(opened);
    let mut model =
        Model { words: Vec::new(), lsn: 0, blocks: BLOCKS, figures: Figures::default() };
    let seed = variable("FULL_FS_SEED", 1);
    for round in 0..variable("FULL_FS_ROUNDS", 2) {
        let mut child = start(&log, &told, seed + round);
        wait_for(&mut child, &told, 20);
        fill(&filler);
        wait_for(&mut child, &told, 400);
        if round % 2 == 0 {
            // Room again, for what was refused.
            std::fs::remove_file(&filler).unwrap();
            wait_for(&mut child, &told, 200);
        }
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?}: {:?}", std::fs::read_to_string(&told));
        stop(&child);
        mounted.shut_down();
        model.figures.shut_down += 1;
        child.kill().unwrap();
        child.wait().unwrap();
        mounted.unmount();
        mounted.mount().unwrap();
        let begun = model.follow(&std::fs::read_to_string(&told).unwrap());
        let disk = FileDisk::open_existing(&log).unwrap();
        let opened = SpaceMapLog::open(disk, &OpenOptions::new()).unwrap();
        model.check(&opened, begun);
        drop(opened);
        drop(std::fs::remove_file(&filler));
        model.figures.rounds += 1;
    }
    mounted.unmount();
    println!("{maker}, sparse: {sparse}: {:?}", model.figures);
    assert!(model.figures.commits > 0);
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("not root: nothing was checked");
    }
    root
}

#[test]
fn ext4_loses_nothing_that_was_acknowledged() {
    if is_root() {
        for sparse in [false, true] {
            rounds("mke2fs", &["-q", "-F", "-t", "ext4"], sparse);
        }
    }
}

#[test]
fn xfs_loses_nothing_that_was_acknowledged() {
    if is_root() {
        for sparse in [false, true] {
            rounds("mkfs.xfs", &["-q", "-f"], sparse);
        }
    }
}
