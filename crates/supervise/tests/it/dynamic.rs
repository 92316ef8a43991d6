//! Children that come and go while the tree runs.

use std::time::Duration;

use snakehouse_base::{Backoff, Jitter};
use snakehouse_supervise::{BoxError, ChildSpec, NodeState, Restart, Root};
use snakehouse_testkit::{Process, in_own_process, virtual_time};
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);

fn idle(name: &str) -> ChildSpec {
    ChildSpec::new(name, |ctx| async move {
        ctx.ready();
        ctx.cancelled().cancelled().await;
        Ok::<(), BoxError>(())
    })
}

#[test]
fn each_is_restarted_alone_and_one_that_is_stopped_leaves_the_others() {
    virtual_time(async {
        let root = Root::new("root");
        let scope = root.scope();
        let steady = scope.child(idle("steady"));
        let breaking = ChildSpec::new("breaking", |ctx| async move {
            ctx.ready();
            sleep(SECOND).await;
            Err::<(), BoxError>("broken".into())
        })
        .backoff(Backoff::new(SECOND, SECOND, Jitter::None).unwrap());
        let breaking = scope.child(breaking);
        sleep(5 * SECOND).await;
        let late = scope.child(idle("late").restart(Restart::Temporary));
        late.wait_ready().await.unwrap();
        assert_eq!((steady.restarts(), late.restarts()), (0, 0));
        assert!(breaking.restarts() >= 2);
        breaking.stop().await;
        assert!(scope.tree().find("breaking").is_none(), "it left the tree");
        assert_eq!(steady.state(), NodeState::Running);
        let stopped = root.stop().await;
        let names: Vec<_> = stopped.ended.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["late", "steady"], "in reverse order of their starts");
    });
}

/// A3: as many as ever were started, nothing of them is left. `SNAKEHOUSE_ITERATIONS` of them (soak:
/// 1,000,000; default 20,000).
#[test]
fn children_and_scopes_that_are_gone_leave_no_memory_behind() {
    let name = "dynamic::children_and_scopes_that_are_gone_leave_no_memory_behind";
    in_own_process(name, || {
        let cycles = std::env::var("SNAKEHOUSE_ITERATIONS").ok().and_then(|n| n.parse().ok());
        let cycles: u64 = cycles.unwrap_or(20_000);
        virtual_time(async {
            let root = Root::new("root");
            let scope = root.scope();
            let mut before = 0;
            for cycle in 0..cycles {
                if cycle == 2000 {
                    before = Process::current().resident();
                }
                let child = scope.child(idle("child"));
                let nested = scope.open("nested");
                let inner = nested.child(idle("inner"));
                let task = nested.task("task", async {});
                child.wait_ready().await.unwrap();
                inner.wait_ready().await.unwrap();
                task.await.unwrap();
                nested.stop().await;
                child.stop().await;
            }
            assert_eq!(scope.tree().count(), 1, "only the root is left");
            let grown = Process::current().resident().saturating_sub(before);
            assert!(grown < 1 << 20, "{grown} bytes of what is gone");
            root.stop().await;
        });
    });
}
