//! The host dies: nothing below it is left.
//!
//! The host is this test binary once more, in a process of its own, running the ignored test
//! `a_host`. It says on standard output what it started, and is then killed.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use snakehouse_base::id::RunToken;
use snakehouse_pool::{Args, Pool, sweep};

use crate::support::{Rig, Watched, as_pid, call, run, soon, wait_until, workers};

const TOKEN: &str = "TEST_HOST_TOKEN";
const BUSY: &str = "TEST_HOST_BUSY";

/// Another process that runs a pool of two workers with litter below them.
pub(crate) struct Host {
    pub(crate) child: Child,
    token: RunToken,
    pub(crate) reaper: Watched,
    /// Workers and litter.
    pub(crate) below: Vec<Watched>,
}

impl Host {
    pub(crate) fn start(busy: &str) -> Self {
        let token = RunToken::fresh();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "host::a_host", "--ignored", "--nocapture"])
            .env(TOKEN, token.as_str())
            .env(BUSY, busy)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let pids = lines
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("pids ").map(str::to_owned))
            .expect("the host did not get ready");
        let mut pids = pids.split(' ').map(|pid| Watched::new(pid.parse().unwrap()));
        let reaper = pids.next().unwrap();
        Self { child, token, reaper, below: pids.collect() }
    }

    /// Waits until everything is gone that was there.
    pub(crate) fn gone(mut self) {
        self.child.wait().unwrap();
        self.reaper.gone();
        self.below.iter().for_each(Watched::gone);
        assert_eq!(sweep(&self.token), [], "left behind");
    }
}

#[test]
#[ignore = "is started by the other tests here"]
fn a_host() {
    run(async {
        let Ok(token) = std::env::var(TOKEN) else { return };
        let busy = std::env::var(BUSY).unwrap();
        let rig = Rig::with_token(RunToken::new(token)).await;
        let pool = rig.pool(workers(2)).await;
        let mut pids = vec![rig.reaper.pid().unwrap()];
        pids.extend(pool.workers().iter().filter_map(|worker| worker.pid));
        let sessions = [
            pool.session(soon().deadline).await.unwrap(),
            pool.session(soon().deadline).await.unwrap(),
        ];
        for session in &sessions {
            let litter = session.call("litter", Args::none(), soon()).await.unwrap();
            pids.extend(litter.as_slice().unwrap().iter().map(as_pid));
        }
        if busy != "idle" {
            for _ in 0..2 {
                let (pool, tool): (Pool, _) = (pool.clone(), busy.clone());
                let args = match &*tool {
                    "sleep" => Args::none().arg(600),
                    _ => Args::none(),
                };
                let _running =
                    rig.root.scope().task("busy", async move { call(&pool, &tool, args).await });
            }
            wait_until(&pool, |pool| pool.workers().iter().all(|info| info.in_flight == 1)).await;
        }
        let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
        println!("pids {}", pids.join(" "));
        // Ends by the kill.
        std::future::pending::<()>().await;
    });
}

#[test]
fn nothing_outlives_a_killed_host() {
    for busy in ["idle", "spin", "sleep", "stubborn"] {
        let mut host = Host::start(busy);
        assert!(host.below.len() == 8 && host.below.iter().all(Watched::is_alive), "{busy}");
        host.child.kill().unwrap();
        host.gone();
    }
}

#[test]
fn workers_and_their_groups_end_without_host_and_reaper() {
    let mut host = Host::start("spin");
    host.reaper.kill();
    host.child.kill().unwrap();
    host.child.wait().unwrap();
    host.reaper.gone();
    // Workers and plain children end by the kernel alone; those that left the group may be left,
    // and the next start finds them.
    let found = sweep(&host.token);
    let escaped: Vec<_> = host.below[2..].chunks(3).flat_map(|litter| &litter[1..]).collect();
    for found in &found {
        assert!(
            escaped.iter().any(|process| process.pid == found.pid)
                || !host.below.iter().any(|process| process.pid == found.pid && process.is_alive()),
            "{found:?} should have ended by itself"
        );
    }
    host.gone();
}
