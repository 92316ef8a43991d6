//! A running `snakehouse up`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::binary::command;
use crate::processes::descendants;

/// A `snakehouse up` that is ready. Killed when dropped.
#[derive(Debug)]
pub struct Up {
    child: Child,
    /// Where it listens, such as `http://127.0.0.1:41234`.
    pub url: String,
    /// Its port.
    pub port: u16,
    /// The token that every process below it carries in its environment.
    pub run_token: String,
}

impl Up {
    /// Starts `up` on `port` (0: any) with further arguments and returns when it says it is ready.
    ///
    /// # Panics
    /// If it ends before it is ready.
    pub fn start(home: &Path, port: u16, extra: &[&str]) -> Self {
        let mut child = command(home)
            .args(["up", "--json", "--port", &port.to_string()])
            .args(extra)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start up: {error}"));
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut line = String::new();
        let mut lines = BufReader::new(stdout);
        lines.read_line(&mut line).expect("stdout is readable");
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let Some(url) = ready["url"].as_str() else {
            let output = child.wait_with_output().expect("up can be awaited");
            panic!("up did not start: {line}{}", String::from_utf8_lossy(&output.stderr));
        };
        let url = url.to_owned();
        let port = url.rsplit(':').next().and_then(|p| p.parse().ok()).expect("the url has a port");
        let run_token = ready["run_token"].as_str().expect("ready names the token").to_owned();
        Self { child, url, port, run_token }
    }

    /// Starts `up`, kills it (SIGKILL) as soon as `processes` processes are below it, ready or not,
    /// and reaps it. Returns what was below it at that moment.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn kill_while_starting(home: &Path, extra: &[&str], processes: usize) -> Vec<u32> {
        let mut child = command(home)
            .args(["up", "--json", "--port", "0"])
            .args(extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start up: {error}"));
        let below = loop {
            let below = descendants(child.id());
            let ended = child.try_wait().expect("up can be looked at").is_some();
            if below.len() >= processes || ended {
                break below;
            }
            std::thread::yield_now();
        };
        // Ended by itself is as good as killed.
        let _ = child.kill();
        child.wait().expect("up can be reaped");
        below
    }

    /// The pid of `up` itself.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills `up` with SIGKILL and reaps it.
    ///
    /// # Panics
    /// If the process cannot be signalled.
    pub fn kill(mut self) {
        self.child.kill().expect("up can be killed");
        self.child.wait().expect("up can be reaped");
    }

    /// Asks `up` to stop (SIGTERM), waits for its end and returns its exit code.
    ///
    /// # Panics
    /// If the process cannot be signalled.
    pub fn stop(mut self) -> Option<i32> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, Signal::TERM).expect("up can be signalled");
        self.child.wait().expect("up can be reaped").code()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Already gone is as good as killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
