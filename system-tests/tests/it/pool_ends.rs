//! `pool call` ends in every way that a command can, whatever becomes of its standard output, and
//! leaves nothing.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process};
use snakehouse_system_tests::{binary, command, wait_gone};

const TOOLS: &str = r#"
import os, pathlib, subprocess, time
from snakehouse import tool

def mark(path):
    child = subprocess.Popen(["sleep", "3600"], start_new_session=True)
    fresh = pathlib.Path(path + ".new")
    fresh.write_text(f"{os.getpid()} {child.pid}")
    fresh.rename(path)

@tool
def end(path):
    mark(path)
    return "x" * 100

@tool
def fail(path):
    mark(path)
    raise ValueError("as was wished")

@tool
def die(path):
    mark(path)
    os.abort()

@tool
def wait(path):
    mark(path)
    time.sleep(3600)
"#;

const BOUND: Duration = Duration::from_secs(30);

/// What becomes of standard output.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stdout {
    Read,
    Closed,
    Broken,
    Full,
}

/// How the call ends.
const WAYS: [(&str, Option<Signal>, i32); 5] = [
    ("end", None, 0),
    ("fail", None, 7),
    ("die", None, 7),
    ("wait", Some(Signal::INT), 6),
    ("wait", Some(Signal::TERM), 6),
];

struct Call {
    child: Child,
    reader: Option<OwnedFd>,
    mark: PathBuf,
    home: tempfile::TempDir,
}

fn start(tool: &str, stdout: Stdout, json: bool) -> Call {
    let home = tempfile::tempdir().expect("a temporary directory");
    let (tools, mark) = (home.path().join("tools.py"), home.path().join("mark"));
    fs::write(&tools, TOOLS).expect("written");
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
    if stdout == Stdout::Full {
        while rustix::io::write(&writer, &[b'.'; 4096]).is_ok() {}
    }
    fcntl_setfl(&writer, OFlags::empty()).expect("a pipe");
    let mut call = command(home.path());
    if stdout == Stdout::Closed {
        let program = std::mem::replace(&mut call, command_of_shell(home.path()));
        call.arg(program.get_program());
    }
    call.args(json.then_some("--json"));
    call.args(["pool", "call", "--tools"]).arg(&tools).arg(tool);
    call.arg(serde_json::to_string(&mark).expect("a path is text"));
    let child = call
        .stdin(Stdio::null())
        .stdout(Stdio::from(writer))
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(call);
    let reader = (stdout != Stdout::Broken).then_some(reader);
    Call { child, reader, mark, home }
}

/// Closes standard output, and becomes what its arguments say.
fn command_of_shell(home: &Path) -> Command {
    let own = command(home);
    let mut shell = Command::new("/bin/sh");
    shell.env_clear();
    shell.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.args(["-c", r#"exec "$0" "$@" >&-"#]);
    shell
}

impl Call {
    /// The worker and what it started, once the tool runs.
    fn below(&mut self) -> Vec<u32> {
        while !self.mark.exists() {
            assert!(self.child.try_wait().expect("ours").is_none(), "it ended too early");
            std::thread::yield_now();
        }
        let text = fs::read_to_string(&self.mark).expect("it is there");
        text.split(' ').map(|pid| pid.parse().expect("a number")).collect()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Its status and standard error, once nothing of it is left.
    fn end(mut self, below: &[u32]) -> (Option<i32>, String) {
        let status = self.child.wait().expect("ours");
        let mut said = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        assert!(wait_gone(below, BOUND).is_empty(), "{said}");
        let runs = fs::read_dir(self.home.path().join("runs")).expect("it was recorded");
        assert_eq!(runs.count(), 0, "{said}");
        (status.code(), said)
    }
}

fn matrix(stdout: Stdout) {
    assert!(binary().is_file());
    for (tool, signal, code) in WAYS {
        for json in [false, true] {
            if stdout == Stdout::Full && (json || tool == "end") {
                // It has something to say and waits for its reader: see below.
                continue;
            }
            let mut call = start(tool, stdout, json);
            let below = call.below();
            if let Some(signal) = signal {
                call.signal(signal);
            }
            let (status, said) = call.end(&below);
            assert_eq!(status, Some(code), "{tool} {signal:?} {stdout:?}: {said}");
        }
    }
}

#[test]
fn with_a_reader() {
    matrix(Stdout::Read);
}

#[test]
fn with_standard_output_closed() {
    matrix(Stdout::Closed);
}

#[test]
fn with_a_reader_that_went() {
    matrix(Stdout::Broken);
}

#[test]
fn with_a_reader_that_does_not_read() {
    matrix(Stdout::Full);
}

#[test]
fn a_result_that_nobody_reads_holds_up_no_signal_and_no_clean_up() {
    for (json, signal) in [(false, Signal::INT), (true, Signal::TERM)] {
        let mut call = start("end", Stdout::Full, json);
        let below = call.below();
        assert!(wait_gone(&below, BOUND).is_empty(), "it cleans up before it prints");
        call.signal(signal);
        assert_eq!(call.end(&below).0, Some(6));
    }
}

#[test]
fn a_reader_that_comes_late_gets_the_result() {
    let mut call = start("end", Stdout::Full, true);
    let below = call.below();
    let reader = call.reader.take().expect("kept");
    fcntl_setfl(&reader, OFlags::empty()).expect("a pipe");
    let mut text = String::new();
    fs::File::from(reader).read_to_string(&mut text).expect("text");
    assert_eq!(call.end(&below).0, Some(0));
    let value = format!("{{\"value\":\"{}\"}}\n", "x".repeat(100));
    assert_eq!(text.trim_start_matches('.'), value);
}
