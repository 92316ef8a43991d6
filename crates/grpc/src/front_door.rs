//! `snakehouse.v1.Pool`: calls, streams, tools and numbers of a pool for programs in any language.

use std::fmt;

use snakehouse_base::Kind;
use snakehouse_pool::{
    CallOptions, Pool, Session, SessionOptions, SessionSpace, ToolInfo, Value, to_json,
};
use snakehouse_supervise::{Lane, Scope};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status, Streaming};

use crate::payload;
use crate::proto::{
    CallRequest, CallResponse, CloseSessionRequest, CloseSessionResponse, ListToolsRequest,
    ListToolsResponse, OpenSessionRequest, OpenSessionResponse, StatsRequest, StatsResponse,
    StreamRequest, Tool, pool_server,
};
use crate::refusal::{Refusal, call_failed, refuse};
use crate::server::Terms;
use crate::stream::{Items, open};
use crate::trace;

/// Threads for large results, and how many of them may wait.
const LANE: (usize, usize) = (2, 64);

#[derive(Clone)]
pub(crate) struct FrontDoor {
    pub(crate) pool: Pool,
    /// The sessions of its clients: their names are nothing to the host, nor its to them.
    sessions: SessionSpace,
    pub(crate) scope: Scope,
    /// Makes MessagePack of large results.
    pub(crate) lane: Lane,
}

impl FrontDoor {
    pub(crate) fn new(pool: Pool, sessions: Option<usize>, scope: Scope) -> Self {
        let lane = Lane::new(&scope, "values", LANE.0, LANE.1);
        Self { sessions: pool.session_space(sessions), pool, scope, lane }
    }

    /// The session that a request names, if it does.
    pub(crate) fn named(&self, name: &str) -> Result<Option<Session>, Status> {
        if name.is_empty() { Ok(None) } else { self.session(name).map(Some) }
    }

    fn session(&self, name: &str) -> Result<Session, Status> {
        let session = self.sessions.named_session(name, SessionOptions::default());
        session.map_err(|error| call_failed(&error))
    }
}

/// What a request was let in with.
pub(crate) fn terms(extensions: &Extensions) -> Result<Terms, Status> {
    extensions.get().cloned().ok_or_else(|| {
        refuse(Refusal {
            kind: Kind::Internal,
            code: "no_terms",
            message: "the request did not come through the door".to_owned(),
            hint: None,
        })
    })
}

/// How to make the call.
pub(crate) fn options(headers: &MetadataMap, terms: &Terms, idempotent: bool) -> CallOptions {
    let mut options = CallOptions::until(terms.deadline).idempotent(idempotent);
    options.trace = trace::trace(headers);
    options
}

#[tonic::async_trait]
impl pool_server::Pool for FrontDoor {
    /// Dropped when the client is gone, and the call with it.
    async fn call(&self, request: Request<CallRequest>) -> Result<Response<CallResponse>, Status> {
        let (headers, extensions, CallRequest { tool, arguments, idempotent, session }) =
            request.into_parts();
        let terms = terms(&extensions)?;
        let options = options(&headers, &terms, idempotent);
        let (body, form) = payload::arguments(arguments)?;
        let result = match self.named(&session)? {
            None => self.pool.call_bytes(&tool, body, options).await,
            Some(session) => session.call_bytes(&tool, body, options).await,
        };
        let result = result.map_err(|error| call_failed(&error))?;
        let result = payload::plain(result, &self.lane).await?;
        terms.account.result(result.len())?;
        Ok(Response::new(CallResponse { result: Some(payload::told(result, form)?) }))
    }

    type StreamStream = Items;

    async fn stream(
        &self,
        request: Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Items>, Status> {
        let (headers, extensions, requests) = request.into_parts();
        let terms = terms(&extensions)?;
        open(self, &terms, &headers, requests).await.map(Response::new)
    }

    async fn open_session(
        &self,
        request: Request<OpenSessionRequest>,
    ) -> Result<Response<OpenSessionResponse>, Status> {
        let OpenSessionRequest { name, recreate } = request.into_inner();
        let session = self.session(&name)?;
        if recreate {
            session.recreate().map_err(|error| call_failed(&error))?;
        }
        Ok(Response::new(OpenSessionResponse {}))
    }

    async fn close_session(
        &self,
        request: Request<CloseSessionRequest>,
    ) -> Result<Response<CloseSessionResponse>, Status> {
        let existed = self.sessions.close_session(&request.into_inner().name);
        Ok(Response::new(CloseSessionResponse { existed }))
    }

    async fn list_tools(
        &self,
        _: Request<ListToolsRequest>,
    ) -> Result<Response<ListToolsResponse>, Status> {
        let tools = self.pool.tools().iter().map(tool).collect();
        Ok(Response::new(ListToolsResponse { tools }))
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Result<Response<StatsResponse>, Status> {
        let stats = self.pool.stats();
        let outcomes = serde_json::to_value(stats.outcomes).unwrap_or_default();
        let outcomes = outcomes.as_object().into_iter().flatten();
        Ok(Response::new(StatsResponse {
            workers: stats.workers,
            in_flight: stats.in_flight,
            waiting: stats.waiting,
            outcomes: outcomes
                .filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)))
                .collect(),
            deaths: stats.deaths.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            p50_us: stats.latency.p50_us,
            p99_us: stats.latency.p99_us,
            max_us: stats.latency.max_us,
            pool: stats.pool,
        }))
    }
}

fn tool(info: &ToolInfo) -> Tool {
    // A schema that JSON cannot say is no schema.
    let schema = |value: &Value| match value {
        Value::None => String::new(),
        value => to_json(value).map(|schema| schema.to_string()).unwrap_or_default(),
    };
    Tool {
        name: info.name.clone(),
        kind: info.kind.as_str().to_owned(),
        signature: info.signature.clone(),
        doc: info.doc.clone(),
        parameters_schema: schema(&info.parameters),
        result_schema: schema(&info.result),
    }
}

impl fmt::Debug for FrontDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontDoor").field("pool", &self.pool).finish_non_exhaustive()
    }
}
