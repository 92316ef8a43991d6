//! One life of the engine, and what it holds.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use snakehouse_base::Deadline;
use snakehouse_base::id::{ModelId, SamplerId};
use snakehouse_engine_api::Request;
use snakehouse_supervise::CancellationToken;
use std::time::Duration;
use tokio::time::Instant;

use super::CoreError;
use super::engine::{Engine, EngineError};
use super::fault::{Fault, FaultPoint, Victim};
use super::shared::die;

/// A serving engine with the models and samplers it has been given.
pub(super) struct Life {
    pub(super) engine: Box<dyn Engine>,
    pub(super) models: HashSet<ModelId>,
    /// Least recently used first.
    pub(super) samplers: VecDeque<SamplerId>,
    stop: CancellationToken,
    call: Duration,
    fault: Option<Fault>,
}

/// Why the owner cannot go on with what it was doing.
#[derive(Debug)]
pub(super) enum Halt {
    /// This life of the engine is over.
    Died(String),
    /// The service stops, and the engine did not finish in time.
    Stopping,
    /// The store, or something the owner relies on, failed.
    Broken(CoreError),
}

impl<E: Into<CoreError>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Broken(error.into())
    }
}

/// What the engine refused.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) kind: snakehouse_base::Kind,
    pub(super) code: String,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Refusal {
    /// The engine answered with something else than a reply.
    pub(super) fn bad_reply(tool: &str, why: &str) -> Self {
        Self {
            kind: snakehouse_base::Kind::Internal,
            code: Life::BAD_REPLY.to_owned(),
            message: format!("the engine's reply to {tool} cannot be read: {why}"),
            hint: None,
        }
    }
}

/// How long a stop waits for the running operation. It runs again at the next start.
const LAST_CALL: Duration = Duration::from_secs(10);
/// How long a call runs before a fault that is to hit it in the middle.
const MIDDLE: Duration = Duration::from_millis(1);

impl Life {
    pub(super) fn new(
        engine: Box<dyn Engine>,
        stop: CancellationToken,
        call: Duration,
        fault: Option<Fault>,
    ) -> Self {
        Self { engine, models: HashSet::new(), samplers: VecDeque::new(), stop, call, fault }
    }

    /// Calls a tool with a typed request.
    pub(super) async fn ask<R: Request>(
        &mut self,
        request: &R,
    ) -> Result<Result<R::Reply, Refusal>, Halt> {
        self.ask_at(request, None).await.map(|reply| reply.map(|(value, _)| value))
    }

    /// The code of a refusal that stands for a reply which cannot be read.
    pub(super) const BAD_REPLY: &'static str = "bad_reply";

    /// Calls a tool with a typed request; also gives the reply's bytes. `point` is where a test
    /// may hit the call.
    pub(super) async fn ask_at<R: Request>(
        &mut self,
        request: &R,
        point: Option<FaultPoint>,
    ) -> Result<Result<(R::Reply, Bytes), Refusal>, Halt> {
        let body = request.encode().map_err(|e| CoreError::Corrupt(e.to_string()))?;
        Ok(match self.call(R::TOOL, body, point).await? {
            Err(refusal) => Err(refusal),
            Ok(reply) => match R::decode_reply(&reply) {
                Ok(value) => Ok((value, reply)),
                Err(error) => Err(Refusal::bad_reply(R::TOOL, &error.to_string())),
            },
        })
    }

    /// Calls a tool.
    pub(super) async fn call(
        &mut self,
        tool: &'static str,
        body: Bytes,
        point: Option<FaultPoint>,
    ) -> Result<Result<Bytes, Refusal>, Halt> {
        let deadline = Deadline::after(Instant::now().into_std(), self.call);
        let victim =
            point.and_then(|point| self.fault.as_ref().and_then(|fault| fault.visit(point)));
        let lost = self.engine.lost();
        let doomed = matches!(victim, Some(Victim::Engine));
        let killer = doomed.then(|| self.engine.killer());
        let stop = self.stop.clone();
        let mut call = self.engine.call(tool, body, deadline);
        if let Some(victim) = victim {
            let finished = tokio::select! {
                biased;
                reply = &mut call => Some(reply),
                () = tokio::time::sleep(MIDDLE) => None,
            };
            if let Some(kill) = killer {
                kill();
                lost.await;
                return Err(Halt::Died("killed by a test".into()));
            }
            die(victim).await;
            if let Some(reply) = finished {
                return sort(reply);
            }
        }
        let last_call = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_CALL).await;
        };
        tokio::select! {
            reply = &mut call => sort(reply),
            () = last_call => Err(Halt::Stopping),
        }
    }

    /// Notes that a sampler was used; returns those to unload.
    pub(super) fn used_sampler(&mut self, sampler: &SamplerId, limit: usize) -> Vec<SamplerId> {
        self.samplers.retain(|other| other != sampler);
        self.samplers.push_back(sampler.clone());
        let surplus = self.samplers.len().saturating_sub(limit.max(1));
        self.samplers.drain(..surplus).collect()
    }
}

fn sort(reply: Result<Bytes, EngineError>) -> Result<Result<Bytes, Refusal>, Halt> {
    match reply {
        Ok(bytes) => Ok(Ok(bytes)),
        Err(EngineError::Died(why)) => Err(Halt::Died(why)),
        Err(EngineError::Failed { kind, code, message, hint }) => {
            Ok(Err(Refusal { kind, code, message, hint }))
        }
        Err(EngineError::Unavailable(why)) => Err(Halt::Broken(CoreError::Engine(why))),
    }
}
