//! Against an independent implementation: `tests/golden/recipe.py` says how the files were made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::common::*;
use safetensors::SafeTensors;
use snakehouse_engine::{Engine, EngineConfig};
use snakehouse_engine_api::{Adam, Datum, LoadModel, Optimize, Snapshot};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The four-byte numbers of a safetensors file, as bytes.
fn read(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect()
}

/// Loads the model that transformers wrote and the adapter that PEFT wrote.
fn engine(home: &Home) -> Engine {
    let dir = home.path("golden");
    std::fs::create_dir(&dir).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden().join("model").join(name), dir.join(name)).unwrap();
    }
    std::fs::copy(home.path("tiny/tokenizer.json"), dir.join("tokenizer.json")).unwrap();
    let mut engine = Engine::new(EngineConfig { threads: 2, fault: None });
    let info = load(&mut engine, "tiny", &dir).unwrap();
    assert_eq!((info.vocab_size, info.max_context, info.eos_tokens), (264, 128, vec![256]));
    let load = LoadModel {
        model: model("m"),
        base: "tiny".to_owned(),
        dir: text(&golden().join("adapter")),
        optimizer: false,
    };
    let loaded = engine.load_model(&load).unwrap();
    assert!(loaded.lora.train_attn && loaded.lora.train_mlp && loaded.lora.train_unembed);
    assert_eq!(loaded.lora.rank, 4);
    engine
}

fn close(found: &[f32], expected: &[f32], relative: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = expected.iter().fold(0.0f32, |a, &b| a.max(b.abs()));
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
    assert!(worst <= relative * size, "{what}: off by {worst}, largest is {size}");
}

#[test]
fn loss_gradients_and_steps_agree() {
    let home = Home::new();
    let mut engine = engine(&home);
    let golden = read(&golden().join("golden.safetensors"));
    let bytes = |name: &str| bytes::Bytes::from(golden[name].clone());
    let datum =
        Datum { tokens: bytes("tokens"), targets: bytes("targets"), weights: bytes("weights") };
    let loss = |name: &str| f64::from_le_bytes(golden[name][..].try_into().unwrap());

    let output = forward_backward(&mut engine, "m", vec![datum.clone()]);
    let expected = numbers(&golden["logprobs"]);
    close(&numbers(&output.outputs[0].logprobs), &expected, 1e-6, "logprobs");
    assert!((output.loss_sum / loss("loss") - 1.0).abs() < 1e-6);

    let dir = home.path("snap");
    engine.snapshot(&Snapshot { model: model("m"), dir: text(&dir) }).unwrap();
    let gradients = read(&dir.join("gradient.safetensors"));
    assert_eq!(gradients.len(), 30);
    for (name, bytes) in &gradients {
        let expected = numbers(&golden[&format!("gradient.{name}")]);
        close(&numbers(bytes), &expected, 1e-5, name);
    }

    let adam = Adam { learning_rate: 0.01, weight_decay: 0.1, ..ADAM };
    engine.optimize(&Optimize { model: model("m"), adam }).unwrap();
    let output = forward_backward(&mut engine, "m", vec![datum.clone()]);
    assert!((output.loss_sum / loss("loss_after_one") - 1.0).abs() < 1e-5);
    let adam = Adam { grad_clip_norm: 1.0, ..adam };
    engine.optimize(&Optimize { model: model("m"), adam }).unwrap();
    let output = forward_backward(&mut engine, "m", vec![datum]);
    let expected = numbers(&golden["logprobs_after_two"]);
    close(&numbers(&output.outputs[0].logprobs), &expected, 1e-4, "logprobs after two steps");
}
