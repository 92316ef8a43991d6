//! A core on a fake engine, and scripts to play on it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use snakehouse_base::id::{ModelId, SamplerId, SeqId, SessionId};
use snakehouse_engine_api::{Adam, Datum, Loss, StateDigest, Stop};
use snakehouse_supervise::Root;

use super::fake_engine::{FakeSource, World};
use crate::core::{
    Core, CoreConfig, LoraRequest, ModelSource, NewSession, Outcome, Promise, SampleRequest, Submit,
};

/// Long enough for anything that happens at all.
pub(super) const HOLD: Duration = Duration::from_secs(60);

pub(super) struct Bench {
    pub(super) root: Root,
    pub(super) core: Core,
    pub(super) world: Arc<World>,
}

impl Bench {
    pub(super) async fn start(home: &Path) -> Self {
        Self::with(home, World::new(), |_| ()).await
    }

    pub(super) async fn with(
        home: &Path,
        world: Arc<World>,
        change: impl FnOnce(&mut CoreConfig),
    ) -> Self {
        let engine = Arc::new(FakeSource(world.clone()));
        let tiny = ModelSource { name: "tiny".into(), dir: "/models/tiny".into() };
        let mut config = CoreConfig::new(home, engine, vec![tiny]);
        change(&mut config);
        let root = Root::new("test");
        let core = Core::start(root.scope(), config).await.unwrap();
        Self { root, core, world }
    }

    pub(super) async fn stop(self) {
        drop(self.core);
        let report = self.root.stop().await;
        assert!(report.is_clean(), "{report:?}");
    }

    /// A session with a model.
    pub(super) async fn model(&self) -> (SessionId, ModelId) {
        let session = self.core.create_session(NewSession::default()).await.unwrap();
        let promise = self.core.submit(create(&session, 0)).await.unwrap();
        self.done(&promise).await;
        let model = promise.model_id.unwrap();
        assert_eq!(model.as_str(), format!("{session}:train:0"));
        (session, model)
    }

    pub(super) async fn end(&self, promise: &Promise) -> Outcome {
        self.core.wait(&promise.request_id, HOLD).await.unwrap()
    }

    /// Waits for an end that an outage may forbid.
    pub(super) async fn end_or_never(&self, promise: &Promise) {
        match self.core.wait(&promise.request_id, HOLD).await {
            Ok(_) => {}
            Err(_) => std::future::pending().await,
        }
    }

    pub(super) async fn done(&self, promise: &Promise) -> crate::core::OpResult {
        match self.end(promise).await {
            Outcome::Done(result) => result,
            other => panic!("not done: {other:?}"),
        }
    }

    pub(super) async fn run(&self, op: Submit) -> Outcome {
        let promise = self.core.submit(op).await.unwrap();
        self.end(&promise).await
    }

    pub(super) async fn digest(&self, model: &ModelId) -> StateDigest {
        self.core.digest(model).await.unwrap()
    }
}

pub(super) fn lora() -> LoraRequest {
    LoraRequest { rank: 8, seed: Some(7), train_attn: true, train_mlp: true, train_unembed: true }
}

pub(super) fn create(session: &SessionId, model_seq_id: u64) -> Submit {
    Submit::CreateModel {
        session: session.clone(),
        model_seq_id,
        base_model: "tiny".into(),
        lora: lora(),
        user_metadata: None,
    }
}

pub(super) fn datum(mark: u8) -> Datum {
    Datum {
        tokens: Bytes::from(vec![mark, 0, 0, 0]),
        targets: Bytes::from(vec![mark, 0, 0, 0]),
        weights: Bytes::from(1f32.to_le_bytes().to_vec()),
    }
}

pub(super) fn forward_backward(model: &ModelId, seq: u64, mark: u8) -> Submit {
    Submit::ForwardBackward {
        model: model.clone(),
        seq: SeqId(seq),
        data: vec![datum(mark)],
        loss: Loss::CrossEntropy,
        forward_only: false,
    }
}

pub(super) fn optim_step(model: &ModelId, seq: u64) -> Submit {
    let adam = Adam {
        learning_rate: 1e-4,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-12,
        weight_decay: 0.0,
        grad_clip_norm: 0.0,
    };
    Submit::OptimStep { model: model.clone(), seq: SeqId(seq), adam }
}

pub(super) fn save(model: &ModelId, seq: u64, name: &str) -> Submit {
    let (model, name) = (model.clone(), name.to_owned());
    Submit::SaveWeights { model, seq: SeqId(seq), name, overwrite: false }
}

pub(super) fn sample(sampler: &SamplerId, seq: u64, seed: Option<u64>) -> Submit {
    Submit::Sample {
        sampler: sampler.clone(),
        seq,
        request: SampleRequest {
            prompt: Bytes::from_static(&[1, 0, 0, 0]),
            num_samples: 2,
            max_tokens: Some(4),
            seed,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            stop: Stop::Eos,
            prompt_logprobs: false,
        },
    }
}

/// A training run: forward and backward, a step, now and then a forward, a checkpoint, a sampler.
pub(super) fn script(model: &ModelId) -> Vec<Submit> {
    let mut ops = Vec::new();
    for round in 0..8u8 {
        let next = |ops: &Vec<Submit>| ops.len() as u64 + 1;
        ops.push(forward_backward(model, next(&ops), round));
        ops.push(forward_backward(model, next(&ops), 100 + round));
        ops.push(optim_step(model, next(&ops)));
        if round % 3 == 1 {
            ops.push(save(model, next(&ops), &format!("ck{round}")));
        }
        if round % 4 == 2 {
            ops.push(Submit::SaveForSampler {
                model: model.clone(),
                seq: SeqId(next(&ops)),
                name: None,
                sampling_session_seq_id: Some(u64::from(round)),
            });
        }
    }
    ops
}

/// Submits a whole script and waits for every end. Like a client's retries, it can be repeated.
pub(super) async fn play(bench: &Bench, ops: Vec<Submit>) -> Vec<Outcome> {
    let mut promises = Vec::new();
    for op in ops {
        promises.push(bench.core.submit(op).await.unwrap());
    }
    let mut ends = Vec::new();
    for promise in &promises {
        ends.push(bench.end(promise).await);
    }
    ends
}

/// Fails with the place where two runs differ first.
pub(super) fn assert_same(what: &str, a: &impl std::fmt::Debug, b: &impl std::fmt::Debug) {
    let (a, b) = (format!("{a:?}"), format!("{b:?}"));
    let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let from =
        |text: &str| text.chars().skip(same.saturating_sub(200)).take(300).collect::<String>();
    assert!(a == b, "{what}:\n{}\n{}", from(&a), from(&b));
}
