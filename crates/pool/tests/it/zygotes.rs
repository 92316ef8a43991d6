//! Workers that are forked: they are what started ones are, and the zygote may die at any time.

use std::collections::BTreeSet;
use std::path::Path;

use snakehouse_base::Coded;
use snakehouse_pool::{Args, Birth, Pool, Session, Value, WorkerSpec, ZygoteState};
use tempfile::TempDir;

use crate::support::{
    Rig, Trace, Watched, call, call_pid, python, run, soon, spec, tools, wait_until, workers,
};

/// The zygote that forked each worker; a test that expects one fails without.
fn zygotes_of(pool: &Pool) -> Vec<u32> {
    let of = |birth: Option<Birth>| match birth {
        Some(Birth::Forked { zygote }) => zygote,
        other => panic!("not forked: {other:?}"),
    };
    pool.workers().into_iter().map(|info| of(info.birth)).collect()
}

fn serving(rig: &Rig) -> Vec<u32> {
    let pid = |state| match state {
        ZygoteState::Serves { pid } => Some(pid),
        _ => None,
    };
    rig.reaper.zygotes().into_iter().filter_map(|zygote| pid(zygote.state)).collect()
}

/// Sessions on as many workers.
async fn one_on_each(pool: &Pool, workers: usize) -> Vec<Session> {
    let mut sessions = Vec::new();
    for _ in 0..workers {
        sessions.push(pool.session(soon().deadline).await.unwrap());
    }
    let ids: BTreeSet<_> = sessions.iter().map(|session| session.worker().unwrap().id).collect();
    assert_eq!(ids.len(), workers);
    sessions
}

/// A module of its own in a directory of its own.
fn module(name: &str, text: &str) -> (TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(name);
    std::fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap().to_owned();
    (directory, path)
}

fn serves_tools() -> WorkerSpec {
    WorkerSpec::python("tools", python()).module(tools().to_str().unwrap())
}

#[test]
fn one_zygote_forks_all_workers_of_a_kind() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(4)).await;
        let zygotes = zygotes_of(&pool);
        assert!(zygotes.iter().all(|zygote| *zygote == zygotes[0]), "{zygotes:?}");
        assert_eq!(serving(&rig), zygotes[..1]);
        let same = rig.pool(workers(1)).await;
        assert_eq!(zygotes_of(&same), zygotes[..1]);
        let other = rig.pool_of(spec().env("OTHER", "yes"), workers(1)).await;
        assert_ne!(zygotes_of(&other), zygotes[..1]);
        assert_eq!(serving(&rig).len(), 2);
        rig.end().await;
    });
}

#[test]
fn a_forked_worker_is_what_a_started_one_is() {
    run(async {
        let rig = Rig::new().await;
        let shape = || spec().env("MINE", "yes").cwd("/").preload(["json", "decimal"]);
        let forked = rig.pool_of(shape(), workers(3)).await;
        let started = rig.pool_of(shape().spawn(), workers(1)).await;
        assert_eq!(started.workers()[0].birth, Some(Birth::Executed { why: None }));
        let expected = call(&started, "portrait", Args::none()).await.unwrap();
        zygotes_of(&forked);
        for session in one_on_each(&forked, 3).await {
            let found = session.call("portrait", Args::none(), soon()).await.unwrap();
            let (Value::Dict(found), Value::Dict(expected)) = (found, &expected) else {
                panic!("not a dict");
            };
            for ((key, found), (_, expected)) in found.iter().zip(expected) {
                assert_eq!(found, expected, "{key:?}");
            }
        }
        rig.end().await;
    });
}

#[test]
fn siblings_draw_different_numbers() {
    run(async {
        let rig = Rig::new().await;
        let (_kept, seeds) = module("seeds.py", "import random\nrandom.seed(1)\n");
        let pool = rig.pool_of(spec().preload([seeds]), workers(4)).await;
        zygotes_of(&pool);
        let mut drawn = Vec::new();
        for session in one_on_each(&pool, 4).await {
            drawn.push(session.call("draw", Args::none(), soon()).await.unwrap());
        }
        for (place, value) in drawn.iter().enumerate() {
            assert!(!drawn[..place].contains(value), "{drawn:?}");
        }
        rig.end().await;
    });
}

#[test]
fn the_death_of_the_zygote_costs_no_call_and_there_is_a_new_one() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(2)).await;
        let zygote = Watched::new(zygotes_of(&pool)[0]);
        let (trace, gate) = (Trace::new(), Trace::new());
        let running = rig.root.scope().task("running", {
            let pool = pool.clone();
            let args = trace.args("runs").arg(gate.path());
            async move { call(&pool, "append_and_wait", args).await }
        });
        trace.wait_for("runs").await;

        zygote.kill();
        zygote.gone();

        // Nobody asked for the next one.
        wait_until(&pool, |_| serving(&rig).iter().any(|pid| *pid != zygote.pid)).await;
        gate.write("go");
        assert_eq!(running.await.unwrap().unwrap(), Value::from("runs"));
        assert!(pool.workers().iter().all(|info| info.restarts == 0));
        for info in pool.workers() {
            Watched::new(info.pid.unwrap()).kill();
        }
        wait_until(&pool, |pool| pool.workers().iter().all(|info| info.restarts == 1)).await;
        call_pid(&pool).await;
        wait_until(&pool, |pool| pool.workers().iter().all(|info| info.birth.is_some())).await;
        let new = zygotes_of(&pool);
        assert!(new.iter().all(|pid| *pid != zygote.pid), "{new:?}");
        rig.end().await;
    });
}

#[test]
fn what_forbids_a_fork_is_named_and_workers_start_all_the_same() {
    run(async {
        let rig = Rig::new().await;
        let culprits = [
            (
                "threaded.py",
                "import threading\nstop = threading.Event()\n\
                 threading.Thread(target=stop.wait, name='busybody', daemon=True).start()\n",
                "the thread 'busybody'",
            ),
            ("device.py", "file = open('/dev/ptmx', 'rb+', 0)\n", "device"),
            ("queue.py", "import socket\npair = socket.socketpair()\n", "the open socket:"),
            (
                "parent.py",
                "import subprocess\nchild = subprocess.Popen(['sleep', '600'])\n",
                "process",
            ),
        ];
        for (name, text, expected) in culprits {
            let (_kept, path) = module(&format!("culprit_{name}"), text);
            let spec = serves_tools().preload(["json", &path]);
            let pool = rig.pool_of(spec, workers(2)).await;
            for info in pool.workers() {
                let Some(Birth::Executed { why: Some(why) }) = info.birth else {
                    panic!("{:?}", info.birth);
                };
                assert!(why.contains(expected) && why.contains(&path), "{why}");
            }
            let unfit = |state: &ZygoteState| matches!(state, ZygoteState::Unfit { why } if why.contains(expected));
            assert!(rig.reaper.zygotes().iter().any(|zygote| unfit(&zygote.state)), "{name}");
            pool.stop().await;
        }
        assert!(serving(&rig).is_empty());
        rig.end().await;
    });
}

#[test]
fn a_file_that_is_read_is_opened_anew_in_each_worker() {
    run(async {
        let rig = Rig::new().await;
        let (_kept, path) = module(
            "reading.py",
            "import sys\nfrom snakehouse import tool\nfile = open(__file__, 'rb', 0)\nfile.read(7)\n\
             @tool\ndef read(n):\n    return file.read(n)\n",
        );
        let spec = WorkerSpec::python("tools", python()).module(&path).preload([&path]);
        let pool = rig.pool_of(spec, workers(3)).await;
        zygotes_of(&pool);
        for session in one_on_each(&pool, 3).await {
            let read = session.call("read", Args::none().arg(3), soon()).await.unwrap();
            assert_eq!(read, Value::Bytes(b"sys".to_vec().into()));
        }
        rig.end().await;
    });
}

#[test]
fn what_cannot_be_preloaded_is_named_until_it_is_mended() {
    run(async {
        let rig = Rig::new().await;
        let (kept, path) = module("broken.py", "print('trying')\nimport no_such_module\n");
        let start = async || {
            let spec = serves_tools().preload([&path]);
            Pool::start(rig.root.scope(), rig.reaper.clone(), spec, workers(2)).await
        };
        let error = start().await.unwrap_err();
        assert_eq!(error.code(), "worker_not_ready");
        assert!(error.to_string().contains("no_such_module"), "{error}");

        std::fs::write(Path::new(&path), "mended = True\n").unwrap();
        let pool = start().await.unwrap();
        zygotes_of(&pool);
        drop(kept);
        rig.end().await;
    });
}

#[test]
fn what_ends_the_zygote_while_it_imports_ends_the_worker_too() {
    run(async {
        let rig = Rig::new().await;
        let (_kept, path) = module("crash.py", "import os\nos.abort()\n");
        let spec = serves_tools().preload([&path]);
        let start = Pool::start(rig.root.scope(), rig.reaper.clone(), spec, workers(1));
        let error = start.await.unwrap_err();
        assert_eq!(error.code(), "worker_not_ready");
        assert!(error.to_string().contains("SIGABRT"), "{error}");
        rig.end().await;
    });
}
