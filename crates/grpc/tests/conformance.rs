//! A worker on another host under the check that workers in any language pass.

#![allow(clippy::print_stdout, reason = "all of this is test code")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// They look at the page, and there is none between hosts. That a cancel reaches a running call is
/// tested in `it/attach.rs`.
const DOES_NOT_APPLY: [&str; 3] = [
    "what_was_started_is_published",
    "a_call_that_is_taken_back_does_not_run",
    "a_running_call_can_be_cancelled",
];

/// The example beside this test's own binary.
fn example(name: &str) -> PathBuf {
    let deps = std::env::current_exe().expect("a test has a binary");
    let target = deps.parent().and_then(Path::parent).expect("it lies in the target directory");
    target.join("examples").join(name)
}

#[test]
fn a_worker_on_another_host_passes_the_check() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../python");
    let done = Command::new("python3")
        .args(["-m", "snakehouse.conformance", "--bound", "30", "--"])
        .arg(example("conformance_relay"))
        .arg("snakehouse._conformance_tools")
        .env("PYTHONPATH", &python)
        .output()
        .expect("python3 starts");
    let lines = String::from_utf8_lossy(&done.stdout);
    println!("{lines}");
    assert!(done.status.success(), "{lines}{}", String::from_utf8_lossy(&done.stderr));
    assert!(lines.lines().filter(|line| line.starts_with("passed")).count() >= 20, "{lines}");
    for line in lines.lines().filter(|line| line.starts_with("not applicable")) {
        assert!(DOES_NOT_APPLY.iter().any(|case| line.contains(case)), "{line}");
    }
}
