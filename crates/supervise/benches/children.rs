//! What supervision costs per child, beside plain tasks of tokio. `bench/README.md` says how to run
//! and read this.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement prints its result")]

#[path = "../../../bench/ratio.rs"]
mod ratio;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use ratio::Sides;
use snakehouse_supervise::{BoxError, CancellationToken, Child, ChildSpec, Root, Scope, run};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

const BRANCH: usize = 32;
const CHILDREN: usize = BRANCH * BRANCH;

fn idle() -> ChildSpec {
    ChildSpec::new("idle", |ctx| async move {
        ctx.ready();
        ctx.cancelled().cancelled().await;
        Ok::<(), BoxError>(())
    })
}

async fn one_level(scope: &Scope) {
    started((0..CHILDREN).map(|_| scope.child(idle())).collect()).await;
}

async fn two_levels(scope: &Scope) {
    let branches = (0..BRANCH).map(|_| scope.open("branch"));
    started(branches.flat_map(|branch| [(); BRANCH].map(|()| branch.child(idle()))).collect())
        .await;
}

async fn started(children: Vec<Child>) {
    for child in children {
        child.wait_ready().await.unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "the plain tasks that supervision is compared with")]
async fn plain(tasks: &mut JoinSet<()>, stop: &CancellationToken) {
    let (up, mut running) = mpsc::channel(CHILDREN);
    for _ in 0..CHILDREN {
        let (stop, up) = (stop.clone(), up.clone());
        tasks.spawn(async move {
            up.send(()).await.unwrap();
            drop(up);
            stop.cancelled().await;
        });
    }
    for _ in 0..CHILDREN {
        running.recv().await.unwrap();
    }
}

/// From the first start until every child runs, per child; the stop is not counted.
fn start(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("start");
    group.sample_size(20);
    let mut sides = Sides::default();
    sides.measure(&mut group, "supervised child, one level", |n| {
        supervised(n, async |scope: &Scope| one_level(scope).await)
    });
    sides.measure(&mut group, "supervised child, two levels", |n| {
        supervised(n, async |scope: &Scope| two_levels(scope).await)
    });
    sides.measure(&mut group, "task of a tokio JoinSet", |n| {
        run(async {
            let mut took = Duration::ZERO;
            for _ in 0..rounds(n) {
                let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
                let begin = Instant::now();
                plain(&mut tasks, &stop).await;
                took += begin.elapsed();
                stop.cancel();
                while tasks.join_next().await.is_some() {}
            }
            took.mul_f64(n as f64 / (rounds(n) * CHILDREN as u64) as f64)
        })
    });
    group.finish();
    sides.print("start until running, per child", "ns", "supervised child, one level");
}

fn supervised(n: u64, start: impl AsyncFn(&Scope)) -> Duration {
    run(async {
        let mut took = Duration::ZERO;
        for _ in 0..rounds(n) {
            let root = Root::new("bench");
            let begin = Instant::now();
            start(root.scope()).await;
            took += begin.elapsed();
            root.stop().await;
        }
        took.mul_f64(n as f64 / (rounds(n) * CHILDREN as u64) as f64)
    })
}

/// Criterion counts children; they are started a thousand at a time.
fn rounds(children: u64) -> u64 {
    children.div_ceil(CHILDREN as u64)
}

/// How much the resident memory grows per child while all of them are alive.
fn memory(_: &mut Criterion) {
    const ROUNDS: usize = 20;
    run(async {
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let root = Root::new("bench");
        // Warm: what the runtime and the tree need once.
        plain(&mut tasks, &stop).await;
        one_level(root.scope()).await;
        let mut sides = Sides::default();
        let grown = |before: u64| (resident() - before) as f64 / (ROUNDS * CHILDREN) as f64;
        let before = resident();
        for _ in 0..ROUNDS {
            plain(&mut tasks, &stop).await;
        }
        sides.note("task of a tokio JoinSet", grown(before));
        let before = resident();
        for _ in 0..ROUNDS {
            one_level(root.scope()).await;
        }
        sides.note("supervised child, one level", grown(before));
        let before = resident();
        for _ in 0..ROUNDS {
            two_levels(root.scope()).await;
        }
        sides.note("supervised child, two levels", grown(before));
        sides.print("resident memory per child", "B", "supervised child, one level");
        root.stop().await;
        stop.cancel();
        while tasks.join_next().await.is_some() {}
    });
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

criterion_group!(benches, start, memory);
criterion_main!(benches);
