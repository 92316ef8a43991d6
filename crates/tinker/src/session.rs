//! One session with a service, shared by all its clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use snakehouse_base::Deadline;
use snakehouse_base::id::SessionId;
use snakehouse_supervise::Scope;
use snakehouse_tinker_api::json;
use tokio::time::Instant;

use crate::chunk::ChunkLimits;
use crate::error::ClientError;
use crate::heartbeat;
use crate::link::Link;
use crate::promise::{Accepted, Operation};
use crate::transport::Request;

/// What every client of the session uses.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) link: Link,
    pub(crate) scope: Scope,
    pub(crate) limits: ChunkLimits,
    within: Option<Duration>,
    next_model: AtomicU64,
    next_sampler: AtomicU64,
    ended: Arc<AtomicBool>,
    parent: Scope,
}

impl Session {
    /// Takes over a session that the service has made, and keeps it alive in a scope below
    /// `parent` until the last client is dropped.
    pub(crate) fn start(
        id: SessionId,
        link: &Link,
        parent: &Scope,
        limits: ChunkLimits,
        within: Option<Duration>,
    ) -> Self {
        let scope = parent.open("tinker-session");
        let link = link.until(scope.cancelled());
        let ended = Arc::new(AtomicBool::new(false));
        scope.child(heartbeat::child(id.clone(), link.clone(), Arc::clone(&ended)));
        Self {
            id,
            link,
            scope,
            limits,
            within,
            next_model: AtomicU64::new(0),
            next_sampler: AtomicU64::new(0),
            ended,
            parent: parent.clone(),
        }
    }

    /// The deadline of an operation that starts now.
    pub(crate) fn deadline(&self) -> Deadline {
        self.within.map_or_else(Deadline::never, |within| {
            Deadline::after(Instant::now().into_std(), within)
        })
    }

    /// The next number of a training model.
    pub(crate) fn model_number(&self) -> u64 {
        self.next_model.fetch_add(1, Ordering::Relaxed)
    }

    /// The next number of a sampling session.
    pub(crate) fn sampler_number(&self) -> u64 {
        self.next_sampler.fetch_add(1, Ordering::Relaxed)
    }

    /// Posts an operation and reads the promise, however long the service is away.
    pub(crate) async fn submit(
        &self,
        operation: Operation,
        request: Request,
        deadline: Deadline,
    ) -> Result<Accepted, ClientError> {
        if self.ended.load(Ordering::Relaxed) {
            return Err(ClientError::SessionEnded { session: self.id.to_string() });
        }
        let started = Instant::now();
        let endpoint = request.endpoint.clone();
        let response = self.link.call(request, deadline).await?;
        let promise: json::Promise = read(&endpoint, &response.body)?;
        let roundtrip = started.elapsed();
        Ok(Accepted { operation, request_id: promise.request_id, roundtrip })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let scope = self.scope.clone();
        // A parent that is stopping ends the scope anyway.
        drop(self.parent.task("end-session", async move { drop(scope.stop().await) }));
    }
}

/// Posts `body` and reads the direct answer.
pub(crate) async fn post<R: DeserializeOwned>(
    link: &Link,
    endpoint: &str,
    body: &impl Serialize,
    deadline: Deadline,
) -> Result<R, ClientError> {
    let response = link.call(request(endpoint, body)?, deadline).await?;
    read(endpoint, &response.body)
}

/// A request with `body` as JSON.
pub(crate) fn request(endpoint: &str, body: &impl Serialize) -> Result<Request, ClientError> {
    let bytes = serde_json::to_vec(body)
        .map_err(|error| ClientError::protocol(endpoint, error.to_string()))?;
    Ok(Request::post(endpoint, Bytes::from(bytes)))
}

/// Reads a JSON answer.
pub(crate) fn read<R: DeserializeOwned>(endpoint: &str, body: &[u8]) -> Result<R, ClientError> {
    serde_json::from_slice(body).map_err(|error| ClientError::protocol(endpoint, error.to_string()))
}
