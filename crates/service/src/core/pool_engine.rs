//! Engines that are worker processes of a pool.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use snakehouse_base::{Coded as _, Deadline};
use snakehouse_pool::{
    CallError, CallOptions, Pool, PoolConfig, Reaper, Session, Where, WorkerSpec,
};
use snakehouse_supervise::Scope;

use super::engine::{
    Engine, EngineConnector, EngineError, EngineFuture, EngineIdentity, EngineSource,
};

/// Runs engines as the one worker of a pool. The pool replaces a dead one.
#[derive(Clone)]
pub struct PoolEngine {
    spec: WorkerSpec,
    reaper: Reaper,
}

impl PoolEngine {
    /// Engines that `spec` starts below `reaper`.
    pub fn new(spec: WorkerSpec, reaper: Reaper) -> Self {
        Self { spec, reaper }
    }
}

impl fmt::Debug for PoolEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolEngine").field("worker", &self.spec.name()).finish_non_exhaustive()
    }
}

impl EngineSource for PoolEngine {
    fn open(&self, scope: &Scope) -> EngineFuture<'_, Box<dyn EngineConnector>> {
        let scope = scope.clone();
        Box::pin(async move {
            let (reaper, spec) = (self.reaper.clone(), self.spec.clone());
            let config = PoolConfig { workers: 1, ..PoolConfig::default() };
            let pool = Pool::start(&scope, reaper, spec, config).await;
            let pool = pool.map_err(|e| EngineError::Unavailable(e.to_string()))?;
            Ok(Box::new(PoolConnector { pool, last: None }) as Box<dyn EngineConnector>)
        })
    }
}

struct PoolConnector {
    pool: Pool,
    /// The life that was given out last. It holds models, so it is not given out again.
    last: Option<Arc<Session>>,
}

impl EngineConnector for PoolConnector {
    fn connect(&mut self) -> EngineFuture<'_, Box<dyn Engine>> {
        Box::pin(async move {
            if let Some(last) = self.last.take()
                && !last.is_lost()
            {
                kill(&last);
                last.ended().await;
            }
            // audit(deadline): the owner waits for an engine for as long as the service runs
            let session = self.pool.session(Deadline::never()).await;
            let session = session.map_err(|e| EngineError::Unavailable(e.to_string()))?;
            let session = Arc::new(session);
            self.last = Some(session.clone());
            Ok(Box::new(PoolWorker { session }) as Box<dyn Engine>)
        })
    }
}

struct PoolWorker {
    session: Arc<Session>,
}

impl Engine for PoolWorker {
    fn call(
        &mut self,
        tool: &'static str,
        body: Bytes,
        deadline: Deadline,
    ) -> EngineFuture<'_, Bytes> {
        Box::pin(async move {
            let options = CallOptions { deadline, ..CallOptions::default() };
            match self.session.call_bytes(tool, body, options).await {
                Ok(reply) => Ok(reply),
                Err(error) => {
                    let error = ended(error);
                    if matches!(error, EngineError::Died(_)) {
                        // It may be running the call to this moment, and would apply it.
                        kill(&self.session);
                    }
                    Err(error)
                }
            }
        })
    }

    fn identity(&self) -> EngineIdentity {
        let worker = self.session.worker();
        let incarnation = worker.map_or(0, |worker| worker.incarnation.0);
        EngineIdentity { pid: worker.map(|worker| worker.pid), incarnation }
    }

    fn lost(&self) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        let session = self.session.clone();
        Box::pin(async move {
            session.ended().await;
        })
    }

    fn killer(&self) -> Box<dyn FnOnce() + Send> {
        let session = self.session.clone();
        Box::new(move || kill(&session))
    }
}

/// The worker's identity is its incarnation; its process is not reaped before the pool has seen it
/// end, so the number cannot belong to another process yet.
fn kill(session: &Session) {
    if let Some(worker) = session.worker()
        && let Ok(pid) = i32::try_from(worker.pid)
        && let Some(pid) = rustix::process::Pid::from_raw(pid)
        && !session.is_lost()
    {
        // It may have died by itself just now.
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// What a failed call means. Unless it is certain that nothing ran, or the engine itself said that
/// nothing is left of it, what this life holds is not known any more: then it is over.
fn ended(error: CallError) -> EngineError {
    match error {
        CallError::Stopped => EngineError::Unavailable(error.to_string()),
        CallError::Tool { failure, .. } => EngineError::Failed {
            kind: failure.kind,
            code: failure.code.clone(),
            message: failure.message.clone(),
            hint: failure.hint.clone(),
        },
        CallError::Deadline { at: Where::Queue }
        | CallError::NoWorker { .. }
        | CallError::Saturated { .. }
        | CallError::UnknownTool { .. }
        | CallError::BadArguments(_) => EngineError::Failed {
            kind: error.kind(),
            code: error.code().to_owned(),
            message: error.to_string(),
            hint: error.hint(),
        },
        other => EngineError::Died(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use snakehouse_base::Kind;
    use snakehouse_pool::Failure;

    use super::*;

    #[test]
    fn only_a_call_that_left_nothing_is_a_refusal() {
        let tool = || "optimize".to_owned();
        let failure = Box::new(Failure::new(Kind::InvalidInput, "not_finite", "a weight"));
        for error in [
            CallError::Deadline { at: Where::Queue },
            CallError::Saturated { limit: 1 },
            CallError::UnknownTool { tool: tool(), known: vec![] },
            CallError::NoWorker { cause: "killed".to_owned() },
            CallError::Tool { tool: tool(), failure },
        ] {
            let said = format!("{error:?}");
            assert!(matches!(ended(error), EngineError::Failed { .. }), "{said}");
        }
        // The engine goes on with what nobody waits for any more.
        for error in [CallError::Deadline { at: Where::Worker }, CallError::Cancelled] {
            let said = format!("{error:?}");
            assert!(matches!(ended(error), EngineError::Died(_)), "{said}");
        }
        assert!(matches!(ended(CallError::Stopped), EngineError::Unavailable(_)));
    }
}
