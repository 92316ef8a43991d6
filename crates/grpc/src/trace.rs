//! What the headers of a call say beside its message: its deadline and its trace.

use std::time::Duration;

use http::HeaderMap;
use snakehouse_base::{Deadline, Kind};
use snakehouse_pool::TraceContext;
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::refusal::{Refusal, refuse};

/// The deadline that `grpc-timeout` sets; `otherwise` from now without one.
///
/// # Errors
/// A status for a header that is no timeout: a call must not run for longer than its caller thinks.
pub(crate) fn deadline(headers: &HeaderMap, otherwise: Duration) -> Result<Deadline, Status> {
    let within = match headers.get("grpc-timeout") {
        None => otherwise,
        Some(value) => value.to_str().ok().and_then(timeout).ok_or_else(|| {
            refuse(Refusal {
                kind: Kind::InvalidInput,
                code: "bad_timeout",
                message: "grpc-timeout is no timeout".to_owned(),
                hint: Some("up to eight digits and a unit: 1500m".to_owned()),
            })
        })?,
    };
    Ok(Deadline::after(Instant::now().into_std(), within))
}

fn timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let digits = &text[..text.len() - unit.len_utf8()];
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(amount * 3600),
        'M' => Duration::from_secs(amount * 60),
        'S' => Duration::from_secs(amount),
        'm' => Duration::from_millis(amount),
        'u' => Duration::from_micros(amount),
        'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// The trace of a W3C `traceparent`; none without one, and for one that is malformed, as the
/// recommendation has it.
pub(crate) fn trace(headers: &MetadataMap) -> TraceContext {
    let header = headers.get("traceparent").and_then(|value| value.to_str().ok());
    header.and_then(|text| text.parse().ok()).unwrap_or(TraceContext::NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_up_to_eight_digits_and_a_unit() {
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(timeout("7n"), Some(Duration::from_nanos(7)));
        for wrong in ["", "m", "5", "+5S", "123456789S", "5s", "5ü", "-1S"] {
            assert_eq!(timeout(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_header_that_is_no_timeout_is_refused() {
        let mut headers = HeaderMap::new();
        assert!(deadline(&headers, Deadline::CALL).unwrap().instant().is_some());
        headers.insert("grpc-timeout", "soon".parse().unwrap());
        let status = deadline(&headers, Deadline::CALL).unwrap_err();
        assert_eq!(crate::error_of(&status).unwrap().code, "bad_timeout");
    }

    #[test]
    fn a_trace_comes_from_a_sound_header_only() {
        let mut headers = MetadataMap::new();
        assert!(trace(&headers).is_none());
        let sound = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        headers.insert("traceparent", sound.parse().unwrap());
        let found = trace(&headers);
        assert_eq!((found.span, found.sampled), (0xb7ad_6b71_6920_3331, true));
        assert_eq!(found.trace[..2], [0x0a, 0xf7]);
        headers.insert("traceparent", "00-nonsense".parse().unwrap());
        assert!(trace(&headers).is_none());
    }
}
