//! Waiting for the result of an operation that the service has accepted.
//!
//! A long poll is repeated until the result is there. There is no time limit besides the deadline
//! of the call: while the service answers "not yet" it is making progress. Silence is the failure,
//! and that is bounded by the patience of the [`Link`]. A service that answers "not yet" without
//! holding the poll is asked less and less often, so waiting never becomes a busy loop.

use std::time::Duration;

use bytes::Bytes;
use snakehouse_base::{Backoff, Deadline, Jitter};
use snakehouse_tinker_api::json::{FutureAnswer, RetrieveFuture};
use tokio::time::Instant;

use crate::error::{ClientError, Outage};
use crate::link::{Absence, Link, outage, refused};
use crate::session::request;
use crate::transport::Request;

const ENDPOINT: &str = "retrieve_future";
/// A poll that is answered "not yet" sooner than this was not held.
const HELD: Duration = Duration::from_secs(1);
/// Pauses between polls that are not held.
const UNHELD: Backoff =
    match Backoff::new(Duration::from_millis(20), Duration::from_secs(2), Jitter::None) {
        Ok(law) => law,
        Err(_) => unreachable!(),
    };
/// Refused polls in a row that may be an accident of the way.
const BAD_REQUESTS: u32 = 3;
/// The pause while an account is not paid for.
const BILLING_PAUSE: Duration = Duration::from_secs(5);
/// How long such a pause may last.
const BILLING_PATIENCE: Duration = Duration::from_secs(3600);

/// An operation, as the poll header names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    CreateModel,
    ForwardBackward,
    Forward,
    OptimStep,
    SaveWeights,
    LoadWeights,
    SaveWeightsForSampler,
    Sample,
}

impl Operation {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Operation::CreateModel => "CreateModel",
            Operation::ForwardBackward => "ForwardBackward",
            Operation::Forward => "Forward",
            Operation::OptimStep => "OptimStep",
            Operation::SaveWeights => "SaveWeights",
            Operation::LoadWeights => "LoadWeights",
            Operation::SaveWeightsForSampler => "SaveWeightsForSampler",
            Operation::Sample => "Sample",
        }
    }

    /// Whether the result is a protobuf message.
    pub(crate) const fn is_protobuf(self) -> bool {
        matches!(self, Operation::ForwardBackward | Operation::Forward | Operation::Sample)
    }
}

/// What the service promised when it accepted an operation.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    pub(crate) operation: Operation,
    pub(crate) request_id: String,
    /// From the call to the promise; the service likes to know.
    pub(crate) roundtrip: Duration,
}

/// What a poll says.
enum Poll {
    Done(Bytes),
    Pending,
    /// There, but large: ask again for the whole.
    Large,
}

/// Waits for the result and returns its body: a message for
/// [protobuf operations](Operation::is_protobuf), a JSON object for others.
///
/// Dropping the future is free: the result stays in the service.
pub(crate) async fn settle(
    link: &Link,
    accepted: &Accepted,
    deadline: Deadline,
) -> Result<Bytes, ClientError> {
    let mut absence = Absence::default();
    let mut unpaid_since: Option<Instant> = None;
    let (mut bad_requests, mut unheld) = (0, 0);
    let mut large = false;
    for iteration in 0u64.. {
        let started = Instant::now();
        let request = poll(accepted, iteration, !large)?;
        let response = match link.attempt(request, deadline).await? {
            Ok(response) => response,
            Err(error) => {
                let last = Outage::Transport(error);
                link.wait_out(&mut absence, last, None, ENDPOINT, deadline).await?;
                continue;
            }
        };
        if response.status != 400 {
            bad_requests = 0;
        }
        if response.status != 402 {
            unpaid_since = None;
        }
        match response.status {
            408 => {}
            200..=299 => match read(accepted, response.is_protobuf, response.body)? {
                Poll::Done(body) => return Ok(body),
                Poll::Pending => {}
                Poll::Large if large => {
                    let reason = "announced a large result twice instead of sending it";
                    return Err(ClientError::protocol(ENDPOINT, reason));
                }
                Poll::Large => {
                    large = true;
                    absence.is_over();
                    continue;
                }
            },
            400 if bad_requests < BAD_REQUESTS => {
                bad_requests += 1;
                link.pause(UNHELD.delay(bad_requests, 0.0), ENDPOINT, deadline).await?;
                continue;
            }
            402 if unpaid_since.get_or_insert(started).elapsed() < BILLING_PATIENCE => {
                link.pause(BILLING_PAUSE, ENDPOINT, deadline).await?;
                continue;
            }
            410 => {
                return Err(ClientError::ResultGone {
                    operation: accepted.operation.as_str(),
                    request_id: accepted.request_id.clone(),
                });
            }
            429 | 500.. => {
                let (last, asked) = (outage(&response), response.retry_after);
                link.wait_out(&mut absence, last, asked, ENDPOINT, deadline).await?;
                continue;
            }
            _ => return Err(refused(ENDPOINT, &response)),
        }
        // Pending.
        absence.is_over();
        if started.elapsed() < HELD {
            link.pause(UNHELD.delay(unheld, 0.0), ENDPOINT, deadline).await?;
            unheld += 1;
        } else {
            unheld = 0;
        }
    }
    unreachable!("the loop leaves by returning")
}

fn poll(
    accepted: &Accepted,
    iteration: u64,
    allow_metadata_only: bool,
) -> Result<Request, ClientError> {
    let body = RetrieveFuture { request_id: accepted.request_id.clone(), allow_metadata_only };
    let mut request = request(ENDPOINT, &body)?
        .header("x-tinker-request-iteration", iteration.to_string())
        .header("x-tinker-request-type", accepted.operation.as_str());
    if iteration == 0 {
        let seconds = format!("{:.6}", accepted.roundtrip.as_secs_f64());
        request = request.header("x-tinker-create-promise-roundtrip-time", seconds);
    }
    request.wants_protobuf = accepted.operation.is_protobuf();
    Ok(request)
}

/// Reads a successful answer, in the protocol's order of tests.
fn read(accepted: &Accepted, is_protobuf: bool, body: Bytes) -> Result<Poll, ClientError> {
    if is_protobuf {
        return if accepted.operation.is_protobuf() {
            Ok(Poll::Done(body))
        } else {
            Err(ClientError::protocol(ENDPOINT, "a message came where an object belongs"))
        };
    }
    match FutureAnswer::read(&body) {
        Err(error) => Err(ClientError::protocol(ENDPOINT, error.to_string())),
        Ok(FutureAnswer::Pending(_)) => Ok(Poll::Pending),
        Ok(FutureAnswer::Announced { .. }) => Ok(Poll::Large),
        Ok(FutureAnswer::Failed(failed)) => Err(ClientError::Failed {
            operation: accepted.operation.as_str(),
            category: failed.category,
            message: failed.error,
        }),
        Ok(FutureAnswer::Done(_)) if accepted.operation.is_protobuf() => {
            Err(ClientError::protocol(ENDPOINT, "an object came where a message belongs"))
        }
        Ok(FutureAnswer::Done(_)) => Ok(Poll::Done(body)),
    }
}

#[cfg(test)]
mod tests {
    use snakehouse_tinker_api::json::Category;

    use super::*;
    use crate::scripted::{Reply, Scripted, link};

    fn accepted(operation: Operation) -> Accepted {
        let (request_id, roundtrip) = ("r".to_owned(), Duration::from_millis(3));
        Accepted { operation, request_id, roundtrip }
    }

    async fn settled(service: &Scripted, operation: Operation) -> Result<Bytes, ClientError> {
        let link = link(service, Duration::from_secs(600));
        settle(&link, &accepted(operation), Deadline::never()).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_poll_is_repeated_at_once_and_for_as_long_as_it_takes() {
        let service = Scripted::new();
        for _ in 0..1000 {
            service.reply(ENDPOINT, Reply::json(408, "{}").after(Duration::from_secs(30)));
        }
        service.reply(ENDPOINT, Reply::json(200, r#"{"metrics":{}}"#));
        let start = Instant::now();

        let body = settled(&service, Operation::OptimStep).await.unwrap();

        assert_eq!(&body[..], br#"{"metrics":{}}"#);
        assert_eq!(start.elapsed(), Duration::from_secs(30_000));
        let seen = service.seen(ENDPOINT);
        assert_eq!(seen.len(), 1001);
        assert_eq!(seen[7].header_value("x-tinker-request-iteration"), Some("7"));
        assert!(seen[0].header_value("x-tinker-create-promise-roundtrip-time").is_some());
        assert!(seen[1].header_value("x-tinker-create-promise-roundtrip-time").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_does_not_hold_is_not_hammered() {
        let service = Scripted::new();
        service.always(ENDPOINT, Reply::json(408, "{}"));
        let link = link(&service, Duration::from_secs(600));
        let deadline = Deadline::after(Instant::now().into_std(), Duration::from_secs(60));

        let error = settle(&link, &accepted(Operation::Sample), deadline).await.unwrap_err();

        assert!(matches!(error, ClientError::Deadline { .. }));
        assert!(service.seen(ENDPOINT).len() < 50, "{}", service.seen(ENDPOINT).len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_result_is_asked_for_twice() {
        let service = Scripted::new();
        let size = r#"{"status":"complete_metadata","response_payload_size":9}"#;
        let again = r#"{"type":"try_again","request_id":"r","queue_state":"active"}"#;
        service.reply(ENDPOINT, Reply::json(200, again));
        service.reply(ENDPOINT, Reply::json(200, size));
        service.reply(ENDPOINT, Reply::protobuf(b"result"));

        let body = settled(&service, Operation::Sample).await.unwrap();

        assert_eq!(&body[..], b"result");
        let asked: Vec<_> = service.seen(ENDPOINT).iter().map(|one| one.json()).collect();
        let flags: Vec<_> = asked.iter().map(|body| body["allow_metadata_only"].clone()).collect();
        assert_eq!(flags, [true, true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_operation_is_final_and_keeps_its_category() {
        let service = Scripted::new();
        let body = r#"{"error":"NaN in weights","category":"user"}"#;
        service.reply(ENDPOINT, Reply::json(200, body));

        let error = settled(&service, Operation::ForwardBackward).await.unwrap_err();

        assert_eq!(error.to_string(), "ForwardBackward failed: NaN in weights");
        assert!(matches!(error, ClientError::Failed { category: Category::User, .. }));
        assert_eq!(service.seen(ENDPOINT).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_that_is_gone_is_told_at_once() {
        let service = Scripted::new();
        service.reply(ENDPOINT, Reply::json(410, r#"{"detail":"gone"}"#));
        let error = settled(&service, Operation::OptimStep).await.unwrap_err();
        assert!(matches!(error, ClientError::ResultGone { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_in_the_middle_of_a_poll_is_invisible() {
        let service = Scripted::new();
        service.reply(ENDPOINT, Reply::Broken.after(Duration::from_secs(12)));
        service.reply(ENDPOINT, Reply::Refused);
        service.reply(ENDPOINT, Reply::json(503, r#"{"detail":"recovering"}"#));
        service.reply(ENDPOINT, Reply::json(400, ""));
        service.reply(ENDPOINT, Reply::json(200, r#"{"path":"tinker://a/weights/b"}"#));
        let body = settled(&service, Operation::SaveWeights).await.unwrap();
        assert_eq!(&body[..], br#"{"path":"tinker://a/weights/b"}"#);
    }

    #[tokio::test(start_paused = true)]
    async fn refused_polls_end_after_three_more() {
        let service = Scripted::new();
        service.always(ENDPOINT, Reply::json(400, r#"{"detail":"no"}"#));
        let error = settled(&service, Operation::OptimStep).await.unwrap_err();
        assert!(matches!(error, ClientError::Refused { status: 400, .. }));
        assert_eq!(service.seen(ENDPOINT).len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wrong_kind_of_result_is_named() {
        let service = Scripted::new();
        service.reply(ENDPOINT, Reply::json(200, "{}"));
        let error = settled(&service, Operation::Sample).await.unwrap_err();
        assert!(matches!(error, ClientError::Protocol { .. }));
    }
}
