//! The back-off window: extension, generations, ramp.

use std::cell::RefCell;
use std::time::Duration;

use futures_util::future::join_all;
use snakehouse_guard::Window;
use snakehouse_testkit::{counted, virtual_time};
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
