//! `snakehouse.v1.Pool`: calls, streams, tools and numbers of a pool for programs in any language.

use std::fmt;

use snakehouse_base::Deadline;
use snakehouse_pool::{CallOptions, Pool, Session, SessionOptions, ToolInfo, Value, to_json};
use snakehouse_supervise::{Lane, Scope};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::payload;
use crate::proto::{
    CallRequest, CallResponse, CloseSessionRequest, CloseSessionResponse, ListToolsRequest,
    ListToolsResponse, OpenSessionRequest, OpenSessionResponse, StatsRequest, StatsResponse,
    StreamRequest, Tool, pool_server,
};
use crate::refusal::call_failed;
use crate::stream::{Items, open};
use crate::trace;

/// Threads for large results, and how many of them may wait.
const LANE: (usize, usize) = (2, 64);

#[derive(Clone)]
pub(crate) struct FrontDoor {
    pool: Pool,
    scope: Scope,
    /// Makes MessagePack of large results.
    lane: Lane,
}

impl FrontDoor {
    pub(crate) fn new(pool: Pool, scope: Scope) -> Self {
        let lane = Lane::new(&scope, "values", LANE.0, LANE.1);
        Self { pool, scope, lane }
    }
}

/// What headers and request say about how to make the call.
pub(crate) fn options(
    headers: &MetadataMap,
    idempotent: bool,
    otherwise: std::time::Duration,
) -> Result<CallOptions, Status> {
    let mut options =
        CallOptions::until(trace::deadline(headers, otherwise)?).idempotent(idempotent);
    options.trace = trace::trace(headers);
    Ok(options)
}

/// The session that a request names, if it does.
pub(crate) fn named(pool: &Pool, name: &str) -> Result<Option<Session>, Status> {
    if name.is_empty() {
        return Ok(None);
    }
    let session = pool.named_session(name, SessionOptions::default());
    session.map(Some).map_err(|error| call_failed(&error))
}

#[tonic::async_trait]
impl pool_server::Pool for FrontDoor {
    /// Dropped when the client is gone, and the call with it.
    async fn call(&self, request: Request<CallRequest>) -> Result<Response<CallResponse>, Status> {
        let (headers, _, CallRequest { tool, arguments, idempotent, session }) =
            request.into_parts();
        let options = options(&headers, idempotent, Deadline::CALL)?;
        let (body, form) = payload::arguments(arguments)?;
        let result = match named(&self.pool, &session)? {
            None => self.pool.call_bytes(&tool, body, options).await,
            Some(session) => session.call_bytes(&tool, body, options).await,
        };
        let result = result.map_err(|error| call_failed(&error))?;
        let result = payload::plain(result, &self.lane).await?;
        Ok(Response::new(CallResponse { result: Some(payload::told(result, form)?) }))
    }

    type StreamStream = Items;

    async fn stream(
        &self,
        request: Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Items>, Status> {
        let (headers, _, requests) = request.into_parts();
        open(&self.pool, &self.scope, &self.lane, &headers, requests).await.map(Response::new)
    }

    async fn open_session(
        &self,
        request: Request<OpenSessionRequest>,
    ) -> Result<Response<OpenSessionResponse>, Status> {
        let OpenSessionRequest { name, recreate } = request.into_inner();
        let session = self.pool.named_session(&name, SessionOptions::default());
        let session = session.map_err(|error| call_failed(&error))?;
        if recreate {
            session.recreate().map_err(|error| call_failed(&error))?;
        }
        Ok(Response::new(OpenSessionResponse {}))
    }

    async fn close_session(
        &self,
        request: Request<CloseSessionRequest>,
    ) -> Result<Response<CloseSessionResponse>, Status> {
        let existed = self.pool.close_session(&request.into_inner().name);
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
