//! What a pool's callers and connections share in order to tell: who is told, what, and the counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use snakehouse_base::Chance;
use snakehouse_wire::{TraceContext, Value};

use super::{Telemetry, TelemetryConfig, TelemetryCounts, TelemetryFilter, TelemetrySink};

/// One pool's telemetry.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(super) pool: Arc<str>,
    sink: Arc<dyn TelemetrySink>,
    filter: RwLock<Arc<TelemetryFilter>>,
    /// Counts the filters that there were.
    version: AtomicU64,
    /// Ids, and which calls begin a trace.
    chance: Chance,
    spans: AtomicU64,
    events: AtomicU64,
    dropped: AtomicU64,
    pub(super) dropped_by_workers: AtomicU64,
    pub(super) malformed: AtomicU64,
}

impl Hub {
    pub(crate) fn new(pool: &str, config: TelemetryConfig) -> Arc<Self> {
        Arc::new(Self {
            pool: pool.into(),
            sink: config.sink,
            filter: RwLock::new(Arc::new(config.filter)),
            version: AtomicU64::new(1),
            chance: Chance::from_entropy(),
            spans: AtomicU64::default(),
            events: AtomicU64::default(),
            dropped: AtomicU64::default(),
            dropped_by_workers: AtomicU64::default(),
            malformed: AtomicU64::default(),
        })
    }

    fn filter(&self) -> Arc<TelemetryFilter> {
        self.filter.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on this is told. Workers learn of it by [`settings`](Self::settings).
    pub(crate) fn set_filter(&self, filter: TelemetryFilter) {
        *self.filter.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(filter);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// What a worker is to be told of the filter, if that is another one than the worker knows.
    pub(crate) fn settings(&self, known: &mut u64) -> Option<Value> {
        let version = self.version.load(Ordering::Acquire);
        if *known == version {
            return None;
        }
        let is_first = std::mem::replace(known, version) == 0;
        let filter = self.filter();
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
        let filter = self.filter();
        if !filter.on || !filter.wants(name) {
            return None;
        }
        if begins {
            if filter.traces < 1.0 && self.chance.next_unit() >= filter.traces {
                return None;
            }
            let halves = [self.id().to_be_bytes(), self.id().to_be_bytes()];
            context.trace.copy_from_slice(halves.as_flattened());
            context.sampled = true;
        }
        Some(std::mem::replace(&mut context.span, self.id()))
    }

    pub(super) fn is_on(&self) -> bool {
        self.filter().on
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
            dropped_by_workers: read(&self.dropped_by_workers),
            malformed: read(&self.malformed),
        }
    }
}
