//! Sends spans and events to a collector by OTLP 1 (protobuf over HTTP).
//!
//! One supervised task owns the queue: it waits for the first piece, gathers more for a moment, has a lane
//! encode them, and sends them. What the collector does not take is repeated as long as OTLP allows it and the
//! patience lasts, and then dropped and counted; meanwhile the queue fills, and the pool counts what
//! does not fit. At a stop, what is queued is sent within a bound. While there is nothing to send
//! there is no timer.

mod convert;
pub mod proto;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prost::Message as _;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use snakehouse_base::redact::redact;
use snakehouse_base::{Coded, Deadline};
use snakehouse_guard::{Advice, Retry};
use snakehouse_pool::{Telemetry, TelemetrySink};
use snakehouse_supervise::{CancellationToken, ChildSpec, Lane, LaneError, Scope};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use crate::error::TelemetryError;
use convert::Origin;

/// How long a collector may take for one request.
const REQUEST: Duration = Duration::from_secs(10);
/// How long one batch is tried.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where telemetry is sent, and how much of it may wait.
#[derive(Clone)]
pub struct OtlpConfig {
    /// The collector's base URL, `http` only, not `https` and not gRPC: usually its port 4318.
    /// `/v1/traces` and `/v1/logs` are added. A user and a password in it are sent as basic
    /// authentication, and shown nowhere.
    pub url: String,
    /// `service.name` of everything that is sent. Default `snakehouse`.
    pub service: String,
    /// Pieces that may wait. Default 8,192; at least 1. What does not fit is dropped, and counted by
    /// the pool.
    pub queue: usize,
    /// Pieces of one request, at most. Default 512; at least 1.
    pub batch: usize,
    /// How long the first piece waits for others. Default 1 s.
    pub gather: Duration,
    /// How long the end may take: from the scope's stop until what is queued is sent or dropped.
    /// Default 3 s.
    pub flush_within: Duration,
}

impl OtlpConfig {
    /// To this collector, with the defaults.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            service: "snakehouse".to_owned(),
            queue: 8192,
            batch: 512,
            gather: Duration::from_secs(1),
            flush_within: Duration::from_secs(3),
        }
    }

    fn check(&self) -> Result<reqwest::Url, TelemetryError> {
        if self.queue == 0 || self.batch == 0 {
            let rule = "queue and batch must be at least 1";
            return Err(TelemetryError::BadConfig { rule });
        }
        let bad = |reason: &str| TelemetryError::BadUrl { reason: reason.to_owned() };
        // What a parser says of it may quote it.
        let url = reqwest::Url::parse(&self.url).map_err(|_| bad("it is no URL"))?;
        match url.scheme() {
            "http" => Ok(url),
            // Anything else may be a secret with a colon in it.
            scheme @ ("https" | "grpc" | "grpcs" | "unix" | "tcp") => {
                Err(TelemetryError::NotSpoken { scheme: scheme.to_owned() })
            }
            _ => Err(bad("it does not begin with http://")),
        }
    }
}

impl fmt::Debug for OtlpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtlpConfig")
            .field("url", &redact(&self.url))
            .field("service", &self.service)
            .field("queue", &self.queue)
            .field("batch", &self.batch)
            .field("gather", &self.gather)
            .field("flush_within", &self.flush_within)
            .finish()
    }
}

/// What became of what was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OtlpCounts {
    /// Pieces that the collector took.
    pub sent: u64,
    /// Pieces that it did not take in time, or refused.
    pub dropped: u64,
    /// Requests that failed, repeated ones included.
    pub failed_requests: u64,
}

/// An exporter. Cheap to clone; the scope that it was started in owns its task.
#[derive(Clone)]
pub struct Otlp {
    sink: mpsc::Sender<Telemetry>,
    shared: Arc<Shared>,
}

impl fmt::Debug for Otlp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its URLs have the password as a field of its own.
        let config = &self.shared.config;
        f.debug_struct("Otlp").field("config", config).field("counts", &self.counts()).finish()
    }
}

/// What is to be sent, seen by the lane too.
type Batch = Arc<Vec<Telemetry>>;

struct Shared {
    config: OtlpConfig,
    client: reqwest::Client,
    traces: reqwest::Url,
    logs: reqwest::Url,
    retry: Retry,
    /// Makes requests of batches.
    encoder: Lane,
    queue: Mutex<mpsc::Receiver<Telemetry>>,
    sent: AtomicU64,
    dropped: AtomicU64,
    failed_requests: AtomicU64,
    /// Whether the collector took the last batch.
    is_well: AtomicBool,
}

impl Otlp {
    /// Starts the exporter. Start it before the pools that tell it: a scope stops in reverse order.
    ///
    /// # Errors
    /// [`TelemetryError::BadUrl`], [`TelemetryError::NotSpoken`] and [`TelemetryError::BadConfig`]. Whether there is a collector is
    /// found out later, and no reason to fail.
    pub fn start(scope: &Scope, config: OtlpConfig) -> Result<Self, TelemetryError> {
        let url = config.check()?;
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(REQUEST)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| TelemetryError::BadUrl { reason: reason(error) })?;
        let (sink, queue) = mpsc::channel(config.queue);
        let grace = config.flush_within + Duration::from_secs(1);
        let shared = Arc::new(Shared {
            traces: below(&url, "v1/traces"),
            logs: below(&url, "v1/logs"),
            retry: Retry::remote(),
            encoder: Lane::new(scope, "otlp-encoder", 1, 1),
            queue: Mutex::new(queue),
            sent: AtomicU64::default(),
            dropped: AtomicU64::default(),
            failed_requests: AtomicU64::default(),
            is_well: AtomicBool::new(true),
            client,
            config,
        });
        let task = shared.clone();
        scope.child(
            ChildSpec::new("otlp", move |ctx| {
                let task = task.clone();
                async move {
                    ctx.ready();
                    task.run(ctx.cancelled()).await;
                    Ok(())
                }
            })
            .grace(grace),
        );
        Ok(Self { sink, shared })
    }

    /// For [`TelemetryConfig`](snakehouse_pool::TelemetryConfig); of as many pools as like.
    pub fn sink(&self) -> Arc<dyn TelemetrySink> {
        Arc::new(self.sink.clone())
    }

    /// What became of what was taken.
    pub fn counts(&self) -> OtlpCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        OtlpCounts {
            sent: read(&self.shared.sent),
            dropped: read(&self.shared.dropped),
            failed_requests: read(&self.shared.failed_requests),
        }
    }
}

impl Shared {
    /// Sends until `cancelled` fires, and then what is left.
    async fn run(&self, cancelled: CancellationToken) {
        let mut queue = self.queue.lock().await;
        let mut batch = Batch::default();
        while self.gather(&mut queue, &mut batch, &cancelled).await {
            // A collector that is away must not hold up the end.
            if cancelled.run_until_cancelled(self.send(&mut batch)).await.is_none() {
                break;
            }
        }
        queue.close();
        let flush = async {
            loop {
                while batch.len() < self.config.batch
                    && let Ok(piece) = queue.try_recv()
                {
                    Arc::make_mut(&mut batch).push(piece);
                }
                if batch.is_empty() {
                    return;
                }
                self.send(&mut batch).await;
            }
        };
        if timeout(self.config.flush_within, flush).await.is_err() {
            let left = batch.len() + queue.len();
            self.dropped.fetch_add(left as u64, Ordering::Relaxed);
            tracing::warn!(left, "the collector did not take the last telemetry in time");
        }
    }

    /// Waits for a piece and a moment for more; false if it is time to end.
    async fn gather(
        &self,
        queue: &mut mpsc::Receiver<Telemetry>,
        batch: &mut Batch,
        cancelled: &CancellationToken,
    ) -> bool {
        let most = self.config.batch;
        // Nobody else has it, unless a request was given up half-way: then the lane has the last one.
        let batch = Arc::make_mut(batch);
        let mut due = None;
        while batch.len() < most {
            let more = queue.recv_many(batch, most - batch.len());
            let enough = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = cancelled.cancelled() => return false,
                () = enough => return true,
                got = more => {
                    if got == 0 {
                        // Nobody is left who could tell anything; the stop comes.
                        cancelled.cancelled().await;
                        return false;
                    }
                    due.get_or_insert(Instant::now() + self.config.gather);
                }
            }
        }
        true
    }

    /// Sends a batch, or drops it. Whoever drops this future finds the unsent pieces in `batch`.
    async fn send(&self, batch: &mut Batch) {
        let is_span = |piece: &Telemetry| matches!(piece, Telemetry::Span(_));
        let origin = Origin { service: self.config.service.clone() };
        if batch.iter().any(is_span) {
            let (origin, pieces) = (origin.clone(), batch.clone());
            let traces = self.encoder.run(move || origin.traces(&pieces).encode_to_vec()).await;
            let count = batch.iter().filter(|piece| is_span(piece)).count();
            self.post_if_made(&self.traces, traces, count).await;
            Arc::make_mut(batch).retain(|piece| !is_span(piece));
        }
        if !batch.is_empty() {
            let pieces = batch.clone();
            let logs = self.encoder.run(move || origin.logs(&pieces).encode_to_vec()).await;
            self.post_if_made(&self.logs, logs, batch.len()).await;
        }
        Arc::make_mut(batch).clear();
    }

    async fn post_if_made(
        &self,
        url: &reqwest::Url,
        body: Result<Vec<u8>, LaneError>,
        pieces: usize,
    ) {
        match body {
            Ok(body) => self.post(url, body, pieces).await,
            // It panicked, which the lane has logged: nobody takes these.
            Err(_) => drop(self.dropped.fetch_add(pieces as u64, Ordering::Relaxed)),
        }
    }

    async fn post(&self, url: &reqwest::Url, body: Vec<u8>, pieces: usize) {
        let body = bytes::Bytes::from(body);
        let attempt = |_| async {
            let outcome = self.post_once(url.clone(), body.clone()).await;
            if outcome.is_err() {
                self.failed_requests.fetch_add(1, Ordering::Relaxed);
            }
            outcome
        };
        let deadline = Deadline::after(Instant::now().into_std(), PATIENCE);
        let advise = |error: &TelemetryError| Advice::of_kind(error.kind(), true);
        let outcome = self.retry.run(deadline, attempt, advise).await;
        let count = if outcome.is_ok() { &self.sent } else { &self.dropped };
        count.fetch_add(pieces as u64, Ordering::Relaxed);
        let was_well = self.is_well.swap(outcome.is_ok(), Ordering::Relaxed);
        if let Err(error) = outcome
            && was_well
        {
            // Once, until it takes something again.
            tracing::warn!(%error, pieces, "telemetry was not taken and is dropped");
        }
    }

    async fn post_once(&self, url: reqwest::Url, body: bytes::Bytes) -> Result<(), TelemetryError> {
        const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
        let request = self.client.post(url).header(CONTENT_TYPE, PROTOBUF).body(body);
        let unreachable = |error| TelemetryError::Unreachable { reason: reason(error) };
        let response = request.send().await.map_err(unreachable)?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(TelemetryError::Refused { status: status.as_u16() }),
        }
    }
}

/// The URL of one signal.
fn below(base: &reqwest::Url, path: &str) -> reqwest::Url {
    let mut url = base.clone();
    let whole = format!("{}/{path}", base.path().trim_end_matches('/'));
    url.set_path(&whole);
    url
}

/// What went wrong, without the URL, which may have a password, and with its causes.
fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    redact(&text).into_owned()
}
