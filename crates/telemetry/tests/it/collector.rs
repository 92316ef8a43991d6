//! A collector: an HTTP server that decodes what it gets.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use snakehouse_supervise::Scope;
use snakehouse_telemetry::proto::{
    AnyValueKind, KeyValue, LogRecord, LogsRequest, Span, TracesRequest,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::BOUND;

/// What was posted: the path, the authorization, the body.
pub(crate) struct Posted {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Bytes,
}

pub(crate) struct Collector {
    pub(crate) url: String,
    posted: mpsc::Receiver<Posted>,
    /// What it answers.
    pub(crate) status: Arc<AtomicU16>,
}

impl Collector {
    pub(crate) async fn start(scope: &Scope) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, posted) = mpsc::channel(1024);
        let status = Arc::new(AtomicU16::new(200));
        let (answer, connections) = (status.clone(), scope.open("collector"));
        let cancelled = connections.cancelled();
        let accept = async move {
            while let Some(Ok((stream, _))) = cancelled.run_until_cancelled(listener.accept()).await
            {
                let (sender, answer, stop) = (sender.clone(), answer.clone(), cancelled.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (sender, answer) = (sender.clone(), answer.clone());
                    async move {
                        let path = request.uri().path().to_owned();
                        let header = request.headers().get("authorization");
                        let authorization = header.map(|h| h.to_str().unwrap().to_owned());
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        // What is posted is answered as it was when the test hears of it.
                        let status = answer.load(Ordering::Relaxed);
                        let _ = sender.send(Posted { path, authorization, body }).await;
                        let mut response = Response::new(Full::new(Bytes::new()));
                        *response.status_mut() = status.try_into().unwrap();
                        Ok::<_, Infallible>(response)
                    }
                });
                drop(connections.task("connection", async move {
                    let served =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    let _ = stop.run_until_cancelled(served).await;
                }));
            }
        };
        drop(scope.task("collector", accept));
        Self { url, posted, status }
    }

    pub(crate) async fn next(&mut self) -> Posted {
        timeout(BOUND, self.posted.recv()).await.unwrap().unwrap()
    }

    /// What was posted, if anything was by now.
    pub(crate) fn rest(&mut self) -> Vec<Posted> {
        std::iter::from_fn(|| self.posted.try_recv().ok()).collect()
    }

    /// Waits until so many spans and records have come.
    pub(crate) async fn take(
        &mut self,
        spans: usize,
        records: usize,
    ) -> (Vec<Span>, Vec<LogRecord>) {
        let (mut got_spans, mut got_records) = (Vec::new(), Vec::new());
        while got_spans.len() < spans || got_records.len() < records {
            let posted = self.next().await;
            match posted.path.as_str() {
                "/v1/traces" => got_spans.extend(spans_of(posted.body)),
                "/v1/logs" => got_records.extend(records_of(posted.body)),
                other => panic!("{other}"),
            }
        }
        (got_spans, got_records)
    }
}

pub(crate) fn spans_of(body: Bytes) -> Vec<Span> {
    let request = TracesRequest::decode(body).unwrap();
    let scopes = request.resource_spans.into_iter().flat_map(|resource| {
        let of = |attribute: &KeyValue| attribute.key.clone();
        assert!(resource.resource.unwrap().attributes.iter().map(of).any(|k| k == "service.name"));
        resource.scope_spans
    });
    scopes.flat_map(|scope| scope.spans).collect()
}

fn records_of(body: Bytes) -> Vec<LogRecord> {
    let request = LogsRequest::decode(body).unwrap();
    let scopes = request.resource_logs.into_iter().flat_map(|resource| resource.scope_logs);
    scopes.flat_map(|scope| scope.log_records).collect()
}

pub(crate) fn attributes(attributes: &[KeyValue]) -> HashMap<String, AnyValueKind> {
    let pair = |attribute: &KeyValue| {
        (attribute.key.clone(), attribute.value.clone().unwrap().value.unwrap())
    };
    attributes.iter().map(pair).collect()
}
