//! What an HTTP answer says about trying again.
//!
//! Statuses are classified by one exhaustive table; `x-should-retry` overrides it; Retry-After is
//! read in all its forms. All functions are total: any bytes give an answer.

use std::time::{Duration, SystemTime};

use snakehouse_base::Kind;

use crate::event;
use crate::http_date;
use crate::retry_core::Advice;

/// What the headers of an answer say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// The pause asked for, by `retry-after-ms` before `retry-after`; the first valid value counts.
    pub after: Option<Duration>,
    /// `x-should-retry`.
    pub should_retry: Option<bool>,
}

impl Hints {
    /// Reads the headers of an answer that arrived at `wall`.
    ///
    /// Names are compared without case. A date in Retry-After is measured against the answer's own
    /// `date` header if it has one, because the two clocks may differ; a date in the past is zero.
    pub fn read<'h>(
        headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
        wall: SystemTime,
    ) -> Self {
        let mut millis = None;
        let mut after = None;
        let mut server_date = None;
        let mut should_retry = None;
        for (name, value) in headers {
            let Ok(value) = std::str::from_utf8(value) else { continue };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "retry-after-ms" => millis = millis.or_else(|| number(value, 0.001)),
                "retry-after" => {
                    after = after.or_else(|| {
                        let seconds = number(value, 1.0).map(After::Pause);
                        seconds.or_else(|| {
                            let at = http_date::parse(value, wall)?;
                            if !http_date::has_its_weekday(value, at) {
                                event::http_odd_date();
                            }
                            Some(After::Date(at))
                        })
                    });
                }
                "date" => server_date = server_date.or_else(|| http_date::parse(value, wall)),
                "x-should-retry" => {
                    should_retry =
                        should_retry.or_else(|| match value.to_ascii_lowercase().as_str() {
                            "true" => Some(true),
                            "false" => Some(false),
                            _ => None,
                        });
                }
                _ => {}
            }
        }
        let now = server_date.unwrap_or(wall);
        let after = after.map(|after| match after {
            After::Pause(pause) => pause,
            After::Date(at) => at.duration_since(now).unwrap_or_default(),
        });
        Self { after: millis.or(after), should_retry }
    }
}

enum After {
    Pause(Duration),
    Date(SystemTime),
}

/// A non-negative decimal number of units of `unit` seconds; a negative one is zero; a number too
/// large for a `Duration` is the longest one.
fn number(text: &str, unit: f64) -> Option<Duration> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && digits.starts_with(|c: char| c.is_ascii_digit());
    let value: f64 = digits.parse().ok().filter(|_| plain)?;
    if text.starts_with('-') {
        return Some(Duration::ZERO);
    }
    Some(Duration::try_from_secs_f64(value * unit).unwrap_or(Duration::MAX))
}

/// Whether the request may have taken effect, and whether repeating it is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// The method or an idempotency key makes a second execution harmless.
    Harmless,
    /// A second execution would count twice.
    Counts,
}

/// The kind of a failed request with this status.
pub const fn kind_of_status(status: u16) -> Kind {
    match status {
        401 => Kind::Unauthenticated,
        403 => Kind::Forbidden,
        404 | 410 => Kind::NotFound,
        408 => Kind::Deadline,
        409 => Kind::Conflict,
        429 => Kind::Saturated,
        500..=599 => Kind::Unavailable,
        400..=499 => Kind::InvalidInput,
        _ => Kind::Internal,
    }
}

/// Whether a request that was answered with this status is worth repeating: 408, 409, 429, 5xx.
pub const fn is_retryable(status: u16) -> bool {
    matches!(status, 408 | 409 | 429 | 500..=599)
}

/// What an answer says about another attempt.
///
/// The server's own `x-should-retry` wins. A request whose second execution would count is repeated
/// only when the server says so, or answers 429 (it has not executed it).
pub fn advice(status: u16, hints: &Hints, repeat: Repeat) -> Advice {
    let by_table = is_retryable(status) && (repeat == Repeat::Harmless || status == 429);
    match (hints.should_retry.unwrap_or(by_table), hints.after) {
        (false, _) => Advice::Stop,
        (true, Some(after)) => Advice::RetryAfter(after),
        (true, None) => Advice::Retry,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wall() -> SystemTime {
        // 2026-11-21 12:00:00 UTC.
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_262_400)
    }

    fn after(value: &str) -> Option<Duration> {
        Hints::read([("Retry-After", value.as_bytes())], wall()).after
    }

    #[test]
    fn every_form_of_retry_after_is_read() {
        let seconds = |s| Some(Duration::from_secs_f64(s));
        let cases = [
            ("3", seconds(3.0)),
            ("1.5", seconds(1.5)),
            (" 7 ", seconds(7.0)),
            ("-5", seconds(0.0)),
            ("86400000", seconds(86_400_000.0)),
            ("5 apples", None),
            ("inf", None),
            ("1e9", None),
            ("", None),
            ("Sat, 21 Nov 2026 12:00:30 GMT", seconds(30.0)),
            ("sat, 21 nov 2026 12:00:30 gmt", seconds(30.0)),
            ("Mon, 21 Nov 2026 12:00:30 GMT", seconds(30.0)),
            ("Saturday, 21-Nov-26 12:00:30 GMT", seconds(30.0)),
            ("Sat Nov 21 12:00:30 2026", seconds(30.0)),
            ("Sat, 21 Nov 2026 12:00:60 GMT", seconds(60.0)),
            ("Sat, 21 Nov 2026 11:00:00 GMT", seconds(0.0)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", seconds(0.0)),
        ];
        for (value, expected) in cases {
            assert_eq!(after(value), expected, "{value:?}");
        }
        assert_eq!(after(&"9".repeat(400)), Some(Duration::MAX));
    }

    #[test]
    fn precedence_and_the_servers_own_clock() {
        let read = |headers: &[(&str, &str)]| {
            Hints::read(headers.iter().map(|(name, value)| (*name, value.as_bytes())), wall())
        };
        let both = read(&[("retry-after", "9"), ("RETRY-AFTER-MS", "1500")]);
        assert_eq!(both.after, Some(Duration::from_millis(1500)), "milliseconds win");
        let invalid = read(&[("retry-after-ms", "soon"), ("retry-after", "9")]);
        assert_eq!(invalid.after, Some(Duration::from_secs(9)), "an invalid value is no value");
        let skewed = read(&[
            ("date", "Sat, 21 Nov 2026 13:00:00 GMT"),
            ("retry-after", "Sat, 21 Nov 2026 13:00:10 GMT"),
        ]);
        assert_eq!(skewed.after, Some(Duration::from_secs(10)));
        let first = read(&[("x-should-retry", "maybe"), ("X-Should-Retry", " FALSE ")]);
        assert_eq!(first.should_retry, Some(false));
    }

    #[test]
    fn the_table_is_exhaustive() {
        let retryable: Vec<u16> = (100..600).filter(|status| is_retryable(*status)).collect();
        let expected: Vec<u16> = [408, 409, 429].into_iter().chain(500..600).collect();
        assert_eq!(retryable, expected);
        for status in 100..600 {
            let hints = Hints::default();
            let harmless = advice(status, &hints, Repeat::Harmless);
            assert_eq!(harmless == Advice::Retry, is_retryable(status), "{status}");
            let counts = advice(status, &hints, Repeat::Counts);
            assert_eq!(counts == Advice::Retry, status == 429, "{status}");
        }
        let forced = Hints { should_retry: Some(true), after: Some(Duration::from_secs(1)) };
        assert_eq!(
            advice(400, &forced, Repeat::Counts),
            Advice::RetryAfter(Duration::from_secs(1))
        );
        let forbidden = Hints { should_retry: Some(false), after: None };
        assert_eq!(advice(503, &forbidden, Repeat::Harmless), Advice::Stop);
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(
            headers in prop::collection::vec(
                (prop_oneof!["retry-after", "retry-after-ms", "date", "x-should-retry", ".{0,8}"],
                 prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..40),
                    "[A-Za-z]{0,9},? ?[0-9]{0,4}[- ][A-Za-z]{0,4}[- ][0-9]{0,6} [0-9:]{0,9} ?[GMT]{0,3}"
                        .prop_map(String::into_bytes),
                 ]),
                0..4,
            ),
        ) {
            Hints::read(headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())), wall());
        }
    }
}
