//! Groups: order, strategies, readiness, intensity.

use std::time::Duration;

use proptest::prelude::{Just, ProptestConfig, prop, prop_oneof, proptest};
use snakehouse_base::{Backoff, Jitter};
use snakehouse_supervise::{
    ChildSpec, Exit, GroupSpec, NodeKind, NodeState, Restart, Root, Strategy,
};
use snakehouse_testkit::virtual_time;
use tokio::sync::broadcast;
use tokio::time::sleep;

use crate::journal::Journal;

const SECOND: Duration = Duration::from_secs(1);

/// A member that is ready a second after its start, notes start and end, and fails when `break_it`
/// names it.
fn member(name: &str, journal: &Journal, break_it: &broadcast::Sender<String>) -> ChildSpec {
    let (journal, break_it, own) = (journal.clone(), break_it.clone(), name.to_owned());
    let quick = Backoff::new(SECOND, SECOND, Jitter::None).unwrap();
    ChildSpec::new(name, move |ctx| {
        let (journal, mut broken, own) = (journal.clone(), break_it.subscribe(), own.clone());
        async move {
            journal.note(format!("+{own}"));
            sleep(SECOND).await;
            journal.note(format!("^{own}"));
            ctx.ready();
            let cancelled = ctx.cancelled();
            let broken = async { while broken.recv().await.as_deref() != Ok(own.as_str()) {} };
            tokio::select! {
                () = cancelled.cancelled() => {
                    sleep(SECOND).await;
                    journal.note(format!("-{own}"));
                    Ok(())
                }
                () = broken => {
                    journal.note(format!("!{own}"));
                    Err("broken".into())
                }
            }
        }
    })
    .backoff(quick)
}

fn abc(strategy: Strategy, journal: &Journal, break_it: &broadcast::Sender<String>) -> GroupSpec {
    ["a", "b", "c"].iter().fold(GroupSpec::new("group", strategy), |group, name| {
        group.child(member(name, journal, break_it))
    })
}

#[test]
fn members_start_in_order_each_when_the_one_before_is_ready() {
    virtual_time(async {
        let (root, journal) = (Root::new("root"), Journal::new());
        let (break_it, _keep) = broadcast::channel(8);
        let group = root.scope().group(abc(Strategy::OneForAll, &journal, &break_it));
        group.wait_ready().await.unwrap();
        assert_eq!(journal.lines(), ["+a", "^a", "+b", "^b", "+c", "^c"]);
        assert_eq!(journal.millis(), [0, 1000, 1000, 2000, 2000, 3000]);
        let tree = root.scope().tree();
        let node = &tree.children[0];
        assert_eq!((node.kind, node.state), (NodeKind::Group, NodeState::Running));
        assert!(node.children.iter().all(|child| child.state == NodeState::Running));

        let report = root.stop().await;
        assert!(report.is_clean());
        let names: Vec<_> = report.ended.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["group/c", "group/b", "group/a", "group"]);
        assert_eq!(journal.lines()[6..], ["-c", "-b", "-a"]);
        assert_eq!(journal.millis()[6..], [4000, 5000, 6000]);
    });
}

#[test]
fn each_strategy_restarts_whom_it_names_in_order() {
    let cases: [(Strategy, &[&str]); 3] = [
        (Strategy::OneForOne, &["!b", "+b", "^b"]),
        (Strategy::OneForAll, &["!b", "-c", "-a", "+a", "^a", "+b", "^b", "+c", "^c"]),
        (Strategy::RestForOne, &["!b", "-c", "+b", "^b", "+c", "^c"]),
    ];
    for (strategy, expected) in cases {
        virtual_time(async {
            let (root, journal) = (Root::new("root"), Journal::new());
            let (break_it, _keep) = broadcast::channel(8);
            let group = root.scope().group(abc(strategy, &journal, &break_it));
            group.wait_ready().await.unwrap();
            break_it.send("b".into()).unwrap();
            sleep(20 * SECOND).await;
            assert_eq!(journal.lines()[6..], *expected, "{strategy:?}");
            group.wait_ready().await.unwrap();
            assert_eq!(group.child("b").unwrap().restarts(), 1);
            root.stop().await;
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    /// Whatever breaks, at whatever moment: in the end all run again, everyone who was stopped was
    /// stopped once per start, and a stop leaves nothing.
    #[test]
    fn any_breakage_is_repaired(
        strategy in prop_oneof![
            Just(Strategy::OneForOne), Just(Strategy::OneForAll), Just(Strategy::RestForOne),
        ],
        breaks in prop::collection::vec((0usize..3, 0u64..5000), 0..20),
    ) {
        virtual_time(async {
            let (root, journal) = (Root::new("root"), Journal::new());
            let (break_it, _keep) = broadcast::channel(64);
            let spec = abc(strategy, &journal, &break_it).intensity(1000, SECOND);
            let group = root.scope().group(spec);
            for (who, pause) in breaks {
                sleep(Duration::from_millis(pause)).await;
                break_it.send(["a", "b", "c"][who].into()).unwrap();
            }
            sleep(600 * SECOND).await;
            group.wait_ready().await.unwrap();
            let tree = root.scope().tree();
            assert!(tree.children[0].children.iter().all(|child| child.state == NodeState::Running));
            let report = root.stop().await;
            assert!(report.is_clean(), "{report:?}");
            for name in ["a", "b", "c"] {
                let count = |mark: &str| {
                    journal.lines().iter().filter(|line| **line == format!("{mark}{name}")).count()
                };
                assert_eq!(count("^"), count("-") + count("!"), "{name}: {:?}", journal.lines());
            }
            // Nobody starts before everyone in front has reported readiness since its last start.
            let mut ready = [false; 3];
            for line in journal.lines() {
                let who = usize::from(line.as_bytes()[1] - b'a');
                match line.as_bytes()[0] {
                    b'^' => ready[who] = true,
                    b'+' => {
                        let in_front = ready[..who].iter().all(|ready| *ready);
                        let alone = strategy == Strategy::OneForOne;
                        assert!(in_front || alone, "{line} too early: {:?}", journal.lines());
                        ready[who] = false;
                    }
                    b'-' => ready[who] = false,
                    _ => {}
                }
            }
        });
    }
}

#[test]
fn too_many_restarts_of_all_together_fail_the_scope() {
    virtual_time(async {
        let (root, journal) = (Root::new("root"), Journal::new());
        let (break_it, _keep) = broadcast::channel(8);
        let island = root.scope().open_contained("island");
        let spec = abc(Strategy::OneForOne, &journal, &break_it).intensity(2, 3600 * SECOND);
        let group = island.group(spec);
        for who in ["a", "b", "c"] {
            group.wait_ready().await.unwrap();
            break_it.send(who.into()).unwrap();
            sleep(SECOND).await;
        }
        let failure = island.failed().await;
        assert_eq!((failure.member.as_str(), failure.restarts), ("group/c", 2));
        island.stop().await;
        assert!(group.wait_ready().await.is_err());
        assert!(root.stop().await.is_clean());
    });
}

#[test]
fn a_member_that_is_done_stays_done_and_a_group_of_such_members_ends() {
    virtual_time(async {
        let (root, journal) = (Root::new("root"), Journal::new());
        let (break_it, _keep) = broadcast::channel(8);
        let once = ChildSpec::new("once", |ctx| async move {
            ctx.ready();
            Ok(())
        });
        let spec = GroupSpec::new("group", Strategy::OneForAll)
            .child(once.restart(Restart::Transient))
            .child(member("a", &journal, &break_it));
        let group = root.scope().group(spec);
        group.wait_ready().await.unwrap();
        break_it.send("a".into()).unwrap();
        sleep(10 * SECOND).await;
        assert_eq!(group.child("once").unwrap().restarts(), 0);
        assert_eq!(journal.lines(), ["+a", "^a", "!a", "+a", "^a"]);
        assert_eq!(group.child("a").unwrap().stop().await, Exit::Stopped);
        group.stop().await;
        assert!(root.scope().tree().children.is_empty(), "the group left the tree");
        root.stop().await;
    });
}
