//! How long things take, for ADR 0003 and 0009. Not tests: run them on a machine with nothing else to do,
//! `cargo nextest run -p snakehouse-pool measure --run-ignored only --no-capture -j 1`.

use std::time::{Duration, Instant};

use snakehouse_base::{Clock, SystemClock};
use snakehouse_pool::{Args, Pool, PoolConfig, WorkerSpec, WorkerState};

use crate::host::Host;
use crate::support::{
    Rig, Trace, Watched, call, call_pid, run, soon, spec, wait_until, watched, workers,
};

const ROUNDS: usize = 20;

fn now() -> Instant {
    SystemClock.now()
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    println!(
        "{what:40} median {:>9.3?} worst {:>9.3?}",
        times[times.len() / 2],
        times[times.len() - 1]
    );
}

#[test]
#[ignore = "a measurement"]
fn measure_kill_of_the_host() {
    for busy in ["idle", "spin", "sleep", "stubborn"] {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let mut host = Host::start(busy);
            let killed = now();
            host.child.kill().unwrap();
            host.reaper.gone();
            host.below.iter().for_each(Watched::gone);
            times.push(now() - killed);
            host.gone();
        }
        report(&format!("host killed, {busy}: all 9 below gone"), times);
    }
}

#[test]
#[ignore = "a measurement"]
fn measure_kill_of_the_reaper() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let (mut gone, mut serves) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let mut below = watched(&call(&pool, "litter", Args::none()).await.unwrap());
            below.push(Watched::new(call_pid(&pool).await));
            let reaper = Watched::new(rig.reaper.pid().unwrap());
            let killed = now();
            reaper.kill();
            below.iter().for_each(Watched::gone);
            gone.push(now() - killed);
            call_pid(&pool).await;
            serves.push(now() - killed);
        }
        report("reaper killed: all 4 below gone", gone);
        report("reaper killed: the pool serves again", serves);
        rig.end().await;
    });
}

#[test]
#[ignore = "a measurement"]
fn measure_kill_of_a_worker() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let (mut error, mut serves, mut left) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let litter = watched(&call(&pool, "litter", Args::none()).await.unwrap());
            let worker = Watched::new(call_pid(&pool).await);
            let trace = Trace::new();
            let running = rig.root.scope().task("running", {
                let (pool, args) = (pool.clone(), trace.args("x").arg(600.0));
                async move { call(&pool, "append", args).await }
            });
            trace.wait_for("x").await;
            let killed = now();
            worker.kill();
            running.await.unwrap().unwrap_err();
            error.push(now() - killed);
            litter.iter().for_each(Watched::gone);
            left.push(now() - killed);
            call_pid(&pool).await;
            serves.push(now() - killed);
        }
        report("worker killed: typed error", error);
        report("worker killed: its 3 children gone", left);
        report("worker killed: replacement answered", serves);
        rig.end().await;
    });
}

/// User and system time of a process so far.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(") ").next().unwrap();
    let ticks: u64 =
        fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// Voluntary switches of all threads of a process so far.
fn switches(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |task: std::io::Result<std::fs::DirEntry>| {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    tasks.map(of).sum()
}

#[test]
#[ignore = "a measurement"]
fn measure_an_idle_minute() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(4)).await;
        call_pid(&pool).await;
        let mut tree = vec![std::process::id(), rig.reaper.pid().unwrap()];
        tree.extend(pool.workers().iter().filter_map(|worker| worker.pid));
        let read = || -> (Duration, u64) {
            (tree.iter().map(|&pid| cpu(pid)).sum(), tree.iter().map(|&pid| switches(pid)).sum())
        };
        let before = read();
        // audit(sleep): the minute of idleness is what is measured
        tokio::time::sleep(Duration::from_secs(60)).await;
        let after = read();
        println!(
            "idle for 60 s, host, reaper and 4 workers: {:?} of CPU, {} voluntary switches",
            after.0 - before.0,
            after.1 - before.1
        );
        rig.end().await;
    });
}

fn serving(pool: &Pool) -> usize {
    pool.workers().iter().filter(|worker| worker.state == WorkerState::Ready).count()
}

#[test]
#[ignore = "a measurement"]
fn measure_a_storm_and_a_spare_worker() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(4)).await;
        let (mut back, mut kept) = (Vec::new(), Vec::new());
        for round in 1..=ROUNDS as u64 {
            // One that was of no use yet is started again later, on purpose.
            for _ in 0..4 {
                let session = pool.session(soon().deadline).await.unwrap();
                session.call("pid", Args::none(), soon()).await.unwrap();
                kept.push(session);
            }
            let all: Vec<_> = pool.workers().iter().map(|w| Watched::new(w.pid.unwrap())).collect();
            let killed = now();
            all.iter().for_each(Watched::kill);
            wait_until(&pool, |pool| pool.counters().deaths == 4 * round && serving(pool) == 4)
                .await;
            back.push(now() - killed);
            kept.clear();
        }
        report("4 of 4 workers killed: 4 serve again", back);
        let spared = rig.pool(PoolConfig { standby: 1, ..workers(1) }).await;
        let mut answered = Vec::new();
        for _ in 0..ROUNDS {
            wait_until(&spared, |pool| {
                pool.workers().iter().any(|worker| worker.state == WorkerState::Standby)
            })
            .await;
            let worker = Watched::new(call_pid(&spared).await);
            let killed = now();
            worker.kill();
            while call_pid(&spared).await == worker.pid {}
            answered.push(now() - killed);
        }
        report("worker killed, one to spare: answered", answered);
        rig.end().await;
    });
}

/// Starts of a pool alone, and beside pools that are broken in each way.
#[test]
#[ignore = "a measurement"]
fn measure_a_pool_s_start_beside_broken_ones() {
    run(async {
        let (mut alone, mut beside, mut hung) = (Vec::new(), Vec::new(), Vec::new());
        let broken = |rig: &Rig, spec: WorkerSpec| {
            let (scope, reaper) = (rig.root.scope().clone(), rig.reaper.clone());
            let start = async move { Pool::start(&scope, reaper, spec, workers(4)).await };
            rig.root.scope().task("broken", start)
        };
        for _ in 0..ROUNDS {
            let rig = Rig::new().await;
            // The first pool pays for what later ones share.
            rig.pool(workers(1)).await.stop().await;
            let begun = now();
            rig.pool(workers(2)).await.stop().await;
            alone.push(now() - begun);
            let begun = now();
            let fails = broken(&rig, WorkerSpec::program("fails", "/bin/sh", ["-c", "exit 5"]));
            let pool = Pool::start(rig.root.scope(), rig.reaper.clone(), spec(), workers(2));
            pool.await.unwrap().stop().await;
            beside.push(now() - begun);
            fails.await.unwrap().unwrap_err();
            let begun = now();
            let _hangs = broken(&rig, WorkerSpec::program("hangs", "/bin/sleep", ["600"]));
            let pool = Pool::start(rig.root.scope(), rig.reaper.clone(), spec(), workers(2));
            pool.await.unwrap().stop().await;
            hung.push(now() - begun);
            rig.end().await;
        }
        report("2 workers, alone: started and stopped", alone);
        report("beside 4 that fail at once", beside);
        report("beside 4 that never say hello", hung);
    });
}
