//! Tests that need a process of their own, since they look at all of its memory.

use std::process::Command;

/// Runs `work` in a process in which no other test runs, `name` being that of the test.
pub fn alone(name: &str, work: impl FnOnce()) {
    if std::env::var("FREEMAP_ALONE").is_ok_and(|alone| alone == name) {
        return work();
    }
    let mut test = Command::new(std::env::current_exe().unwrap());
    let status = test.args([name, "--exact", "--nocapture"]).env("FREEMAP_ALONE", name).status();
    assert!(status.unwrap().success(), "{name} failed in its own process");
}
