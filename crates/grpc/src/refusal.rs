//! What a request is told that fails: a status for machinery, an [`Error`] for programs and people.
//!
//! The error travels in a trailer, so that a call that fails is a failed call for every proxy, metric
//! and client on its way. Clients take trailers of 8 KiB by default, so it is cut to [`MOST`] bytes
//! before it is encoded for a header.

use prost::Message as _;
use snakehouse_base::{Coded, Kind, Retry};
use snakehouse_pool::{CallError, Failure};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::proto::{Error, TraceFrame};

/// The trailer with the [`Error`] of a request that failed.
pub const ERROR_TRAILER: &str = "snakehouse-error-bin";

/// Most bytes of an encoded error.
const MOST: usize = 3 * 1024;
/// Most bytes of one text in it, and of the status' own message.
const TEXT: usize = 512;
/// Most frames of a traceback: those where it was raised.
const FRAMES: usize = 12;
/// Most errors behind each other.
const CAUSES: usize = 4;

/// A refusal of our own.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) kind: Kind,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// The status of a refusal: nothing of the call ran.
pub(crate) fn refuse(refusal: Refusal) -> Status {
    let Refusal { kind, code, message, hint } = refusal;
    let hint = hint.unwrap_or_default();
    status(
        kind,
        Error { code: code.to_owned(), message, hint, without_effect: true, ..Error::default() },
    )
}

/// The status of a refusal that came after the call ran.
pub(crate) fn refuse_after(refusal: Refusal) -> Status {
    let Refusal { kind, code, message, hint } = refusal;
    let hint = hint.unwrap_or_default();
    status(kind, Error { code: code.to_owned(), message, hint, ..Error::default() })
}

/// The status of any error that names its kind.
pub(crate) fn refused(error: &dyn Coded) -> Status {
    let hint = error.hint().unwrap_or_default();
    let (code, message) = (error.code().to_owned(), error.to_string());
    status(error.kind(), Error { code, message, hint, without_effect: true, ..Error::default() })
}

/// The status of a failed call.
pub(crate) fn call_failed(error: &CallError) -> Status {
    let mut told = match error {
        CallError::Tool { failure, .. } => of_failure(failure, CAUSES),
        _ => Error {
            code: error.code().to_owned(),
            message: error.to_string(),
            hint: error.hint().unwrap_or_default(),
            ..Error::default()
        },
    };
    told.without_effect = error.is_without_effect();
    status(error.kind(), told)
}

/// The error behind a status, if the server is one of these and the trailer arrived.
pub fn error_of(status: &Status) -> Option<Error> {
    let bytes = status.metadata().get_bin(ERROR_TRAILER)?.to_bytes().ok()?;
    Error::decode(bytes).ok()
}

fn of_failure(failure: &Failure, causes: usize) -> Error {
    let frames = failure.traceback.iter();
    let frames = frames.skip(failure.traceback.len().saturating_sub(FRAMES));
    Error {
        kind: failure.kind.as_str().to_owned(),
        code: failure.code.clone(),
        message: failure.message.clone(),
        hint: failure.hint.clone().unwrap_or_default(),
        r#type: failure.type_name.to_string(),
        traceback: frames
            .map(|frame| TraceFrame {
                file: frame.file.clone(),
                line: frame.line,
                function: frame.function.clone(),
                source: frame.source.clone(),
            })
            .collect(),
        cause: failure
            .cause()
            .filter(|_| causes > 1)
            .map(|cause| Box::new(of_failure(cause, causes - 1))),
        without_effect: false,
    }
}

fn status(kind: Kind, mut error: Error) -> Status {
    error.kind = kind.as_str().to_owned();
    let message = cut(&error.message, TEXT).to_owned();
    shorten(&mut error);
    let mut status = Status::new(code_of(kind), message);
    let value = MetadataValue::from_bytes(&error.encode_to_vec());
    status.metadata_mut().insert_bin(ERROR_TRAILER, value);
    status
}

/// Cuts texts, then drops causes and the outermost frames until it is short enough.
fn shorten(error: &mut Error) {
    let mut next = Some(&mut *error);
    while let Some(one) = next {
        let texts = [&mut one.code, &mut one.message, &mut one.hint, &mut one.r#type];
        for text in texts {
            text.truncate(cut(text, TEXT).len());
        }
        for frame in &mut one.traceback {
            for text in [&mut frame.file, &mut frame.function, &mut frame.source] {
                text.truncate(cut(text, TEXT / 4).len());
            }
        }
        next = one.cause.as_deref_mut();
    }
    while error.encoded_len() > MOST {
        if error.cause.take().is_none() && !error.traceback.is_empty() {
            error.traceback.remove(0);
        }
    }
}

/// The beginning of a text, cut between characters.
fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The status code of a kind. Clients repeat `UNAVAILABLE` by themselves, so only kinds have it whose
/// one retry rule allows that.
fn code_of(kind: Kind) -> Code {
    match kind {
        Kind::InvalidInput => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::Unauthenticated => Code::Unauthenticated,
        Kind::Forbidden => Code::PermissionDenied,
        Kind::Saturated => Code::ResourceExhausted,
        Kind::Unavailable if kind.retry() == Retry::Later => Code::Unavailable,
        Kind::Deadline => Code::DeadlineExceeded,
        Kind::Cancelled => Code::Cancelled,
        Kind::Conflict | Kind::Environment => Code::FailedPrecondition,
        Kind::WorkerDied | Kind::OutcomeUnknown => Code::Aborted,
        Kind::Tool => Code::Unknown,
        Kind::Corrupt => Code::DataLoss,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_code_and_only_what_may_be_repeated_is_unavailable() {
        for kind in Kind::ALL {
            let code = code_of(kind);
            assert_ne!(code, Code::Ok);
            assert_eq!(code == Code::Unavailable, kind == Kind::Unavailable, "{kind:?}");
            assert_eq!(code == Code::Internal, kind == Kind::Internal, "{kind:?}");
        }
        assert_eq!(Kind::Unavailable.retry(), Retry::Later);
    }

    #[test]
    fn the_longest_error_fits_into_a_trailer_and_keeps_what_matters() {
        let mut failure = Failure::new(Kind::Tool, "tool_raised", "ü".repeat(100_000));
        failure.hint = Some("do this".to_owned());
        failure.traceback = (0..1000)
            .map(|line| snakehouse_wire::TraceFrame {
                file: "f".repeat(5000),
                line,
                function: "g".repeat(5000),
                source: "s".repeat(5000),
            })
            .collect();
        let status = call_failed(&CallError::Tool { tool: "t".into(), failure: Box::new(failure) });
        let error = error_of(&status).unwrap();
        assert!(error.encoded_len() <= MOST, "{}", error.encoded_len());
        assert_eq!((error.kind.as_str(), error.code.as_str()), ("tool", "tool_raised"));
        assert_eq!(error.hint, "do this");
        assert_eq!(error.traceback.last().unwrap().line, 999, "where it was raised");
        assert!(error.message.chars().all(|c| c == 'ü'));
        assert_eq!(status.code(), Code::Unknown);
    }

    #[test]
    fn a_refusal_says_that_nothing_ran() {
        let status = call_failed(&CallError::Saturated { limit: 3 });
        let error = error_of(&status).unwrap();
        assert!(error.without_effect);
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(error.code, "saturated");
    }
}
