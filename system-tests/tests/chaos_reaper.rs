//! SIGKILL of the reaper under load: nothing is left after 0.2 s and `up` goes on.
//!
//! A program of its own, because it measures how fast processes die.

use std::time::Duration;

use serde_json::json;
use snakehouse_system_tests::chaos::{BOUND, Dice, ROUNDS, call, load, tools};
use snakehouse_system_tests::{Up, descendants, get, wait_gone, wait_no_survivors};

#[test]
fn killing_the_reaper_leaves_nothing_and_up_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let mut dice = Dice::new();
    let up = Up::start(home.path(), 0, &["--tools", &tools()]);
    for round in 0..ROUNDS {
        let (escaped, flying) = load(&up, &mut dice);
        let status = get(up.port, "/api/v1/snakehouse/status").unwrap().json;
        let reaper = u32::try_from(status["reaper_pid"].as_u64().expect("a reaper")).unwrap();
        let mut below = descendants(reaper);
        below.extend([escaped, reaper]);
        let pid = i32::try_from(reaper).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let left = wait_gone(&below, BOUND);
        assert!(left.is_empty(), "round {round}: left after {BOUND:?}: {left:?}");
        // Every request in flight gets exactly one answer: a value, or a typed error.
        for request in flying {
            let answer = request.finish().unwrap();
            assert!(answer.status == 200 || answer.json["error"]["code"].is_string(), "{answer:?}");
        }
        // The same `up` serves again, on a new reaper and new workers.
        assert_eq!(call(&up, "echo", json!([round])), round);
    }
    assert_eq!(get(up.port, "/api/v1/healthz").unwrap().status, 200);
    let token = up.run_token.clone();
    assert_eq!(up.stop(), Some(0));
    assert!(wait_no_survivors(&token, Duration::ZERO).is_empty());
}
