//! The reaper dies: everything below it is ended, and the pool serves again.

use snakehouse_base::{Coded, Kind};
use snakehouse_pool::{Args, Death, Pool, PoolConfig};

use crate::support::{Rig, Trace, Watched, call, call_pid, run, soon, watched, workers};

#[test]
fn a_killed_reaper_takes_everything_with_it_and_comes_back() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(2)).await;
        for restarts in 0..3 {
            let reaper = Watched::new(rig.reaper.pid().unwrap());
            let session = pool.session(soon().deadline).await.unwrap();
            let left = watched(&session.call("litter", Args::none(), soon()).await.unwrap());
            let mut doomed: Vec<_> =
                pool.workers().iter().filter_map(|worker| worker.pid).map(Watched::new).collect();
            doomed.extend(left);
            let trace = Trace::new();
            let running = rig.root.scope().task("running", {
                let (pool, args) = (pool.clone(), trace.args("running").arg(600.0));
                async move { call(&pool, "append", args).await }
            });
            trace.wait_for("running").await;

            reaper.kill();

            let error = running.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), Kind::WorkerDied, "{error}");
            assert_eq!(session.ended().await.death(), Some(&Death::ReaperDied));
            doomed.iter().for_each(Watched::gone);
            call_pid(&pool).await;
            assert_eq!(rig.reaper.restarts(), restarts + 1);
            assert_ne!(rig.reaper.pid(), Some(reaper.pid));
        }
        rig.end().await;
    });
}

#[test]
fn a_reaper_told_to_terminate_ends_everything_first() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let left = watched(&call(&pool, "litter", Args::none()).await.unwrap());
        let pid = rig.reaper.pid().unwrap();
        let reaper = Watched::new(pid);
        let name = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        rustix::process::kill_process(name, rustix::process::Signal::TERM).unwrap();
        reaper.gone();
        left.iter().for_each(Watched::gone);
        call_pid(&pool).await;
        rig.end().await;
    });
}

#[test]
fn a_reaper_that_does_not_answer_is_replaced() {
    run(async {
        let rig = Rig::new().await;
        let start_within = std::time::Duration::from_secs(2);
        let pool = rig.pool(PoolConfig { start_within, ..workers(1) }).await;
        let worker = Watched::new(call_pid(&pool).await);
        let reaper = Watched::new(rig.reaper.pid().unwrap());
        reaper.pause();
        worker.kill();
        call_pid(&pool).await;
        reaper.gone();
        assert_eq!(rig.reaper.restarts(), 1);
        rig.end().await;
    });
}

/// All pools have their workers below the same reaper.
#[test]
fn an_impatient_pool_costs_no_other_its_workers() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let worker = call_pid(&pool).await;
        let start_within = std::time::Duration::from_millis(1);
        let impatient = PoolConfig { start_within, ..workers(1) };
        let mute = snakehouse_pool::WorkerSpec::program("mute", "/bin/sleep", ["600"]);
        let start = Pool::start(rig.root.scope(), rig.reaper.clone(), mute, impatient);
        start.await.expect_err("it never says that it is ready");
        assert_eq!(call_pid(&pool).await, worker);
        assert_eq!(rig.reaper.restarts(), 0);
        rig.end().await;
    });
}

/// Caches are cleaned by others; a worker that does not find its program gets it back.
#[test]
fn a_damaged_package_is_mended_while_the_pool_runs() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let cache = rig.cache.path().join("cache");
        for package in std::fs::read_dir(&cache).unwrap() {
            std::fs::remove_dir_all(package.unwrap().path().join("snakehouse")).unwrap();
        }
        Watched::new(call_pid(&pool).await).kill();
        call_pid(&pool).await;
        let reaper = Watched::new(rig.reaper.pid().unwrap());
        reaper.kill();
        // Until then the worker lives, and may take the call and die with it.
        reaper.gone();
        call_pid(&pool).await;
        rig.end().await;
    });
}
