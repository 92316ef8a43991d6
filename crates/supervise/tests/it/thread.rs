//! Permanent threads.

use std::sync::mpsc::sync_channel;

use snakehouse_supervise::{Exit, Lane, NodeKind, NodeState, Root, thread};
use snakehouse_testkit::{in_own_process, real_time, wait_until};

#[test]
fn a_thread_is_joined_by_the_stop_of_its_scope() {
    real_time(async {
        let root = Root::new("root");
        let token = root.scope().cancelled();
        let (tell, told) = sync_channel::<()>(1);
        let forker = thread(root.scope(), "forker", move || assert!(told.recv().is_err()));
        let bridge = root.scope().task("bridge", async move {
            token.cancelled().await;
            drop(tell);
        });
        let node = root.scope().tree().children[0].clone();
        assert_eq!((node.kind, node.state), (NodeKind::Thread, NodeState::Running));
        assert!(!forker.is_gone());
        assert!(root.stop().await.is_clean());
        assert_eq!(forker.gone().await, Exit::Finished);
        bridge.await.unwrap();
    });
}

#[test]
fn a_panic_of_a_thread_stands_in_the_tree() {
    real_time(async {
        let root = Root::new("root");
        let fragile = thread(root.scope(), "fragile", || panic!("no marbles"));
        assert_eq!(fragile.gone().await, Exit::Panicked("no marbles".into()));
        let tree = root.scope().tree();
        assert_eq!(tree.last_exit.as_deref(), Some("fragile panicked: no marbles"));
        root.stop().await;
    });
}

#[test]
fn a_thread_for_a_stopped_scope_never_runs() {
    real_time(async {
        let root = Root::new("root");
        let scope = root.scope().clone();
        root.stop().await;
        let late = thread(&scope, "late", || panic!("must not run"));
        assert_eq!(late.gone().await, Exit::Stopped);
    });
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn no_thread_is_left_after_the_stop() {
    in_own_process("thread::no_thread_is_left_after_the_stop", || {
        let before = threads();
        snakehouse_supervise::run(async {
            let root = Root::new("root");
            for _ in 0..50 {
                let nested = root.scope().open("nested");
                let lane = Lane::new(&nested, "lane", 3, 4);
                let _helper = thread(&nested, "helper", || ());
                assert_eq!(lane.run(|| 1).await, Ok(1));
                assert!(nested.stop().await.is_clean());
            }
            assert!(root.stop().await.is_clean());
        });
        let bound = std::time::Duration::from_secs(10);
        wait_until("all threads are gone", bound, || threads() == before);
    });
}
