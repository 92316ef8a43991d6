//! Limits: exact under threads, fair and lazy when waited for.

use std::cell::RefCell;
use std::time::Duration;

use futures_util::future::join_all;
use snakehouse_base::Deadline;
use snakehouse_guard::{KeyedLimit, Limit, LimitError, Rate};
use snakehouse_testkit::{race, virtual_time};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn many_threads_on_a_frozen_clock_admit_exactly_the_burst() {
    let now = Instant::now().into_std();
    let limit = Limit::new(Rate::new(SECOND, 1000).unwrap(), now);
    let keyed = KeyedLimit::new(Rate::new(SECOND, 1000).unwrap(), 10, now).unwrap();
    let admitted = race(64, |_| {
        let mut admitted = (0, 0);
        for _ in 0..10_000 {
            admitted.0 += usize::from(limit.try_take(1, now).is_ok());
            admitted.1 += usize::from(keyed.try_take(&"key", 1, now).is_ok());
        }
        admitted
    });
    assert_eq!(admitted.iter().map(|(plain, _)| plain).sum::<usize>(), 1000);
    assert_eq!(admitted.iter().map(|(_, keyed)| keyed).sum::<usize>(), 1000);
}

#[test]
fn waiters_are_served_in_order_at_the_rate() {
    virtual_time(async {
        let start = Instant::now();
        let limit = Limit::new(Rate::new(SECOND, 2).unwrap(), start.into_std());
        let served = RefCell::new(Vec::new());
        let waiters = (0..6).map(|n| {
            let (limit, served) = (&limit, &served);
            async move {
                limit.take(1, Deadline::never()).await.unwrap();
                served.borrow_mut().push((n, start.elapsed().as_secs()));
            }
        });
        join_all(waiters).await;
        assert_eq!(served.into_inner(), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]);
    });
}

#[test]
fn a_waiter_never_waits_in_vain() {
    virtual_time(async {
        let start = Instant::now();
        let limit = Limit::new(Rate::new(SECOND, 5).unwrap(), start.into_std());
        let deadline = Deadline::after(start.into_std(), 3 * SECOND);
        let too_large = limit.take(6, Deadline::never()).await;
        assert_eq!(too_large, Err(LimitError::TooLarge { cost: 6, burst: 5 }));
        limit.take(5, deadline).await.unwrap();
        assert_eq!(limit.take(4, deadline).await, Err(LimitError::Deadline));
        assert_eq!(start.elapsed(), Duration::ZERO, "known at once");

        let abandoned = limit.take(5, Deadline::never());
        assert!(tokio::time::timeout(SECOND, abandoned).await.is_err());
        limit.take(2, deadline).await.unwrap();
        assert_eq!(start.elapsed(), 2 * SECOND, "an abandoned waiter took nothing");
    });
}
