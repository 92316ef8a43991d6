//! Every cause of death, with a real process for each that a process can be made to die of.
//!
//! Two cannot be provoked here and are given as statuses, in `src/death.rs`: the machine out of
//! memory, and a worker whose end nobody learned.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use snakehouse_pool::{
    Args, CallError, Death, KillReason, Limits, Pool, PoolConfig, PoolError, WorkerSpec,
};

use crate::support::{Rig, Trace, call, python, run, soon, spec, workers};

fn dying() -> WorkerSpec {
    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/causes.py");
    WorkerSpec::python("dying", python()).module(module)
}

/// The cause that a call's error names.
fn cause(error: CallError) -> Death {
    match error {
        CallError::WorkerDied { started: true, cause, .. } => cause,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_worker_s_own_ways_to_die_have_names() {
    let signal = |signal: Signal| Args::none().arg(i64::from(signal.as_raw()));
    let table = [
        ("leave", Args::none().arg(0), "exit_ok"),
        ("leave", Args::none().arg(3), "exit_error"),
        ("segfault", Args::none(), "segfault"),
        ("abort", Args::none(), "abort"),
        ("bus_error", Args::none(), "bus_error"),
        ("raise_signal", signal(Signal::ILL), "illegal_instruction"),
        ("raise_signal", signal(Signal::FPE), "arithmetic_fault"),
        ("raise_signal", signal(Signal::SYS), "forbidden_call"),
        ("raise_signal", signal(Signal::USR1), "signal"),
        ("garbage", Args::none(), "broke_protocol"),
        ("hang_up", Args::none(), "closed_socket"),
    ];
    run(async {
        let rig = Rig::new().await;
        let tools = crate::support::tools();
        let pool = rig.pool_of(dying().module(tools.to_str().unwrap()), workers(1)).await;
        for (tool, args, expected) in table {
            let death = cause(call(&pool, tool, args).await.unwrap_err());
            assert_eq!(death.code(), expected, "{tool}: {death}");
            assert!(death.is_own_fault(), "{death}");
        }
        rig.end().await;
    });
}

#[test]
fn what_others_do_to_a_worker_has_names() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        for (signal, expected) in [(Signal::KILL, "killed"), (Signal::TERM, "terminated")] {
            let trace = Trace::new();
            let (running, ()) =
                tokio::join!(call(&pool, "append", trace.args("x").arg(600)), async {
                    trace.wait_for("x").await;
                    let pid = pool.workers()[0].pid.unwrap();
                    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
                });
            let death = cause(running.unwrap_err());
            assert_eq!((death.code(), death.is_own_fault()), (expected, false));
        }
        let trace = Trace::new();
        let (running, ()) = tokio::join!(call(&pool, "append", trace.args("x").arg(600)), async {
            trace.wait_for("x").await;
            let pid = rig.reaper.pid().unwrap();
            kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
        });
        assert_eq!(cause(running.unwrap_err()).code(), "reaper_died");
        rig.end().await;
    });
}

#[test]
fn what_the_pool_does_to_a_worker_has_names() {
    run(async {
        let rig = Rig::new().await;
        let grace = Some(Duration::from_millis(50));
        let config = PoolConfig { stop_grace: Duration::from_millis(50), ..workers(1) };
        let pool = rig.pool_of(spec().cancel_grace(grace), config).await;
        let session = pool.session(soon().deadline).await.unwrap();
        let trace = Trace::new();
        let mut deaf = Box::pin(session.call("stubborn", Args::none().arg(trace.path()), soon()));
        tokio::select! {
            biased;
            outcome = &mut deaf => panic!("{outcome:?}"),
            () = trace.wait_for("running") => {}
        }
        drop(deaf);
        let end = session.ended().await;
        let lost = end.death().unwrap();
        assert_eq!(*lost, Death::Killed(KillReason::CancelIgnored));
        assert_eq!(lost.code(), "cancel_ignored");

        let trace = Trace::new();
        let (running, ()) = tokio::join!(call(&pool, "append", trace.args("x").arg(600)), async {
            trace.wait_for("x").await;
            pool.stop().await;
        });
        let death = cause(running.unwrap_err());
        assert_eq!((death.code(), death.is_own_fault()), ("stopped", false));
        rig.end().await;
    });
}

/// A worker that answers `hello` with these bytes of MessagePack.
fn greets(body: &str) -> WorkerSpec {
    let program = format!(
        "import os, struct, time\nbody = {body}\n\
         os.write(0, struct.pack('<IBI', len(body), 1, 0) + body)\ntime.sleep(600)"
    );
    let python = python().path().to_str().unwrap().to_owned();
    WorkerSpec::program("greets", python, ["-I".to_owned(), "-c".to_owned(), program])
}

#[test]
fn what_fails_before_the_first_call_has_names() {
    run(async {
        let rig = Rig::new().await;
        let start = async |spec: WorkerSpec, within: Duration| {
            let config = PoolConfig { start_within: within, ..workers(1) };
            let start = Pool::start(rig.root.scope(), rig.reaper.clone(), spec, config);
            match start.await.unwrap_err() {
                PoolError::NotReady { cause, .. } => cause.code(),
                other => panic!("{other:?}"),
            }
        };
        let soon = crate::support::BOUND;
        let mute = WorkerSpec::program("mute", "/bin/sleep", ["600"]);
        assert_eq!(start(mute, Duration::from_secs(2)).await, "no_hello");
        assert_eq!(start(greets("b'\\xc0'"), soon).await, "bad_hello");
        let missing = WorkerSpec::python("missing", python()).module("no_such_module");
        assert_eq!(start(missing, soon).await, "refused_to_serve");
        let short = WorkerSpec::program("short", "/bin/sh", ["-c", "exit 4"]);
        assert_eq!(start(short, soon).await, "exit_error");
        rig.end().await;
    });
}

#[test]
fn a_worker_that_uses_up_its_time_is_told_apart_from_one_that_is_killed() {
    run(async {
        let rig = Rig::new().await;
        let limits = Limits { cpu: Some(Duration::from_secs(1)), ..Limits::default() };
        let pool = rig.pool_of(dying().limits(limits), workers(1)).await;
        let death = cause(call(&pool, "burn", Args::none()).await.unwrap_err());
        assert_eq!((&death, death.code()), (&Death::CpuLimit, "cpu_limit"));
        // Ignoring the first word brings the second, which nobody ignores.
        let ignored = Args::none().arg(i64::from(Signal::XCPU.as_raw()));
        let death = cause(call(&pool, "burn", ignored).await.unwrap_err());
        assert_eq!(death, Death::CpuLimit);
        assert!(death.is_own_fault());
        rig.end().await;
    });
}
