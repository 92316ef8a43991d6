//! Restart policies, back-off, intensity, escalation, readiness.

use std::time::Duration;

use snakehouse_base::{Backoff, Chance, Jitter};
use snakehouse_supervise::{BoxError, ChildSpec, Exit, Happening, NodeState, Restart, Root};
use snakehouse_testkit::{settle, virtual_time};
use tokio::time::sleep;

use crate::journal::Journal;

const SECOND: Duration = Duration::from_secs(1);

fn steps(jitter: Jitter) -> Backoff {
    Backoff::new(Duration::from_millis(100), SECOND, jitter).unwrap()
}

/// A child that notes its start and then ends as `end` says.
fn noting(
    journal: &Journal,
    end: impl Fn(u64) -> Result<(), BoxError> + Send + 'static,
) -> ChildSpec {
    let journal = journal.clone();
    ChildSpec::new("noting", move |ctx| {
        journal.note("start");
        let outcome = end(ctx.attempt());
        async move { outcome }
    })
    .backoff(steps(Jitter::None))
}

#[test]
fn a_permanent_child_is_restarted_with_the_delays_of_its_law() {
    virtual_time(async {
        let root = Root::new("test");
        let journal = Journal::new();
        let child = root.scope().child(noting(&journal, |n| match n {
            0 | 2 => Ok(()),
            1 | 3 | 4 => Err("broken".into()),
            _ => panic!("stop here"),
        }));
        sleep(3 * SECOND).await;
        assert_eq!(journal.millis(), [0, 100, 300, 700, 1500, 2500]);
        assert_eq!(child.restarts(), 6, "the seventh incarnation is due");
        assert_eq!(child.state(), NodeState::BackingOff);
        assert!(root.stop().await.is_clean());
    });
}

#[test]
fn a_transient_child_is_restarted_after_failures_only() {
    virtual_time(async {
        let root = Root::new("test");
        let journal = Journal::new();
        let spec = noting(&journal, |n| if n < 2 { Err("broken".into()) } else { Ok(()) });
        let child = root.scope().child(spec.restart(Restart::Transient));
        assert_eq!(child.gone().await, Exit::Finished);
        assert_eq!(journal.lines().len(), 3);
        assert!(root.scope().tree().children.is_empty(), "a child that is done leaves the tree");
        assert!(root.stop().await.is_clean());
    });
}

#[test]
fn a_temporary_child_is_never_restarted() {
    virtual_time(async {
        let root = Root::new("test");
        let journal = Journal::new();
        let spec = noting(&journal, |_| Err("broken".into())).restart(Restart::Temporary);
        let child = root.scope().child(spec);
        assert_eq!(child.gone().await, Exit::Failed("broken".into()));
        sleep(100 * SECOND).await;
        assert_eq!(journal.lines().len(), 1);
        assert!(root.stop().await.is_clean());
    });
}

#[test]
fn the_back_off_starts_over_after_a_long_life() {
    virtual_time(async {
        let root = Root::new("test");
        let journal = Journal::new();
        let noted = journal.clone();
        root.scope().child(
            ChildSpec::new("mostly", move |ctx| {
                noted.note("start");
                async move {
                    // The fourth incarnation outlives the window of the intensity.
                    sleep(if ctx.attempt() == 3 { 20 * SECOND } else { Duration::ZERO }).await;
                    Err("broken".into())
                }
            })
            .backoff(steps(Jitter::None))
            .intensity(10, 20 * SECOND),
        );
        sleep(21 * SECOND).await;
        assert_eq!(journal.millis(), [0, 100, 300, 700, 20_800, 21_000][..journal.millis().len()]);
        assert!(journal.millis().len() >= 5);
        root.stop().await;
    });
}

#[test]
fn a_pause_below_the_timer_s_tick_is_none() {
    virtual_time(async {
        let root = Root::new("test");
        let journal = Journal::new();
        let pause = Duration::from_nanos(1);
        let spec = noting(&journal, |n| if n < 3 { Err("broken".into()) } else { Ok(()) })
            .restart(Restart::Transient)
            .backoff(Backoff::new(pause, pause, Jitter::None).unwrap());
        assert_eq!(root.scope().child(spec).gone().await, Exit::Finished);
        assert_eq!(journal.millis(), [0, 0, 0, 0]);
        assert!(root.stop().await.is_clean());
    });
}

#[test]
fn jitter_is_replayed_by_its_seed() {
    let run = |seed| {
        virtual_time(async move {
            let root = Root::with_chance("test", Chance::seeded(seed));
            let journal = Journal::new();
            let spec = noting(&journal, |_| Err("broken".into())).backoff(steps(Jitter::Full));
            root.scope().child(spec);
            sleep(2 * SECOND).await;
            root.stop().await;
            journal.millis()
        })
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_panic_is_an_exit_with_its_payload_and_stands_in_the_tree() {
    virtual_time(async {
        let root = Root::new("test");
        let child = root.scope().child(
            ChildSpec::new("fragile", |ctx| async move {
                if ctx.attempt() == 0 {
                    panic!("lost its marbles: {}", 7);
                }
                ctx.ready();
                ctx.cancelled().cancelled().await;
                Ok(())
            })
            .backoff(steps(Jitter::None)),
        );
        child.wait_ready().await.expect("the second incarnation is ready");
        let tree = root.scope().tree();
        let node = tree.find("fragile").expect("it is in the tree");
        assert_eq!(node.last_exit.as_deref(), Some("panicked: lost its marbles: 7"));
        assert_eq!((node.state, node.restarts), (NodeState::Running, 1));
        let text = serde_json::to_string(&tree).expect("the tree is data");
        assert_eq!(serde_json::from_str::<snakehouse_supervise::Node>(&text).unwrap(), tree);
        assert!(root.stop().await.is_clean());
    });
}

#[test]
fn a_panic_before_the_first_await_and_an_error_chain_are_exits_too() {
    virtual_time(async {
        let root = Root::new("test");
        let eager = ChildSpec::new("eager", |ctx| {
            assert!(ctx.attempt() > 5, "in the constructor");
            async { Ok(()) }
        });
        let exit = root.scope().child(eager.restart(Restart::Temporary)).gone().await;
        assert_eq!(exit, Exit::Panicked("in the constructor".into()));
        let chained = ChildSpec::new("chained", |_| async {
            Err(std::io::Error::other("disk on fire").into())
        });
        let exit = root.scope().child(chained.restart(Restart::Temporary)).gone().await;
        assert_eq!(exit, Exit::Failed("disk on fire".into()));
        root.stop().await;
    });
}

#[test]
fn too_many_restarts_fail_the_scope_and_all_around_it_but_a_contained_scope_stops_there() {
    virtual_time(async {
        let root = Root::new("root");
        let mut events = root.scope().events();
        let journal = Journal::new();
        let island = root.scope().open_contained("island");
        let outer = island.open("outer");
        let noted = journal.clone();
        outer.child(ChildSpec::new("bystander", move |ctx| {
            let noted = noted.clone();
            async move {
                ctx.cancelled().cancelled().await;
                noted.note("bystander stopped");
                Ok(())
            }
        }));
        let inner = outer.open("inner");
        let spec = noting(&journal, |_| Err("hopeless".into()));
        let child = inner.child(spec.intensity(3, 60 * SECOND));

        let failure = island.failed().await;
        assert_eq!(failure.scope, "root/island/outer/inner");
        assert_eq!((failure.member.as_str(), failure.restarts), ("noting", 3));
        assert_eq!(failure.last, Exit::Failed("hopeless".into()));
        assert_eq!(child.wait_ready().await.unwrap_err().exit, failure.last);
        assert_eq!(inner.failed().await, failure);
        assert_eq!(outer.failed().await, failure);
        island.stop().await;
        assert_eq!(journal.lines(), ["start", "start", "start", "start", "bystander stopped"]);

        assert_eq!(root.scope().tree().state, NodeState::Running, "the failure was contained");
        assert!(root.scope().task("still", async { 1 }).await.is_ok());
        root.stop().await;
        let failed = std::iter::from_fn(|| events.try_recv().ok())
            .filter(|event| event.what == Happening::ScopeFailed)
            .map(|event| event.scope.to_string());
        let expected = ["root/island/outer/inner", "root/island/outer", "root/island"];
        assert_eq!(failed.collect::<Vec<_>>(), expected);
    });
}

#[test]
fn a_child_is_restarted_when_a_scope_of_its_own_fails() {
    virtual_time(async {
        let root = Root::new("root");
        let child = root.scope().child(
            ChildSpec::new("branch", |ctx| async move {
                let hopeless = ctx.attempt() == 0;
                ctx.scope().child(
                    ChildSpec::new("leaf", move |leaf| async move {
                        if hopeless {
                            return Err("hopeless".into());
                        }
                        leaf.ready();
                        leaf.cancelled().cancelled().await;
                        Ok(())
                    })
                    .intensity(1, 60 * SECOND),
                );
                ctx.ready();
                ctx.cancelled().cancelled().await;
                Ok(())
            })
            .backoff(steps(Jitter::None)),
        );
        sleep(10 * SECOND).await;
        assert_eq!((child.restarts(), child.state()), (1, NodeState::Running));
        let tree = root.scope().tree();
        let branch = tree.find("branch").expect("the branch is in the tree");
        assert!(branch.last_exit.as_ref().is_some_and(|exit| exit.contains("hopeless")));
        assert_eq!(branch.children[0].state, NodeState::Running);
        assert!(root.stop().await.is_clean());
    });
}

#[test]
fn readiness_is_awaited_through_restarts_and_bounded_by_the_spec() {
    virtual_time(async {
        let root = Root::new("test");
        let journal = Journal::new();
        let noted = journal.clone();
        let child = root.scope().child(
            ChildSpec::new("slow", move |ctx| {
                noted.note("start");
                async move {
                    sleep(if ctx.attempt() < 2 { 3600 * SECOND } else { SECOND }).await;
                    ctx.ready();
                    ctx.cancelled().cancelled().await;
                    Ok(())
                }
            })
            .ready_within(5 * SECOND)
            .backoff(steps(Jitter::None)),
        );
        child.wait_ready().await.expect("the third incarnation is fast enough");
        assert_eq!(journal.millis(), [0, 5_100, 10_300]);
        sleep(3600 * SECOND).await;
        assert_eq!(child.restarts(), 2, "a ready child is not bounded any more");
        root.stop().await;
    });
}

#[test]
fn a_stop_during_the_back_off_ends_the_child_at_once() {
    virtual_time(async {
        let root = Root::new("test");
        let journal = Journal::new();
        let hour = Backoff::new(3600 * SECOND, 3600 * SECOND, Jitter::None).unwrap();
        let child = root.scope().child(noting(&journal, |_| Err("broken".into())).backoff(hour));
        settle().await;
        assert_eq!(child.state(), NodeState::BackingOff);
        let before = tokio::time::Instant::now();
        assert_eq!(child.stop().await, Exit::Failed("broken".into()));
        assert!(before.elapsed() < SECOND);
        assert_eq!(journal.lines().len(), 1);
        root.stop().await;
    });
}

#[test]
fn the_events_of_a_tree_tell_its_story_in_order() {
    virtual_time(async {
        let root = Root::new("root");
        let mut events = root.scope().events();
        let spec = ChildSpec::new("fragile", |ctx| async move {
            if ctx.attempt() == 0 {
                return Err("broken".into());
            }
            ctx.ready();
            ctx.cancelled().cancelled().await;
            Ok(())
        });
        let child = root.scope().child(spec.backoff(steps(Jitter::None)));
        child.wait_ready().await.unwrap();
        let panicked = root.scope().task("task", async { panic!("no marbles") }).await;
        assert!(Result::<(), _>::is_err(&panicked));
        root.stop().await;
        let mut story = Vec::new();
        while let Ok(event) = events.try_recv() {
            assert_eq!(&*event.scope, "root");
            story.push((event.member, event.what));
        }
        let fragile = |what| ("fragile".to_owned(), what);
        let pause = Duration::from_millis(100);
        assert_eq!(
            story,
            [
                fragile(Happening::Started(0)),
                fragile(Happening::Ended(Exit::Failed("broken".into()))),
                fragile(Happening::Restarting(pause)),
                fragile(Happening::Started(1)),
                fragile(Happening::Ready),
                ("task".to_owned(), Happening::Panicked("no marbles".into())),
                (String::new(), Happening::ScopeStopping),
                fragile(Happening::Ended(Exit::Stopped)),
                (String::new(), Happening::ScopeStopped),
            ]
        );
    });
}
