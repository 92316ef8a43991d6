//! Trees under a seeded plan of faults.

use std::time::Duration;

use snakehouse_base::Chance;
use snakehouse_supervise::{ChildSpec, NodeState, Root, Stopped};
use snakehouse_testkit::{Chaos, Fault, Faults, Watch, for_each_seed, virtual_time_prompt};
use tokio::time::{sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

/// Where a child can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    Start,
    Serve,
    Stop,
}

/// A child that works once per second, each time for at most 5 s, and must be ready within 10 s.
fn child(name: &str, faults: &Faults<Point>, watch: &Watch) -> ChildSpec {
    let (faults, watch) = (faults.clone(), watch.clone());
    let life = move |ctx: snakehouse_supervise::ChildCtx| {
        let faults = faults.clone();
        watch.future("a child", async move {
            faults.pass(Point::Start).await?;
            ctx.ready();
            let cancelled = ctx.cancelled();
            while cancelled.run_until_cancelled(sleep(SECOND)).await.is_some() {
                timeout(5 * SECOND, faults.pass(Point::Serve)).await??;
            }
            faults.pass(Point::Stop).await?;
            Ok(())
        })
    };
    ChildSpec::new(name, life).ready_within(10 * SECOND).intensity(1000, SECOND)
}

/// Each fault that ends an incarnation is one restart, no more and no less; when the plan is over all
/// run again; a stop ends even those that fail, panic or hang in it.
#[test]
fn a_tree_repairs_what_a_seeded_plan_breaks_with_one_restart_per_fault() {
    for_each_seed(50, |chance| {
        let points = [Point::Start, Point::Serve, Point::Serve, Point::Stop];
        let kinds = [Fault::Fail, Fault::Panic, Fault::Hang, Fault::Delay(3 * SECOND)];
        let plan = Chaos::draw(&chance, &points, &kinds, 40, 600 * SECOND);
        virtual_time_prompt(async |watch| {
            let faults = Faults::new(plan.clone());
            let root = Root::with_chance("test", Chance::seeded(chance.next_u64()));
            let names = ["a", "b", "c", "d", "e"];
            let children = names.map(|name| root.scope().child(child(name, &faults, &watch)));
            sleep(1800 * SECOND).await;
            for child in &children {
                assert_eq!(child.state(), NodeState::Running, "{}", child.name());
            }
            let deadly = |(_, point, fault): &&(Duration, Point, Fault)| {
                *point != Point::Stop && !matches!(fault, Fault::Delay(_))
            };
            let expected = faults.happened().iter().filter(deadly).count();
            let restarts: u64 = children.iter().map(|child| child.restarts()).sum();
            assert_eq!(restarts, expected as u64);
            assert!(restarts > 5, "the plan was felt: {restarts}");

            let before = faults.happened().len();
            let report = root.stop().await;
            let ended: Vec<_> = report.ended.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(ended, ["e", "d", "c", "b", "a"]);
            let hung = faults.happened()[before..]
                .iter()
                .filter(|(_, point, fault)| *point == Point::Stop && *fault == Fault::Hang)
                .count();
            assert_eq!(report.names(Stopped::Aborted).len(), hung);
        });
    });
}
