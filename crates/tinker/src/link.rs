//! Requests that survive a service that is away for a while.
//!
//! One request is repeated, with the same idempotency key, after a broken connection and after an
//! answer whose [kind](snakehouse_base::Kind::retry) says that a later attempt can succeed, with
//! growing jittered pauses, until the service has been out of reach for the patience. A service
//! that restarts is invisible. Everything the client posts carries a key of its own order, so a
//! repeated request is the same request.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use snakehouse_base::{Backoff, Chance, Deadline, Jitter, Retry};
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
    chance: Arc<Chance>,
    stopped: CancellationToken,
}

impl Link {
    pub(crate) fn new(
        transport: Arc<dyn Transport>,
        base_url: &str,
        patience: Duration,
        chance: Chance,
        stopped: CancellationToken,
    ) -> Self {
        Self { transport, base_url: base_url.into(), patience, chance: Arc::new(chance), stopped }
    }

    /// The same way, ended by another token.
    pub(crate) fn until(&self, stopped: CancellationToken) -> Self {
        Self { stopped, ..self.clone() }
    }

    /// One attempt: what came back, or why nothing did.
    ///
    /// # Errors
    /// [`ClientError::Deadline`] and [`ClientError::Stopped`], which end a call at once.
    pub(crate) async fn attempt(
        &self,
        request: Request,
        deadline: Deadline,
    ) -> Result<Result<Response, TransportError>, ClientError> {
        let endpoint = request.endpoint.clone();
        self.bounded(self.transport.send(request), &endpoint, deadline).await
    }

    /// Repeats `request` until the service takes it or refuses it.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for an answer that another attempt cannot change, else the errors
    /// of [`attempt`](Self::attempt) and [`ClientError::Unreachable`].
    pub(crate) async fn call(
        &self,
        mut request: Request,
        deadline: Deadline,
    ) -> Result<Response, ClientError> {
        let mut absence = Absence::default();
        loop {
            let (last, asked) = match self.attempt(request.clone(), deadline).await? {
                Ok(response) if response.is_success() => return Ok(response),
                Ok(response) => {
                    let by_table = kind_of_status(response.status).retry() != Retry::Never;
                    if !response.should_retry.unwrap_or(by_table) {
                        return Err(refused(&request.endpoint, &response));
                    }
                    (outage(&response), response.retry_after)
                }
                Err(error) => (Outage::Transport(error), None),
            };
            self.wait_out(&mut absence, last, asked, &request.endpoint, deadline).await?;
            request.attempt = request.attempt.saturating_add(1);
        }
    }

    /// Pauses before the next attempt, or gives up because the service was away for too long.
    pub(crate) async fn wait_out(
        &self,
        absence: &mut Absence,
        last: Outage,
        asked: Option<Duration>,
        endpoint: &str,
        deadline: Deadline,
    ) -> Result<(), ClientError> {
        let now = Instant::now();
        let since = *absence.since.get_or_insert(now);
        let law = PAUSES.delay(absence.failures, self.chance.next_unit());
        let pause = asked.map_or(law, |asked| asked.max(law));
        absence.failures = absence.failures.saturating_add(1);
        let silent_for = now.duration_since(since);
        if silent_for.saturating_add(pause) > self.patience {
            let base_url = self.base_url.to_string();
            return Err(ClientError::Unreachable { base_url, silent_for, last });
        }
        self.pause(pause, endpoint, deadline).await
    }

    /// Waits, but not past the deadline and not past the end of the client.
    pub(crate) async fn pause(
        &self,
        pause: Duration,
        endpoint: &str,
        deadline: Deadline,
    ) -> Result<(), ClientError> {
        self.bounded(tokio::time::sleep(pause), endpoint, deadline).await
    }

    /// Does something, but not past the deadline and not past the end of the client.
    pub(crate) async fn bounded<T>(
        &self,
        work: impl Future<Output = T>,
        endpoint: &str,
        deadline: Deadline,
    ) -> Result<T, ClientError> {
        let over = async {
            match deadline.instant() {
                Some(at) => tokio::time::sleep_until(Instant::from_std(at)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stopped.cancelled() => Err(ClientError::Stopped),
            done = work => Ok(done),
            () = over => Err(ClientError::Deadline { endpoint: endpoint.to_owned() }),
        }
    }
}

/// How long the service has been out of reach, as one call sees it.
#[derive(Debug, Default)]
pub(crate) struct Absence {
    since: Option<Instant>,
    failures: u32,
}

impl Absence {
    /// The service answered.
    pub(crate) fn is_over(&mut self) {
        *self = Self::default();
    }
}

/// A refusal, with whatever the service said about it.
pub(crate) fn refused(endpoint: &str, response: &Response) -> ClientError {
    let (detail, hint) = explanation(response);
    ClientError::Refused { endpoint: endpoint.to_owned(), status: response.status, detail, hint }
}

/// An answer that says "not now".
pub(crate) fn outage(response: &Response) -> Outage {
    Outage::Status { status: response.status, detail: explanation(response).0 }
}

/// Reads `{"detail": text, "error": {"message", "hint"}}`, either part of which may be absent.
fn explanation(response: &Response) -> (String, Option<String>) {
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
            return (detail, text(body, "hint").or_else(|| text(inner, "hint")));
        }
    }
    let raw = String::from_utf8_lossy(&response.body);
    let raw = raw.trim();
    let shown: String = raw.chars().take(LONGEST).collect();
    (if shown.is_empty() { "(no explanation)".to_owned() } else { shown }, None)
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
        assert!(start.elapsed() <= Duration::from_secs(30));
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

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_final_and_keeps_the_hint() {
        let service = Scripted::new();
        let body = r#"{"detail":"x: y","error":{"message":"no such model","hint":"ls"}}"#;
        service.reply("ping", Reply::json(404, body));
        let link = link(&service, Duration::from_secs(600));

        let error = link.call(ping(), Deadline::never()).await.unwrap_err();

        let ClientError::Refused { status: 404, detail, hint, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!((detail.as_str(), hint.as_deref()), ("no such model", Some("ls")));
    }
}
