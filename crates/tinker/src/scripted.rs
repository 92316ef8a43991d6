//! A service that answers from a script, in memory: endpoints are named, time is virtual.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use snakehouse_base::Chance;
use snakehouse_supervise::CancellationToken;

use crate::link::Link;
use crate::transport::{Body, Request, Response, Transport, TransportError};

/// One scripted answer.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// No connection.
    Refused,
    /// The connection breaks.
    Broken,
    /// Nothing, for ever.
    Never,
    /// An answer.
    Answer(Response),
    /// Another reply, later.
    After(Duration, Box<Reply>),
}

impl Reply {
    pub(crate) fn json(status: u16, body: &str) -> Self {
        let body = Bytes::copy_from_slice(body.as_bytes());
        Reply::Answer(Response { status, body, ..Response::default() })
    }

    pub(crate) fn protobuf(body: &[u8]) -> Self {
        let body = Bytes::copy_from_slice(body);
        Reply::Answer(Response { status: 200, is_protobuf: true, body, ..Response::default() })
    }

    pub(crate) fn after(self, pause: Duration) -> Self {
        Reply::After(pause, Box::new(self))
    }

    pub(crate) fn retry_after(self, pause: Duration) -> Self {
        self.with(|response| response.retry_after = Some(pause))
    }

    pub(crate) fn should_retry(self, again: bool) -> Self {
        self.with(|response| response.should_retry = Some(again))
    }

    fn with(mut self, change: impl FnOnce(&mut Response)) -> Self {
        if let Reply::Answer(response) = &mut self {
            change(response);
        }
        self
    }
}

/// Makes an answer out of a request.
pub(crate) type Responder = Box<dyn FnMut(&Request) -> Reply + Send>;

#[derive(Default)]
struct Script {
    queued: HashMap<String, VecDeque<Reply>>,
    default: HashMap<String, Responder>,
    seen: Vec<Request>,
}

/// A handle on the scripted service. Clones share the script.
#[derive(Clone, Default)]
pub(crate) struct Scripted(Arc<Mutex<Script>>);

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

impl Scripted {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The next answer of an endpoint.
    pub(crate) fn reply(&self, endpoint: &str, reply: Reply) {
        self.0.lock().unwrap().queued.entry(endpoint.to_owned()).or_default().push_back(reply);
    }

    /// The answer of an endpoint when nothing is queued.
    pub(crate) fn always(&self, endpoint: &str, reply: Reply) {
        self.respond(endpoint, move |_| reply.clone());
    }

    /// The same, made from the request.
    pub(crate) fn respond(
        &self,
        endpoint: &str,
        responder: impl FnMut(&Request) -> Reply + Send + 'static,
    ) {
        self.0.lock().unwrap().default.insert(endpoint.to_owned(), Box::new(responder));
    }

    /// The requests that an endpoint has seen, in order.
    pub(crate) fn seen(&self, endpoint: &str) -> Vec<Request> {
        let script = self.0.lock().unwrap();
        script.seen.iter().filter(|request| request.endpoint == endpoint).cloned().collect()
    }
}

impl Transport for Scripted {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        let reply = {
            let mut script = self.0.lock().unwrap();
            script.seen.push(request.clone());
            let queued = script.queued.get_mut(&request.endpoint).and_then(VecDeque::pop_front);
            queued.or_else(|| {
                script.default.get_mut(&request.endpoint).map(|responder| responder(&request))
            })
        };
        let mut reply = reply
            .unwrap_or_else(|| Reply::json(404, &format!("{} is not scripted", request.endpoint)));
        async move {
            loop {
                match reply {
                    Reply::Refused => {
                        return Err(TransportError::Connect { reason: "refused".to_owned() });
                    }
                    Reply::Broken => {
                        return Err(TransportError::Broken { reason: "reset".to_owned() });
                    }
                    Reply::Never => std::future::pending().await,
                    Reply::Answer(response) => return Ok(response),
                    Reply::After(pause, then) => {
                        tokio::time::sleep(pause).await;
                        reply = *then;
                    }
                }
            }
        }
        .boxed()
    }
}

impl Request {
    /// A header of the request.
    pub(crate) fn header_value(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// The JSON body.
    pub(crate) fn json(&self) -> serde_json::Value {
        let Some(Body::Json(bytes)) = &self.body else { panic!("{} has no JSON", self.endpoint) };
        serde_json::from_slice(bytes).unwrap()
    }
}

/// A link to the scripted service.
pub(crate) fn link(service: &Scripted, patience: Duration) -> Link {
    let transport = Arc::new(service.clone());
    Link::new(transport, "http://scripted", patience, Chance::seeded(1), CancellationToken::new())
}
