//! The back-off window: extension, generations, ramp.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use futures_util::future::join_all;
use snakehouse_guard::Window;
use snakehouse_testkit::{counted, for_each_seed, virtual_time};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn waiters_leave_on_a_ramp_after_the_end() {
    virtual_time(async {
        let start = Instant::now();
        let window = Window::new(SECOND);
        window.set(start.into_std(), 30 * SECOND);
        let left = RefCell::new(Vec::new());
        let waiters = (0..15).map(|_| {
            let (window, left) = (&window, &left);
            async move {
                window.wait().await;
                left.borrow_mut().push(start.elapsed().as_secs());
            }
        });
        join_all(waiters).await;
        let left = left.into_inner();
        let at = |second| left.iter().filter(|leaving| **leaving == second).count();
        assert_eq!([at(30), at(31), at(32), at(33)], [1, 2, 4, 8]);
    });
}

/// BW2 and BW4: a thousand callers, and none begins before the end, however often it moves; right
/// after it only a few.
#[test]
fn a_thousand_callers_wait_for_the_latest_end_and_come_back_in_steps() {
    for_each_seed(20, |chance| {
        virtual_time(async {
            let start = Instant::now();
            let ramp = Duration::from_millis(50);
            let window = Window::new(ramp);
            let latest = Cell::new(start);
            let begun = RefCell::new(Vec::new());
            let until = |pause: Duration| {
                window.set(Instant::now().into_std(), pause);
                latest.set(latest.get().max(Instant::now() + pause));
            };
            until(5 * SECOND);
            let callers = (0..1000).map(|_| {
                let arrives = (4 * SECOND).mul_f64(chance.next_unit());
                let (window, latest, begun) = (&window, &latest, &begun);
                async move {
                    sleep(arrives).await;
                    window.wait().await;
                    assert!(Instant::now() >= latest.get(), "begun within the window");
                    begun.borrow_mut().push(Instant::now());
                }
            });
            let extensions = async {
                for _ in 0..5 {
                    sleep((4 * SECOND).mul_f64(chance.next_unit()) / 5).await;
                    until((20 * SECOND).mul_f64(chance.next_unit()));
                }
            };
            tokio::join!(join_all(callers), extensions);
            let begun = begun.into_inner();
            assert_eq!(begun.len(), 1000);
            let soon = latest.get() + Duration::from_millis(100);
            let first = begun.iter().filter(|at| **at < soon).count();
            assert!(first <= 10, "{first} begin within 100 ms of the end");
            // 1, 2, 4, ...: ten steps are enough for 1,023.
            assert!(begun.iter().all(|at| *at <= latest.get() + 10 * ramp));
        });
    });
}

#[test]
fn a_window_is_extended_never_shortened_and_wakes_nobody_for_nothing() {
    virtual_time(async {
        let start = Instant::now();
        let window = Window::new(Duration::ZERO);
        window.set(start.into_std(), 10 * SECOND);
        let (waiter, polls) = counted(window.wait());
        let changes = async {
            sleep(5 * SECOND).await;
            window.set(Instant::now().into_std(), SECOND);
            window.set(Instant::now().into_std(), 20 * SECOND);
        };
        tokio::join!(waiter, changes);
        assert_eq!(start.elapsed(), 25 * SECOND);
        assert!(polls.count() <= 4, "{} polls", polls.count());
    });
}

#[test]
fn a_success_clears_what_it_saw_and_a_late_one_nothing() {
    virtual_time(async {
        let start = Instant::now();
        let window = Window::new(Duration::ZERO);
        let before = window.observe();
        window.set(start.into_std(), 30 * SECOND);
        window.clear(before);
        assert!(window.active(start.into_std()).is_some(), "it was sent before the window");

        let during = window.observe();
        let clearing = async {
            sleep(3 * SECOND).await;
            window.clear(during);
        };
        tokio::join!(window.wait(), clearing);
        assert_eq!(start.elapsed(), 3 * SECOND);
        window.wait().await;
        assert_eq!(start.elapsed(), 3 * SECOND, "an inactive window does not delay");
    });
}
