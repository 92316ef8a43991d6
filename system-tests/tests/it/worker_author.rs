//! What an author of tools does: makes a directory, calls what is in it, checks it.

use std::path::Path;
use std::process::Command;

use snakehouse_system_tests::{Ran, run};

fn made(home: &Path) -> (std::path::PathBuf, Ran) {
    let dir = home.join("made/worker");
    let ran = run(home, &["--json", "init", "worker", dir.to_str().expect("text")]);
    (dir, ran)
}

#[test]
fn the_template_serves_passes_the_checks_and_is_never_written_over() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let (dir, ran) = made(home.path());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let tools = dir.join("tools.py").display().to_string();

    let ran = run(
        home.path(),
        &[
            "--json",
            "pool",
            "call",
            "--tools",
            &tools,
            "word_count",
            r#""to be or not to be""#,
            "1",
        ],
    );
    assert_eq!(ran.last_json()["value"]["to"], 2, "{ran:?}");
    let ran = run(home.path(), &["--json", "pool", "call", "--tools", &tools, "shout", r#""a""#]);
    assert_eq!(ran.last_json()["value"], "A", "{ran:?}");
    let ran =
        run(home.path(), &["--json", "pool", "stream", "--tools", &tools, "words", r#""To be""#]);
    assert_eq!(ran.stdout.lines().next(), Some(r#"{"item":"to"}"#), "{ran:?}");

    let ran = run(home.path(), &["--json", "worker", "check", "--tools", &tools]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let checks: Vec<serde_json::Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(checks.len() > 25 && checks.iter().all(|check| check["result"] == "passed"), "{ran:?}");

    std::fs::write(&tools, "mine").expect("written");
    std::fs::remove_file(dir.join("README.md")).expect("removed");
    let (_, ran) = made(home.path());
    assert_eq!((ran.error_code().as_str(), ran.code), ("file_exists", Some(3)), "{ran:?}");
    assert_eq!(std::fs::read_to_string(&tools).expect("there"), "mine");
    assert!(!dir.join("README.md").exists(), "nothing is written if one is there");
}

#[test]
fn a_program_that_is_no_worker_fails_the_check() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let ran = run(home.path(), &["--json", "worker", "check", "--", "/bin/true"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stdout.lines().all(|line| line.contains(r#""result": "failed""#)), "{ran:?}");
    let ran = run(home.path(), &["worker", "check"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
}

#[test]
fn any_interpreter_imports_the_package_from_the_printed_directory() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let ran = run(home.path(), &["python-path"]);
    let output = Command::new("python3")
        .args(["-c", "import snakehouse; print(snakehouse.__file__)"])
        .env("PYTHONPATH", ran.stdout.trim())
        .output()
        .expect("python3 is there");
    let file = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(file.starts_with(ran.stdout.trim()) && !file.trim().is_empty(), "{file} {ran:?}");
}
