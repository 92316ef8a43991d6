//! Limits that the kernel keeps: what is beyond them fails, and what is within them does not.

use snakehouse_base::{ByteSize, Coded, Kind};
use snakehouse_pool::{Args, CallError, Death, Limits, Pool, PoolError, WorkerSpec};

use crate::support::{Rig, call, python, run, workers};

fn dying() -> WorkerSpec {
    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/causes.py");
    WorkerSpec::python("dying", python()).module(module)
}

/// The exception that a call ended with.
fn failure(error: CallError) -> String {
    match error {
        CallError::Tool { failure, .. } => failure.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn address_space_and_descriptors_are_errors_of_the_call() {
    run(async {
        let rig = Rig::new().await;
        let limits = Limits {
            address_space: Some(ByteSize::mib(512)),
            open_files: Some(64),
            ..Limits::default()
        };
        let pool = rig.pool_of(dying().limits(limits), workers(1)).await;
        let pid = call(&pool, "own_pid", Args::none()).await.unwrap();
        let error = call(&pool, "hold", Args::none().arg(1024)).await.unwrap_err();
        assert!(failure(error).contains("MemoryError"));
        let error = call(&pool, "open_many", Args::none().arg(200)).await.unwrap_err();
        assert!(failure(error).contains("Too many open files"));
        // What is within the limits goes on, in the same process.
        assert_eq!(
            call(&pool, "hold", Args::none().arg(16)).await.unwrap().as_i64(),
            Some(16 << 20)
        );
        assert_eq!(
            call(&pool, "open_many", Args::none().arg(20)).await.unwrap().as_i64(),
            Some(20)
        );
        assert_eq!(call(&pool, "own_pid", Args::none()).await.unwrap(), pid);
        rig.end().await;
    });
}

#[test]
fn memory_beyond_the_limit_costs_the_worker_its_life() {
    let Some(groups) = Limits::support().memory else {
        println!("not run: no control group with the memory controller may be made here");
        return;
    };
    run(async {
        let rig = Rig::new().await;
        let limits = Limits { memory: Some(ByteSize::mib(96)), ..Limits::default() };
        let pool = rig.pool_of(dying().limits(limits), workers(1)).await;
        call(&pool, "hold", Args::none().arg(16)).await.unwrap();
        match call(&pool, "hold", Args::none().arg(512)).await.unwrap_err() {
            CallError::WorkerDied { cause, .. } => {
                assert_eq!((&cause, cause.code()), (&Death::MemoryLimit, "memory_limit"));
            }
            other => panic!("{other:?}"),
        }
        call(&pool, "hold", Args::none().arg(16)).await.unwrap();
        let token = rig.token.to_string();
        rig.end().await;
        let left = std::fs::read_dir(groups).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains(&token)).collect();
        assert!(left.is_empty(), "groups left behind: {left:?}");
    });
}

#[test]
fn processes_beyond_the_limit_are_an_error_of_the_call() {
    if Limits::support().tasks.is_none() {
        println!("not run: no control group with the pids controller may be made here");
        return;
    }
    run(async {
        let rig = Rig::new().await;
        let limits = Limits { tasks: Some(8), ..Limits::default() };
        let pool = rig.pool_of(dying().limits(limits), workers(1)).await;
        assert_eq!(call(&pool, "fork_many", Args::none().arg(3)).await.unwrap().as_i64(), Some(3));
        let error = call(&pool, "fork_many", Args::none().arg(20)).await.unwrap_err();
        assert!(failure(error).contains("BlockingIOError"));
        rig.end().await;
    });
}

#[test]
fn a_limit_that_cannot_be_set_is_an_error_of_the_start() {
    run(async {
        let rig = Rig::new().await;
        let limits = Limits { open_files: Some(u64::MAX - 1), ..Limits::default() };
        let spec = dying().limits(limits);
        let start = Pool::start(rig.root.scope(), rig.reaper.clone(), spec, workers(1));
        let error = start.await.unwrap_err();
        assert!(matches!(error, PoolError::Spawn { .. }), "{error:?}");
        assert!(error.to_string().contains("limits"), "{error}");

        if Limits::support().memory.is_none() {
            let limits = Limits { memory: Some(ByteSize::mib(64)), ..Limits::default() };
            let spec = dying().limits(limits);
            let start = Pool::start(rig.root.scope(), rig.reaper.clone(), spec, workers(1));
            let error = start.await.unwrap_err();
            assert_eq!((error.code(), error.kind()), ("limit_unavailable", Kind::Environment));
        }
        rig.end().await;
    });
}
