//! The `tracing` events of one test, and of no other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Records the `tracing` events whose target begins with a given text. A handle: clones share the
/// record.
///
/// It listens to one thread while [`during`](Recorder::during) runs there, which is the whole of a
/// simulated test; other tests in the process are not heard and hear nothing.
///
/// ```
/// let recorder = snakehouse_testkit::Recorder::of("shop");
/// recorder.during(|| {
///     tracing::info!(name: "shop.sold", target: "shop", pieces = 3);
///     tracing::info!(target: "elsewhere", "not heard");
/// });
/// assert_eq!(recorder.names(), ["shop.sold"]);
/// assert_eq!(recorder.events()[0].fields["pieces"], "3");
/// assert_eq!(recorder.missing(&["shop.sold", "shop.shut"]), ["shop.shut"]);
/// ```
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Shared>);

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its name: what it was given, or its place in the source.
    pub name: &'static str,
    /// How grave it is.
    pub level: Level,
    /// Its fields, the message among them, as `Debug` shows them.
    pub fields: BTreeMap<&'static str, String>,
}

#[derive(Debug)]
struct Shared {
    target: String,
    told: Mutex<Vec<Told>>,
    spans: AtomicU64,
}

impl Recorder {
    /// Listens to targets that begin with `target`.
    pub fn of(target: &str) -> Self {
        let (target, told, spans) = (target.to_owned(), Mutex::default(), AtomicU64::new(1));
        Self(Arc::new(Shared { target, told, spans }))
    }

    /// Records what this thread tells while `test` runs.
    pub fn during<T>(&self, test: impl FnOnce() -> T) -> T {
        tracing::subscriber::with_default(Ear(self.0.clone()), test)
    }

    /// Everything so far, in order.
    pub fn events(&self) -> Vec<Told> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The names of everything so far, in order.
    pub fn names(&self) -> Vec<&'static str> {
        self.events().into_iter().map(|told| told.name).collect()
    }

    /// What of `catalogue` has not been told: empty when a test has seen all of it.
    pub fn missing<'c>(&self, catalogue: &[&'c str]) -> Vec<&'c str> {
        let told: BTreeSet<_> = self.names().into_iter().collect();
        catalogue.iter().copied().filter(|name| !told.contains(name)).collect()
    }

    /// What has been told and does not stand in `catalogue`.
    pub fn unlisted(&self, catalogue: &[&str]) -> BTreeSet<&'static str> {
        self.names().into_iter().filter(|name| !catalogue.contains(name)).collect()
    }
}

struct Ear(Arc<Shared>);

impl Subscriber for Ear {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with(&self.0.target)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(self.0.spans.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        let (name, level) = (event.metadata().name(), *event.metadata().level());
        let told = Told { name, level, fields: fields.0 };
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{race, virtual_time};

    /// The same seed is the same story, and tests at the same time do not hear each other.
    #[test]
    fn a_thousand_runs_of_one_seed_tell_the_same_story() {
        let story = |seed: u64| {
            let recorder = Recorder::of("story");
            recorder.during(|| {
                virtual_time(async {
                    let chance = snakehouse_base::Chance::seeded(seed);
                    let start = tokio::time::Instant::now();
                    for step in 0..5 {
                        tokio::time::sleep(Duration::from_millis(chance.next_u64() % 1000)).await;
                        tracing::info!(target: "story", step, at = ?start.elapsed());
                    }
                });
            });
            recorder.events()
        };
        let first = story(7);
        assert_eq!(first.len(), 5);
        assert_ne!(first, story(8));
        let same = race(4, |_| (0..250).filter(|_| story(7) == first).count());
        assert_eq!(same, [250; 4]);
    }
}
