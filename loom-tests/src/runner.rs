//! Runs scenarios and mutants, each in a process of its own, and prints the tables.

use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use freemap::model::{self, ALL, Scenario};

/// A scenario that takes longer was cut and counts as failed.
const SCENARIO_LIMIT: Duration = Duration::from_secs(600);
/// A mutant that a scenario has not noticed after this long goes to the next scenario.
const MUTANT_LIMIT: Duration = Duration::from_secs(30);
/// The first scenario that is asked, which is known to notice it, has longer: however busy the machine is.
const FIRST_LIMIT: Duration = Duration::from_secs(300);

/// How one run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// Every interleaving within the bound was explored.
    Passed { executions: usize },
    /// The time limit came first.
    Cut { executions: usize },
    /// An assertion failed, a race was found, or the model ran away.
    Failed { message: String },
}

pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => run_all(),
        ["scenarios"] => summary(run_scenarios(), 0),
        ["mutants"] => summary(0, run_mutants()),
        ["one", id, mutant, seconds] => run_one(id, mutant, seconds),
        _ => {
            eprintln!("usage: loom-tests [scenarios | mutants | one SCENARIO MUTANT|- SECONDS]");
            ExitCode::from(2)
        }
    }
}

fn run_all() -> ExitCode {
    let scenarios = run_scenarios();
    summary(scenarios, run_mutants())
}

fn summary(scenarios: usize, mutants: usize) -> ExitCode {
    let failed = scenarios + mutants;
    let word = if failed == 0 { "ok" } else { "FAILED" };
    let all = ALL.len() + model::mutants().len();
    println!("test result: {word}. {} passed; {failed} failed", all - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The child process: one scenario, perhaps under one mutant.
fn run_one(id: &str, mutant: &str, seconds: &str) -> ExitCode {
    static EXECUTIONS: AtomicUsize = AtomicUsize::new(0);
    let Some(scenario) = ALL.iter().find(|scenario| scenario.id == id) else {
        eprintln!("no scenario {id}");
        return ExitCode::from(2);
    };
    model::select(mutant);
    let limit = Duration::from_secs(seconds.parse().unwrap_or(30));
    let mut model = loom::model::Builder::new();
    model.preemption_bound = scenario.bound;
    model.max_branches = 5_000;
    model.max_duration = Some(limit);
    let started = Instant::now();
    let run = scenario.run;
    model.check(move || {
        EXECUTIONS.fetch_add(1, Ordering::Relaxed);
        run();
    });
    // Loom ends a check that ran out of time as if it had passed.
    let cut = if started.elapsed() >= limit { "cut" } else { "passed" };
    println!("{cut} {}", EXECUTIONS.load(Ordering::Relaxed));
    ExitCode::SUCCESS
}

fn child(scenario: &Scenario, mutant: &str, limit: Duration) -> Outcome {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return Outcome::Failed { message: error.to_string() },
    };
    let seconds = limit.as_secs().to_string();
    let output = Command::new(program)
        .args(["one", scenario.id, mutant, &seconds])
        .env_remove("LOOM_MAX_PREEMPTIONS")
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return Outcome::Failed { message: error.to_string() },
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let mut words = text.split_whitespace();
    let (word, count) = (words.next(), words.next().and_then(|count| count.parse().ok()));
    match (output.status.success(), word, count) {
        (true, Some("passed"), Some(executions)) => Outcome::Passed { executions },
        (true, Some("cut"), Some(executions)) => Outcome::Cut { executions },
        _ => {
            let errors = String::from_utf8_lossy(&output.stderr);
            let line = errors.lines().find(|line| !line.is_empty() && !line.starts_with("thread"));
            Outcome::Failed { message: line.unwrap_or("no message").to_string() }
        }
    }
}

/// Calls `work` with every item, on as many threads as the machine has.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { return };
                    let result = work(item);
                    if let Ok(mut results) = results.lock() {
                        results.push((index, result));
                    }
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn run_scenarios() -> usize {
    println!("{:<6} {:>10} {:>6}  {:<8} about", "id", "executions", "bound", "result");
    let outcomes = in_parallel(ALL, |scenario| {
        let outcome = child(scenario, "-", SCENARIO_LIMIT);
        let bound = scenario.bound.map_or("none".to_string(), |bound| bound.to_string());
        let (executions, result) = match &outcome {
            Outcome::Passed { executions } => (*executions, "passed".to_string()),
            Outcome::Cut { executions } => (*executions, "CUT SHORT".to_string()),
            Outcome::Failed { message } => (0, format!("FAILED: {message}")),
        };
        let (id, about) = (scenario.id, scenario.about);
        println!("{id:<6} {executions:>10} {bound:>6}  {result:<8} {about}");
        outcome
    });
    outcomes.iter().filter(|outcome| !matches!(outcome, Outcome::Passed { .. })).count()
}

fn run_mutants() -> usize {
    println!("{:<28} killed by", "mutant");
    let failures = in_parallel(&model::mutants(), |name| {
        let control = model::is_control(name);
        let mut cut = 0;
        let killer = model::order_for(name).into_iter().enumerate().find_map(|(nth, scenario)| {
            let limit = if nth == 0 { FIRST_LIMIT } else { MUTANT_LIMIT };
            match child(scenario, name, limit) {
                Outcome::Failed { message } => Some((scenario.id, message)),
                Outcome::Cut { .. } => {
                    cut += 1;
                    None
                }
                Outcome::Passed { .. } => None,
            }
        });
        match &killer {
            Some((id, message)) => println!("{name:<28} {id}: {message}"),
            None if control => {
                println!("{name:<28} survives, as it must ({cut} scenarios cut at the limit)");
            }
            None => println!("{name:<28} SURVIVES ({cut} scenarios cut at the limit)"),
        }
        killer.is_some() == control
    });
    failures.into_iter().filter(|&failed| failed).count()
}
