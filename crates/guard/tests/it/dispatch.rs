//! Dispatch: DI1 to DI6.

use std::cell::Cell;
use std::time::Duration;

use futures_util::future::join_all;
use snakehouse_base::{ByteSize, Deadline};
use snakehouse_guard::{Dispatch, DispatchConfig, DispatchMode, Window};
use snakehouse_testkit::{settle, virtual_time};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
const KIB: ByteSize = ByteSize::kib(1);

fn dispatch() -> Dispatch {
    let window = Window::new(Duration::from_millis(250));
    Dispatch::new(DispatchConfig::default(), window).unwrap()
}

/// Runs `n` requests of `bytes` that take a second each; notes the peak in `peak`.
async fn load(dispatch: &Dispatch, n: usize, bytes: ByteSize, peak: &Cell<usize>) {
    let running = Cell::new(0);
    let requests = (0..n).map(|_| {
        let running = &running;
        async move {
            let permit = dispatch.admit(bytes, Deadline::never()).await.unwrap();
            assert_ne!(dispatch.mode(), DispatchMode::Throttled, "nothing is sent into the window");
            running.set(running.get() + 1);
            peak.set(peak.get().max(running.get()));
            sleep(SECOND).await;
            running.set(running.get() - 1);
            drop(permit);
        }
    });
    join_all(requests).await;
}

#[test]
fn normal_limits_are_used_up_and_not_exceeded() {
    virtual_time(async {
        let dispatch = dispatch();
        let (start, peak) = (Instant::now(), Cell::new(0));
        load(&dispatch, 2000, KIB, &peak).await;
        assert_eq!(peak.get(), 400);
        assert_eq!(start.elapsed(), 5 * SECOND, "work conserving: 5 rounds of 400");
        peak.set(0);
        load(&dispatch, 40, ByteSize::mib(1), &peak).await;
        assert_eq!(peak.get(), 5, "bytes bind first");
    });
}

#[test]
fn a_throttle_concerns_those_who_wait_already_and_so_does_its_end() {
    virtual_time(async {
        let dispatch = dispatch();
        let (start, peak) = (Instant::now(), Cell::new(0));
        let waiting = load(&dispatch, 1000, KIB, &peak);
        let throttle = async {
            settle().await;
            assert_eq!(dispatch.in_flight().0, 400);
            dispatch.throttle(30 * SECOND);
            assert_eq!(dispatch.mode(), DispatchMode::Throttled);
            sleep(29 * SECOND).await;
            assert_eq!(dispatch.in_flight().0, 0, "what ran has drained, nothing was sent");
            sleep(6 * SECOND).await;
            assert_eq!(dispatch.mode(), DispatchMode::Recovering);
            peak.set(0);
            sleep(4 * SECOND).await;
            assert!(peak.get() <= 10, "at most 10 while recovering: {}", peak.get());
            sleep(2 * SECOND).await;
            assert_eq!(dispatch.mode(), DispatchMode::Normal);
        };
        tokio::join!(waiting, throttle);
        assert!(peak.get() > 10, "back to the normal limits");
        assert!(start.elapsed() < 60 * SECOND, "{:?}", start.elapsed());
        assert_eq!((dispatch.in_flight().0, dispatch.waiting()), (0, 0));
    });
}

#[test]
fn a_success_that_saw_the_window_ends_it() {
    virtual_time(async {
        let dispatch = dispatch();
        dispatch.throttle(3600 * SECOND);
        let start = Instant::now();
        let seen = dispatch.observe();
        let success = async {
            sleep(SECOND).await;
            dispatch.succeeded(seen);
        };
        let (permit, ()) = tokio::join!(dispatch.admit(KIB, Deadline::never()), success);
        assert!(permit.is_some());
        assert_eq!(start.elapsed(), SECOND);
    });
}

#[test]
fn clones_share_all_limits_and_the_deadline_ends_the_wait() {
    virtual_time(async {
        let config = DispatchConfig { count: 1, ..DispatchConfig::default() };
        let first = Dispatch::new(config, Window::new(Duration::ZERO)).unwrap();
        let second = first.clone();
        let _held = first.admit(KIB, Deadline::never()).await.unwrap();
        let start = Instant::now();
        let deadline = Deadline::after(start.into_std(), 60 * SECOND);
        assert!(second.admit(KIB, deadline).await.is_none());
        assert_eq!(start.elapsed(), 60 * SECOND, "a minute of saturation is no error");
        assert_eq!(second.waiting(), 0);
    });
}
