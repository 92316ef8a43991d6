//! Waiting for the result of an operation that the service has accepted.
//!
//! A long poll is repeated until the result is there. There is no time limit besides the deadline
//! of the call: while the service answers "not yet" it is making progress. Silence is the failure,
//! and that is bounded by the patience of the [`Link`]. A service that answers "not yet" without
//! holding the poll is asked less and less often, so waiting never becomes a busy loop.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use snakehouse_base::Deadline;
use snakehouse_guard::{Poll, PollProfile, Poller};
use snakehouse_tinker_api::json::{FutureAnswer, RetrieveFuture};
use tokio::time::Instant;

use crate::error::ClientError;
use crate::link::{Absence, Failure, Link, judge, outage, refused};
use crate::session::request;
use crate::transport::{Request, Response};

const ENDPOINT: &str = "retrieve_future";
/// Refused polls in a row that may be an accident of the way, and the pause after one.
const BAD_REQUESTS: u32 = 3;
const BAD_REQUEST_PAUSE: Duration = Duration::from_millis(50);
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

/// What a successful answer says.
enum Answer {
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
    let (absence, rows) = (Absence::default(), Mutex::new(Rows::default()));
    let wait = Wait { link, accepted, absence: &absence, rows: &rows };
    let poller = Poller::new(link.retry(), PollProfile::Paced);
    let settled =
        poller.run(deadline, |number| wait.poll(number), |failure| link.advise(&absence, failure));
    match link.until_stopped(settled).await? {
        Ok(body) => Ok(body),
        Err(gave_up) => Err(link.give_up(gave_up, &absence, ENDPOINT)),
    }
}

/// One operation that is waited for.
#[derive(Clone, Copy)]
struct Wait<'a> {
    link: &'a Link,
    accepted: &'a Accepted,
    absence: &'a Absence,
    rows: &'a Mutex<Rows>,
}

/// Answers in a row that are final only when there are too many of them.
#[derive(Debug, Default)]
struct Rows {
    bad_requests: u32,
    unpaid_since: Option<Instant>,
}

impl Wait<'_> {
    async fn poll(self, number: u32) -> Poll<Bytes, Failure> {
        match self.ask(number).await {
            Ok(poll) => poll,
            Err(failure) => Poll::Failed(failure),
        }
    }

    async fn ask(&self, number: u32) -> Result<Poll<Bytes, Failure>, Failure> {
        let mut response = self.send(number, true).await?;
        if response.is_success() {
            let mut answer = read(self.accepted, &response).map_err(Failure::Final)?;
            if matches!(answer, Answer::Large) {
                response = self.send(number, false).await?;
                if !response.is_success() {
                    return self.judge(&response);
                }
                answer = read(self.accepted, &response).map_err(Failure::Final)?;
            }
            return match answer {
                Answer::Done(body) => Ok(Poll::Done(body)),
                Answer::Pending => Ok(self.pending()),
                Answer::Large => {
                    let reason = "announced a large result twice instead of sending it";
                    Err(Failure::Final(ClientError::protocol(ENDPOINT, reason)))
                }
            };
        }
        self.judge(&response)
    }

    async fn send(&self, number: u32, allow_metadata_only: bool) -> Result<Response, Failure> {
        let request = poll(self.accepted, number, allow_metadata_only).map_err(Failure::Final)?;
        Ok(self.link.send(request).await?)
    }

    /// What an answer that is no success means here.
    fn judge(&self, response: &Response) -> Result<Poll<Bytes, Failure>, Failure> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if response.status != 400 {
            rows.bad_requests = 0;
        }
        if response.status != 402 {
            rows.unpaid_since = None;
        }
        match response.status {
            408 => Ok(self.pending()),
            429 => Ok(Poll::Throttled { after: response.retry_after }),
            400 if rows.bad_requests < BAD_REQUESTS => {
                rows.bad_requests += 1;
                Err(Failure::Counted { outage: outage(response), pause: BAD_REQUEST_PAUSE })
            }
            402 if rows.is_unpaid_bearable(Instant::now()) => {
                Err(Failure::Counted { outage: outage(response), pause: BILLING_PAUSE })
            }
            410 => Err(Failure::Final(ClientError::ResultGone {
                operation: self.accepted.operation.as_str(),
                request_id: self.accepted.request_id.clone(),
            })),
            500.. => Err(judge(ENDPOINT, response)),
            _ => Err(Failure::Final(refused(ENDPOINT, response))),
        }
    }

    /// Not yet: the service is there, and all answers of "not yet" are the same.
    fn pending(&self) -> Poll<Bytes, Failure> {
        self.absence.is_over();
        Poll::Pending { mark: 0 }
    }
}

impl Rows {
    fn is_unpaid_bearable(&mut self, now: Instant) -> bool {
        now.duration_since(*self.unpaid_since.get_or_insert(now)) < BILLING_PATIENCE
    }
}

fn poll(
    accepted: &Accepted,
    iteration: u32,
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
fn read(accepted: &Accepted, response: &Response) -> Result<Answer, ClientError> {
    let body = &response.body;
    if response.is_protobuf {
        return if accepted.operation.is_protobuf() {
            Ok(Answer::Done(body.clone()))
        } else {
            Err(ClientError::protocol(ENDPOINT, "a message came where an object belongs"))
        };
    }
    match FutureAnswer::read(body) {
        Err(error) => Err(ClientError::protocol(ENDPOINT, error.to_string())),
        Ok(FutureAnswer::Pending(_)) => Ok(Answer::Pending),
        Ok(FutureAnswer::Announced { .. }) => Ok(Answer::Large),
        Ok(FutureAnswer::Failed(failed)) => Err(ClientError::Failed {
            operation: accepted.operation.as_str(),
            category: failed.category,
            message: failed.error,
        }),
        Ok(FutureAnswer::Done(_)) if accepted.operation.is_protobuf() => {
            Err(ClientError::protocol(ENDPOINT, "an object came where a message belongs"))
        }
        Ok(FutureAnswer::Done(_)) => Ok(Answer::Done(body.clone())),
    }
}

#[cfg(test)]
mod tests {
    use snakehouse_base::Coded as _;
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
        // Between two polls lies the floor of 10 ms.
        assert_eq!(start.elapsed().as_secs() / 100, 300);
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
        assert_eq!(error.code(), "operation_failed");
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
