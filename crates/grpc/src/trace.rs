//! What the headers of a call say beside its message: its deadline and its trace.

use std::time::Duration;

use snakehouse_base::{Deadline, Kind};
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::refusal::{Refusal, refuse};

/// The deadline that `grpc-timeout` sets; `otherwise` from now without one.
///
/// # Errors
/// A status for a header that is no timeout: a call must not run for longer than its caller thinks.
pub(crate) fn deadline(headers: &MetadataMap, otherwise: Duration) -> Result<Deadline, Status> {
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

/// The trace of a W3C `traceparent`; zero without one, and for one that is malformed, as the
/// recommendation has it.
pub(crate) fn trace(headers: &MetadataMap) -> [u8; 16] {
    let header = headers.get("traceparent").and_then(|value| value.to_str().ok());
    header.and_then(parent).unwrap_or_default()
}

fn parent(text: &str) -> Option<[u8; 16]> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths = [version.len(), trace.len(), span.len(), flags.len()];
    if lengths != [2, 32, 16, 2] || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if !text.bytes().take(55).all(|byte| is_hex(byte) || byte == b'-') {
        return None;
    }
    let number = u128::from_str_radix(trace, 16).ok()?;
    Some(number.to_be_bytes())
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
        let mut headers = MetadataMap::new();
        assert!(deadline(&headers, Deadline::CALL).unwrap().instant().is_some());
        headers.insert("grpc-timeout", "soon".parse().unwrap());
        let status = deadline(&headers, Deadline::CALL).unwrap_err();
        assert_eq!(crate::error_of(&status).unwrap().code, "bad_timeout");
    }

    #[test]
    fn a_trace_comes_from_a_sound_header_only() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        let sound = format!("00-{id}-b7ad6b7169203331-01");
        assert_eq!(parent(&sound).map(u128::from_be_bytes), u128::from_str_radix(id, 16).ok());
        let later = format!("cc-{id}-b7ad6b7169203331-01-what-the-future-will-be-like");
        assert!(parent(&later).is_some());
        for wrong in [
            "",
            "00",
            &format!("ff-{id}-b7ad6b7169203331-01"),
            &format!("00-{id}-b7ad6b7169203331-01-more"),
            &format!("00-{id}-b7ad6b7169203331"),
            &format!("00-+{}-b7ad6b7169203331-01", &id[1..]),
            &format!("00-{}-b7ad6b7169203331-01", id.to_uppercase()),
        ] {
            assert_eq!(parent(wrong), None, "{wrong}");
        }
    }
}
