//! An engine whose state is a chain of hashes: any operation lost, doubled or reordered changes
//! every later result.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use snakehouse_base::id::{ModelId, SamplerId};
use snakehouse_base::{Deadline, Kind};
use snakehouse_engine_api as api;
use snakehouse_engine_api::Request;
use snakehouse_supervise::{CancellationToken, Scope};
use tokio::sync::Semaphore;

use crate::core::engine::{
    Engine, EngineConnector, EngineError, EngineFuture, EngineIdentity, EngineSource,
};

/// What all lives of the fake engine share, and what tests may set.
#[derive(Debug)]
pub(super) struct World {
    rules: Mutex<Rules>,
    /// One permit per call that may proceed, if `gated`.
    pub(super) gate: Semaphore,
}

#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) calls: u64,
    pub(super) lives: u64,
    /// Calls by tool and seq-free description, in order.
    pub(super) log: Vec<String>,
    /// Die at these calls (counted from 1), after the state has changed if `true`.
    pub(super) deaths: HashMap<u64, bool>,
    /// Die whenever a body of exactly these bytes is seen.
    pub(super) poison: Option<Bytes>,
    /// Changes all results from now on.
    pub(super) salt: u8,
    /// Calls wait for the gate.
    pub(super) gated: bool,
}

impl World {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { rules: Mutex::default(), gate: Semaphore::new(0) })
    }

    pub(super) fn rules(&self) -> std::sync::MutexGuard<'_, Rules> {
        self.rules.lock().unwrap()
    }
}

/// Makes lives of the fake engine.
#[derive(Clone, Debug)]
pub(super) struct FakeSource(pub(super) Arc<World>);

impl EngineSource for FakeSource {
    fn open(&self, _scope: &Scope) -> EngineFuture<'_, Box<dyn EngineConnector>> {
        let world = self.0.clone();
        Box::pin(async move { Ok(Box::new(FakeConnector(world)) as Box<dyn EngineConnector>) })
    }
}

struct FakeConnector(Arc<World>);

impl EngineConnector for FakeConnector {
    fn connect(&mut self) -> EngineFuture<'_, Box<dyn Engine>> {
        let world = self.0.clone();
        Box::pin(async move {
            let incarnation = {
                let mut rules = world.rules();
                rules.lives += 1;
                rules.lives
            };
            let dead = CancellationToken::new();
            let state = State::default();
            Ok(Box::new(FakeEngine { world, incarnation, dead, state }) as Box<dyn Engine>)
        })
    }
}

struct FakeEngine {
    world: Arc<World>,
    incarnation: u64,
    dead: CancellationToken,
    state: State,
}

#[derive(Default)]
struct State {
    bases: HashSet<String>,
    models: HashMap<ModelId, Model>,
    samplers: HashMap<SamplerId, String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Model {
    lora: api::LoraSpec,
    adapter: String,
    moments: String,
    gradients: String,
    step: u64,
}

impl Engine for FakeEngine {
    fn call(
        &mut self,
        tool: &'static str,
        body: Bytes,
        _deadline: Deadline,
    ) -> EngineFuture<'_, Bytes> {
        Box::pin(async move {
            let gated = self.world.rules().gated;
            if gated {
                let permit = self.world.gate.acquire().await;
                permit.map_err(|e| EngineError::Died(e.to_string()))?.forget();
            }
            let died = || EngineError::Died("the fake engine died".into());
            if self.dead.is_cancelled() {
                return Err(died());
            }
            let (death, salt) = {
                let mut rules = self.world.rules();
                rules.calls += 1;
                let call = rules.calls;
                let described = describe(tool, &body);
                rules.log.push(described);
                let mut death = rules.deaths.remove(&call);
                if rules.poison.as_ref() == Some(&body) {
                    death = Some(false);
                }
                (death, rules.salt)
            };
            if death == Some(false) {
                self.dead.cancel();
                return Err(died());
            }
            let reply = self.state.run(tool, &body, salt);
            if death == Some(true) {
                self.dead.cancel();
                return Err(died());
            }
            reply
        })
    }

    fn identity(&self) -> EngineIdentity {
        EngineIdentity { pid: None, incarnation: self.incarnation }
    }

    fn lost(&self) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        Box::pin(self.dead.clone().cancelled_owned())
    }

    fn killer(&self) -> Box<dyn FnOnce() + Send> {
        let dead = self.dead.clone();
        Box::new(move || dead.cancel())
    }
}

fn describe(tool: &'static str, body: &[u8]) -> String {
    match tool {
        api::ForwardBackward::TOOL => {
            let request = api::ForwardBackward::decode(body).unwrap();
            let first = request.data.first().and_then(|d| d.tokens.first()).copied();
            format!("{tool} {}", first.unwrap_or_default())
        }
        _ => tool.to_owned(),
    }
}

fn hash(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn refused(kind: Kind, code: &str, message: &str) -> EngineError {
    EngineError::Failed { kind, code: code.into(), message: message.into(), hint: None }
}

fn reply<R: Request>(value: R::Reply) -> Result<Bytes, EngineError> {
    Ok(R::encode_reply(&value).unwrap())
}

impl State {
    fn run(&mut self, tool: &str, body: &[u8], salt: u8) -> Result<Bytes, EngineError> {
        match tool {
            api::LoadBase::TOOL => {
                let request = api::LoadBase::decode(body).unwrap();
                self.bases.insert(request.name.clone());
                reply::<api::LoadBase>(api::BaseInfo {
                    name: request.name,
                    vocab_size: 264,
                    max_context: 2048,
                    parameters: 1,
                    eos_tokens: vec![256],
                    digest: "base".into(),
                })
            }
            api::CreateModel::TOOL => {
                let request = api::CreateModel::decode(body).unwrap();
                if request.lora.rank == 0 {
                    return Err(refused(Kind::InvalidInput, "bad_parameter", "rank is 0"));
                }
                let adapter = hash(&[b"new", &request.lora.seed.to_le_bytes(), &[salt]]);
                let lora = request.lora;
                let none = || hash(&[]);
                let model = Model { lora, adapter, moments: none(), gradients: none(), step: 0 };
                self.models.insert(request.model, model);
                reply::<api::CreateModel>(api::Loaded { lora, parameters: 1 })
            }
            api::LoadModel::TOOL => {
                let request = api::LoadModel::decode(body).unwrap();
                let mut model = read(&request.dir)?;
                if !request.optimizer {
                    (model.moments, model.step) = (hash(&[]), 0);
                }
                model.gradients = hash(&[]);
                let lora = model.lora;
                self.models.insert(request.model, model);
                reply::<api::LoadModel>(api::Loaded { lora, parameters: 1 })
            }
            api::ForwardBackward::TOOL => self.forward_backward(body, salt),
            api::Optimize::TOOL => {
                let request = api::Optimize::decode(body).unwrap();
                let model = self.model(&request.model)?;
                let rate = request.adam.learning_rate.to_le_bytes();
                model.moments = hash(&[model.moments.as_bytes(), model.gradients.as_bytes()]);
                model.adapter = hash(&[model.adapter.as_bytes(), model.moments.as_bytes(), &rate]);
                model.gradients = hash(&[]);
                model.step += 1;
                let grad_norm = f64::from(model.adapter.as_bytes()[0]) + f64::from(salt);
                reply::<api::Optimize>(api::OptimizeOutput { step: model.step, grad_norm })
            }
            api::Save::TOOL => {
                let request = api::Save::decode(body).unwrap();
                let model = self.model(&request.model)?.clone();
                reply::<api::Save>(write(&request.dir, &model)?)
            }
            api::Snapshot::TOOL => {
                let request = api::Snapshot::decode(body).unwrap();
                let model = self.model(&request.model)?.clone();
                reply::<api::Snapshot>(write(&request.dir, &model)?)
            }
            api::Restore::TOOL => {
                let request = api::Restore::decode(body).unwrap();
                let model = read(&request.dir)?;
                let step = model.step;
                self.models.insert(request.model, model);
                reply::<api::Restore>(api::Restored { step })
            }
            api::Digest::TOOL => {
                let request = api::Digest::decode(body).unwrap();
                let model = self.model(&request.model)?.clone();
                reply::<api::Digest>(api::StateDigest {
                    adapter: model.adapter,
                    moments: model.moments,
                    gradients: model.gradients,
                    step: model.step,
                })
            }
            api::Unload::TOOL => {
                let request = api::Unload::decode(body).unwrap();
                self.models.remove(&request.model);
                reply::<api::Unload>(())
            }
            api::LoadSampler::TOOL => {
                let request = api::LoadSampler::decode(body).unwrap();
                let weights = match &request.dir {
                    None => "base".to_owned(),
                    Some(dir) => read(dir)?.adapter,
                };
                self.samplers.insert(request.sampler, weights);
                reply::<api::LoadSampler>(())
            }
            api::UnloadSampler::TOOL => {
                let request = api::UnloadSampler::decode(body).unwrap();
                self.samplers.remove(&request.sampler);
                reply::<api::UnloadSampler>(())
            }
            api::Sample::TOOL => {
                let request = api::Sample::decode(body).unwrap();
                let weights = self
                    .samplers
                    .get(&request.sampler)
                    .ok_or_else(|| refused(Kind::NotFound, "unknown_sampler", "no such sampler"))?;
                let drawn = hash(&[weights.as_bytes(), &request.params.seed.to_le_bytes()]);
                let sequence = api::SampledSequence {
                    tokens: Bytes::from(drawn),
                    logprobs: Bytes::new(),
                    stop: api::StopReason::Length,
                };
                reply::<api::Sample>(api::Sampled {
                    sequences: vec![sequence; request.num_samples as usize],
                    prompt_logprobs: None,
                })
            }
            other => Err(refused(Kind::Internal, "unknown_tool", other)),
        }
    }

    fn forward_backward(&mut self, body: &[u8], salt: u8) -> Result<Bytes, EngineError> {
        let request = api::ForwardBackward::decode(body).unwrap();
        let model = self.model(&request.model)?;
        if request.data.is_empty() {
            return Err(refused(Kind::InvalidInput, "bad_parameter", "there is no datum"));
        }
        let tokens = request.data.iter().flat_map(|datum| datum.tokens.to_vec());
        let tokens: Vec<u8> = tokens.collect();
        let forward = hash(&[model.adapter.as_bytes(), &tokens, &[salt]]);
        if !request.forward_only {
            model.gradients = hash(&[model.gradients.as_bytes(), forward.as_bytes()]);
        }
        let outputs = request
            .data
            .iter()
            .map(|_| api::DatumOutput { logprobs: Bytes::from(forward.clone()) });
        reply::<api::ForwardBackward>(api::ForwardBackwardOutput {
            outputs: outputs.collect(),
            loss_sum: f64::from(forward.as_bytes()[0]),
        })
    }

    fn model(&mut self, id: &ModelId) -> Result<&mut Model, EngineError> {
        let unknown = || refused(Kind::NotFound, "unknown_model", "no such model");
        self.models.get_mut(id).ok_or_else(unknown)
    }
}

fn write(dir: &str, model: &Model) -> Result<api::Saved, EngineError> {
    let text = serde_json::to_vec(model).unwrap();
    let saved = api::Saved { bytes: text.len() as u64, digest: hash(&[&text]) };
    if Path::new(dir).exists() {
        return Ok(saved);
    }
    let beside = format!("{dir}.part");
    std::fs::create_dir_all(&beside).unwrap();
    std::fs::write(Path::new(&beside).join("model.json"), text).unwrap();
    std::fs::rename(beside, dir).unwrap();
    Ok(saved)
}

fn read(dir: &str) -> Result<Model, EngineError> {
    let text = std::fs::read(Path::new(dir).join("model.json"))
        .map_err(|e| refused(Kind::Corrupt, "bad_model_directory", &e.to_string()))?;
    serde_json::from_slice(&text)
        .map_err(|e| refused(Kind::Corrupt, "bad_model_directory", &e.to_string()))
}
