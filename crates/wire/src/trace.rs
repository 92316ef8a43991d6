//! Which trace a call belongs to, as every open head says it.
//!
//! The same three things as the W3C `traceparent` header, so that a trace goes on across HTTP, a
//! host, its workers and what they call. Nothing here makes ids or keeps spans: whoever calls has
//! them or has none.

use std::fmt;
use std::str::FromStr;

use snakehouse_base::{Coded, Kind};

/// A place in a trace: what is done next is a child of this span.
///
/// The default is no trace. It is read from and written as a W3C `traceparent`:
///
/// ```
/// use snakehouse_wire::TraceContext;
///
/// let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// let here: TraceContext = header.parse()?;
/// assert!(here.sampled);
/// assert_eq!(here.span, 0xb7ad_6b71_6920_3331);
/// assert_eq!(here.to_string(), header);
/// # Ok::<(), snakehouse_wire::TraceparentError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace's id; all zero is no trace.
    pub trace: [u8; 16],
    /// The id of the span that what comes next is a child of; 0 is none.
    pub span: u64,
    /// Whether somebody records this trace. Nobody makes spans for one that is not sampled.
    pub sampled: bool,
}

impl TraceContext {
    /// No trace.
    pub const NONE: Self = Self { trace: [0; 16], span: 0, sampled: false };
    /// The trace flag on the wire for [`sampled`](Self::sampled).
    const SAMPLED: u8 = 1;

    /// Whether this is no trace.
    pub const fn is_none(&self) -> bool {
        u128::from_ne_bytes(self.trace) == 0
    }

    /// The same trace below another span.
    #[must_use]
    pub const fn below(self, span: u64) -> Self {
        Self { span, ..self }
    }

    pub(crate) fn flags(&self) -> u8 {
        u8::from(self.sampled) * Self::SAMPLED
    }

    pub(crate) fn from_wire(trace: [u8; 16], span: [u8; 8], flags: u8) -> Self {
        Self { trace, span: u64::from_be_bytes(span), sampled: flags & Self::SAMPLED != 0 }
    }
}

/// Writes a `traceparent` of version `00`, also of no trace (all zero, which readers refuse).
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trace = u128::from_be_bytes(self.trace);
        write!(f, "00-{trace:032x}-{:016x}-{:02x}", self.span, self.flags())
    }
}

impl FromStr for TraceContext {
    type Err = TraceparentError;

    /// Reads a `traceparent`: of version `00` exactly, of a later one what stands in front.
    fn from_str(text: &str) -> Result<Self, TraceparentError> {
        let mut parts = text.split('-');
        let mut hex = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            part.bytes().all(is_hex).then(|| u128::from_str_radix(part, 16).ok()).flatten()
        };
        let (Some(version), Some(trace), Some(span), Some(flags)) =
            (hex(2), hex(32), hex(16), hex(2))
        else {
            return Err(TraceparentError);
        };
        let is_over = parts.next().is_none();
        let (Ok(span), false) = (u64::try_from(span), version == 0xff) else {
            return Err(TraceparentError);
        };
        if trace == 0 || span == 0 || (version == 0 && !is_over) {
            return Err(TraceparentError);
        }
        let sampled = flags & u128::from(Self::SAMPLED) != 0;
        Ok(Self { trace: trace.to_be_bytes(), span, sampled })
    }
}

/// A text is no `traceparent` header. The header of a stranger is to be dropped, not to fail a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no traceparent: 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, ids not zero")]
pub struct TraceparentError;

impl Coded for TraceparentError {
    fn kind(&self) -> Kind {
        Kind::InvalidInput
    }

    fn code(&self) -> &'static str {
        "bad_traceparent"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_strictly() {
        let bad = [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        ];
        for text in bad {
            let error = text.parse::<TraceContext>().expect_err(text);
            assert_eq!((error.kind(), error.code()), (Kind::InvalidInput, "bad_traceparent"));
        }
    }

    #[test]
    fn flags_and_later_versions_are_understood() {
        let read = |text: &str| text.parse::<TraceContext>().expect(text);
        let plain = read("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-02");
        assert!(!plain.sampled && !plain.is_none());
        let later = read("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03-more");
        assert_eq!(later, TraceContext { sampled: true, ..plain });
        assert_eq!(
            plain.below(5).to_string(),
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000005-00"
        );
        assert!(TraceContext::default().is_none() && TraceContext::NONE.is_none());
    }
}
