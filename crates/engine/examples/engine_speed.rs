//! How fast the engine is on this machine: `cargo run --release -p snakehouse-engine --example
//! engine_speed -- [threads]`.
//!
//! Prints one line per measurement: training steps of 8 × 128 tokens on the 525-thousand-weight
//! shape with LoRA rank 8, their arithmetic per second, cost by length, and sampling.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]
#![allow(clippy::disallowed_methods, reason = "measures real time")]

use std::time::Instant;

use snakehouse_base::id::{ModelId, SamplerId};
use snakehouse_engine::{Engine, EngineConfig, ModelConfig, bench_config, make_random};
use snakehouse_engine_api::{
    Adam, CreateModel, Datum, ForwardBackward, LoadBase, LoadSampler, LoraSpec, Loss, Optimize,
    Sample, SampleParams, Stop,
};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let threads = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => EngineConfig::default().threads,
    };
    let home = tempfile::tempdir()?;
    let mid = ModelConfig {
        vocab_size: 4096,
        hidden: 256,
        head: 64,
        ffn: 768,
        layers: 4,
        ..bench_config()
    };
    for (name, config) in [("small", bench_config()), ("mid", mid)] {
        let dir = home.path().join(name);
        make_random(&dir, &config, 1)?;
        let mut engine = Engine::new(EngineConfig { threads, fault: None });
        println!("{name}: {threads} threads, {}", engine.instructions());
        let text = dir.to_str().ok_or("a path that is text")?.to_owned();
        engine.load_base(&LoadBase { name: "base".to_owned(), dir: text })?;
        training(&mut engine, &config)?;
        println!("  peak memory so far: {} MB", peak_megabytes()?);
        sampling(&mut engine)?;
    }
    Ok(())
}

/// Floating-point operations of all matrix products of one step, as the peers' numbers count them:
/// base forward and input gradient, LoRA forward and both gradients, attention both ways.
fn work(config: &ModelConfig, data: usize, tokens: usize, rank: usize) -> f64 {
    let (h, q, k) = (config.hidden, config.heads * config.head, config.kv_heads * config.head);
    let linears =
        [(h, q), (h, k), (h, k), (q, h), (h, config.ffn), (h, config.ffn), (config.ffn, h)];
    let base: usize = linears.iter().map(|(i, o)| i * o).sum();
    let lora: usize = linears.iter().map(|(i, o)| rank * (i + o)).sum();
    let head = h * config.vocab_size;
    let weights =
        config.layers * (2 * base + 3 * lora) + 2 * head + 3 * rank * (h + config.vocab_size);
    // Scores and values, seven products in all, half of each masked.
    let attention = config.layers * config.heads * config.head * tokens * 7 / 2;
    #[allow(clippy::cast_precision_loss, reason = "a count for printing")]
    let count = (2 * data * tokens * (weights + attention)) as f64;
    count
}

fn datum(config: &ModelConfig, tokens: usize, salt: usize) -> Datum {
    let vocab = config.vocab_size;
    let ids = |shift: usize| -> Vec<u8> {
        (0..tokens)
            .flat_map(|i| {
                let id = ((i + shift) * 7919 + salt * 104_729) % vocab;
                u32::try_from(id).unwrap_or(0).to_le_bytes()
            })
            .collect()
    };
    Datum {
        tokens: ids(0).into(),
        targets: ids(1).into(),
        weights: 1.0f32.to_le_bytes().repeat(tokens).into(),
    }
}

/// Processor time of this process so far, of all threads; in steps of 10 ms.
fn cpu_seconds() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').ok_or("a process has a name")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / 100.0)
}

/// Largest resident memory so far.
fn peak_megabytes() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|l| l.starts_with("VmHWM")).ok_or("Linux reports VmHWM")?;
    Ok(line.split_whitespace().nth(1).ok_or("a number")?.parse::<u64>()? / 1024)
}

fn training(engine: &mut Engine, config: &ModelConfig) -> Result<(), Failure> {
    let model = ModelId::new("m");
    let lora =
        LoraSpec { rank: 8, seed: 1, train_attn: true, train_mlp: true, train_unembed: true };
    engine.create_model(&CreateModel { model: model.clone(), base: "base".to_owned(), lora })?;
    let adam = Adam {
        learning_rate: 1e-4,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-12,
        weight_decay: 0.0,
        grad_clip_norm: 0.0,
    };
    for (data, tokens) in [(8, 128), (1, 128), (32, 128), (2, 512), (2, 2048)] {
        let request = ForwardBackward {
            model: model.clone(),
            data: (0..data).map(|i| datum(config, tokens, i)).collect(),
            loss: Loss::CrossEntropy,
            forward_only: false,
        };
        let repeats = if data * tokens > 2048 { 7 } else { 25 };
        let mut times = Vec::new();
        let before = cpu_seconds()?;
        for _ in 0..repeats {
            let start = Instant::now();
            engine.forward_backward(&request)?;
            engine.optimize(&Optimize { model: model.clone(), adam })?;
            times.push(start.elapsed().as_secs_f64());
        }
        let cpu = (cpu_seconds()? - before) / f64::from(repeats);
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        #[allow(clippy::cast_precision_loss, reason = "a count for printing")]
        let rate = (data * tokens) as f64 / median;
        println!(
            "  train {data} x {tokens}: {:.2} ms (best {:.2}, CPU {:.1}), {rate:.0} tok/s, \
             {:.0} GFLOP/s",
            median * 1e3,
            times[0] * 1e3,
            cpu * 1e3,
            work(config, data, tokens, 8) / median / 1e9,
        );
    }
    Ok(())
}

fn sampling(engine: &mut Engine) -> Result<(), Failure> {
    let sampler = SamplerId::new("s");
    let base = "base".to_owned();
    engine.load_sampler(&LoadSampler { sampler: sampler.clone(), base, dir: None })?;
    for (num_samples, cached) in [(1u32, 64usize), (16, 64), (1, 960)] {
        let most = 64u32;
        let request = Sample {
            sampler: sampler.clone(),
            prompt: (0..cached)
                .flat_map(|i| [u8::try_from(i % 251).unwrap_or(0), 0, 0, 0])
                .collect(),
            num_samples,
            params: SampleParams {
                max_tokens: Some(most),
                seed: 1,
                temperature: 1.0,
                top_k: 0,
                top_p: 1.0,
                stop: Stop::Tokens(vec![]),
            },
            prompt_logprobs: false,
        };
        let mut times = Vec::new();
        for _ in 0..15 {
            let start = Instant::now();
            engine.sample(&request)?;
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        let rate = f64::from(most * num_samples) / times[7];
        println!("  sample {num_samples} after {cached}: {rate:.0} tok/s, prompt included");
    }
    Ok(())
}
