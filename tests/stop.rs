//! A thread that is stopped at any instruction stops no other.
//!
//! The test starts itself as a child process in which one thread, the victim, does an operation, and another,
//! the witness, does every kind of operation whenever it is told to. The test traces the victim, lets it
//! execute one instruction at a time, and in between has the witness do a round, which must come to its end
//! while the victim stands still. Progress is counted: a clock is used only to call a witness stuck, after a
//! minute.
//!
//! The victim may be inside the system's allocator when it is stopped. That one keeps an arena for each
//! thread, so the witness does not meet it there unless it gives back what the victim has taken: what an
//! operation leaves for others may not be on the heap.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use freemap::{Allocator, DiscardLimits, Discarder, Discarding, Extent, Handle, Request};
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, gettid};

/// In the environment of the child: what the victim does.
const VARIABLE: &str = "FREEMAP_STOP";
/// What the child says begins with this; the rest of its output is the test harness's.
const MARK: &str = "stop:";
/// A witness that has not finished a round after this long is stuck, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);
/// The victim is stopped before each of so many instructions.
const EVERY: usize = 8000;
/// Then before every second, and after so many rounds more before every fourth, and so on. A lock-free
/// operation comes to its end if others change nothing for as long as it takes, which may be never if they do
/// between any two of its instructions.
const ROUNDS: usize = 200;
/// Far more instructions than any operation takes by itself.
const MOST_STEPS: usize = 1 << 20;

const BLOCKS: u64 = 512;
/// Blocks that the witness has, frees and allocates.
const SHARE: u64 = 40;

/// What the victim works on: made before it is traced.
struct Scene {
    allocator: Allocator,
    handle: Handle,
    discarder: Option<Discarder>,
    /// Blocks that it owns.
    own: Vec<Extent>,
}

impl Scene {
    fn new(allocator: &Allocator) -> Self {
        let own = (0..64).map(|_| allocator.allocate(1).unwrap()).collect();
        let (allocator, handle) = (allocator.clone(), allocator.handle());
        Self { allocator, handle, discarder: None, own }
    }

    fn commit(&mut self, blocks: usize) {
        let mut transaction = self.allocator.begin();
        for extent in self.own.drain(..blocks.min(self.own.len())) {
            transaction.free(extent).unwrap();
        }
        transaction.freeze().committed();
    }

    /// Does `operation` once.
    fn run(&mut self, operation: &str) {
        match operation {
            "allocate" => self.own.extend(self.handle.allocate(1)),
            "scattered" => {
                let found = self.allocator.allocate_with(&Request::new(9).scattered().partial());
                self.own.extend(found.into_iter().flatten());
            }
            // More than there is: it looks everywhere.
            "in vain" => assert!(self.allocator.allocate(BLOCKS).is_err()),
            "free" => {
                let extent = self.own.pop().unwrap();
                self.handle.free(extent).unwrap();
            }
            "commit" => self.commit(3),
            "commit under a guard" => {
                let guard = self.allocator.pin_owned();
                self.commit(3);
                drop(guard);
                self.commit(2);
            }
            "collect" => {
                self.allocator.collect();
            }
            "drop" => {
                let mut transaction = self.allocator.begin();
                let _ = transaction.allocate(1);
            }
            "pin" => drop((self.allocator.pin(), self.allocator.pin_owned())),
            "reserve" => drop(self.allocator.reserve(5)),
            "close" => {
                let region = self.allocator.close(Extent::new(0, 512));
                if let Ok(region) = region {
                    region.is_empty();
                }
            }
            "discard" => {
                let extent = self.own.pop().unwrap();
                self.allocator.free(extent).unwrap();
                let discarder = self.discarder.as_mut().unwrap();
                if let Discarding::Batch(batch) = discarder.next(Instant::now()) {
                    drop(batch);
                }
            }
            other => panic!("no operation {other}"),
        }
    }
}

/// The witness's round: every kind of operation, some with success and some in vain.
struct Witness {
    allocator: Allocator,
    held: Vec<Extent>,
}

impl Witness {
    fn round(&mut self) {
        let allocator = &self.allocator;
        let share = SHARE as usize;
        while self.held.len() < share
            && let Ok(extent) = allocator.allocate(1)
        {
            self.held.push(extent);
        }
        // In vain: it looks into the quarantine, escrow and what is to be discarded.
        assert!(allocator.allocate(BLOCKS).is_err());
        let freed = self.held.split_off(self.held.len() / 2);
        let mut transaction = allocator.begin();
        for (nth, &extent) in freed.iter().enumerate() {
            if nth % 2 == 0 {
                transaction.free(extent).unwrap();
            } else {
                allocator.free(extent).unwrap();
            }
        }
        let guard = allocator.pin();
        transaction.freeze().committed();
        drop(guard);
        drop(allocator.reserve(3));
        drop(allocator.close(Extent::new(0, 1)));
        allocator.collect();
        allocator.stats();
        self.held.extend(
            allocator.allocate_with(&Request::new(4).scattered().partial()).into_iter().flatten(),
        );
    }
}

/// The child: not a test, if the variable is not set.
#[test]
fn victim_and_witness() {
    let Ok(operation) = std::env::var(VARIABLE) else { return };
    static GO: AtomicBool = AtomicBool::new(false);
    static DONE: AtomicBool = AtomicBool::new(false);
    let allocator = Allocator::new(BLOCKS).unwrap();
    let mut scene = Scene::new(&allocator);
    let mut witness = Witness { allocator: allocator.clone(), held: Vec::with_capacity(1024) };
    // The rest is taken: who wants blocks has to look for what others let go.
    let mut taken = Vec::new();
    while allocator.free_blocks() > SHARE
        && let Ok(extent) = allocator.allocate(1)
    {
        taken.push(extent);
    }
    if operation == "discard" {
        scene.discarder = allocator.discarder(DiscardLimits::new());
    }
    let (tell, told) = channel();
    let what = operation.clone();
    std::thread::Builder::new()
        .name("victim".into())
        .spawn(move || {
            // What a thread makes when it does something for the first time is there then.
            for _ in 0..3 {
                scene.run(&what);
            }
            tell.send(gettid()).unwrap();
            while !GO.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
            scene.run(&what);
            DONE.store(true, Ordering::SeqCst);
            loop {
                // Not asleep: it is still told to execute instructions.
                std::hint::spin_loop();
            }
        })
        .unwrap();
    let thread = told.recv().unwrap();
    (0..10).for_each(|_| witness.round());
    println!("{MARK}{thread}");
    for line in std::io::stdin().lines() {
        if line.unwrap() == "go" {
            GO.store(true, Ordering::SeqCst);
        } else {
            witness.round();
        }
        println!("{MARK}{}", DONE.load(Ordering::SeqCst));
    }
    std::process::exit(0);
}

/// A child at work. Dropping it ends it.
struct Play {
    child: Child,
    said: Receiver<String>,
    /// The thread that this one traces.
    traced: Option<Pid>,
}

impl Drop for Play {
    fn drop(&mut self) {
        let _ = self.child.kill();
        // A process is not at its end before the end of each thread is heard by who traces it.
        if let Some(thread) = self.traced {
            while let Ok(status) = waitpid(thread, Some(WaitPidFlag::__WALL)) {
                if matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..)) {
                    break;
                }
            }
        }
        let _ = self.child.wait();
    }
}

impl Play {
    fn begin(operation: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["victim_and_witness", "--exact", "--nocapture"])
            .env(VARIABLE, operation)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (tell, said) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // The harness does not end its own line before the child's first.
                if let Some((_, line)) = line.split_once(MARK)
                    && tell.send(line.to_string()).is_err()
                {
                    return;
                }
            }
        });
        Self { child, said, traced: None }
    }

    fn ask(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// What the child says next; nothing if it says nothing for a minute.
    fn hear(&self) -> Option<String> {
        self.said.recv_timeout(PATIENCE).ok()
    }
}

/// Lets `thread` execute one instruction; `false` if it has ended.
fn step(thread: Pid) -> bool {
    ptrace::step(thread, None::<Signal>).unwrap();
    loop {
        match waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => return true,
            // Not ours: it goes on with it.
            WaitStatus::Stopped(_, signal) => ptrace::step(thread, signal).unwrap(),
            WaitStatus::PtraceEvent(..) => ptrace::step(thread, None::<Signal>).unwrap(),
            _ => return false,
        }
    }
}

/// Stops a thread before each instruction of `operation`. How often; nothing if no process may trace
/// another here.
fn stop_everywhere(operation: &str) -> Option<usize> {
    let mut play = Play::begin(operation);
    let thread = play.hear().expect("the child begins").trim().parse().unwrap();
    let thread = Pid::from_raw(thread);
    match ptrace::seize(thread, ptrace::Options::empty()) {
        Err(Errno::EPERM | Errno::ENOSYS) => return None,
        seized => seized.unwrap(),
    }
    play.traced = Some(thread);
    ptrace::interrupt(thread).unwrap();
    waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    play.ask("go");
    play.hear().expect("the witness reads on");
    let (mut steps, mut stride) = (0, 1);
    for round in 1.. {
        for _ in 0..stride {
            assert!(step(thread), "{operation}: the victim ended after {steps} instructions");
            steps += 1;
        }
        play.ask("round");
        match play.hear().as_deref() {
            Some("true") => return Some(round),
            Some(_) => {}
            None => panic!(
                "{operation}: a thread that was stopped after {steps} instructions stops another"
            ),
        }
        if round >= EVERY && round % ROUNDS == 0 {
            stride *= 2;
            assert!(stride < MOST_STEPS, "{operation} does not end by itself");
        }
    }
    None
}

macro_rules! stopped_in {
    ($($name:ident: $operation:literal;)*) => {$(
        #[test]
        fn $name() {
            match stop_everywhere($operation) {
                Some(steps) => println!("{}: stopped {steps} times", $operation),
                None => println!("{}: left out, tracing is not permitted here", $operation),
            }
        }
    )*};
}

stopped_in! {
    a_thread_stopped_in_allocate_stops_no_other: "allocate";
    a_thread_stopped_in_a_scattered_request_stops_no_other: "scattered";
    a_thread_stopped_in_a_request_in_vain_stops_no_other: "in vain";
    a_thread_stopped_in_free_stops_no_other: "free";
    a_thread_stopped_in_a_commit_stops_no_other: "commit";
    a_thread_stopped_in_a_commit_under_a_guard_stops_no_other: "commit under a guard";
    a_thread_stopped_in_collect_stops_no_other: "collect";
    a_thread_stopped_in_a_rollback_stops_no_other: "drop";
    a_thread_stopped_in_pin_stops_no_other: "pin";
    a_thread_stopped_in_reserve_stops_no_other: "reserve";
    a_thread_stopped_in_close_stops_no_other: "close";
    a_thread_stopped_in_discard_stops_no_other: "discard";
}
