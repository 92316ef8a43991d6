//! Tests of process-wide things get a process of their own.

use std::process::Command;

/// Set in the inner process to the name of the test it runs.
const INSIDE: &str = "SNAKEHOUSE_TEST_ALONE";

/// Runs `body` in a process in which no other test runs, under any test runner: the test binary
/// calls itself for the one test `name` (its full path, such as `"leaks::tests::finds_a_file"`).
///
/// # Panics
/// When the inner test fails, with its output.
pub fn in_own_process(name: &str, body: impl FnOnce()) {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == name) {
        return body();
    }
    let binary = std::env::current_exe().expect("a running test binary has a path");
    let output = Command::new(binary)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, name)
        .output()
        .expect("the test binary can be started again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("1 passed"), "no test is named {name}, or it failed:\n{text}");
    assert!(
        output.status.success(),
        "{name} failed:\n{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
