//! Measures what an idle `snakehouse up` costs, over its whole process tree.
//!
//! `cargo run -p snakehouse-system-tests --bin idle [SECONDS]` starts `up` in a temporary home, waits
//! until it is ready, lets it be for 60 seconds (or SECONDS) and prints one JSON object. Ends with
//! 1 if it used more than 20 ms of CPU or switched more than 120 times.

use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use snakehouse_system_tests::{Up, descendants, usage_of};

const CPU_LIMIT: Duration = Duration::from_millis(20);
const SWITCH_LIMIT: u64 = 120;

#[expect(clippy::print_stdout, reason = "the result is the purpose of this program")]
fn main() -> ExitCode {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(60);
    let home = tempfile::tempdir().expect("a temporary directory");
    let up = Up::start(home.path(), 0, &[]);
    let mut tree = descendants(up.pid());
    tree.push(up.pid());

    let before = usage_of(&tree);
    assert!(before.cpu > Duration::ZERO, "starting up costs time, so the counters work");
    // Waits for `up` to die, which it must not: the only event in the window is the time-out.
    let pid = i32::try_from(up.pid()).ok().and_then(Pid::from_raw).expect("a pid");
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("up runs");
    let window = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let events = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&window)).unwrap_or(0);
    assert_eq!(events, 0, "up died while idle");
    let after = usage_of(&tree);

    let cpu = after.cpu - before.cpu;
    let switches = after.voluntary_switches - before.voluntary_switches;
    let ok = cpu <= CPU_LIMIT && switches <= SWITCH_LIMIT;
    println!(
        "{}",
        serde_json::json!({
            "ok": ok,
            "seconds": seconds,
            "processes": tree.len(),
            "cpu_ms": cpu.as_secs_f64() * 1000.0,
            "voluntary_switches": switches,
        })
    );
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
