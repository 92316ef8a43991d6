//! Periodic work: no drift, no pile-up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use snakehouse_supervise::Root;
use snakehouse_testkit::virtual_time;
use tokio::time::sleep;

use crate::journal::Journal;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_long_run_neither_drifts_nor_piles_up() {
    virtual_time(async {
        let (root, journal) = (Root::new("root"), Journal::new());
        let (noted, n) = (journal.clone(), Arc::new(AtomicU64::new(0)));
        root.scope().every("tick", 10 * SECOND, move || {
            let (noted, n) = (noted.clone(), n.fetch_add(1, Ordering::SeqCst));
            async move {
                noted.note("tick");
                // Most take 3 s; the third takes 25 s, over two ticks.
                sleep(if n == 2 { 25 * SECOND } else { 3 * SECOND }).await;
                Ok(())
            }
        });
        sleep(3605 * SECOND).await;
        let seconds: Vec<_> = journal.millis().iter().map(|millis| millis / 1000).collect();
        let expected: Vec<u128> =
            (1..=360).map(|n| n * 10).filter(|at| ![40, 50].contains(at)).collect();
        assert_eq!(seconds, expected);
        assert!(root.stop().await.is_clean());
    });
}

#[test]
fn a_stop_finishes_the_tick_that_has_begun_and_a_failure_begins_anew() {
    virtual_time(async {
        let (root, journal) = (Root::new("root"), Journal::new());
        let (noted, n) = (journal.clone(), Arc::new(AtomicU64::new(0)));
        let child = root.scope().every("tick", SECOND, move || {
            let (noted, n) = (noted.clone(), n.fetch_add(1, Ordering::SeqCst));
            async move {
                if n == 0 {
                    return Err("first".into());
                }
                sleep(SECOND * 3).await;
                noted.note("finished");
                Ok(())
            }
        });
        sleep(SECOND * 4).await;
        assert_eq!(child.restarts(), 1);
        assert!(root.stop().await.is_clean());
        assert_eq!(journal.lines(), ["finished"]);
    });
}
