//! A small training service of its own, to be killed: the core, a real engine process, and a client
//! that retries everything.
//!
//! `core-host HOME MODEL_DIR ROUNDS [--fault POINT:NTH:service|engine] [--engine-fault FAULT]`
//! plays a training run of `ROUNDS` steps from the beginning, as a client does that has no answer
//! yet, and prints one JSON document at its end. Started again in the same home after any death, it
//! must print the same results and digests. `core-host engine-worker [--fault FAULT]` is its engine.
#![expect(clippy::print_stdout, reason = "the document on stdout is what this program is for")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use snakehouse_base::id::{ModelId, RunToken, SeqId, SessionId};
use snakehouse_engine::EngineConfig;
use snakehouse_engine_api::{Adam, Datum, Loss};
use snakehouse_pool::{Interpreter, Reaper, ReaperConfig, WorkerSpec};
use snakehouse_service::core::{
    Core, CoreConfig, Fault, FaultPoint, LoraRequest, ModelSource, NewSession, Outcome, PoolEngine,
    Submit, Victim,
};
use snakehouse_supervise::{Root, run};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Longer than any step takes on a loaded machine.
const HOLD: Duration = Duration::from_secs(300);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "engine-worker") {
        let fault = flag(&args, "--fault").map(|text| text.parse()).transpose()?;
        let config = EngineConfig { fault, ..EngineConfig::default() };
        return Ok(snakehouse_engine::worker_main(config)?);
    }
    let [home, model, rounds, ..] = &args[..] else {
        return Err(
            "usage: core-host HOME MODEL_DIR ROUNDS [--fault ..] [--engine-fault ..]".into()
        );
    };
    let (home, model, rounds) = (PathBuf::from(home), PathBuf::from(model), rounds.parse()?);
    run(host(home, model, rounds, args.clone()))
}

fn flag<'a>(args: &'a [String], name: &str) -> Option<&'a str> {
    let at = args.iter().position(|arg| arg == name)?;
    args.get(at + 1).map(String::as_str)
}

fn fault(text: &str) -> Result<Fault> {
    let mut parts = text.split(':');
    let point = parts.next().and_then(FaultPoint::parse).ok_or("unknown fault point")?;
    let nth = parts.next().ok_or("no count")?.parse()?;
    let victim = match parts.next() {
        Some("engine") => Victim::Engine,
        _ => Victim::Service,
    };
    Ok(Fault::new(point, nth, victim))
}

async fn host(home: PathBuf, model: PathBuf, rounds: u64, args: Vec<String>) -> Result<()> {
    let began = tokio::time::Instant::now();
    let root = Root::new("core-host");
    let config = ReaperConfig {
        python: Interpreter::find(None)?,
        run_token: RunToken::fresh(),
        cache: Some(home.join("cache")),
    };
    let reaper = Reaper::start(root.scope(), config).await?;
    let mut engine = vec!["engine-worker".to_owned()];
    if let Some(fault) = flag(&args, "--engine-fault") {
        engine.extend(["--fault".to_owned(), fault.to_owned()]);
    }
    let spec = WorkerSpec::program("engine", std::env::current_exe()?, engine);
    let source = Arc::new(PoolEngine::new(spec, reaper));
    let tiny = ModelSource { name: "tiny".into(), dir: model };
    let mut config = CoreConfig::new(home.join("state"), source, vec![tiny]);
    config.fault = flag(&args, "--fault").map(fault).transpose()?;
    if let Some(ops) = flag(&args, "--snapshot-ops") {
        config.limits.snapshot_ops = ops.parse()?;
    }
    if flag(&args, "--inline") == Some("none") {
        config.limits.inline_bytes = 0;
    }
    let core = Core::start(root.scope(), config).await?;
    core.wait_ready().await?;
    let ready = began.elapsed();
    let session = session(&core, &home).await?;
    let model = ModelId::new(format!("{session}:train:0"));
    // With no rounds it only tells how long the model took to come back.
    let results = if rounds == 0 { String::new() } else { play(&core, &session, rounds).await? };
    let digest = core.digest(&model).await?;
    let recovered = began.elapsed();
    let status = core.status();
    println!(
        "{}",
        json!({
            "digest": digest,
            "results": results,
            "engine_deaths": status.engine_deaths,
            "replayed_ops": status.replayed_ops,
            "recovered_ms": status.recovered_ms,
            "ready_ms": u64::try_from(ready.as_millis())?,
            "digest_ms": u64::try_from(recovered.as_millis())?,
            "snapshots": status.snapshots,
        })
    );
    if flag(&args, "--end") == Some("killed") {
        // The end of a run that nobody stopped: no last snapshot.
        let me = rustix::process::getpid();
        rustix::process::kill_process(me, rustix::process::Signal::KILL)?;
    }
    root.stop().await;
    Ok(())
}

/// The client's session: the same one after every death, once it has been heard of.
async fn session(core: &Core, home: &Path) -> Result<SessionId> {
    let memory = home.join("session");
    if let Ok(known) = std::fs::read_to_string(&memory) {
        return Ok(SessionId::new(known));
    }
    let session = core.create_session(NewSession::default()).await?;
    std::fs::write(&memory, session.as_str())?;
    Ok(session)
}

/// Submits the whole run and hashes every result.
async fn play(core: &Core, session: &SessionId, rounds: u64) -> Result<String> {
    let create = Submit::CreateModel {
        session: session.clone(),
        model_seq_id: 0,
        base_model: "tiny".into(),
        lora: LoraRequest {
            rank: 4,
            seed: Some(11),
            train_attn: true,
            train_mlp: true,
            train_unembed: true,
        },
        user_metadata: None,
    };
    let mut promises = vec![core.submit(create).await?];
    let model = promises[0].model_id.clone().ok_or("no model")?;
    let mut seq = 0;
    for round in 0..rounds {
        for op in step(&model, round) {
            seq += 1;
            promises.push(core.submit(op(SeqId(seq))).await?);
        }
    }
    let mut hash = Sha256::new();
    for promise in &promises {
        let end = core.wait(&promise.request_id, HOLD).await?;
        if let Outcome::Failed { error, .. } = &end {
            return Err(format!("an operation failed: {error}").into());
        }
        hash.update(format!("{end:?}").replace(session.as_str(), "SESSION"));
    }
    let digest = hash.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

type Numbered = Box<dyn FnOnce(SeqId) -> Submit>;

/// The operations of one round, which get their numbers later.
fn step(model: &ModelId, round: u64) -> Vec<Numbered> {
    let model = model.clone();
    let (fb, optim, save, sampler) = (model.clone(), model.clone(), model.clone(), model);
    let adam = Adam {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-12,
        weight_decay: 0.01,
        grad_clip_norm: 1.0,
    };
    let data = vec![datum(round * 2), datum(round * 2 + 1)];
    let mut ops: Vec<Numbered> = vec![
        Box::new(move |seq| Submit::ForwardBackward {
            model: fb,
            seq,
            data,
            loss: Loss::CrossEntropy,
            forward_only: false,
        }),
        Box::new(move |seq| Submit::OptimStep { model: optim, seq, adam }),
    ];
    if round % 7 == 3 {
        ops.push(Box::new(move |seq| Submit::SaveWeights {
            model: save,
            seq,
            name: format!("round-{round}"),
            overwrite: false,
        }));
    }
    if round % 7 == 5 {
        ops.push(Box::new(move |seq| Submit::SaveForSampler {
            model: sampler,
            seq,
            name: None,
            sampling_session_seq_id: Some(round),
        }));
    }
    ops
}

/// Text that differs from datum to datum.
fn datum(n: u64) -> Datum {
    let token = |i: u64| i32::try_from((n * 31 + i * 7 + i * i) % 256).unwrap_or(0);
    let ints = |from: u64| (from..from + 24).flat_map(|i| token(i).to_le_bytes()).collect();
    let weights: Vec<u8> = (0..24).flat_map(|_| 1f32.to_le_bytes()).collect();
    Datum { tokens: ints(0), targets: ints(1), weights: weights.into() }
}
