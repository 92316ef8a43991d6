//! The numbers of a pool equal those of callers that count for themselves, after a random load.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use snakehouse_base::Chance;
use snakehouse_pool::{Args, CallError, CallOptions, Outcomes, Pool, PoolConfig, Where};

use crate::support::{Rig, Trace, call, run, soon, spec, wait_until, workers};

/// Calls of the load. `SNAKEHOUSE_LOAD` sets it.
fn load() -> u64 {
    std::env::var("SNAKEHOUSE_LOAD").ok().and_then(|text| text.parse().ok()).unwrap_or(600)
}

/// What one caller got. `None` is that it went away.
type Got = Option<Result<(), CallError>>;

async fn caller(pool: Pool, number: u64, seed: u64) -> Got {
    let chance = Chance::seeded(seed ^ number);
    let within = |ms: u64| CallOptions::within(Duration::from_millis(ms));
    let short = 1 + chance.next_u64() % 60;
    let nap = Args::none().arg((chance.next_u64() % 40) as f64 / 1000.0);
    let value = match chance.next_u64() % 100 {
        0..50 => pool.call("echo", Args::none().arg(1), soon()).await,
        50..65 => pool.call("fail", Args::none().arg("no"), soon()).await,
        65..68 => pool.call("no_such_tool", Args::none(), soon()).await,
        68..80 => pool.call("sleep", nap, within(short)).await,
        80..90 => {
            let calling = pool.call("sleep", nap, soon());
            match tokio::time::timeout(Duration::from_millis(short), calling).await {
                Ok(outcome) => outcome,
                Err(_gone) => return None,
            }
        }
        90..95 => match pool.stream("echo", Args::none().arg(2), CallOptions::stream()).await {
            Ok(stream) => stream.result().await,
            Err(error) => Err(error),
        },
        95..97 => pool.call("leave", Args::none().arg(3), soon()).await,
        97..99 => pool.call("segfault", Args::none(), soon()).await,
        _ => pool.call("leave_hard", Args::none().arg(0), soon()).await,
    };
    Some(value.map(drop))
}

/// What the callers' own accounts add up to.
fn account(got: &[Got]) -> (Outcomes, BTreeMap<&'static str, u64>) {
    let mut outcomes = Outcomes::default();
    let mut deaths: BTreeMap<_, u64> = BTreeMap::new();
    let mut dead = BTreeSet::new();
    for got in got {
        let place = match got {
            None => &mut outcomes.dropped,
            Some(Ok(())) => &mut outcomes.ok,
            Some(Err(CallError::Tool { .. })) => &mut outcomes.tool_failed,
            Some(Err(CallError::UnknownTool { .. })) => &mut outcomes.unknown_tool,
            Some(Err(CallError::NoWorker { .. })) => &mut outcomes.no_worker,
            Some(Err(CallError::Cancelled)) => &mut outcomes.cancelled,
            Some(Err(CallError::Saturated { .. })) => &mut outcomes.saturated,
            Some(Err(CallError::Deadline { at: Where::Queue })) => &mut outcomes.deadline_in_queue,
            Some(Err(CallError::Deadline { at: Where::Worker })) => {
                &mut outcomes.deadline_at_worker
            }
            Some(Err(CallError::WorkerDied { worker, incarnation, started: true, cause })) => {
                assert!(dead.insert((worker.0, incarnation.0)), "two calls ran at once");
                *deaths.entry(cause.code()).or_default() += 1;
                &mut outcomes.worker_died
            }
            Some(Err(other)) => panic!("{other:?}"),
        };
        *place += 1;
    }
    (outcomes, deaths)
}

#[test]
fn counters_equal_what_callers_counted_under_a_random_load() {
    run(async {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let given = number("SNAKEHOUSE_TEST_SEED").or_else(|| number("SNAKEHOUSE_FIRST_SEED"));
        let seed: u64 = given.unwrap_or(20_261_121);
        println!("SNAKEHOUSE_TEST_SEED={seed}");
        let rig = Rig::new().await;
        let config = PoolConfig { queue: 40, ..workers(3) };
        // What is cancelled comes back by itself here; the kill of what does not is another test's.
        let pool = rig.pool_of(spec().cancel_grace(None), config).await;
        let chance = Chance::seeded(seed);
        let mut got = Vec::new();
        let mut number = 0;
        while number < load() {
            let burst = 1 + chance.next_u64() % 80;
            let callers: Vec<_> = (number..number + burst)
                .map(|n| rig.root.scope().task("caller", caller(pool.clone(), n, seed)))
                .collect();
            number += burst;
            for caller in callers {
                got.push(caller.await.unwrap());
            }
        }
        wait_until(&pool, |pool| {
            let stats = pool.stats();
            stats.in_flight == 0 && stats.waiting == 0
        })
        .await;
        let stats = pool.stats();
        let (outcomes, deaths) = account(&got);
        assert_eq!(stats.outcomes, outcomes);
        assert_eq!(stats.outcomes.total(), number);
        assert_eq!(stats.deaths, deaths);
        for seen in [outcomes.ok, outcomes.tool_failed, outcomes.saturated, outcomes.worker_died] {
            assert!(seen > 0, "the load is too tame: {outcomes:?}");
        }
        let counters = stats.counters;
        assert_eq!(counters.saturated, outcomes.saturated);
        assert_eq!(counters.accepted, number - outcomes.saturated);
        assert_eq!(counters.accepted, counters.answered + counters.cancelled + counters.failed);
        assert_eq!(counters.deaths, deaths.values().sum::<u64>());
        assert!(stats.latency.count <= outcomes.ok + outcomes.tool_failed);
        assert!(stats.latency.p50_us <= stats.latency.p99_us);
        assert!(stats.latency.p99_us <= stats.latency.max_us);
        assert_eq!(stats.oldest_wait_us, None);
        println!("{}", serde_json::to_string(&stats).unwrap());
        rig.end().await;
    });
}

#[test]
fn what_waits_and_what_is_late_is_seen() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let (trace, gate) = (Trace::new(), Trace::new());
        let running = call(&pool, "append_and_wait", trace.args("first").arg(gate.path()));
        let waiting = async {
            trace.wait_for("first").await;
            let second = call(&pool, "echo", Args::none().arg(1));
            let looking = async {
                wait_until(&pool, |pool| pool.waiting() == 1).await;
                wait_until(&pool, |pool| pool.stats().oldest_wait_us > Some(20_000)).await;
                let stats = pool.stats();
                assert_eq!((stats.waiting, stats.in_flight, stats.workers), (1, 1, 1));
                gate.write("go on");
            };
            tokio::join!(second, looking).0
        };
        let (first, second) = tokio::join!(running, waiting);
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(pool.stats().outcomes.ok, 2);
        assert!(pool.stats().latency.max_us >= 20_000, "the first took that long");

        let within = CallOptions::within(Duration::from_millis(30));
        pool.call("sleep", Args::none().arg(600), within).await.unwrap_err();
        assert_eq!(pool.stats().outcomes.deadline_at_worker, 1);
        // A call that gives a result nonetheless, which is dropped.
        let before = pool.counters().late;
        tokio::select! {
            biased;
            _ = call(&pool, "shrug", trace.args("deaf")) => panic!("it slept enough"),
            () = trace.wait_for("deaf") => {}
        }
        wait_until(&pool, |pool| pool.counters().late == before + 1).await;
        call(&pool, "say", Args::none().arg("hello").arg(3)).await.unwrap();
        wait_until(&pool, |pool| pool.stats().output.lines == 4).await;
        rig.end().await;
    });
}
