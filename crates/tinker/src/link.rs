//! Requests that survive a service that is away for a while.
//!
//! One request is repeated by [`Retry`], with the same idempotency key, after a broken connection
//! and after an answer whose [kind](snakehouse_base::Kind::retry) says that a later attempt can
//! succeed, until the service has been out of reach for the patience. A service that restarts is
//! invisible. Everything the client posts carries a key of its own order, so a repeated request is
//! the same request.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use snakehouse_base::{Backoff, Chance, Coded, Deadline, Jitter, Kind};
use snakehouse_guard::{Advice, GaveUp, Reason, Retry, by};
use snakehouse_supervise::CancellationToken;
use tokio::time::Instant;

use crate::error::{ClientError, Outage, kind_of_status};
use crate::transport::{Request, Response, Transport, TransportError};

/// The pause after a failure: short, because a local service is back within a second.
const PAUSES: Backoff =
    match Backoff::new(Duration::from_millis(50), Duration::from_secs(10), Jitter::Half) {
        Ok(law) => law,
        Err(_) => unreachable!(),
    };

/// The way to one service.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    transport: Arc<dyn Transport>,
    base_url: Arc<str>,
    patience: Duration,
    retry: Retry,
    stopped: CancellationToken,
}

/// Why one attempt brought nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Another attempt cannot help.
    #[error(transparent)]
    Final(ClientError),
    /// The service is not there, or cannot serve now.
    #[error("{outage}")]
    Absent {
        /// What happened.
        outage: Outage,
        /// The pause that the service asks for.
        asked: Option<Duration>,
    },
    /// Whoever reports it counts how often, and will report it as final.
    #[error("{outage}")]
    Counted {
        /// What happened.
        outage: Outage,
        /// The pause that follows.
        pause: Duration,
    },
}

impl Coded for Failure {
    fn kind(&self) -> Kind {
        match self {
            Failure::Final(error) => error.kind(),
            Failure::Absent { .. } | Failure::Counted { .. } => Kind::Unavailable,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Failure::Final(error) => error.code(),
            Failure::Absent { .. } | Failure::Counted { .. } => "service_unavailable",
        }
    }
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        Failure::Absent { outage: error.into(), asked: None }
    }
}

impl Link {
    pub(crate) fn new(
        transport: Arc<dyn Transport>,
        base_url: &str,
        patience: Duration,
        chance: Chance,
        stopped: CancellationToken,
    ) -> Self {
        let retry = Retry::new(PAUSES).chance(chance);
        Self { transport, base_url: base_url.into(), patience, retry, stopped }
    }

    /// The same way, ended by another token.
    pub(crate) fn until(&self, stopped: CancellationToken) -> Self {
        Self { stopped, ..self.clone() }
    }

    /// The policy of everything that is repeated.
    pub(crate) fn retry(&self) -> Retry {
        self.retry.clone()
    }

    /// One attempt, whatever comes back.
    pub(crate) async fn send(&self, request: Request) -> Result<Response, TransportError> {
        self.transport.send(request).await
    }

    /// Repeats `request` until the service takes it or refuses it.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for an answer that another attempt cannot change,
    /// [`ClientError::Unreachable`], [`ClientError::Deadline`], [`ClientError::Stopped`].
    pub(crate) async fn call(
        &self,
        request: Request,
        deadline: Deadline,
    ) -> Result<Response, ClientError> {
        let absence = Absence::default();
        let endpoint = request.endpoint.clone();
        let attempt = |attempt| {
            let request = Request { attempt, ..request.clone() };
            let endpoint = &endpoint;
            async move {
                let response = self.send(request).await?;
                if response.is_success() { Ok(response) } else { Err(judge(endpoint, &response)) }
            }
        };
        let called = self.retry.run(deadline, attempt, |failure| self.advise(&absence, failure));
        match self.until_stopped(called).await? {
            Ok(response) => Ok(response),
            Err(gave_up) => Err(self.give_up(gave_up, &absence, &endpoint)),
        }
    }

    /// What a failure says about another attempt, given how long the service has been away.
    pub(crate) fn advise(&self, absence: &Absence, failure: &Failure) -> Advice {
        match failure {
            Failure::Final(_) => Advice::Stop,
            Failure::Counted { pause, .. } => Advice::RetryAfter(*pause),
            Failure::Absent { .. } if absence.lasts(Instant::now()) >= self.patience => {
                Advice::Stop
            }
            Failure::Absent { asked, .. } => asked.map_or(Advice::Retry, Advice::RetryAfter),
        }
    }

    /// The error of a call that was given up.
    pub(crate) fn give_up(
        &self,
        gave_up: GaveUp<Failure>,
        absence: &Absence,
        endpoint: &str,
    ) -> ClientError {
        match (gave_up.reason, gave_up.last) {
            (Reason::Deadline, _) | (_, None) => {
                ClientError::Deadline { endpoint: endpoint.to_owned() }
            }
            (_, Some(Failure::Final(error))) => error,
            (_, Some(Failure::Absent { outage, .. } | Failure::Counted { outage, .. })) => {
                ClientError::Unreachable {
                    base_url: self.base_url.to_string(),
                    silent_for: absence.lasts(Instant::now()),
                    last: outage,
                }
            }
        }
    }

    /// Does something, but not past the deadline and not past the end of the client.
    pub(crate) async fn bounded<T>(
        &self,
        work: impl Future<Output = T>,
        endpoint: &str,
        deadline: Deadline,
    ) -> Result<T, ClientError> {
        let done = self.until_stopped(by(deadline, work)).await?;
        done.ok_or_else(|| ClientError::Deadline { endpoint: endpoint.to_owned() })
    }

    /// Does something, but not past the end of the client.
    pub(crate) async fn until_stopped<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, ClientError> {
        tokio::select! {
            biased;
            () = self.stopped.cancelled() => Err(ClientError::Stopped),
            done = work => Ok(done),
        }
    }
}

/// How long the service has been out of reach, as one call sees it.
#[derive(Debug, Default)]
pub(crate) struct Absence {
    since: Mutex<Option<Instant>>,
}

impl Absence {
    /// The service answered.
    pub(crate) fn is_over(&self) {
        *self.since() = None;
    }

    /// How long it has lasted; begins now if it had not begun.
    fn lasts(&self, now: Instant) -> Duration {
        now.duration_since(*self.since().get_or_insert(now))
    }

    fn since(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sorts an answer that is no success: whether it is final is the service's own word, or follows
/// from the kind of its status.
pub(crate) fn judge(endpoint: &str, response: &Response) -> Failure {
    let by_kind = kind_of_status(response.status).retry() != snakehouse_base::Retry::Never;
    if response.should_retry.unwrap_or(by_kind) {
        Failure::Absent { outage: outage(response), asked: response.retry_after }
    } else {
        Failure::Final(refused(endpoint, response))
    }
}

/// A refusal, with whatever the service said about it.
pub(crate) fn refused(endpoint: &str, response: &Response) -> ClientError {
    let Explanation { detail, hint, code, kind } = explanation(response);
    let (endpoint, status) = (endpoint.to_owned(), response.status);
    ClientError::Refused { endpoint, status, detail, hint, code, kind }
}

/// An answer that says "not now".
pub(crate) fn outage(response: &Response) -> Outage {
    Outage::Status { status: response.status, detail: explanation(response).detail }
}

/// What a service says about its refusal.
#[derive(Default)]
struct Explanation {
    detail: String,
    hint: Option<String>,
    code: Option<String>,
    kind: Option<Kind>,
}

/// Reads `{"detail": text, "error": {"code", "kind", "message", "hint"}}`, any part of which may be
/// absent.
fn explanation(response: &Response) -> Explanation {
    /// Enough to understand an answer that is not the protocol's.
    const LONGEST: usize = 300;
    let body: Option<serde_json::Value> = serde_json::from_slice(&response.body).ok();
    let text = |value: &serde_json::Value, key: &str| {
        value.get(key).and_then(|found| found.as_str()).map(str::to_owned)
    };
    if let Some(body) = &body {
        let inner = ["error", "detail"].iter().find_map(|key| body.get(key)).unwrap_or(body);
        let detail = inner.as_str().map(str::to_owned).or_else(|| text(inner, "message"));
        if let Some(detail) = detail {
            let hint = text(body, "hint").or_else(|| text(inner, "hint"));
            let kind = text(inner, "kind").and_then(|name| Kind::parse(&name));
            return Explanation { detail, hint, code: text(inner, "code"), kind };
        }
    }
    let raw = String::from_utf8_lossy(&response.body);
    let shown: String = raw.trim().chars().take(LONGEST).collect();
    let detail = if shown.is_empty() { "(no explanation)".to_owned() } else { shown };
    Explanation { detail, ..Explanation::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{Reply, Scripted, link};

    fn ping() -> Request {
        Request::post("ping", "{}".into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_comes_up_late_is_found_with_one_and_the_same_request() {
        let service = Scripted::new();
        for _ in 0..20 {
            service.reply("ping", Reply::Refused);
        }
        service.reply("ping", Reply::Broken);
        service.reply("ping", Reply::json(503, "{}"));
        service.reply("ping", Reply::json(200, "{}"));
        let link = link(&service, Duration::from_secs(600));

        let answer = link.call(ping(), Deadline::never()).await.unwrap();

        assert_eq!(answer.status, 200);
        let seen = service.seen("ping");
        assert_eq!(seen.len(), 23);
        assert!(seen.iter().all(|one| one.idempotency_key == seen[0].idempotency_key));
        assert!(seen.iter().zip(0..).all(|(one, n)| one.attempt == n));
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_and_the_last_failure_is_told() {
        let service = Scripted::new();
        service.always("ping", Reply::Refused);
        let link = link(&service, Duration::from_secs(30));
        let start = Instant::now();

        let error = link.call(ping(), Deadline::never()).await.unwrap_err();

        assert!(matches!(
            error,
            ClientError::Unreachable {
                last: Outage::Transport(TransportError::Connect { .. }),
                ..
            }
        ));
        assert_eq!(error.code(), "service_unreachable");
        // The last pause may lead past it.
        assert!(start.elapsed() <= Duration::from_secs(30) + PAUSES.cap());
        assert!(service.seen("ping").len() < 20, "pauses grow");
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_cuts_a_silent_service_at_its_instant() {
        let service = Scripted::new();
        service.always("ping", Reply::Never);
        let link = link(&service, Duration::from_secs(600));
        let start = Instant::now();
        let deadline = Deadline::after(start.into_std(), Duration::from_secs(7));

        let error = link.call(ping(), deadline).await.unwrap_err();

        assert!(matches!(error, ClientError::Deadline { .. }));
        assert_eq!(start.elapsed(), Duration::from_secs(7));
    }

    #[tokio::test(start_paused = true)]
    async fn the_service_decides_whether_and_when_to_try_again() {
        let service = Scripted::new();
        service.reply("ping", Reply::json(429, "{}").retry_after(Duration::from_secs(7)));
        service.reply("ping", Reply::json(409, "{}").should_retry(true));
        service.reply("ping", Reply::json(503, r#"{"detail":"going away"}"#).should_retry(false));
        let link = link(&service, Duration::from_secs(600));
        let start = Instant::now();

        let error = link.call(ping(), Deadline::never()).await.unwrap_err();

        assert!(start.elapsed() >= Duration::from_secs(7));
        assert_eq!(error.to_string(), "ping was refused with status 503: going away");
        assert_eq!(service.seen("ping").len(), 3);
    }

    #[test]
    fn an_answer_that_may_pass_is_an_outage_whatever_its_words() {
        for (status, code) in [(503, "service_unavailable"), (429, "service_unavailable")] {
            let answer = Response { status, ..Response::default() };
            assert_eq!(judge("ping", &answer).code(), code, "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_final_and_keeps_the_hint() {
        let service = Scripted::new();
        let body = r#"{"detail":"x: y","error":{"message":"no such model","hint":"ls"}}"#;
        service.reply("ping", Reply::json(404, body));
        let link = link(&service, Duration::from_secs(600));

        let error = link.call(ping(), Deadline::never()).await.unwrap_err();

        assert_eq!(error.code(), "request_refused");
        let ClientError::Refused { status: 404, detail, hint, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!((detail.as_str(), hint.as_deref()), ("no such model", Some("ls")));
    }
}
