//! SIGKILL of every process of the tree, at every stage of a start and under load.
//!
//! Nothing below a dead process is left, what did not die goes on, and the pool serves again.
//! `SNAKEHOUSE_KILLS` is the number of kills under load, and three fifths of it that of hosts
//! (default 25; soak 1,000). `SNAKEHOUSE_TEST_SEED` chooses who and when.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use snakehouse_base::id::RunToken;
use snakehouse_base::{Chance, Clock, SystemClock};
use snakehouse_pool::{CallError, Pool, RUN_ENV, WorkerSpec, WorkerState, sweep};
use snakehouse_testkit::in_own_process;
use tempfile::TempDir;

use crate::support::{
    BOUND, Rig, Trace, Watched, call, call_pid, python, run, tools, wait_until, workers,
};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

pub(crate) fn kills() -> u64 {
    setting("SNAKEHOUSE_KILLS", 25)
}

pub(crate) fn chance() -> Chance {
    let seed = setting("SNAKEHOUSE_TEST_SEED", 1);
    println!("SNAKEHOUSE_TEST_SEED={seed}");
    Chance::seeded(seed)
}

/// Which process of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    Reaper,
    Zygote,
    /// The process between a zygote and its next worker.
    Between,
    /// The next worker, which nobody has asked for yet.
    Next,
    Worker,
}

fn children(pid: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let list = list.unwrap_or_default();
    list.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Those below the reaper that are a zygote, and with them what they have forked and not let go.
fn zygotes(reaper: u32) -> Vec<u32> {
    let is_zygote = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.windows(8).any(|word| word == b"--zygote") && !children(*pid).is_empty()
    };
    children(reaper).into_iter().filter(is_zygote).collect()
}

fn between(reaper: u32) -> Option<u32> {
    zygotes(reaper).first().and_then(|pid| children(*pid).first().copied())
}

impl Victim {
    /// Its process now, if there is one.
    fn find(self, rig: &Rig, pool: Option<&Pool>) -> Option<Watched> {
        let reaper = rig.reaper.pid()?;
        let pid = match self {
            Self::Reaper => Some(reaper),
            Self::Zygote => rig.reaper.zygotes().iter().find_map(|zygote| match zygote.state {
                snakehouse_pool::ZygoteState::Serves { pid } => Some(pid),
                _ => None,
            }),
            Self::Between => between(reaper),
            Self::Next => between(reaper).and_then(|pid| children(pid).first().copied()),
            Self::Worker => pool?.workers().iter().find_map(|worker| worker.pid),
        };
        pid.and_then(Watched::open)
    }
}

/// A module that says its pid and waits for the gate, and the gate.
struct Stage {
    directory: TempDir,
    module: PathBuf,
    trace: Trace,
}

impl Stage {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (module, trace) = (directory.path().join("stage.py"), Trace::new());
        let text = format!(
            "import os, time\nwith open({:?}, 'a') as file:\n    file.write(f'{{os.getpid()}}\\n')\n\
             while not os.path.exists({:?}):\n    time.sleep(0.001)\n",
            trace.path(),
            directory.path().join("gate"),
        );
        std::fs::write(&module, text).unwrap();
        Self { directory, module, trace }
    }

    /// The first process that got here.
    async fn reached(&self) -> Watched {
        let looking = async {
            loop {
                match self.trace.lines().first().map(|pid| pid.parse().unwrap()) {
                    Some(pid) => return Watched::new(pid),
                    None => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(BOUND, looking).await.expect("nobody got to this stage")
    }

    fn open(&self) {
        std::fs::write(self.directory.path().join("gate"), "").unwrap();
    }

    fn name(&self) -> &str {
        self.module.to_str().unwrap()
    }
}

fn spec() -> WorkerSpec {
    WorkerSpec::python("tools", python()).module(tools().to_str().unwrap())
}

/// A start that is disturbed while a process is in `stage`, and what comes of it.
async fn disturbed(victim: Victim, stage: Stage, spec: WorkerSpec, is_import: bool) {
    let rig = Rig::new().await;
    let start = {
        let (scope, reaper, spec) = (rig.root.scope().clone(), rig.reaper.clone(), spec.clone());
        rig.root
            .scope()
            .task("start", async move { Pool::start(&scope, reaper, spec, workers(2)).await })
    };
    let at = stage.reached().await;
    let process = match victim {
        Victim::Zygote if is_import => at,
        Victim::Worker => at,
        _ => {
            let looking = async {
                loop {
                    match victim.find(&rig, None) {
                        Some(process) => return process,
                        None => tokio::task::yield_now().await,
                    }
                }
            };
            tokio::time::timeout(BOUND, looking).await.expect("there is no such process")
        }
    };
    process.kill();
    process.gone();
    stage.open();
    let pool = match start.await.unwrap() {
        Ok(pool) => pool,
        // Whoever started the pool is told that it did not come up; it may try again.
        Err(error) => {
            assert!(matches!(victim, Victim::Reaper | Victim::Worker), "{victim:?}: {error}");
            Pool::start(rig.root.scope(), rig.reaper.clone(), spec, workers(2)).await.unwrap()
        }
    };
    call_pid(&pool).await;
    rig.end().await;
}

#[test]
fn a_kill_while_the_zygote_imports() {
    for victim in [Victim::Zygote, Victim::Reaper] {
        let stage = Stage::new();
        let spec = spec().preload([stage.name()]);
        run(disturbed(victim, stage, spec, true));
    }
}

#[test]
fn a_kill_while_a_forked_worker_loads_its_modules() {
    let all = [Victim::Zygote, Victim::Between, Victim::Next, Victim::Worker, Victim::Reaper];
    for victim in all {
        let stage = Stage::new();
        let spec = spec().module(stage.name());
        run(disturbed(victim, stage, spec, false));
    }
}

#[test]
fn a_kill_while_an_executed_worker_loads_its_modules() {
    for victim in [Victim::Worker, Victim::Reaper] {
        let stage = Stage::new();
        let spec = spec().module(stage.name()).spawn();
        run(disturbed(victim, stage, spec, false));
    }
}

/// What callers have seen so far.
#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    outcomes: Mutex<BTreeMap<String, bool>>,
}

async fn keep_calling(
    pool: Pool,
    trace: Arc<Trace>,
    caller: u32,
    seen: Arc<Seen>,
    over: Arc<AtomicBool>,
) {
    for n in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("{caller}-{n}");
        let outcome = match call(&pool, "append", trace.args(&name)).await {
            Ok(value) => {
                assert_eq!(value.as_str(), Some(&*name));
                true
            }
            Err(CallError::WorkerDied { started: true, .. }) => false,
            Err(other) => panic!("{other:?}"),
        };
        let before = seen.outcomes.lock().unwrap().insert(name, outcome);
        assert_eq!(before, None);
        seen.answered.fetch_add(1, Ordering::Relaxed);
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn kills_under_load_cost_the_calls_that_ran_and_nothing_else() {
    // It counts the descriptors of its process, to which other tests add.
    let name = "tree_kills::kills_under_load_cost_the_calls_that_ran_and_nothing_else";
    in_own_process(name, || {
        run(async {
            let (chance, trace) = (chance(), Arc::new(Trace::new()));
            let rig = Rig::new().await;
            let pool = rig.pool_of(spec().preload([tools().to_str().unwrap()]), workers(2)).await;
            call_pid(&pool).await;
            let all_ready = |pool: &Pool| {
                let workers = pool.workers();
                workers.len() == 2 && workers.iter().all(|info| info.state == WorkerState::Ready)
            };
            wait_until(&pool, all_ready).await;
            let descriptors_before = descriptors();

            let (seen, over) = (Arc::new(Seen::default()), Arc::default());
            let callers: Vec<_> = (0..8)
                .map(|caller| {
                    let (pool, trace) = (pool.clone(), trace.clone());
                    let (seen, over) = (seen.clone(), Arc::clone(&over));
                    rig.root.scope().task("caller", keep_calling(pool, trace, caller, seen, over))
                })
                .collect();
            let mut counts = BTreeMap::<String, u64>::new();
            while counts.values().sum::<u64>() < kills() {
                let enough = seen.answered.load(Ordering::Relaxed) + chance.next_u64() % 20;
                wait_until(&pool, |_| seen.answered.load(Ordering::Relaxed) >= enough).await;
                let victim = match chance.next_u64() % 10 {
                    0 => Victim::Reaper,
                    1 | 2 => Victim::Zygote,
                    3 => Victim::Between,
                    4 => Victim::Next,
                    _ => Victim::Worker,
                };
                if let Some(process) = victim.find(&rig, Some(&pool)) {
                    process.kill();
                    *counts.entry(format!("{victim:?}")).or_default() += 1;
                }
            }
            over.store(true, Ordering::Relaxed);
            for caller in callers {
                caller.await.unwrap();
            }
            println!("{counts:?} killed, {} calls", seen.answered.load(Ordering::Relaxed));

            let lines = trace.lines();
            let ran = |name: &str| lines.iter().filter(|line| *line == name).count();
            for (name, answered) in &*seen.outcomes.lock().unwrap() {
                match answered {
                    true => assert_eq!(ran(name), 1, "{name} was answered"),
                    false => assert!(ran(name) <= 1, "{name} failed"),
                }
            }
            wait_until(&pool, all_ready).await;
            // A death is told before everything of it is closed.
            wait_until(&pool, |_| descriptors() <= descriptors_before).await;
            rig.end().await;
        })
    });
}

const TOKEN: &str = "TEST_KILLED_HOST_TOKEN";

/// Processes of a run, the test's own host apart.
fn marked(token: &RunToken) -> Vec<u32> {
    let entry = format!("{RUN_ENV}={token}");
    let is_marked = |pid: &u32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|found| found == entry.as_bytes())
    };
    let names = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).filter(is_marked).collect()
}

#[test]
#[ignore = "is started by the other test here"]
fn a_host_that_tells() {
    run(async {
        let Ok(token) = std::env::var(TOKEN) else { return };
        let token = RunToken::new(token);
        println!("begins");
        let rig = Rig::with_token(token.clone()).await;
        println!("reaper");
        let starting = {
            let (scope, reaper) = (rig.root.scope().clone(), rig.reaper.clone());
            let spec = spec().preload([tools().to_str().unwrap()]);
            rig.root.scope().task("start", async move {
                Pool::start(&scope, reaper, spec, workers(3)).await.unwrap()
            })
        };
        // A line for every change of what is below.
        let telling = rig.root.scope().task("tell", async move {
            let mut before = Vec::new();
            loop {
                let now = marked(&token);
                if now != before {
                    println!("below");
                }
                before = now;
                tokio::task::yield_now().await;
            }
        });
        let pool = starting.await.unwrap();
        telling.abort();
        for _ in 0..4 {
            let pool = pool.clone();
            let _caller = rig.root.scope().task("caller", async move {
                loop {
                    call_pid(&pool).await;
                    println!("answered");
                }
            });
        }
        std::future::pending::<()>().await;
    });
}

#[test]
fn nothing_is_left_of_a_host_that_is_killed_at_any_stage() {
    let chance = chance();
    let mut times = Vec::new();
    for _ in 0..kills() * 3 / 5 {
        let token = RunToken::fresh();
        let mut host = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tree_kills::a_host_that_tells", "--ignored", "--nocapture"])
            .env(TOKEN, token.as_str())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Two lines are the test harness's own.
        let lines = 3 + usize::try_from(chance.next_u64() % 16).unwrap();
        let mut output = BufReader::new(host.stdout.take().unwrap()).lines();
        for _ in 0..lines {
            output.next().unwrap().unwrap();
        }
        // Sometimes another one of the run in the same instant.
        let below = marked(&token);
        let other = match chance.next_u64() % 2 {
            0 => below.get(usize::try_from(chance.next_u64() % 8).unwrap()),
            _ => None,
        };
        let killed = SystemClock.now();
        if let Some(other) = other.and_then(|pid| Watched::open(*pid)) {
            other.kill();
        }
        host.kill().unwrap();
        host.wait().unwrap();
        while !marked(&token).is_empty() {
            assert!(SystemClock.now() - killed < BOUND, "{:?} are left", marked(&token));
        }
        times.push(SystemClock.now() - killed);
        assert_eq!(sweep(&token), [], "left behind");
    }
    times.sort();
    println!("all gone: median {:?}, worst {:?}", times[times.len() / 2], times[times.len() - 1]);
}
