//! Scripts end in every way that a program can end, and leave nothing.
//!
//! A script is this test binary once more, in a process of its own with a cache of its own, running
//! the ignored test `a_script`. It says on standard output what it started, then does what it was told
//! to.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, ExitStatus, Stdio, Termination};

use rustix::process::{Pid, Signal, kill_process};
use snakehouse_base::Coded;
use snakehouse_pool::{Args, Host, PoolConfig, PoolError, script};

use crate::support::{Watched, as_pid, call, spec};

const WAY: &str = "TEST_SCRIPT_WAY";

#[test]
#[ignore = "is started by the other tests here"]
#[expect(clippy::exit, reason = "it stands for a program, whose status the other tests look at")]
fn a_script() {
    let Ok(way) = std::env::var(WAY) else { return };
    let outcome: Result<(), Box<dyn Error>> = script(async |host| body(host, &way).await);
    // What `main` does with what it returns.
    let status = outcome.report();
    std::process::exit(i32::from(status != ExitCode::SUCCESS));
}

async fn body(host: &Host, way: &str) -> Result<(), Box<dyn Error>> {
    let pool = host.pool(spec(), PoolConfig::default()).await?;
    let worker = pool.workers()[0].pid.ok_or("it serves")?;
    let litter = call(&pool, "litter", Args::none()).await?;
    let mut pids = vec![worker];
    pids.extend(litter.as_slice().ok_or("a list")?.iter().map(as_pid));
    let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
    println!("pids {}", pids.join(" "));
    // Until they are watched: a process that is gone cannot be.
    std::io::stdin().read_line(&mut String::new())?;
    match way {
        "end" => Ok(()),
        "error" => Err("as was wished".into()),
        "panic" => panic!("as was wished"),
        "wait" => Ok(call(&pool, "sleep", Args::none().arg(3600)).await.map(drop)?),
        // Nobody reads: standard output is closed, and writing to it panics.
        "write" => loop {
            println!("more");
        },
        other => Err(other.into()),
    }
}

struct Started {
    child: Child,
    stdout: BufReader<ChildStdout>,
    below: Vec<Watched>,
}

fn start(way: &str, cache: &Path) -> Started {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "scripts::a_script", "--ignored", "--nocapture"])
        .env(WAY, way)
        .env("XDG_CACHE_HOME", cache)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let pids = stdout
        .by_ref()
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("pids ").map(str::to_owned))
        .expect("the script did not get ready");
    let below = pids.split(' ').map(|pid| Watched::new(pid.parse().unwrap())).collect();
    child.stdin.take().unwrap().write_all(b"go on\n").unwrap();
    Started { child, stdout, below }
}

impl Started {
    /// How it ended and what it wrote on standard error, once nothing of it is left.
    fn end(self, cache: &Path) -> (ExitStatus, String) {
        let Self { child, stdout: _open, below } = self;
        let output = child.wait_with_output().unwrap();
        below.iter().for_each(Watched::gone);
        let records = cache.join("snakehouse/runs");
        assert!(records.is_dir(), "it was not recorded");
        (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn ended(way: &str) -> (ExitStatus, String, usize) {
    let cache = tempfile::tempdir().unwrap();
    let (status, said) = start(way, cache.path()).end(cache.path());
    (status, said, records(cache.path()))
}

fn records(cache: &Path) -> usize {
    std::fs::read_dir(cache.join("snakehouse/runs")).unwrap().count()
}

#[test]
fn a_script_that_ends_has_status_0_and_leaves_nothing() {
    let (status, said, records) = ended("end");
    assert_eq!((status.code(), records), (Some(0), 0), "{said}");
}

#[test]
fn a_script_that_fails_has_status_1_says_why_and_leaves_nothing() {
    let (status, said, records) = ended("error");
    assert_eq!((status.code(), records), (Some(1), 0), "{said}");
    assert!(said.contains("as was wished"), "{said}");
}

#[test]
fn a_script_that_panics_leaves_nothing_but_the_record_for_the_next() {
    let (status, said, records) = ended("panic");
    assert_eq!((status.success(), records), (false, 1), "{said}");
    assert!(said.contains("as was wished"), "{said}");
}

#[test]
fn a_script_is_interrupted_in_the_middle_of_a_call() {
    for signal in [Signal::INT, Signal::TERM] {
        let cache = tempfile::tempdir().unwrap();
        let script = start("wait", cache.path());
        let pid = Pid::from_raw(script.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        let (status, said) = script.end(cache.path());
        assert_eq!((status.code(), records(cache.path())), (Some(1), 0), "{signal:?}: {said}");
        assert!(said.contains(&format!("{:?}", PoolError::Interrupted)), "{said}");
        assert_eq!(PoolError::Interrupted.code(), "interrupted");
    }
}

#[test]
fn a_script_whose_output_nobody_reads_ends_and_leaves_nothing() {
    let cache = tempfile::tempdir().unwrap();
    let Started { child, stdout, below } = start("write", cache.path());
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    below.iter().for_each(Watched::gone);
}
