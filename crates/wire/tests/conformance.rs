//! The worker's loop as a real process, under the check that workers in any language run.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The example beside this test's own binary.
fn example(name: &str) -> PathBuf {
    let deps = std::env::current_exe().expect("a test has a binary");
    let target = deps.parent().and_then(Path::parent).expect("it lies in the target directory");
    target.join("examples").join(name)
}

#[test]
fn a_worker_on_this_crate_passes_the_check() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../python");
    let done = Command::new("python3")
        .args(["-m", "snakehouse.conformance", "--bound", "30", "--"])
        .arg(example("conformance_worker"))
        .env("PYTHONPATH", python)
        .output()
        .expect("python3 starts");
    let lines = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{lines}{}", String::from_utf8_lossy(&done.stderr));
    let passed = |part: &str| {
        let passed = lines.lines().filter(|line| line.starts_with("passed"));
        passed.filter(|line| line.contains(part)).count()
    };
    assert!(passed("") >= 25, "{lines}");
    // It asks its host as well, and runs what comes out of that meanwhile.
    assert!(passed("callback") >= 4 && passed("nested") == 1, "{lines}");
}
