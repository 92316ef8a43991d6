//! The engine as a worker program.

use bytes::Bytes;
use snakehouse_base::{Coded, Kind};
use snakehouse_engine_api::{
    CodecError, CreateModel, Digest, ForwardBackward, LoadBase, LoadModel, LoadSampler, Optimize,
    Request, Restore, Sample, Save, Snapshot, Unload, UnloadSampler, code,
};
use snakehouse_wire::Failure;
use snakehouse_wire::worker::{CallContext, Handler, WorkerError, serve};

use crate::{Engine, EngineConfig, EngineError};

/// Serves an engine to the host that started this process, until the host hangs up.
///
/// Blocks the calling thread; operations are strictly serial. The host should set
/// `MALLOC_TRIM_THRESHOLD_` and `MALLOC_MMAP_THRESHOLD_` so that the C library keeps memory.
///
/// # Errors
/// [`WorkerError`] if there is no host or it breaks the protocol; its exit status is for `main`.
pub fn worker_main(config: EngineConfig) -> Result<(), WorkerError> {
    serve(&mut Worker { engine: Engine::new(config) })
}

struct Worker {
    engine: Engine,
}

impl Handler for Worker {
    fn tools(&self) -> Vec<String> {
        [
            LoadBase::TOOL,
            CreateModel::TOOL,
            LoadModel::TOOL,
            ForwardBackward::TOOL,
            Optimize::TOOL,
            Save::TOOL,
            Snapshot::TOOL,
            Restore::TOOL,
            Digest::TOOL,
            Unload::TOOL,
            LoadSampler::TOOL,
            UnloadSampler::TOOL,
            Sample::TOOL,
        ]
        .map(str::to_owned)
        .into()
    }

    fn call(&mut self, tool: &str, body: Bytes, _: &CallContext) -> Result<Bytes, Failure> {
        call(&mut self.engine, tool, &body)
    }
}

/// Runs the tool of this name.
fn call(engine: &mut Engine, tool: &str, body: &[u8]) -> Result<Bytes, Failure> {
    match tool {
        LoadBase::TOOL => answer(body, |ask| engine.load_base(ask)),
        CreateModel::TOOL => answer(body, |ask| engine.create_model(ask)),
        LoadModel::TOOL => answer(body, |ask| engine.load_model(ask)),
        ForwardBackward::TOOL => answer(body, |ask| engine.forward_backward(ask)),
        Optimize::TOOL => answer(body, |ask| engine.optimize(ask)),
        Save::TOOL => answer(body, |ask| engine.save(ask)),
        Snapshot::TOOL => answer(body, |ask| engine.snapshot(ask)),
        Restore::TOOL => answer(body, |ask| engine.restore(ask)),
        Digest::TOOL => answer(body, |ask| engine.digest(ask)),
        Unload::TOOL => answer(body, |ask: &Unload| {
            engine.unload(ask);
            Ok(())
        }),
        LoadSampler::TOOL => answer(body, |ask| engine.load_sampler(ask)),
        UnloadSampler::TOOL => answer(body, |ask: &UnloadSampler| {
            engine.unload_sampler(ask);
            Ok(())
        }),
        Sample::TOOL => answer(body, |ask| engine.sample(ask)),
        other => {
            let message = format!("the engine has no tool `{other}`");
            Err(Failure::new(Kind::NotFound, code::BAD_REQUEST, message))
        }
    }
}

/// Decodes a request, runs it, encodes the reply.
fn answer<R: Request>(
    body: &[u8],
    run: impl FnOnce(&R) -> Result<R::Reply, EngineError>,
) -> Result<Bytes, Failure> {
    let codec = |e: CodecError| failure(&EngineError::BadRequest(e.to_string()));
    let ask = R::decode(body).map_err(codec)?;
    let reply = run(&ask).map_err(|e| failure(&e))?;
    R::encode_reply(&reply).map_err(codec)
}

fn failure(error: &EngineError) -> Failure {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    let failure = Failure::new(error.kind(), error.code(), message);
    match error.hint() {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use snakehouse_base::id::ModelId;

    use super::*;

    fn engine() -> Engine {
        Engine::new(EngineConfig { threads: 1, fault: None })
    }

    #[test]
    fn every_announced_tool_is_served() {
        let worker = Worker { engine: engine() };
        for tool in worker.tools() {
            // Not a request: the tool is found and says so.
            let failure = call(&mut engine(), &tool, b"").unwrap_err();
            assert_eq!(
                (failure.code.as_str(), failure.kind),
                (code::BAD_REQUEST, Kind::InvalidInput)
            );
        }
        assert_eq!(call(&mut engine(), "nothing", b"").unwrap_err().kind, Kind::NotFound);
    }

    #[test]
    fn a_refusal_keeps_kind_code_and_hint() {
        let ask = Digest { model: ModelId::new("nobody") };
        let failure = call(&mut engine(), Digest::TOOL, &ask.encode().unwrap()).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.kind), (code::UNKNOWN_MODEL, Kind::NotFound));
        assert!(failure.message.contains("nobody"));
        let ask = LoadBase { name: "b".to_owned(), dir: "/nowhere/at/all".to_owned() };
        let failure = call(&mut engine(), LoadBase::TOOL, &ask.encode().unwrap()).unwrap_err();
        assert_eq!(failure.code, code::BAD_DIRECTORY);
        assert!(failure.hint.is_some());
    }
}
