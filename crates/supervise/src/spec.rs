//! How a child is started and what happens when it ends.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use snakehouse_base::{Backoff, Jitter};
use tokio::time::{Instant, sleep_until};

use crate::child::ChildCtx;
use crate::exit::{BoxError, Exit};
use crate::intensity::Intensity;
use crate::member::BoxFuture;
use crate::stop::DEFAULT_GRACE;

/// Which exits are followed by a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Every exit.
    Permanent,
    /// Failures and panics; a child that returns `Ok` is done.
    Transient,
    /// None.
    Temporary,
}

impl Restart {
    /// Whether a child that ended this way is started again.
    pub const fn wants(self, exit: &Exit) -> bool {
        match self {
            Restart::Permanent => true,
            Restart::Transient => exit.is_failure(),
            Restart::Temporary => false,
        }
    }
}

/// The description of a supervised child.
///
/// Defaults: [`Restart::Permanent`]; back-off from 100 ms to 10 s with half jitter; at most 10
/// restarts within 60 s; 5 s of grace; no bound on readiness.
pub struct ChildSpec {
    pub(crate) name: String,
    pub(crate) start: Box<dyn FnMut(ChildCtx) -> BoxFuture<Result<(), BoxError>> + Send>,
    pub(crate) restart: Restart,
    pub(crate) backoff: Backoff,
    pub(crate) intensity: Intensity,
    pub(crate) grace: Duration,
    pub(crate) ready_within: Option<Duration>,
}

/// The default back-off between incarnations.
const BACKOFF: Backoff =
    match Backoff::new(Duration::from_millis(100), Duration::from_secs(10), Jitter::Half) {
        Ok(law) => law,
        Err(_) => unreachable!(),
    };

impl ChildSpec {
    /// A child that `start` makes, anew for each incarnation.
    ///
    /// The future should call [`ChildCtx::ready`] once it serves and return when
    /// [`ChildCtx::cancelled`] fires. It is dropped at an await point when its grace has passed.
    pub fn new<S, F>(name: impl Into<String>, mut start: S) -> Self
    where
        S: FnMut(ChildCtx) -> F + Send + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        Self {
            name: name.into(),
            start: Box::new(move |ctx| start(ctx).boxed()),
            restart: Restart::Permanent,
            backoff: BACKOFF,
            intensity: Intensity::new(10, Duration::from_secs(60)),
            grace: DEFAULT_GRACE,
            ready_within: None,
        }
    }

    /// A child that does `work` once per `period`, the first time after one period.
    ///
    /// The schedule does not drift, and work that takes longer than the period does not pile up:
    /// missed ticks are left out. A tick that has begun is finished before the child stops (within
    /// its grace). An error or a panic ends the incarnation; the schedule begins anew after the
    /// back-off. A period of zero is taken as one millisecond.
    pub fn every<W, F>(name: impl Into<String>, period: Duration, work: W) -> Self
    where
        W: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let work = Arc::new(work);
        let period = period.max(Duration::from_millis(1));
        Self::new(name, move |ctx| {
            let work = work.clone();
            async move {
                let mut next = Instant::now() + period;
                ctx.ready();
                let cancelled = ctx.cancelled();
                while cancelled.run_until_cancelled(sleep_until(next)).await.is_some() {
                    work().await?;
                    // The next tick that is still to come.
                    while next <= Instant::now() {
                        next += period;
                    }
                }
                Ok(())
            }
        })
    }

    /// Which exits are followed by a restart.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// The pause before a restart. It starts over once an incarnation has lived for the
    /// intensity's window. Less than a millisecond is none.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// At most `limit` restarts within `within`; one more and the scope fails.
    #[must_use]
    pub fn intensity(mut self, limit: u32, within: Duration) -> Self {
        self.intensity = Intensity::new(limit, within);
        self
    }

    /// How long the child has to end after it was told, before it is dropped.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// An incarnation that has not reported readiness within `bound` counts as failed.
    #[must_use]
    pub fn ready_within(mut self, bound: Duration) -> Self {
        self.ready_within = Some(bound);
        self
    }
}

impl fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildSpec")
            .field("name", &self.name)
            .field("restart", &self.restart)
            .field("backoff", &self.backoff)
            .field("intensity", &self.intensity)
            .field("grace", &self.grace)
            .field("ready_within", &self.ready_within)
            .finish_non_exhaustive()
    }
}
