//! Numbers that the specification asks for and that no bench prints. Not tests: run them on a machine with
//! nothing else to do, `cargo nextest run -p snakehouse-pool cells --run-ignored only --no-capture -j 1`.
//! `docs/pool.md` says which row each line belongs to.

use std::collections::VecDeque;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use snakehouse_base::{Clock, SystemClock};
use snakehouse_pool::{
    Args, CallOptions, Interpreter, Mode, Pool, PoolConfig, SharedBuffer, Value, WorkerSpec,
    WorkerState,
};

use crate::python_streams;
use crate::support::{BOUND, Rig, Watched, call, python, run, soon, wait_until, workers};

const ROUNDS: usize = 20;

fn now() -> Instant {
    SystemClock.now()
}

fn report(what: &str, limit: &str, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{what:52} median {median:>9.3?} worst {worst:>9.3?} (limit {limit})");
    median
}

/// A pool is there with its first worker; this waits for all.
async fn all_serve(pool: &Pool, count: usize) {
    let ready = |pool: &Pool| {
        pool.workers().iter().filter(|worker| worker.state == WorkerState::Ready).count()
    };
    wait_until(pool, |pool| ready(pool) == count).await;
}

/// Bare interpreters, as many at a time as there are processors: what starts cost at least.
fn bare_interpreters(interpreter: &Interpreter, count: usize) -> Duration {
    let at_once = std::thread::available_parallelism().map_or(2, usize::from);
    let began = now();
    let mut running = VecDeque::<Child>::new();
    for _ in 0..count {
        if running.len() == at_once {
            running.pop_front().unwrap().wait().unwrap();
        }
        let mut command = Command::new(interpreter.path());
        command.args(["-c", "pass"]).stdin(Stdio::null());
        running.push_back(command.spawn().unwrap());
    }
    running.into_iter().for_each(|mut child| assert!(child.wait().unwrap().success()));
    now() - began
}

#[test]
#[ignore = "a measurement"]
fn sixteen_workers_beside_sixteen_bare_interpreters() {
    run(async {
        let (mut bare, mut ready, mut down) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS / 4 {
            bare.push(bare_interpreters(&python(), 16));
            let rig = Rig::new().await;
            let began = now();
            let pool = rig.pool(workers(16)).await;
            all_serve(&pool, 16).await;
            ready.push(now() - began);
            let began = now();
            pool.stop().await;
            down.push(now() - began);
            rig.end().await;
        }
        let floor = report("16 bare interpreters", "-", bare);
        let ready = report("16 workers ready", "1.25 x the line above", ready);
        println!("{:52} {:.2}", "ratio", ready.as_secs_f64() / floor.as_secs_f64());
        report("16 idle workers down", "300 ms", down);
    });
}

#[test]
#[ignore = "a measurement"]
fn a_broken_interpreter_is_reported() {
    run(async {
        let rig = Rig::new().await;
        let broken = [
            ("a module that raises", WorkerSpec::python("x", python()).module("no.such.module")),
            ("a program that fails", WorkerSpec::program("x", "/bin/sh", ["-c", "exit 5"])),
        ];
        for (what, spec) in broken {
            let mut times = Vec::new();
            for _ in 0..ROUNDS {
                let began = now();
                let start = Pool::start(
                    rig.root.scope(),
                    rig.reaper.clone(),
                    spec.clone(),
                    PoolConfig::default(),
                );
                start.await.unwrap_err();
                times.push(now() - began);
            }
            report(what, "200 ms", times);
        }
        rig.end().await;
    });
}

#[test]
#[ignore = "a measurement"]
fn eight_sleeps_of_a_second_share_a_worker() {
    run(async {
        let rig = Rig::new().await;
        for (name, mode) in
            [("thread_tools.py", Mode::Threads), ("asyncio_tools.py", Mode::Asyncio)]
        {
            let spec = python_streams::tools(name).capacity(8, mode);
            let pool = rig.pool_of(spec, workers(1)).await;
            let work = || call(&pool, "work", Args::none().arg(1).arg("sleep").arg(1.0));
            let began = now();
            let done = tokio::join!(work(), work(), work(), work(), work(), work(), work(), work());
            let took = now() - began;
            for one in [done.0, done.1, done.2, done.3, done.4, done.5, done.6, done.7] {
                one.unwrap();
            }
            report(&format!("8 x 1 s on one worker, {mode:?}"), "1.3 s", vec![took]);
            pool.stop().await;
        }
        rig.end().await;
    });
}

#[test]
#[ignore = "a measurement"]
fn python_reads_the_deadline_of_its_caller() {
    run(async {
        let rig = Rig::new().await;
        let spec = python_streams::tools("callback_tools.py");
        let pool = rig.pool_of(spec, workers(1)).await;
        let mut apart = Vec::new();
        for _ in 0..50 * ROUNDS {
            let began = now();
            let options = CallOptions::within(BOUND);
            let left = pool.call("remaining", Args::none(), options).await.unwrap();
            let answered = now();
            // It was read at some moment between the two.
            let Value::Float(left) = left else { panic!("{left:?}") };
            let left = Duration::from_secs_f64(left);
            let (least, most) = (BOUND.saturating_sub(answered - began), BOUND);
            apart.push(least.saturating_sub(left).max(left.saturating_sub(most)));
        }
        report("deadline in Python, apart from the caller's", "5 ms", apart);
        rig.end().await;
    });
}

#[test]
#[ignore = "a measurement"]
fn streams_that_break_and_streams_that_nobody_wants() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(python_streams::tools("stream_tools.py"), workers(1)).await;
        let (mut broken, mut stopped) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let stream = pool.stream("cannot_travel", Args::none(), soon()).await.unwrap();
            stream.next().await.unwrap().unwrap();
            let began = now();
            stream.next().await.unwrap().unwrap_err();
            broken.push(now() - began);
            let stream = pool.stream("closes", Args::none().arg("x"), soon()).await.unwrap();
            stream.next().await.unwrap().unwrap();
            let began = now();
            drop(stream);
            // The worker has one place: it answers once the generator is closed.
            call(&pool, "was_closed", Args::none()).await.unwrap();
            stopped.push(now() - began);
        }
        report("an item that cannot travel is an error", "50 ms", broken);
        report("a dropped stream's generator is closed", "20 ms", stopped);
        rig.end().await;
    });
}

/// What passes after Python yields is a part of the way there and back.
#[test]
#[ignore = "a measurement"]
fn an_item_there_and_back_beside_a_call() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(python_streams::tools("stream_tools.py"), workers(1)).await;
        let (mut items, mut calls) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            for _ in 0..100 {
                let began = now();
                call(&pool, "pid", Args::none()).await.unwrap();
                calls.push(now() - began);
            }
            let stream = pool.stream("echo", Args::none(), soon()).await.unwrap();
            for _ in 0..100 {
                let began = now();
                stream.send("a token of text").await.unwrap();
                stream.next().await.unwrap().unwrap();
                items.push(now() - began);
            }
            stream.finish_sending();
            stream.result().await.unwrap();
        }
        let call = report("a call", "-", calls);
        let item = report("an item there and back", "the line above", items);
        println!("{:52} {:.2}", "ratio", item.as_secs_f64() / call.as_secs_f64());
        rig.end().await;
    });
}

#[test]
#[ignore = "a measurement"]
fn a_gibibyte_by_reference() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(python_streams::tools("buffer_tools.py"), workers(1)).await;
        let data = vec![7u8; 1 << 30];
        let (mut made, mut passed) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let began = now();
            let buffer = SharedBuffer::new(&data).unwrap();
            made.push(now() - began);
            let args = Args::none().arg(buffer.as_bytes());
            assert_eq!(call(&pool, "length", args).await.unwrap().as_i64(), Some(1 << 30));
            passed.push(now() - began);
        }
        let whole = report("1 GiB copied once and in Python", "0.21 s (5 GB/s)", passed);
        report("of that, the copy", "-", made);
        println!("{:52} {:.1} GB/s", "rate", (1u64 << 30) as f64 / whole.as_secs_f64() / 1e9);
        rig.end().await;
    });
}

#[test]
#[ignore = "a measurement"]
fn a_storm_beside_a_cold_start() {
    run(async {
        let (mut cold, mut back) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let rig = Rig::new().await;
            let began = now();
            let pool = rig.pool(workers(4)).await;
            all_serve(&pool, 4).await;
            cold.push(now() - began);
            // Who was of no use yet is started again later, on purpose.
            let mut kept = Vec::new();
            for _ in 0..4 {
                let session = pool.session(soon().deadline).await.unwrap();
                session.call("pid", Args::none(), soon()).await.unwrap();
                kept.push(session);
            }
            let all: Vec<_> = pool.workers().iter().map(|w| Watched::new(w.pid.unwrap())).collect();
            let began = now();
            all.iter().for_each(Watched::kill);
            wait_until(&pool, |pool| pool.counters().deaths == 4).await;
            all_serve(&pool, 4).await;
            back.push(now() - began);
            drop(kept);
            rig.end().await;
        }
        let cold = report("4 workers ready from cold", "-", cold);
        let back = report("4 of 4 killed, 4 ready again", "1.5 x the line above", back);
        println!("{:52} {:.2}", "ratio", back.as_secs_f64() / cold.as_secs_f64());
    });
}
