//! Tools of the host: values, errors, deadlines, cancels, limits, and chains that cannot stand still.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures_util::future::{join, join_all};
use serde::{Deserialize, Serialize};
use snakehouse_base::{Coded, Deadline, Kind};
use snakehouse_pool::{
    Args, CallError, CallOptions, HostCall, HostError, HostTool, Mode, Pool, PoolConfig, Value,
    WorkerSpec,
};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::support::{BOUND, Rig, call, call_pid, python, run, soon, wait_until, workers};
use crate::values::random_values;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(name)
}

fn echo() -> HostTool {
    HostTool::raw("echo", |_, mut args: Args| async move {
        args.args.pop().ok_or_else(|| HostError::new(Kind::InvalidInput, "nothing", "no argument"))
    })
}

/// Calls `chain` with one level less, in the chain.
fn again(name: &str, tool: &'static str) -> HostTool {
    HostTool::new(name, move |call: HostCall, levels: i64| async move {
        let value = call.call(tool, Args::none().arg(levels - 1), soon()).await?;
        value.as_i64().ok_or_else(|| HostError::new(Kind::Internal, "no_number", "no number"))
    })
}

fn spec() -> WorkerSpec {
    WorkerSpec::python("callbacks", python())
        .module(file("callback_tools.py").to_str().unwrap())
        .host_tool(echo())
        .host_tool(again("again", "chain"))
        .host_tool(again("again_async", "chain_async"))
}

fn modes() -> [WorkerSpec; 3] {
    let path = file("async_callback_tools.py");
    let in_tasks = WorkerSpec::python("tasks", python()).module(path.to_str().unwrap());
    let in_tasks = in_tasks.host_tool(echo()).host_tool(again("again", "chain"));
    [spec(), spec().capacity(2, Mode::Threads), in_tasks.capacity(2, Mode::Asyncio)]
}

#[test]
fn values_are_the_same_both_ways_in_every_mode() {
    run(async {
        let rig = Rig::new().await;
        for spec in modes() {
            let pool = rig.pool_of(spec, workers(1)).await;
            for sent in random_values(7, 1000) {
                let back = call(&pool, "echo", Args::none().arg(sent.clone())).await.unwrap();
                assert_eq!(back, sent);
            }
            // In pieces: two of numbers, which take long one by one, and five of bytes.
            let large = Value::from(vec![7u8; 5 << 18]);
            let bytes = Value::Bytes(vec![7; 5 << 20].into());
            for sent in [large, bytes] {
                let back = call(&pool, "echo", Args::none().arg(sent.clone())).await.unwrap();
                assert_eq!(back, sent);
            }
            assert_eq!(pool.stats().callbacks, 1002);
            pool.stop().await;
        }
        rig.end().await;
    });
}

#[derive(Debug, Serialize, Deserialize)]
struct Query {
    key: String,
    #[serde(default)]
    limit: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Found {
    rows: Vec<(String, u32)>,
    by: BTreeMap<u8, f64>,
}

fn lookup() -> HostTool {
    HostTool::new("lookup", |_: HostCall, query: Query| async move {
        if query.key.is_empty() {
            let error = HostError::new(Kind::NotFound, "no_such_key", "there is no such key");
            return Err(error.hint("ask for another one"));
        }
        let rows = vec![(query.key, query.limit.unwrap_or(9))];
        Ok(Found { rows, by: BTreeMap::from([(1, 0.5)]) })
    })
    .doc("Rows under a key.")
    .parameters(serde_json::json!({"type": "object"}))
}

#[test]
fn arguments_and_results_are_typed_by_name_and_by_position() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec().host_tool(lookup()), workers(1)).await;
        let rows = |limit| {
            let row = Value::Tuple(vec!["k".into(), limit]);
            let by = Value::Dict(vec![(1.into(), 0.5.into())]);
            Value::from_iter([("rows", Value::List(vec![row])), ("by", by)])
        };
        let by_name = Args::none().kwarg("limit", 3).kwarg("key", "k");
        assert_eq!(call(&pool, "typed", by_name).await, Ok(rows(3.into())));
        let by_place = Args::none().arg("k").arg(4);
        assert_eq!(call(&pool, "typed", by_place).await, Ok(rows(4.into())));
        assert_eq!(call(&pool, "typed", Args::none().arg("k")).await, Ok(rows(9.into())));
        let known = call(&pool, "names", Args::none()).await.unwrap();
        let Value::List(known) = known else { panic!("{known:?}") };
        let schema = Value::from_iter([("type", "object")]);
        let told = vec!["lookup".into(), "Rows under a key.".into(), schema];
        assert_eq!(known.last(), Some(&Value::Tuple(told)));
        for wrong in [Args::none(), Args::none().arg(7), Args::none().kwarg("keys", "k")] {
            let error = call(&pool, "typed", wrong).await.unwrap_err();
            assert_eq!(failure(&error).code, "bad_arguments", "{error}");
        }
        rig.end().await;
    });
}

fn failure(error: &CallError) -> &snakehouse_pool::Failure {
    match error {
        CallError::Tool { failure, .. } => failure,
        other => panic!("{other}"),
    }
}

#[test]
fn errors_keep_their_parts_and_travel_on() {
    run(async {
        let rig = Rig::new().await;
        let panics = HostTool::new("panics", |call: HostCall, (): ()| async move {
            assert!(call.depth() > 1, "there was nothing");
            Ok(())
        });
        let fails_in_python =
            HostTool::new("fails_in_python", |call: HostCall, (): ()| async move {
                let value = call.call("fail", Args::none().arg("no"), soon()).await?;
                Ok(value.as_i64())
            });
        let unsendable = HostTool::raw("unsendable", |_, _| async {
            Ok(Value::Dict(vec![(1.into(), 1.into()), (true.into(), 2.into())]))
        });
        let spec = spec().host_tool(lookup()).host_tool(panics);
        let pool =
            rig.pool_of(spec.host_tool(fails_in_python).host_tool(unsendable), workers(1)).await;
        let caught = async |name: &str, args: Vec<Value>| {
            let mut all = Args::none().arg(name);
            all.args.extend(args);
            let Value::List(said) = call(&pool, "caught", all).await.unwrap() else { panic!() };
            said
        };
        let said = caught("lookup", vec!["".into()]).await;
        let expected = ["there is no such key", "not_found", "no_such_key", "ask for another one"];
        assert_eq!(said, expected.map(Value::from));
        let said = caught("panics", Vec::new()).await;
        assert_eq!((said[1].as_str(), said[2].as_str()), (Some("internal"), Some("panic")));
        assert!(said[0].as_str().unwrap().contains("there was nothing"));
        assert_eq!(caught("nobody", Vec::new()).await[2].as_str(), Some("unknown_host_tool"));
        assert_eq!(caught("unsendable", Vec::new()).await[2].as_str(), Some("bad_host_result"));
        assert_eq!(caught("echo", Vec::new()).await[2].as_str(), Some("nothing"));

        let args = Args::none().arg("lookup").arg("");
        let error = call(&pool, "uncaught", args).await.unwrap_err();
        let said = failure(&error);
        assert_eq!((error.kind(), said.code.as_str()), (Kind::NotFound, "no_such_key"));
        assert_eq!(error.hint().as_deref(), Some("ask for another one"));
        assert_eq!(said.traceback.last().unwrap().function, "uncaught");

        // Python, host, Python, host: each is the cause of the one before.
        let args = Args::none().arg("fails_in_python");
        let error = call(&pool, "uncaught", args).await.unwrap_err();
        let inner = failure(&error).cause().expect("what Python said below");
        assert_eq!(
            (failure(&error).code.as_str(), failure(&error).message.as_str()),
            ("tool_raised", "no")
        );
        assert_eq!((&*inner.type_name, inner.code.as_str()), ("ValueError", "tool_raised"));
        let other = HostError::new(Kind::Tool, "of_its_own", "no");
        assert_eq!((other.code(), other.failure().code.as_str()), ("host_error", "of_its_own"));
        rig.end().await;
    });
}

/// A host tool that tells that it runs, and that it was dropped, and never ends.
fn hangs(name: &str) -> (HostTool, mpsc::Receiver<HostCall>, Arc<AtomicUsize>) {
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (began, begun) = mpsc::channel(64);
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = dropped.clone();
    let tool = HostTool::raw(name, move |call, _| {
        let (began, guard) = (began.clone(), Dropped(count.clone()));
        async move {
            let _guard = guard;
            let _ = began.send(call).await;
            std::future::pending().await
        }
    });
    (tool, begun, dropped)
}

#[test]
fn a_deadline_and_a_cancel_reach_through_three_levels() {
    run(async {
        let rig = Rig::new().await;
        let (innermost, mut begun, dropped) = hangs("innermost");
        let middle = HostTool::raw("middle", |call: HostCall, _| async move {
            let options = CallOptions::within(Duration::from_secs(3000));
            Ok(call.call("uncaught", Args::none().arg("innermost"), options).await?)
        });
        let pool = rig.pool_of(spec().host_tool(innermost).host_tool(middle), workers(1)).await;
        let pid = call_pid(&pool).await;

        let options = soon();
        let top = options.deadline.instant().unwrap();
        let mut calling = Box::pin(pool.call("uncaught", Args::none().arg("middle"), options));
        let inner = tokio::select! {
            outcome = &mut calling => panic!("{outcome:?}"),
            call = begun.recv() => call.unwrap(),
        };
        assert_eq!((inner.depth(), inner.tool()), (2, "uncaught"));
        let read = inner.deadline().instant().unwrap();
        // Never later; and earlier by no more than the way took.
        let apart = top.saturating_duration_since(read);
        assert!(read <= top);
        println!("the innermost deadline is {apart:?} before the top's");

        drop(calling);
        wait_until(&pool, |_| dropped.load(Ordering::SeqCst) == 1).await;
        wait_until(&pool, |pool| pool.workers()[0].in_flight == 0).await;
        assert_eq!(call_pid(&pool).await, pid, "the worker went on");

        // It is there by then, on any machine. Each level has a deadline that is no later than that of
        // the one above: the tool may hear of its own first, and the error is what it made of that.
        let options = CallOptions::within(Duration::from_secs(2));
        let late = pool.call("uncaught", Args::none().arg("middle"), options).await;
        assert_eq!(late.unwrap_err().kind(), Kind::Deadline);
        let second = begun.recv().await.unwrap();
        assert!(second.deadline() != Deadline::never());
        wait_until(&pool, |_| dropped.load(Ordering::SeqCst) == 2).await;
        assert_eq!(call_pid(&pool).await, pid);
        assert_eq!(pool.counters().deaths, 0);
        rig.end().await;
    });
}

#[test]
fn a_worker_that_dies_takes_its_callbacks_and_nested_calls_along() {
    run(async {
        let rig = Rig::new().await;
        let (hanging, mut begun, dropped) = hangs("hanging");
        let middle = HostTool::raw("middle", |call: HostCall, _| async move {
            let inner = call.call("uncaught", Args::none().arg("hanging"), soon()).await;
            Err(HostError::of(&inner.unwrap_err()))
        });
        let pool = rig.pool_of(spec().host_tool(hanging).host_tool(middle), workers(1)).await;
        let pid = call_pid(&pool).await;
        let calling = call(&pool, "uncaught", Args::none().arg("middle"));
        let killing = async {
            begun.recv().await.unwrap();
            crate::support::Watched::new(pid).kill();
        };
        let (outcome, ()) = join(calling, killing).await;
        assert!(matches!(outcome, Err(CallError::WorkerDied { started: true, .. })), "{outcome:?}");
        wait_until(&pool, |_| dropped.load(Ordering::SeqCst) == 1).await;
        assert_ne!(call_pid(&pool).await, pid);
        assert_eq!(call(&pool, "chain", Args::none().arg(3)).await, Ok(3.into()));
        rig.end().await;
    });
}

#[test]
fn a_chain_of_sixteen_works_on_one_worker_and_one_more_is_refused() {
    run(async {
        let rig = Rig::new().await;
        for (spec, tool) in modes().into_iter().zip(["chain"; 3]).chain([(spec(), "chain_async")]) {
            let pool = rig.pool_of(spec, workers(1)).await;
            assert_eq!(call(&pool, tool, Args::none().arg(16)).await, Ok(16.into()));
            let before = Instant::now();
            let error = call(&pool, tool, Args::none().arg(17)).await.unwrap_err();
            println!("too deep after {:?}", before.elapsed());
            assert_eq!(failure(&error).code, "too_deep", "{error}");
            assert_eq!(call(&pool, tool, Args::none().arg(2)).await, Ok(2.into()));
            wait_until(&pool, |pool| pool.workers()[0].in_flight == 0).await;
            pool.stop().await;
        }
        rig.end().await;
    });
}

#[test]
fn many_chains_at_once_all_end() {
    run(async {
        let rig = Rig::new().await;
        for spec in modes() {
            let pool = rig.pool_of(spec, workers(2)).await;
            let chains = (0..60).map(|n| call(&pool, "chain", Args::none().arg(n % 6)));
            for (n, outcome) in join_all(chains).await.into_iter().enumerate() {
                assert_eq!(outcome, Ok(i64::try_from(n % 6).unwrap().into()), "chain {n}");
            }
            wait_until(&pool, |pool| pool.workers().iter().all(|worker| worker.in_flight == 0))
                .await;
            assert_eq!(pool.waiting(), 0);
            pool.stop().await;
        }
        rig.end().await;
    });
}

/// Two pools of one worker each, whose tool `hop` calls the other pool's.
async fn two_pools(rig: &Rig) -> [Pool; 2] {
    let other: [Arc<OnceLock<Pool>>; 2] = Default::default();
    let mut pools = Vec::new();
    for here in 0..2 {
        let there = other[1 - here].clone();
        let hop = HostTool::new("hop", move |_: HostCall, levels: i64| {
            let there = there.clone();
            async move {
                let pool = there.get().unwrap();
                let rest = if levels > 0 {
                    Args::none().arg("hop").arg(levels - 1)
                } else {
                    Args::none().arg("echo").arg(0)
                };
                Ok(pool.call("uncaught", rest, soon()).await?.as_i64().unwrap_or(-1) + 1)
            }
        });
        let pool = rig.pool_of(spec().host_tool(hop), workers(1)).await;
        other[here].set(pool.clone()).unwrap();
        pools.push(pool);
    }
    pools.try_into().unwrap()
}

#[test]
fn chains_that_go_to_and_fro_between_pools_do_not_wait_for_each_other() {
    run(async {
        let rig = Rig::new().await;
        let [a, b] = two_pools(&rig).await;
        let hops = |pool: &Pool, levels: i64| {
            let (pool, args) = (pool.clone(), Args::none().arg("hop").arg(levels));
            async move { (levels, call(&pool, "uncaught", args).await) }
        };
        assert_eq!(hops(&a, 1).await.1, Ok(2.into()), "A, B and A again");
        // Each holds its own pool's only worker and wants the other's.
        let both_ways = (0..40).map(|n| hops(if n % 2 == 0 { &a } else { &b }, n % 4));
        for (levels, outcome) in join_all(both_ways).await {
            assert_eq!(outcome, Ok((levels + 1).into()));
        }
        rig.end().await;
    });
}

#[test]
fn a_call_of_the_same_session_runs_in_the_middle_of_the_one_that_waits() {
    run(async {
        let rig = Rig::new().await;
        let session = Arc::new(Mutex::new(None::<Arc<snakehouse_pool::Session>>));
        let known = session.clone();
        let in_session = HostTool::raw("in_session", move |_, mut args: Args| {
            let session = known.lock().unwrap().clone().unwrap();
            async move {
                let key = args.args.pop().unwrap_or(Value::None);
                let told = session.call("get", Args::none().arg("relay"), soon()).await?;
                if told == key {
                    Ok(told)
                } else {
                    Err(HostError::new(Kind::Tool, "other", "other"))
                }
            }
        });
        let pool = rig.pool_of(spec().host_tool(in_session), workers(2)).await;
        let opened = Arc::new(pool.session(soon().deadline).await.unwrap());
        *session.lock().unwrap() = Some(opened.clone());
        // The other worker has nothing to do, and is not asked.
        let told = opened.call("relay", Args::none().arg("told"), soon()).await;
        assert_eq!(told, Ok("told".into()));
        assert_eq!(pool.counters().nested, 1);
        *session.lock().unwrap() = None;
        drop(opened);
        rig.end().await;
    });
}

#[test]
fn a_session_s_worker_that_another_chain_waits_in_runs_the_call_as_well() {
    run(async {
        let rig = Rig::new().await;
        let session = Arc::new(Mutex::new(None::<Arc<snakehouse_pool::Session>>));
        let (known, go) = (session.clone(), Arc::new(Notify::new()));
        let (hanging, mut begun, _) = hangs("hanging");
        let into_session = HostTool::raw("in_session", move |_, _| {
            let session = known.lock().unwrap().clone().unwrap();
            async move { Ok(session.call("plain", Args::none().arg("from inside"), soon()).await?) }
        });
        let other = WorkerSpec::python("other", python())
            .module(file("callback_tools.py").to_str().unwrap())
            .host_tool(into_session);
        let other = rig.pool_of(other, workers(1)).await;
        let pool = rig.pool_of(spec().host_tool(hanging), workers(1)).await;
        let opened = Arc::new(pool.session(soon().deadline).await.unwrap());
        *session.lock().unwrap() = Some(opened.clone());
        // The session's only worker waits for a host tool that never ends.
        let stuck = opened.call("uncaught", Args::none().arg("hanging"), soon());
        let asking = async {
            begun.recv().await.unwrap();
            let told = call(&other, "uncaught", Args::none().arg("in_session")).await;
            go.notify_one();
            told
        };
        tokio::pin!(stuck);
        let told = tokio::select! {
            outcome = &mut stuck => panic!("{outcome:?}"),
            told = asking => told,
        };
        assert_eq!(told, Ok("from inside".into()));
        *session.lock().unwrap() = None;
        rig.end().await;
    });
}

#[test]
fn what_a_host_tool_gives_to_another_task_can_stay_in_the_chain() {
    run(async {
        let rig = Rig::new().await;
        let scope = rig.root.scope().clone();
        let elsewhere = HostTool::raw("elsewhere", move |call: HostCall, _| {
            let scope = scope.clone();
            async move {
                let inner = call.clone();
                let task = scope.task("elsewhere", async move {
                    inner.within(inner.call("plain", Args::none().arg(5), soon())).await
                });
                task.await.map_err(|error| HostError::of(&error))?.map_err(HostError::from)
            }
        });
        let pool = rig.pool_of(spec().host_tool(elsewhere), workers(1)).await;
        let args = Args::none().arg("elsewhere");
        assert_eq!(call(&pool, "uncaught", args).await, Ok(5.into()));
        rig.end().await;
    });
}

#[test]
fn a_nested_stream_and_a_stream_that_asks() {
    run(async {
        let rig = Rig::new().await;
        let summed = HostTool::new("summed", |_: HostCall, count: i64| async move { Ok(count) });
        let pool_cell = Arc::new(OnceLock::<Pool>::new());
        let cell = pool_cell.clone();
        let streams = HostTool::new("streams", move |_: HostCall, count: i64| {
            let pool = cell.get().unwrap().clone();
            async move {
                let stream =
                    pool.stream("asked", Args::none().arg(count), CallOptions::stream()).await?;
                let mut sum = 0;
                while let Some(item) = stream.next().await {
                    sum += item?.as_i64().unwrap_or_default();
                }
                Ok(sum)
            }
        });
        let pool = rig.pool_of(spec().host_tool(summed).host_tool(streams), workers(1)).await;
        pool_cell.set(pool.clone()).unwrap();
        let args = Args::none().arg("streams").arg(200);
        assert_eq!(call(&pool, "uncaught", args).await, Ok(19_900.into()));
        let stream =
            pool.stream("asked", Args::none().arg(3), CallOptions::stream()).await.unwrap();
        for item in 0..3 {
            assert_eq!(stream.next().await, Some(Ok(item.into())));
        }
        assert_eq!(stream.result().await, Ok(Value::None));
        drop(stream);
        rig.end().await;
    });
}

#[test]
fn more_callbacks_than_may_be_are_refused_by_name() {
    run(async {
        let rig = Rig::new().await;
        let (hanging, mut begun, dropped) = hangs("hanging");
        let config = PoolConfig { callbacks: 1, ..workers(2) };
        let pool = rig.pool_of(spec().host_tool(hanging), config).await;
        let first = call(&pool, "uncaught", Args::none().arg("hanging"));
        tokio::pin!(first);
        tokio::select! {
            outcome = &mut first => panic!("{outcome:?}"),
            _ = begun.recv() => {}
        }
        let said = call(&pool, "caught", Args::none().arg("echo").arg(1)).await.unwrap();
        let said = said.as_slice().unwrap();
        assert_eq!(
            (said[1].as_str(), said[2].as_str()),
            (Some("saturated"), Some("too_many_callbacks"))
        );
        assert_eq!(pool.stats().callbacks_refused, 1);
        assert_eq!(dropped.load(Ordering::SeqCst), 0);
        rig.end().await;
    });
}

#[test]
fn names_and_limits_are_looked_at_when_a_pool_starts() {
    run(async {
        let rig = Rig::new().await;
        let refused = async |spec: WorkerSpec, config: PoolConfig| {
            let started = Pool::start(rig.root.scope(), rig.reaper.clone(), spec, config).await;
            let error = started.unwrap_err();
            assert_eq!(error.code(), "bad_pool_config");
            error.to_string()
        };
        let named =
            |name: &str| spec().host_tool(HostTool::raw(name, |_, _| async { Ok(Value::None) }));
        assert!(refused(named("no spaces"), workers(1)).await.contains("is not named by"));
        assert!(refused(named("echo"), workers(1)).await.contains("two host tools"));
        let none = PoolConfig { callbacks: 0, ..workers(1) };
        assert!(refused(spec(), none).await.contains("at least 1"));
        rig.end().await;
    });
}

#[test]
fn a_call_that_nobody_can_run_meanwhile_is_refused_at_once() {
    run(async {
        let rig = Rig::new().await;
        let began = Arc::new(AtomicUsize::new(0));
        let tasks = 40;
        // Far more calls at once out of one host tool than a worker nests.
        let count = began.clone();
        let flood = HostTool::new("flood", move |call: HostCall, (): ()| {
            let count = count.clone();
            async move {
                let calls = (0..tasks)
                    .map(|_| call.call("uncaught", Args::none().arg("flood_again"), soon()));
                let outcomes = join_all(calls).await;
                let refused = outcomes
                    .iter()
                    .filter(|outcome| matches!(outcome, Err(CallError::WouldDeadlock)));
                Ok((refused.count(), count.load(Ordering::SeqCst)))
            }
        });
        let inner = began.clone();
        let all_wait = HostTool::raw("flood_again", move |_, _| {
            inner.fetch_add(1, Ordering::SeqCst);
            async { std::future::pending().await }
        });
        let pool = rig.pool_of(spec().host_tool(flood).host_tool(all_wait), workers(1)).await;
        let options = CallOptions::within(Duration::from_secs(5));
        let calling = pool.call("uncaught", Args::none().arg("flood"), options);
        tokio::pin!(calling);
        let enough = async {
            while began.load(Ordering::SeqCst) < 16 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            outcome = &mut calling => panic!("{outcome:?}"),
            () = async { tokio::time::timeout(BOUND, enough).await.unwrap() } => {}
        }
        // Sixteen on top of each other, and the others know that they cannot run.
        wait_until(&pool, |pool| pool.stats().outcomes.other == 24).await;
        assert_eq!((pool.waiting(), pool.counters().nested), (0, 16));
        let refused = CallError::WouldDeadlock;
        assert_eq!((refused.code(), refused.kind()), ("would_deadlock", Kind::Saturated));
        assert!(refused.is_without_effect());
        rig.end().await;
    });
}

#[test]
#[ignore = "a measurement"]
fn measure_callbacks_beside_calls() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        let median = |mut times: Vec<f64>| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2] * 1e6
        };
        for _ in 0..3 {
            let mut calls = Vec::new();
            for _ in 0..2000 {
                let before = Instant::now();
                call(&pool, "plain", Args::none().arg(1)).await.unwrap();
                calls.push(before.elapsed().as_secs_f64());
            }
            let times = call(&pool, "round_trips", Args::none().arg(2000)).await.unwrap();
            let times = Vec::<f64>::try_from(times).unwrap();
            println!("call p50 {:.1} us, callback p50 {:.1} us", median(calls), median(times));
        }
        rig.end().await;
    });
}
