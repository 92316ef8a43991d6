//! What the engine's gates share: a small model, data, and short ways to ask.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use snakehouse_base::id::{ModelId, SamplerId};
use snakehouse_engine::{Engine, EngineConfig, EngineError, make_tiny};
use snakehouse_engine_api::{
    Adam, BaseInfo, CreateModel, Datum, Digest, ForwardBackward, ForwardBackwardOutput, LoadBase,
    LoadSampler, LoraSpec, Loss, Optimize, OptimizeOutput, Sample, SampleParams, Sampled,
    StateDigest, Stop,
};

pub(crate) const LORA: LoraSpec =
    LoraSpec { rank: 8, seed: 11, train_attn: true, train_mlp: true, train_unembed: true };

pub(crate) const ADAM: Adam = Adam {
    learning_rate: 1e-3,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-12,
    weight_decay: 0.0,
    grad_clip_norm: 0.0,
};

pub(crate) fn model(name: &str) -> ModelId {
    ModelId::new(name)
}

pub(crate) fn sampler(name: &str) -> SamplerId {
    SamplerId::new(name)
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A directory of its own, with `tiny` in it.
pub(crate) struct Home {
    pub(crate) dir: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        make_tiny(&dir.path().join("tiny"), 1).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An engine with `tiny` loaded.
    pub(crate) fn engine(&self, threads: usize) -> Engine {
        let mut engine = Engine::new(EngineConfig { threads, fault: None });
        load(&mut engine, "tiny", &self.path("tiny")).unwrap();
        engine
    }

    /// And a model in training.
    pub(crate) fn trainer(&self, threads: usize) -> Engine {
        let mut engine = self.engine(threads);
        create(&mut engine, "m", LORA).unwrap();
        engine
    }
}

pub(crate) fn load(engine: &mut Engine, name: &str, dir: &Path) -> Result<BaseInfo, EngineError> {
    engine.load_base(&LoadBase { name: name.to_owned(), dir: text(dir) })
}

pub(crate) fn create(engine: &mut Engine, name: &str, lora: LoraSpec) -> Result<(), EngineError> {
    let ask = CreateModel { model: model(name), base: "tiny".to_owned(), lora };
    engine.create_model(&ask).map(drop)
}

pub(crate) fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

pub(crate) fn tokens(bytes: &[u8]) -> Vec<i32> {
    bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect()
}

pub(crate) fn ints(values: impl IntoIterator<Item = i32>) -> Bytes {
    values.into_iter().flat_map(i32::to_le_bytes).collect::<Vec<_>>().into()
}

pub(crate) fn floats(values: impl IntoIterator<Item = f32>) -> Bytes {
    values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<_>>().into()
}

/// A datum of this many tokens; another `salt`, other tokens.
pub(crate) fn datum(count: i32, salt: i32) -> Datum {
    let token = move |i: i32| (i * 31 + salt * 97 + i * i * 7).rem_euclid(256);
    Datum {
        tokens: ints((0..count).map(token)),
        targets: ints((1..=count).map(token)),
        weights: floats((0..count).map(|i| if i < count / 4 { 0.0 } else { 1.0 })),
    }
}

pub(crate) fn ask(name: &str, data: Vec<Datum>) -> ForwardBackward {
    ForwardBackward { model: model(name), data, loss: Loss::CrossEntropy, forward_only: false }
}

pub(crate) fn forward_backward(
    engine: &mut Engine,
    name: &str,
    data: Vec<Datum>,
) -> ForwardBackwardOutput {
    engine.forward_backward(&ask(name, data)).unwrap()
}

pub(crate) fn optimize(engine: &mut Engine, name: &str) -> OptimizeOutput {
    engine.optimize(&Optimize { model: model(name), adam: ADAM }).unwrap()
}

pub(crate) fn digest(engine: &mut Engine, name: &str) -> StateDigest {
    engine.digest(&Digest { model: model(name) }).unwrap()
}

/// Steps over data that depends on the step's number.
pub(crate) fn train(engine: &mut Engine, name: &str, steps: std::ops::Range<i32>) -> Vec<f64> {
    steps
        .map(|step| {
            let data = (0..5).map(|i| datum(20 + 13 * i, step * 10 + i)).collect();
            let loss = forward_backward(engine, name, data).loss_sum;
            optimize(engine, name);
            loss
        })
        .collect()
}

pub(crate) fn params() -> SampleParams {
    SampleParams {
        max_tokens: Some(20),
        seed: 5,
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        stop: Stop::Tokens(vec![]),
    }
}

pub(crate) fn load_sampler(
    engine: &mut Engine,
    name: &str,
    dir: Option<&Path>,
) -> Result<(), EngineError> {
    let dir = dir.map(text);
    engine.load_sampler(&LoadSampler { sampler: sampler(name), base: "tiny".to_owned(), dir })
}

pub(crate) fn request(name: &str, prompt: &str, num_samples: u32, params: SampleParams) -> Sample {
    Sample {
        sampler: sampler(name),
        prompt: ints(prompt.bytes().map(i32::from)),
        num_samples,
        params,
        prompt_logprobs: true,
    }
}

pub(crate) fn sample(engine: &mut Engine, request: &Sample) -> Sampled {
    engine.sample(request).unwrap()
}
