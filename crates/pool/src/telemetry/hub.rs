//! What a pool's callers and connections share in order to tell: who is told, what, and the counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use snakehouse_base::Chance;
use snakehouse_guard::{Limit, Rate};
use snakehouse_wire::{TraceContext, Value};
use tokio::time::Instant;

use super::{
    SAVED_UP, Telemetry, TelemetryConfig, TelemetryCounts, TelemetryFilter, TelemetrySink,
};

/// One pool's telemetry.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(super) pool: Arc<str>,
    sink: Arc<dyn TelemetrySink>,
    wanted: RwLock<Wanted>,
    /// Counts the filters that there were.
    version: AtomicU64,
    /// Ids, and which calls begin a trace.
    chance: Chance,
    spans: AtomicU64,
    events: AtomicU64,
    pub(super) dropped: AtomicU64,
    not_begun: AtomicU64,
    pub(super) dropped_by_workers: AtomicU64,
    pub(super) malformed: AtomicU64,
}

/// A filter, and what counts the traces that it lets begin.
#[derive(Debug)]
struct Wanted {
    filter: TelemetryFilter,
    /// `None` lets all begin.
    limit: Option<Limit>,
}

impl Wanted {
    fn new(filter: TelemetryFilter) -> Self {
        let limit = filter.traces_per_second.map(|most| {
            let per = (Duration::from_secs(1) / most.get()).max(Duration::from_nanos(1));
            let rate = Rate::new(per, u64::from(most.get()) * u64::from(SAVED_UP))
                .expect("neither is zero, and both together are some seconds");
            Limit::new(rate, Instant::now().into_std())
        });
        Self { filter, limit }
    }

    /// Whether one more trace may begin now.
    fn admits(&self) -> bool {
        let take = |limit: &Limit| limit.try_take(1, Instant::now().into_std()).is_ok();
        self.limit.as_ref().is_none_or(take)
    }
}

impl Hub {
    pub(crate) fn new(pool: &str, config: TelemetryConfig) -> Arc<Self> {
        Arc::new(Self {
            pool: pool.into(),
            sink: config.sink,
            wanted: RwLock::new(Wanted::new(config.filter)),
            version: AtomicU64::new(1),
            chance: Chance::from_entropy(),
            spans: AtomicU64::default(),
            events: AtomicU64::default(),
            dropped: AtomicU64::default(),
            not_begun: AtomicU64::default(),
            dropped_by_workers: AtomicU64::default(),
            malformed: AtomicU64::default(),
        })
    }

    fn wanted(&self) -> RwLockReadGuard<'_, Wanted> {
        self.wanted.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this is told. Workers learn of it by [`settings`](Self::settings).
    pub(crate) fn set_filter(&self, filter: TelemetryFilter) {
        let wanted = Wanted::new(filter);
        *self.wanted.write().unwrap_or_else(PoisonError::into_inner) = wanted;
        self.version.fetch_add(1, Ordering::Release);
    }

    /// What a worker is to be told of the filter, if that is another one than the worker knows.
    pub(crate) fn settings(&self, known: &mut u64) -> Option<Value> {
        let version = self.version.load(Ordering::Acquire);
        if *known == version {
            return None;
        }
        let is_first = std::mem::replace(known, version) == 0;
        let wanted = self.wanted();
        let filter = &wanted.filter;
        // It is quiet until it is asked.
        if is_first && !filter.on {
            return None;
        }
        let text = |text: &String| Value::from(text.as_str());
        let list = |globs: &[String]| Value::List(globs.iter().map(text).collect());
        let settings = [
            ("on", Value::from(filter.on)),
            ("allow", list(&filter.allow)),
            ("deny", list(&filter.deny)),
            ("events", Value::Float(filter.events)),
        ];
        let entry = |(key, value): (&str, Value)| (Value::from(key), value);
        Some(Value::Dict(settings.into_iter().map(entry).collect()))
    }

    /// Gives a span its place: `context` becomes that of what is below it. The parent, or `None` if
    /// there is to be no span.
    pub(super) fn place(&self, name: &str, context: &mut TraceContext) -> Option<u64> {
        let begins = context.is_none();
        if !begins && !context.sampled {
            return None;
        }
        let wanted = self.wanted();
        let filter = &wanted.filter;
        if !filter.on || !filter.wants(name) {
            return None;
        }
        if begins {
            if filter.traces < 1.0 && self.chance.next_unit() >= filter.traces {
                return None;
            }
            if !wanted.admits() {
                self.not_begun.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            let halves = [self.id().to_be_bytes(), self.id().to_be_bytes()];
            context.trace.copy_from_slice(halves.as_flattened());
            context.sampled = true;
        }
        Some(std::mem::replace(&mut context.span, self.id()))
    }

    pub(super) fn is_on(&self) -> bool {
        self.wanted().filter.on
    }

    fn id(&self) -> u64 {
        // 0 is none.
        self.chance.next_u64().max(1)
    }

    /// Offers a piece to the sink.
    pub(super) fn tell(&self, telemetry: Telemetry) {
        let count = match &telemetry {
            Telemetry::Span(_) => &self.spans,
            Telemetry::Event(_) => &self.events,
        };
        let count = if self.sink.take(telemetry) { count } else { &self.dropped };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> TelemetryCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        TelemetryCounts {
            spans: read(&self.spans),
            events: read(&self.events),
            dropped: read(&self.dropped),
            not_begun: read(&self.not_begun),
            dropped_by_workers: read(&self.dropped_by_workers),
            malformed: read(&self.malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use snakehouse_testkit::virtual_time;
    use tokio::sync::mpsc;
    use tokio::time::sleep;

    use super::*;

    fn hub(traces_per_second: Option<u32>) -> Arc<Hub> {
        let (sink, _) = mpsc::channel(1);
        let traces_per_second = traces_per_second.and_then(NonZeroU32::new);
        let filter = TelemetryFilter { traces_per_second, ..TelemetryFilter::default() };
        Hub::new("tools", TelemetryConfig { filter, ..TelemetryConfig::new(Arc::new(sink)) })
    }

    /// Calls of no trace, and how many of them begin one.
    fn begun(hub: &Hub, calls: u64) -> u64 {
        let begins = |_: &u64| hub.place("t", &mut TraceContext::default()).is_some();
        (0..calls).filter(begins).count() as u64
    }

    #[test]
    fn calls_of_no_trace_begin_so_many_in_a_second_and_the_others_are_counted() {
        virtual_time(async {
            let few = hub(Some(4));
            assert_eq!((begun(&few, 30), few.counts().not_begun), (20, 10));
            sleep(Duration::from_millis(500)).await;
            assert_eq!(begun(&few, 10), 2);
            sleep(Duration::from_secs(100)).await;
            assert_eq!(begun(&few, 30), 20, "a pause saves up for five seconds and no more");
            // What the caller has decided stands.
            let traced = TraceContext { trace: [1; 16], span: 2, sampled: true };
            assert_eq!(few.place("t", &mut traced.clone()), Some(2));
            let quiet = TraceContext { sampled: false, ..traced };
            assert_eq!(few.place("t", &mut quiet.clone()), None);
            assert_eq!(few.counts().not_begun, 10 + 8 + 10);

            few.set_filter(TelemetryFilter::default());
            assert_eq!(begun(&few, 1_000), 100, "that is the default");
            assert_eq!(begun(&hub(None), 1_000), 1_000);
            assert_eq!(begun(&hub(Some(u32::MAX)), 1_000), 1_000);
        });
    }
}
