//! SIGKILL at random moments under load: nothing is left after 0.2 s and the next start is clean.

use std::time::Duration;

use snakehouse_system_tests::{Up, descendants, get, post_json, survivors, wait_gone};

const ROUNDS: u64 = 10;
const BOUND: Duration = Duration::from_millis(200);

fn tools() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tools/misbehaving.py").to_owned()
}

/// Calls a tool of `up` and returns its value.
fn call(up: &Up, tool: &str, args: serde_json::Value) -> serde_json::Value {
    let path = format!("/api/v1/snakehouse/tools/{tool}");
    let answer = post_json(up.port, &path, &serde_json::json!({"args": args})).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json["value"].clone()
}

/// A load whose length is `round`-dependent, so that each kill meets another moment of work.
fn load(up: &Up, round: u64) -> u32 {
    let escaped = call(up, "escape", serde_json::json!([]));
    for n in 0..round * 7 % 23 {
        assert_eq!(call(up, "echo", serde_json::json!([n])), n);
    }
    u32::try_from(escaped.as_u64().expect("escape returns a pid")).expect("a pid fits")
}

#[test]
fn killing_up_leaves_nothing_and_the_next_start_is_clean() {
    let home = tempfile::tempdir().unwrap();
    for round in 0..ROUNDS {
        let up = Up::start(home.path(), 0, &["--tools", &tools()]);
        let escaped = load(&up, round);
        let mut below = descendants(up.pid());
        below.push(escaped);
        let token = up.run_token.clone();
        up.kill();
        let left = wait_gone(&below, BOUND);
        assert!(left.is_empty(), "round {round}: left after {BOUND:?}: {left:?}");
        let left = survivors(&token);
        assert!(left.is_empty(), "round {round}: by token: {left:?}");
    }
    let up = Up::start(home.path(), 0, &[]);
    assert_eq!(get(up.port, "/api/v1/healthz").unwrap().status, 200);
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn killing_the_reaper_leaves_nothing_and_up_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let up = Up::start(home.path(), 0, &["--tools", &tools()]);
    for round in 0..ROUNDS {
        let escaped = load(&up, round);
        let status = get(up.port, "/api/v1/snakehouse/status").unwrap().json;
        let reaper = u32::try_from(status["reaper_pid"].as_u64().expect("a reaper")).unwrap();
        let mut below = descendants(reaper);
        below.extend([escaped, reaper]);
        let pid = i32::try_from(reaper).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let left = wait_gone(&below, BOUND);
        assert!(left.is_empty(), "round {round}: left after {BOUND:?}: {left:?}");
        // The same `up` serves again, on a new reaper and new workers.
        assert_eq!(call(&up, "echo", serde_json::json!([round])), round);
    }
    assert_eq!(get(up.port, "/api/v1/healthz").unwrap().status, 200);
    let token = up.run_token.clone();
    assert_eq!(up.stop(), Some(0));
    assert!(survivors(&token).is_empty());
}
