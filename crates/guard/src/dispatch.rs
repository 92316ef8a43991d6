//! Count, bytes and the back-off window of a target, behind one guard.

use std::sync::Arc;
use std::time::Duration;

use snakehouse_base::{ByteSize, Deadline};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::ConfigError;
use crate::admission::Limits;
use crate::by;
use crate::event;
use crate::gate::{Gate, Permit};
use crate::window::{Generation, Window};

/// The limits of a dispatch.
///
/// Default: 400 at once and 5 MiB in flight; while throttled 10 at once with bytes counted 20 times;
/// throttled for another 10 s after a window ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DispatchConfig {
    /// Requests at once.
    pub count: usize,
    /// Bytes in flight.
    pub bytes: ByteSize,
    /// Requests at once while throttled.
    pub throttled_count: usize,
    /// How many times its size a request counts while throttled.
    pub throttled_scale: u64,
    /// How long the throttle outlasts the window.
    pub recovery: Duration,
}

impl Default for DispatchConfig {
    fn default() -> Self {
        Self {
            count: 400,
            bytes: ByteSize::mib(5),
            throttled_count: 10,
            throttled_scale: 20,
            recovery: Duration::from_secs(10),
        }
    }
}

/// Which limits apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DispatchMode {
    /// All is well.
    Normal,
    /// The window is active: nothing new is sent.
    Throttled,
    /// The window has ended a short while ago: the smaller limits apply.
    Recovering,
}

/// Admission to one target, shared by all its callers. A handle: clones share it.
///
/// One queue, first come first served; who is at its head is admitted under the limits of that
/// moment, so a throttle that starts or ends while requests wait concerns them. A grant is one
/// guard for everything: nobody holds a slot while waiting for bytes or for the window.
#[derive(Clone, Debug)]
pub struct Dispatch {
    config: DispatchConfig,
    gate: Arc<Gate>,
    window: Window,
    /// When the smaller limits end, if they apply.
    throttled_until: Arc<watch::Sender<Option<Instant>>>,
}

impl Dispatch {
    /// An idle dispatch around `window`.
    ///
    /// # Errors
    /// [`ConfigError`] names the limit that is zero.
    pub fn new(config: DispatchConfig, window: Window) -> Result<Self, ConfigError> {
        if config.count == 0 || config.throttled_count == 0 {
            return Err(ConfigError("a dispatch must admit at least one request"));
        }
        if config.bytes.0 == 0 || config.throttled_scale == 0 {
            return Err(ConfigError("a dispatch must admit at least one byte"));
        }
        let gate = Gate::new(normal(&config));
        Ok(Self { config, gate, window, throttled_until: Arc::new(watch::Sender::new(None)) })
    }

    /// Waits for admission of a request of `bytes`; `None` if there was none before `deadline`.
    /// Cancel safe.
    pub async fn admit(&self, bytes: ByteSize, deadline: Deadline) -> Option<Permit> {
        let admitted = async {
            loop {
                self.window.wait().await;
                self.refresh();
                let permit = self.enter(bytes).await;
                // The window may have become active between grant and now.
                if self.window.active(Instant::now().into_std()).is_none() {
                    return permit;
                }
            }
        };
        by(deadline, admitted).await
    }

    /// Waits in the queue; the smaller limits end by time, so whoever waits looks again then.
    async fn enter(&self, bytes: ByteSize) -> Permit {
        let mut entering = std::pin::pin!(self.gate.enter(bytes.0));
        let mut throttled = self.throttled_until.subscribe();
        loop {
            let ends = *throttled.borrow_and_update();
            let ended = async {
                match ends {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                permit = &mut entering => return permit,
                () = ended => self.refresh(),
                // Throttled, or back to normal: look at the new end.
                Ok(()) = throttled.changed() => {}
            }
        }
    }

    /// The target wants a pause: nothing is sent for so long, and little for a while after.
    pub fn throttle(&self, pause: Duration) {
        let now = Instant::now();
        self.window.set(now.into_std(), pause);
        self.apply(now);
    }

    /// What to pass to [`succeeded`](Dispatch::succeeded): take it before sending.
    pub fn observe(&self) -> Generation {
        self.window.observe()
    }

    /// A request that saw `seen` before it was sent has succeeded.
    pub fn succeeded(&self, seen: Generation) {
        self.window.clear(seen);
    }

    /// Which limits apply now.
    pub fn mode(&self) -> DispatchMode {
        let now = Instant::now();
        let throttled = self.throttled_until.borrow().is_some_and(|until| now < until);
        match (self.window.active(now.into_std()), throttled) {
            (Some(_), _) => DispatchMode::Throttled,
            (None, true) => DispatchMode::Recovering,
            (None, false) => DispatchMode::Normal,
        }
    }

    /// How many requests are admitted, and their bytes as charged.
    pub fn in_flight(&self) -> (usize, ByteSize) {
        let (count, bytes) = self.gate.in_flight();
        (count, ByteSize(bytes))
    }

    /// How many wait for admission (not counting those that wait for the window).
    pub fn waiting(&self) -> usize {
        self.gate.waiting()
    }

    /// Switches to the smaller limits until the window's end and the recovery have passed.
    fn apply(&self, now: Instant) {
        let Some(end) = self.window.active(now.into_std()) else { return };
        let until = Instant::from_std(end) + self.config.recovery;
        self.gate.set_limits(Limits {
            count: self.config.throttled_count.min(self.config.count),
            bytes: self.config.bytes.0,
            scale: self.config.throttled_scale,
        });
        self.throttled_until
            .send_modify(|known| *known = Some(known.map_or(until, |known| known.max(until))));
        event::dispatch_throttled(until - now);
    }

    /// Returns to the normal limits if their time has come.
    fn refresh(&self) {
        let now = Instant::now();
        let over = self.throttled_until.send_if_modified(|until| {
            let over = until.is_some_and(|until| until <= now);
            if over {
                *until = None;
            }
            over
        });
        if over {
            self.gate.set_limits(normal(&self.config));
            event::dispatch_recovered();
        }
    }
}

const fn normal(config: &DispatchConfig) -> Limits {
    Limits { count: config.count, bytes: config.bytes.0, scale: 1 }
}
