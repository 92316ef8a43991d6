//! Wrong input and a hostile machine: a typed error, a hint, nothing lost, nothing left.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use snakehouse_system_tests::{Ran, Up, run};

fn tools() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tools/misbehaving.py").to_owned()
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Runs a tool in a pool of its own.
fn call(args: &[&str]) -> Ran {
    let home = home();
    let tools = tools();
    let mut all = vec!["--json", "pool", "call", "--tools", &tools];
    all.extend(args);
    run(home.path(), &all)
}

#[track_caller]
fn assert_failure(ran: &Ran, code: &str, exit: i32) {
    assert_eq!(ran.error_code(), code, "{ran:?}");
    assert_eq!(ran.code, Some(exit), "{ran:?}");
}

#[test]
fn a_tool_returns_its_value() {
    let ran = call(&["echo", r#"{"a":[1,2.5,null,"x"]}"#]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.last_json(), serde_json::json!({"value": {"a": [1, 2.5, null, "x"]}}));
}

#[test]
fn a_tool_that_raises_is_a_typed_error() {
    let ran = call(&["raises"]);
    assert_failure(&ran, "tool_raised", 7);
    assert!(ran.stdout.contains("ValueError"), "{ran:?}");
}

#[test]
fn a_tool_that_exits_is_a_dead_worker() {
    assert_failure(&call(&["exits"]), "worker_died", 7);
}

#[test]
fn a_tool_that_segfaults_is_a_dead_worker() {
    let ran = call(&["segfaults"]);
    assert_failure(&ran, "worker_died", 7);
    assert!(ran.stdout.contains("SIGSEGV"), "the cause is named: {ran:?}");
}

#[test]
fn printing_does_not_disturb_a_call() {
    let ran = call(&["prints"]);
    assert_eq!(ran.last_json(), serde_json::json!({"value": "printed"}), "{ran:?}");
}

#[test]
fn a_tool_that_runs_for_ever_meets_its_deadline() {
    assert_failure(&call(&["--timeout", "0.5", "for_ever"]), "deadline", 6);
}

#[test]
fn an_unspeakable_value_is_refused_by_type() {
    let ran = call(&["unspeakable"]);
    assert_failure(&ran, "unsupported_value", 7);
    assert!(ran.stdout.contains("object"), "{ran:?}");
}

#[test]
fn an_unknown_tool_is_named_with_its_neighbours() {
    let ran = call(&["eco"]);
    assert_failure(&ran, "unknown_tool", 3);
    assert!(ran.stdout.contains("echo"), "the hint lists what there is: {ran:?}");
}

#[test]
fn an_argument_that_is_not_json_is_refused() {
    assert_failure(&call(&["echo", "{"]), "bad_argument", 2);
}

#[test]
fn a_missing_interpreter_is_named() {
    let home = home();
    let ran = run(
        home.path(),
        &[
            "--json",
            "--python",
            "/nowhere/python3",
            "pool",
            "call",
            "--tools",
            &tools(),
            "echo",
            "1",
        ],
    );
    assert_failure(&ran, "interpreter_missing", 8);
    assert!(ran.stdout.contains("/nowhere/python3"), "{ran:?}");
}

#[test]
fn an_old_interpreter_is_refused_with_its_version() {
    let home = home();
    let fake = script(home.path(), "old-python", "#!/bin/sh\necho '3 8 1'\n");
    // An interpreter that reports 3.8 to whatever it is asked.
    let ran = run(
        home.path(),
        &[
            "--json",
            "--python",
            fake.to_str().unwrap(),
            "pool",
            "call",
            "--tools",
            &tools(),
            "echo",
            "1",
        ],
    );
    assert!(
        ["interpreter_too_old", "interpreter_broken"].contains(&ran.error_code().as_str()),
        "{ran:?}"
    );
    assert_eq!(ran.code, Some(8));
}

#[test]
fn a_port_in_use_is_an_error_with_a_hint() {
    let home = home();
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ran = run(home.path(), &["--json", "up", "--port", &port]);
    assert_failure(&ran, "port_in_use", 8);
    assert!(ran.last_json()["error"]["hint"].is_string(), "{ran:?}");
}

#[test]
fn a_state_directory_that_cannot_be_written_is_named() {
    let dir = home();
    let file = dir.path().join("a-file");
    fs::write(&file, "not a directory").unwrap();
    let ran = run(&file, &["--json", "up", "--port", "0"]);
    assert_failure(&ran, "state_dir_not_writable", 8);
    assert!(ran.stdout.contains("a-file"), "{ran:?}");
}

#[test]
fn a_half_written_model_directory_is_refused() {
    let home = home();
    let dir = home.path().join("half");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("config.json"), "{\"model_type\": \"qwen3\"").unwrap();
    let ran = run(home.path(), &["--json", "model", "check", dir.to_str().unwrap()]);
    assert_failure(&ran, "bad_model_directory", 9);

    let model = format!("half={}", dir.display());
    let ran = run(home.path(), &["--json", "up", "--port", "0", "--model", &model]);
    assert_failure(&ran, "bad_model_directory", 9);
}

#[test]
fn a_second_up_on_the_same_state_names_the_holder() {
    let home = home();
    let up = Up::start(home.path(), 0, &[]);
    let ran = run(home.path(), &["--json", "up", "--port", "0"]);
    assert_failure(&ran, "state_dir_in_use", 3);
    let message = ran.last_json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains(&up.pid().to_string()), "{message}");
    assert!(message.contains(&up.port.to_string()), "{message}");
}

#[test]
fn an_unknown_configuration_key_is_an_error() {
    let home = home();
    fs::write(home.path().join("snakehouse.toml"), "prot = 1\n").unwrap();
    assert_failure(&run(home.path(), &["--json", "config", "show"]), "bad_config", 2);
}

fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).expect("the script can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        .expect("the script can be made executable");
    path
}
