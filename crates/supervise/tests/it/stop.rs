//! Ordered stop: reverse start order, grace, abort, joined.

use std::time::Duration;

use proptest::prelude::*;
use snakehouse_supervise::{
    CancellationToken, ChildSpec, Exit, NodeState, Restart, Root, Scope, Stopped, TaskError,
};
use snakehouse_testkit::{settle, virtual_time};
use tokio::time::{Instant, sleep};

use crate::journal::Journal;

const SECOND: Duration = Duration::from_secs(1);

/// A tree to build: what it is and what is below it, in start order.
#[derive(Clone, Debug)]
enum Plan {
    Child,
    /// A child with members in its own scope.
    Branch(Vec<Plan>),
    Scope(Vec<Plan>),
}

fn plan() -> impl Strategy<Value = Vec<Plan>> {
    let leaf = Just(Plan::Child);
    let node = leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            2 => Just(Plan::Child),
            1 => prop::collection::vec(inner.clone(), 0..5).prop_map(Plan::Scope),
            1 => prop::collection::vec(inner, 0..5).prop_map(Plan::Branch),
        ]
    });
    prop::collection::vec(node, 0..6)
}

/// Builds the plan; every child notes its path when it has been told, and waits a while first, so
/// that an order by luck does not pass.
fn build(scope: &Scope, plans: &[Plan], path: &str, journal: &Journal) {
    for (n, plan) in plans.iter().enumerate() {
        let path = format!("{path}/{n}");
        match plan {
            Plan::Scope(below) => build(&scope.open(&path), below, &path, journal),
            Plan::Child | Plan::Branch(_) => {
                let below = match plan {
                    Plan::Branch(below) => below.clone(),
                    _ => Vec::new(),
                };
                let journal = journal.clone();
                scope.child(ChildSpec::new(path.clone(), move |ctx| {
                    let (journal, below, path) = (journal.clone(), below.clone(), path.clone());
                    async move {
                        build(&ctx.scope(), &below, &path, &journal);
                        ctx.ready();
                        ctx.cancelled().cancelled().await;
                        sleep(Duration::from_millis(10)).await;
                        journal.note(path);
                        Ok(())
                    }
                }));
            }
        }
    }
}

/// Every pair of siblings must end in reverse start order, with all that is below them.
fn check_order(plans: &[Plan], path: &str, ended: &[String]) {
    let within = |n: usize| {
        let (exact, prefix) = (format!("{path}/{n}"), format!("{path}/{n}/"));
        ended
            .iter()
            .enumerate()
            .filter(move |(_, line)| **line == exact || line.starts_with(&prefix))
            .map(|(at, _)| at)
    };
    for (n, plan) in plans.iter().enumerate() {
        if n > 0
            && let (Some(later), Some(earlier)) = (within(n).max(), within(n - 1).min())
        {
            assert!(later < earlier, "{path}/{n} must be gone before {path}/{} ends", n - 1);
        }
        match plan {
            Plan::Scope(below) | Plan::Branch(below) => {
                check_order(below, &format!("{path}/{n}"), ended);
            }
            Plan::Child => {}
        }
    }
}

fn count(plans: &[Plan]) -> usize {
    let each = |plan: &Plan| match plan {
        Plan::Child => 1,
        Plan::Branch(below) => 1 + count(below),
        Plan::Scope(below) => count(below),
    };
    plans.iter().map(each).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_tree_stops_in_reverse_start_order(plans in plan()) {
        virtual_time(async {
            let root = Root::new("root");
            let journal = Journal::new();
            build(root.scope(), &plans, "", &journal);
            settle().await;
            let report = root.stop().await;
            assert!(report.is_clean(), "{report:?}");
            let ended = journal.lines();
            assert_eq!(ended.len(), count(&plans), "every child ended once");
            check_order(&plans, "", &ended);
        });
    }
}

#[test]
fn a_child_that_ignores_the_stop_is_dropped_when_its_grace_has_passed() {
    virtual_time(async {
        let root = Root::new("root");
        let journal = Journal::new();
        let noted = journal.clone();
        let child = root.scope().child(
            ChildSpec::new("stubborn", move |_| {
                let dropped = noted.on_drop("dropped");
                async move {
                    std::future::pending::<()>().await;
                    drop(dropped);
                    Ok(())
                }
            })
            .grace(7 * SECOND),
        );
        settle().await;
        let report = root.stop().await;
        assert_eq!(report.names(Stopped::Aborted), ["stubborn"]);
        assert_eq!(journal.millis(), [7000]);
        assert_eq!(child.gone().await, Exit::Aborted);
    });
}

#[test]
fn a_thousand_stubborn_tasks_share_one_grace() {
    virtual_time(async {
        let root = Root::new("root");
        for _ in 0..1000 {
            drop(root.scope().task("stubborn", std::future::pending::<()>()));
        }
        let start = Instant::now();
        let report = root.stop().await;
        assert_eq!(report.names(Stopped::Aborted).len(), 1000);
        assert_eq!(start.elapsed().as_secs(), 5);
    });
}

#[test]
fn nested_scopes_opened_last_end_before_the_token_of_the_scope_fires() {
    virtual_time(async {
        let root = Root::new("root");
        let journal = Journal::new();
        let told = |name: &'static str, token: CancellationToken| {
            let journal = journal.clone();
            async move {
                token.cancelled().await;
                sleep(SECOND).await;
                journal.note(name);
            }
        };
        let scope = root.scope();
        let _dispatcher = scope.task("dispatcher", told("dispatcher", scope.cancelled()));
        let workers = scope.open("workers");
        let _worker = workers.task("worker", told("worker", workers.cancelled()));
        let report = root.stop().await;
        assert_eq!(journal.lines(), ["worker", "dispatcher"]);
        let names: Vec<_> = report.ended.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["workers/worker", "workers", "dispatcher"]);
    });
}

#[test]
fn a_stop_survives_its_caller_and_every_caller_sees_the_same_report() {
    virtual_time(async {
        let root = Root::new("root");
        let scope = root.scope().clone();
        let token = scope.cancelled();
        let _slow = scope.task("slow", async move {
            token.cancelled().await;
            sleep(2 * SECOND).await;
        });
        let impatient = tokio::time::timeout(SECOND, scope.stop()).await;
        assert!(impatient.is_err(), "the slow task takes longer");
        let (first, second) = tokio::join!(scope.stop(), scope.stop());
        assert_eq!(first, second);
        assert_eq!(first.ended, [("slow".to_owned(), Stopped::Gracefully)]);
        drop(root);
    });
}

#[test]
fn nothing_starts_once_a_stop_has_begun() {
    virtual_time(async {
        let root = Root::new("root");
        let scope = root.scope().clone();
        let report = root.stop().await;
        assert!(report.ended.is_empty());
        assert_eq!(scope.task("late", async { 1 }).await, Err(TaskError::Cancelled));
        let child = scope.child(ChildSpec::new("late", |_| async { Ok(()) }));
        assert_eq!(child.wait_ready().await.unwrap_err().exit, Exit::Stopped);
        let nested = scope.open("late");
        assert_eq!(nested.tree().state, NodeState::Stopped);
        assert!(nested.stop().await.ended.is_empty());
        assert!(nested.cancelled().is_cancelled());
    });
}

#[test]
fn a_dropped_root_leaves_nothing_running() {
    virtual_time(async {
        let journal = Journal::new();
        let root = Root::new("root");
        let nested = root.scope().open("nested");
        let dropped = journal.on_drop("task");
        let _task = nested.task("task", async move {
            std::future::pending::<()>().await;
            drop(dropped);
        });
        let noted = journal.clone();
        nested.child(ChildSpec::new("child", move |ctx| {
            let dropped = noted.on_drop("child");
            async move {
                let _inner = ctx.scope().task("inner", std::future::pending::<()>());
                std::future::pending::<()>().await;
                drop(dropped);
                Ok(())
            }
        }));
        settle().await;
        drop(root);
        settle().await;
        let mut lines = journal.lines();
        lines.sort();
        assert_eq!(lines, ["child", "task"]);
        // `virtual_time` fails if the inner task is still there.
    });
}

#[test]
fn a_context_that_outlives_its_incarnation_starts_nothing() {
    virtual_time(async {
        let root = Root::new("root");
        let (send, receive) = tokio::sync::oneshot::channel();
        let mut send = Some(send);
        let child = root.scope().child(
            ChildSpec::new("short", move |ctx| {
                let sent = send.take().map(|send| send.send(ctx).is_ok());
                async move { sent.map(|_| ()).ok_or_else(|| "restarted".into()) }
            })
            .restart(Restart::Temporary),
        );
        assert_eq!(child.gone().await, Exit::Finished);
        let late = receive.await.expect("the context was sent").scope();
        assert_eq!(late.task("late", async { 1 }).await, Err(TaskError::Cancelled));
        root.stop().await;
    });
}

#[test]
fn what_is_done_leaves_the_tree() {
    virtual_time(async {
        let root = Root::new("root");
        let scope = root.scope();
        for n in 0..10_000u32 {
            assert_eq!(scope.task("short", async move { n }).await, Ok(n));
        }
        let nested = scope.open("nested");
        assert_eq!(scope.tree().children.len(), 1);
        nested.stop().await;
        assert!(scope.tree().children.is_empty());
        root.stop().await;
    });
}

#[test]
fn a_task_panics_aborts_and_loses_its_handle() {
    virtual_time(async {
        let root = Root::new("root");
        let scope = root.scope();
        let panicked = scope.task("fragile", async { panic!("no marbles") }).await;
        assert_eq!(panicked, Err::<(), _>(TaskError::Panicked("no marbles".into())));
        assert_eq!(scope.tree().last_exit.as_deref(), Some("fragile panicked: no marbles"));

        let endless = scope.task("endless", std::future::pending::<()>());
        endless.abort();
        assert_eq!(endless.await, Err(TaskError::Cancelled));

        let journal = Journal::new();
        let noted = journal.clone();
        drop(scope.task("orphan", async move {
            sleep(SECOND).await;
            noted.note("done all the same");
        }));
        sleep(2 * SECOND).await;
        assert_eq!(journal.lines(), ["done all the same"]);
        assert!(root.stop().await.is_clean());
    });
}

#[test]
fn a_scope_stopped_from_its_own_task_ends_when_that_task_is_dropped() {
    virtual_time(async {
        let root = Root::new("root");
        let inner = root.scope().open("inner");
        let own = inner.clone();
        let suicidal = inner.task("suicidal", async move {
            own.stop().await;
        });
        assert_eq!(suicidal.await, Err(TaskError::Cancelled));
        assert!(root.stop().await.is_clean());
    });
}

#[test]
fn an_incarnation_waits_for_its_own_tasks_and_both_are_told_together() {
    virtual_time(async {
        let root = Root::new("root");
        let journal = Journal::new();
        let noted = journal.clone();
        root.scope().child(ChildSpec::new("server", move |ctx| {
            let noted = noted.clone();
            async move {
                let (token, inner) = (ctx.scope().cancelled(), noted.clone());
                let connection = ctx.scope().task("connection", async move {
                    token.cancelled().await;
                    sleep(SECOND).await;
                    inner.note("connection drained");
                });
                ctx.cancelled().cancelled().await;
                let _ = connection.await;
                noted.note("server ended");
                Ok(())
            }
        }));
        settle().await;
        assert!(root.stop().await.is_clean());
        assert_eq!(journal.lines(), ["connection drained", "server ended"]);
        assert_eq!(journal.millis(), [1000, 1000]);
    });
}
