//! Dispatch compared with its rules, over any script of requests, throttles and successes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use proptest::option;
use proptest::prelude::*;
use snakehouse_base::{ByteSize, Deadline};
use snakehouse_guard::{Dispatch, DispatchConfig, DispatchMode, Window};
use snakehouse_testkit::virtual_time;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Count 5, bytes 24; throttled: count 2, bytes 4 times; for another 60 ms after a window.
const CONFIG: DispatchConfig = DispatchConfig {
    count: 5,
    bytes: ByteSize(24),
    throttled_count: 2,
    throttled_scale: 4,
    recovery: Duration::from_millis(60),
};

/// A request: when it comes, how long it runs, how long it is ready to wait.
#[derive(Clone, Copy, Debug)]
struct Request {
    at: u64,
    runs: u64,
    patience: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Throttle(u64),
    /// A success of a request that was sent so long ago.
    Success(u64),
}

/// What the rules say about this moment, from the script alone.
#[derive(Default)]
struct Rules {
    window_ends: u64,
    /// When the end of the window last moved.
    extended: u64,
    throttled_until: u64,
}

impl Rules {
    fn at(events: &BTreeMap<u64, Event>, now: u64) -> Self {
        let mut rules = Self::default();
        for (at, event) in events.range(..=now) {
            match event {
                Event::Throttle(pause) => {
                    if at + pause > rules.window_ends && *pause > 0 {
                        (rules.window_ends, rules.extended) = (at + pause, *at);
                    }
                    if rules.window_ends > *at {
                        rules.throttled_until = rules.throttled_until.max(rules.window_ends + 60);
                    }
                }
                Event::Success(ago) => {
                    // It saw the window that it ends.
                    if at.saturating_sub(*ago) >= rules.extended && rules.window_ends > 0 {
                        rules.window_ends = 0;
                    }
                }
            }
        }
        rules
    }

    fn mode(&self, now: u64) -> DispatchMode {
        if now < self.window_ends {
            DispatchMode::Throttled
        } else if now < self.throttled_until {
            DispatchMode::Recovering
        } else {
            DispatchMode::Normal
        }
    }
}

fn request() -> impl Strategy<Value = Request> {
    (0u64..400, 0u64..80, option::weighted(0.3, 0u64..100))
        .prop_map(|(at, runs, patience)| Request { at, runs, patience })
}

fn events() -> impl Strategy<Value = BTreeMap<u64, Event>> {
    let event = prop_oneof![
        2 => (0u64..120).prop_map(Event::Throttle),
        1 => (0u64..60).prop_map(Event::Success),
    ];
    prop::collection::btree_map(0u64..400, event, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// DI1: no admission over the limits of the moment. DI3: the moment is that of the admission.
    /// DI4: nobody waits in the queue while the head fits. DI6: all end, whatever the weather.
    #[test]
    fn admits_as_the_rules_say(
        bytes in 1u64..30,
        requests in prop::collection::vec(request(), 1..40),
        events in events(),
    ) {
        virtual_time(async {
            let dispatch = Dispatch::new(CONFIG, Window::new(Duration::ZERO)).unwrap();
            let start = Instant::now();
            let now = || u64::try_from(start.elapsed().as_millis()).unwrap();
            let ran = RefCell::new(0);
            let running = requests.iter().map(|request| {
                let (dispatch, events, ran) = (&dispatch, &events, &ran);
                async move {
                    sleep_until(start + ms(request.at)).await;
                    let deadline = request.patience.map_or_else(Deadline::never, |patience| {
                        Deadline::after(Instant::now().into_std(), ms(patience))
                    });
                    let admitted = dispatch.admit(ByteSize(bytes), deadline).await;
                    let Some(permit) = admitted else {
                        let waited = Some(now() - request.at);
                        assert_eq!(waited, request.patience, "it waited as long as it would");
                        *ran.borrow_mut() += 1;
                        return;
                    };
                    // Events of this very millisecond may come before or after.
                    let modes = [now().checked_sub(1), Some(now())].map(|known| {
                        known.map_or(DispatchMode::Normal, |known| {
                            Rules::at(events, known).mode(now())
                        })
                    });
                    let sent_into_window = modes.iter().all(|m| *m == DispatchMode::Throttled);
                    assert!(!sent_into_window, "nothing is sent into the window");
                    let (count, charged) = dispatch.in_flight();
                    if modes.iter().all(|mode| *mode == DispatchMode::Recovering) {
                        assert!(count <= CONFIG.throttled_count, "{count} while recovering");
                    }
                    assert!(count <= CONFIG.count && charged.0 <= CONFIG.bytes.0);
                    sleep_until(Instant::now() + ms(request.runs)).await;
                    drop(permit);
                    *ran.borrow_mut() += 1;
                }
            });
            let weather = async {
                let mut seen = BTreeMap::new();
                for moment in 0..=400u64 {
                    sleep_until(start + ms(moment)).await;
                    match events.get(&moment) {
                        Some(Event::Throttle(pause)) => dispatch.throttle(ms(*pause)),
                        Some(Event::Success(ago)) => {
                            let saw = seen.get(&(moment.saturating_sub(*ago)));
                            let saw = saw.copied().unwrap_or_else(|| dispatch.observe());
                            dispatch.succeeded(saw);
                        }
                        None => {}
                    }
                    seen.insert(moment, dispatch.observe());
                    // All of this is one task: each turn polls everybody.
                    for _ in 0..8 {
                        yield_now().await;
                    }
                    let rules = Rules::at(&events, moment);
                    assert_eq!(dispatch.mode(), rules.mode(moment), "at {moment}");
                    let (limit, scale) = match dispatch.mode() {
                        DispatchMode::Normal => (CONFIG.count, 1),
                        _ => (CONFIG.throttled_count, CONFIG.throttled_scale),
                    };
                    let (count, charged) = dispatch.in_flight();
                    let charge = (bytes * scale).min(CONFIG.bytes.0);
                    let fits = count < limit && charged.0 + charge <= CONFIG.bytes.0;
                    if dispatch.mode() != DispatchMode::Throttled {
                        assert!(!fits || dispatch.waiting() == 0, "the head fits and waits");
                    }
                }
            };
            tokio::join!(join_all(running), weather);
            assert_eq!(*ran.borrow(), requests.len());
            assert_eq!((dispatch.in_flight(), dispatch.waiting()), ((0, ByteSize(0)), 0));
        });
    }
}
