//! What a host leaves that was killed together with its reaper is found by the next one, and nothing
//! else is.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use snakehouse_pool::{Args, RUN_ENV, Run};

use crate::support::{Rig, Watched, call, run, wait_until, watched, workers};

const DIRECTORY: &str = "TEST_RUNS_DIRECTORY";

/// How often hosts come and go beside one that stays. `SNAKEHOUSE_RESTARTS` sets it.
fn restarts() -> usize {
    std::env::var("SNAKEHOUSE_RESTARTS").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

#[test]
#[ignore = "is started by the other tests here"]
fn a_run() {
    run(async {
        let Ok(directory) = std::env::var(DIRECTORY) else { return };
        let record = Run::begin(Path::new(&directory)).unwrap();
        assert!(record.found().is_empty());
        let rig = Rig::with_token(record.token().clone()).await;
        let pool = rig.pool(workers(1)).await;
        let litter = call(&pool, "litter", Args::none()).await.unwrap();
        let mut pids = vec![rig.reaper.pid().unwrap(), pool.workers()[0].pid.unwrap()];
        pids.extend(litter.as_slice().unwrap().iter().map(crate::support::as_pid));
        let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
        println!("pids {}", pids.join(" "));
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        rig.end().await;
        record.end();
    });
}

/// A host, what else it prints, and what is below it: reaper, worker, litter.
fn start(directory: &Path) -> (Child, Lines<BufReader<ChildStdout>>, Vec<Watched>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "runs::a_run", "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let pids = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("pids ").map(str::to_owned))
        .expect("the host did not get ready");
    (child, lines, pids.split(' ').map(|pid| Watched::new(pid.parse().unwrap())).collect())
}

#[test]
fn a_clean_end_leaves_nothing_to_find() {
    let directory = tempfile::tempdir().unwrap();
    let (mut host, said, below) = start(directory.path());
    drop(host.stdin.take());
    let last: Vec<_> = said.map_while(Result::ok).collect();
    assert!(host.wait().unwrap().success(), "{last:?}");
    below.iter().for_each(Watched::gone);
    let next = Run::begin(directory.path()).unwrap();
    assert_eq!(next.found(), []);
    next.end();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn host_and_reaper_killed_at_once_leave_what_the_next_run_ends_and_names() {
    let directory = tempfile::tempdir().unwrap();
    let (mut host, _said, below) = start(directory.path());
    let host_pid = Pid::from_raw(host.id().try_into().unwrap()).unwrap();
    let reaper = &below[0];
    // Neither sees the other die.
    reaper.pause();
    kill_process(host_pid, Signal::STOP).unwrap();
    reaper.kill();
    kill_process(host_pid, Signal::KILL).unwrap();
    host.wait().unwrap();
    reaper.gone();

    let began = tokio::time::Instant::now();
    let next = Run::begin(directory.path()).unwrap();
    println!("the next run began after {:?}", began.elapsed());
    below.iter().for_each(Watched::gone);
    let found: Vec<_> = next.found().iter().map(|process| process.pid).collect();
    // The worker's group is the kernel's to end; what left the group is not.
    assert!(found.contains(&below[3].pid) && found.contains(&below[4].pid), "{found:?}");
    assert!(next.found().iter().any(|process| process.command == "sleep 600"));
    next.end();
    let third = Run::begin(directory.path()).unwrap();
    assert_eq!(third.found(), [], "counted once");
    third.end();
}

#[test]
fn hosts_that_share_a_directory_never_end_each_other_s_processes() {
    let directory = tempfile::tempdir().unwrap();
    // Until its first program runs, a process that is spawned has the memory of this test, which is
    // marked with nothing.
    let sleeper = |run: &Run| {
        let mut child = Command::new("sh")
            .args(["-c", "echo up; exec sleep 600"])
            .env(RUN_ENV, run.token().as_str())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        child
    };
    let stays = Run::begin(directory.path()).unwrap();
    let mut bystander = sleeper(&stays);
    let mut left: Option<Child> = None;
    for _ in 0..restarts() {
        let comes = Run::begin(directory.path()).unwrap();
        let found: Vec<_> = comes.found().iter().map(|process| process.pid).collect();
        assert_eq!(found, left.iter().map(Child::id).collect::<Vec<_>>());
        if let Some(mut left) = left.take() {
            assert!(!left.wait().unwrap().success());
        }
        left = Some(sleeper(&comes));
        // It goes without a clean end.
        drop(comes);
    }
    assert!(bystander.try_wait().unwrap().is_none(), "ended by another run");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    Run::begin(directory.path()).unwrap().end();
    if let Some(mut left) = left {
        left.wait().unwrap();
    }
    stays.end();
}

#[test]
fn what_a_dead_reaper_left_is_counted() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        assert_eq!(rig.reaper.swept(), 0);
        let litter = watched(&call(&pool, "litter", Args::none()).await.unwrap());
        Watched::new(rig.reaper.pid().unwrap()).kill();
        litter.iter().for_each(Watched::gone);
        // Two left the group; the kernel may be quicker with the rest.
        wait_until(&pool, |_| rig.reaper.swept() >= 2).await;
        rig.end().await;
    });
}
