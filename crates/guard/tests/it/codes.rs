//! What programs match on: kind and code of every error, as it comes out of its guard.

use std::future::pending;
use std::time::Duration;

use snakehouse_base::{Coded, Deadline, Kind};
use snakehouse_guard::{
    Breaker, BreakerConfig, KeyedLimit, Limit, Permits, Progress, Rate, Registry, Retry,
};
use snakehouse_testkit::virtual_time;
use tokio::time::Instant;

use crate::failure::{DOWN, Failure, by_table};

const SECOND: Duration = Duration::from_secs(1);

fn seen(error: &dyn Coded) -> (Kind, &'static str) {
    (error.kind(), error.code())
}

#[test]
fn every_refusal_has_its_kind_and_its_code() {
    virtual_time(async {
        let now = Instant::now().into_std();
        let refused = Permits::counted(0).unwrap_err();
        assert_eq!(seen(&refused), (Kind::InvalidInput, "guard_config"));

        let rate = Rate::new(SECOND, 1).unwrap();
        let limit = Limit::new(rate, now);
        limit.try_take(1, now).unwrap();
        let limited = limit.try_take(1, now).unwrap_err();
        assert_eq!(seen(&limited), (Kind::Saturated, "rate_limited"));
        let large = limit.try_take(2, now).unwrap_err();
        assert_eq!(seen(&large), (Kind::InvalidInput, "cost_exceeds_burst"));
        let soon = Deadline::after(now, SECOND / 2);
        let late = limit.take(1, soon).await.unwrap_err();
        assert_eq!(seen(&late), (Kind::Deadline, "rate_deadline"));
        let keyed = KeyedLimit::new(rate, 1, now).unwrap();
        keyed.try_take(&"a", 1, now).unwrap();
        let keys = keyed.try_take(&"b", 1, now).unwrap_err();
        assert_eq!(seen(&keys), (Kind::Saturated, "too_many_keys"));

        let registry: Registry<&str, u32, u32> = Registry::new(1, |_| true).unwrap();
        let held = registry.get_or_make(&"a", 1, |n| Ok(*n)).unwrap();
        let conflict = registry.get_or_make(&"a", 2, |n| Ok(*n)).unwrap_err();
        assert_eq!(seen(&conflict), (Kind::Conflict, "guard_conflict"));
        let full = registry.get_or_make(&"b", 1, |n| Ok(*n)).unwrap_err();
        assert_eq!(seen(&full), (Kind::Saturated, "guard_registry_full"));
        drop(held);

        let breaker = Breaker::new("service", BreakerConfig::default()).unwrap();
        (0..5).for_each(|_| breaker.try_admit().unwrap().failure());
        let open = breaker.try_admit().unwrap_err();
        assert_eq!(seen(&open), (Kind::Unavailable, "breaker_open"));
    });
}

#[test]
fn what_was_given_up_says_why_or_carries_its_last_error() {
    virtual_time(async {
        let retry = || Retry::remote().retries(1);
        let soon = Deadline::after(Instant::now().into_std(), SECOND);
        let hung = || pending::<Result<(), Failure>>();
        let late = retry().run(soon, |_| hung(), by_table).await.unwrap_err();
        assert_eq!(seen(&late), (Kind::Deadline, "retry_deadline"));
        let down = retry().run(Deadline::never(), |_| async { Err::<(), _>(DOWN) }, by_table).await;
        assert_eq!(seen(&down.unwrap_err()), (Kind::Unavailable, "planted"));
        let attempt = |n| async move { if n == 0 { Err::<(), _>(DOWN) } else { pending().await } };
        let stuck = retry().progress(Progress::new(60 * SECOND));
        let stuck = stuck.run(Deadline::never(), attempt, by_table).await.unwrap_err();
        assert_eq!(seen(&stuck), (Kind::Unavailable, "no_progress"));
    });
}
