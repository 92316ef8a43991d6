//! Many threads start, fail, abort and stop at once, for real: everything ends and nothing is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use snakehouse_base::{Backoff, Chance, Jitter};
use snakehouse_supervise::{ChildSpec, GroupSpec, Lane, Root, Scope, Strategy};
use snakehouse_testkit::{for_each_seed, real_time};
use tokio::task::yield_now;

/// Counts what is alive.
#[derive(Clone, Default)]
struct Alive {
    lives: Arc<AtomicI64>,
    steps: Arc<AtomicU64>,
}

struct Life(Arc<AtomicI64>);

impl Alive {
    fn life(&self) -> Life {
        self.lives.fetch_add(1, Ordering::SeqCst);
        Life(self.lives.clone())
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A child that breaks at random and runs tasks of its own.
fn restless(alive: &Alive, chance: &Arc<Chance>) -> ChildSpec {
    let (alive, chance) = (alive.clone(), chance.clone());
    let quick =
        Backoff::new(Duration::from_micros(50), Duration::from_millis(1), Jitter::Full).unwrap();
    ChildSpec::new("restless", move |ctx| {
        let (life, inner, chance) = (alive.life(), alive.life(), chance.clone());
        async move {
            let _life = life;
            let told = ctx.scope().cancelled();
            drop(ctx.scope().task("inner", async move {
                let _life = inner;
                told.cancelled().await;
            }));
            ctx.ready();
            for _ in 0..chance.next_u64() % 20 {
                yield_now().await;
            }
            match chance.next_u64() % 4 {
                0 => Err("broken".into()),
                1 => Ok(()),
                _ => {
                    ctx.cancelled().cancelled().await;
                    Ok(())
                }
            }
        }
    })
    .backoff(quick)
    .grace(Duration::from_millis(50))
    .intensity(100_000, Duration::from_secs(1))
}

fn churn(scope: Scope, alive: Alive, chance: Arc<Chance>, depth: u32) -> BoxFuture<'static, ()> {
    async move {
        for _ in 0..20 {
            alive.steps.fetch_add(1, Ordering::SeqCst);
            match chance.next_u64() % 6 {
                0 if depth > 0 => {
                    let nested = scope.open("nested");
                    let future = churn(nested.clone(), alive.clone(), chance.clone(), depth - 1);
                    drop(scope.task("churn", future));
                    if chance.next_u64().is_multiple_of(2) {
                        drop(scope.task("stopper", async move { drop(nested.stop().await) }));
                    }
                }
                1 => drop(scope.child(restless(&alive, &chance))),
                2 => {
                    let spec = GroupSpec::new("group", Strategy::RestForOne)
                        .child(restless(&alive, &chance))
                        .child(restless(&alive, &chance))
                        .intensity(100_000, Duration::from_secs(1));
                    drop(scope.group(spec));
                }
                3 => {
                    let lane = Lane::new(&scope, "lane", 1, 1);
                    let life = alive.life();
                    drop(lane.run(move || drop(life)).await);
                }
                4 => {
                    let life = alive.life();
                    let task = scope.task("doomed", async move {
                        let _life = life;
                        std::future::pending::<()>().await;
                    });
                    yield_now().await;
                    task.abort();
                }
                _ => {
                    let (life, token) = (alive.life(), scope.cancelled());
                    drop(scope.task("patient", async move {
                        let _life = life;
                        token.cancelled().await;
                    }));
                }
            }
            yield_now().await;
        }
    }
    .boxed()
}

#[test]
fn a_tree_under_churn_stops_completely() {
    for_each_seed(15, |chance| {
        let alive = Alive::default();
        let counted = alive.clone();
        real_time(async move {
            let root = Root::new("root");
            let scope = root.scope().clone();
            let chance = Arc::new(chance);
            let steps = alive.steps.clone();
            let churning = scope.task("churn", churn(scope.clone(), alive, chance.clone(), 3));
            let enough = chance.next_u64() % 200;
            let churned = async {
                while steps.load(Ordering::SeqCst) < enough {
                    yield_now().await;
                }
            };
            // Churn may run out of steps before.
            let _ = tokio::time::timeout(Duration::from_millis(50), churned).await;
            if chance.next_u64().is_multiple_of(3) {
                drop(root);
            } else {
                root.stop().await;
            }
            drop(churning.await);
        });
        // The runtime is gone, and with it every task; what counts is that it found none alive.
        assert_eq!(counted.lives.load(Ordering::SeqCst), 0);
    });
}
