//! Model-checks the index protocol and shows that the checks would notice its steps missing.
//!
//! `RUSTFLAGS="--cfg loom" cargo run --release -p loom-tests --target-dir target/loom` runs every
//! scenario, then every mutant against the scenarios until one notices it, and prints both tables.
//! Each run is a process of its own. A scenario that fails or is cut short by its time limit, a
//! mutant that survives and a control that does not are failures of the whole.

#[cfg(loom)]
mod runner;

#[cfg(loom)]
fn main() -> std::process::ExitCode {
    runner::main()
}

#[cfg(not(loom))]
fn main() {
    eprintln!("build with RUSTFLAGS=\"--cfg loom\": there is nothing to check otherwise");
}
