//! What a pool tells about its calls while they run: spans and events, to whoever wants them.
//!
//! A pool tells nothing unless its configuration has a [`TelemetryConfig`]. Then each call that
//! belongs to a recorded trace, or that is chosen to begin one, has a [`Span`] here, one in its
//! worker if that can tell, and below it those that its tool makes; and workers send the [`Event`]s
//! of their tools. All of it goes to one [`TelemetrySink`], which takes a piece at once or not at all:
//! what is not taken is counted in [`TelemetryCounts`] and gone, and nothing ever waits for it.
//!
//! Arguments, results and what exceptions say are in none of it. Texts that look like secrets are
//! left out of attributes. This crate knows no exporter: `snakehouse-telemetry` has one.

mod hub;
mod reader;
mod report;
mod span;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::mpsc;

pub(crate) use hub::Hub;
pub(crate) use reader::Reader;
pub(crate) use span::OpenSpan;
pub use span::{Event, Scalar, Span, SpanKind, Telemetry};

/// Most globs in each list of a [`TelemetryFilter`].
const MAX_GLOBS: usize = 64;
/// Longest glob, in bytes.
const MAX_GLOB: usize = 128;
/// Traces that calls of none begin in a second, unless the filter says otherwise.
const TRACES_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).expect("20 is not 0");
/// Seconds whose traces may begin at once after a pause.
pub(crate) const SAVED_UP: u32 = 5;

/// Where telemetry goes.
pub trait TelemetrySink: fmt::Debug + Send + Sync {
    /// Takes one piece; `false` if there is no room, and it is dropped and counted. Called on the
    /// pool's own tasks: it must not wait.
    fn take(&self, telemetry: Telemetry) -> bool;
}

/// The usual sink: a bounded channel. What does not fit is dropped.
impl TelemetrySink for mpsc::Sender<Telemetry> {
    fn take(&self, telemetry: Telemetry) -> bool {
        self.try_send(telemetry).is_ok()
    }
}

/// That a pool tells of its calls, to whom, and of which.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// Who is told.
    pub sink: Arc<dyn TelemetrySink>,
    /// What is told, until [`Pool::set_telemetry`](crate::Pool::set_telemetry) says otherwise.
    pub filter: TelemetryFilter,
}

impl TelemetryConfig {
    /// Tells everything that the default [`TelemetryFilter`] lets through.
    pub fn new(sink: Arc<dyn TelemetrySink>) -> Self {
        Self { sink, filter: TelemetryFilter::default() }
    }
}

/// What is told. The default is everything of up to 20 new traces a second, 100 at once, and all events:
/// who makes some calls sees each of them, and who makes ten thousand a second pays for twenty.
///
/// Names are those of tools, of spans and of events. In a glob `*` is any text and `?` any character;
/// all else stands for itself.
#[derive(Clone, Debug, PartialEq)]
pub struct TelemetryFilter {
    /// Whether anything is. Default: yes.
    pub on: bool,
    /// Names to tell of; none is all. At most 64 globs of 128 bytes.
    pub allow: Vec<String>,
    /// Names not to tell of, also if they are allowed. At most 64 globs of 128 bytes.
    pub deny: Vec<String>,
    /// Which part of the calls that belong to no trace begin one, from 0 to 1. Default 1. A call of a
    /// trace is recorded if [`sampled`](crate::TraceContext::sampled) says so.
    pub traces: f64,
    /// How many traces such calls begin in a second at most; after a pause, those of five seconds at
    /// once. `None` is all of them, which costs a small call about half as much again. Default 20. What
    /// is not begun is counted in [`TelemetryCounts::not_begun`].
    pub traces_per_second: Option<NonZeroU32>,
    /// Which part of the events is told, from 0 to 1. Default 1.
    pub events: f64,
}

impl Default for TelemetryFilter {
    fn default() -> Self {
        Self {
            on: true,
            allow: Vec::new(),
            deny: Vec::new(),
            traces: 1.0,
            traces_per_second: Some(TRACES_PER_SECOND),
            events: 1.0,
        }
    }
}

impl TelemetryFilter {
    /// Nothing is told.
    pub fn off() -> Self {
        Self { on: false, ..Self::default() }
    }

    /// Names the first rule that is broken.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let is_part = |rate: &f64| (0.0..=1.0).contains(rate);
        let globs = |globs: &[String]| {
            globs.len() <= MAX_GLOBS && globs.iter().all(|glob| glob.len() <= MAX_GLOB)
        };
        let rules = [
            (
                "the parts of traces and events must be from 0 to 1",
                [self.traces, self.events].iter().all(is_part),
            ),
            (
                "a filter of telemetry has at most 64 globs of 128 bytes in each list",
                globs(&self.allow) && globs(&self.deny),
            ),
        ];
        rules.into_iter().find(|(_, holds)| !holds).map_or(Ok(()), |(rule, _)| Err(rule))
    }

    /// Whether what has this name is told of.
    pub(crate) fn wants(&self, name: &str) -> bool {
        let any = |globs: &[String]| globs.iter().any(|glob| matches(glob, name));
        (self.allow.is_empty() || any(&self.allow)) && !any(&self.deny)
    }
}

/// Whether a glob fits. Goes back to the last `*` only: no glob takes longer than the product of the
/// two lengths.
fn matches(glob: &str, name: &str) -> bool {
    let (glob, name): (Vec<_>, Vec<_>) = (glob.chars().collect(), name.chars().collect());
    let (mut at, mut here) = (0, 0);
    let mut star = None;
    while here < name.len() {
        match glob.get(at) {
            Some('*') => {
                star = Some((at, here));
                at += 1;
            }
            Some('?') => (at, here) = (at + 1, here + 1),
            Some(one) if *one == name[here] => (at, here) = (at + 1, here + 1),
            _ => {
                let Some((glob_at, name_at)) = star else { return false };
                star = Some((glob_at, name_at + 1));
                (at, here) = (glob_at + 1, name_at + 1);
            }
        }
    }
    glob[at..].iter().all(|one| *one == '*')
}

/// What became of a pool's telemetry since its start. All zero in a pool that tells nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TelemetryCounts {
    /// Spans that the sink took.
    pub spans: u64,
    /// Events that it took.
    pub events: u64,
    /// Pieces that it had no room for, or that came faster than they could be read.
    pub dropped: u64,
    /// Calls of no trace that began none because as many as may had begun one in that second.
    pub not_begun: u64,
    /// Pieces that workers had no room for.
    pub dropped_by_workers: u64,
    /// Pieces from workers that were none.
    pub malformed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_mean_what_they_mean_in_python() {
        let cases = [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("lo*", "load", true),
            ("lo*", "log.load", true),
            ("*.load", "log.load", true),
            ("*.load", "log.loads", false),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1c2b", false),
            ("wor?", "work", true),
            ("wor?", "wor", false),
            ("na?ve", "naïve", true),
            ("[a]", "a", false),
            ("[a]", "[a]", true),
        ];
        for (glob, name, fits) in cases {
            assert_eq!(matches(glob, name), fits, "{glob} {name}");
        }
        // Would take for ever if every star were tried again.
        assert!(!matches(&"a*".repeat(60), &"a".repeat(59)));
    }

    #[test]
    fn a_filter_allows_and_denies_and_is_checked() {
        let filter = TelemetryFilter {
            allow: vec!["a*".to_owned()],
            deny: vec!["ab".to_owned()],
            ..TelemetryFilter::default()
        };
        assert!(filter.wants("abc") && !filter.wants("ab") && !filter.wants("b"));
        assert_eq!(filter.check(), Ok(()));
        for wrong in [
            TelemetryFilter { traces: 1.5, ..TelemetryFilter::default() },
            TelemetryFilter { events: f64::NAN, ..TelemetryFilter::default() },
        ] {
            assert!(wrong.check().is_err_and(|rule| rule.contains("0 to 1")));
        }
        for globs in [vec![String::new(); 65], vec!["x".repeat(129)]] {
            let wrong = TelemetryFilter { deny: globs, ..TelemetryFilter::default() };
            assert!(wrong.check().is_err_and(|rule| rule.contains("64 globs")));
        }
    }
}
