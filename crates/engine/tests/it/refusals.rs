//! Bad input: a typed error that names the cause, and nothing changed.

use crate::common::*;
use snakehouse_base::{Coded, Kind};
use snakehouse_engine::{Engine, EngineConfig};
use snakehouse_engine_api::{
    Adam, CreateModel, Datum, LoadModel, LoraSpec, Optimize, Restore, SampleParams, Save, SaveKind,
    Snapshot, Stop, code,
};

#[test]
fn data_that_does_not_fit_is_refused_without_effect() {
    let home = Home::new();
    let mut engine = home.trainer(2);
    train(&mut engine, "m", 0..1);
    forward_backward(&mut engine, "m", vec![datum(10, 1)]);
    let before = digest(&mut engine, "m");
    let good = datum(8, 1);
    let cases = [
        (code::TOKEN_OUT_OF_RANGE, Datum { tokens: ints([264; 8]), ..good.clone() }),
        (code::TOKEN_OUT_OF_RANGE, Datum { tokens: ints([-1; 8]), ..good.clone() }),
        (code::TOKEN_OUT_OF_RANGE, Datum { targets: ints([100_000; 8]), ..good.clone() }),
        (code::LENGTH_MISMATCH, Datum { targets: ints([1; 7]), ..good.clone() }),
        (code::LENGTH_MISMATCH, Datum { weights: floats([1.0; 9]), ..good.clone() }),
        (code::LENGTH_MISMATCH, Datum { weights: vec![0; 31].into(), ..good.clone() }),
        (code::LENGTH_MISMATCH, Datum { tokens: ints([]), targets: ints([]), weights: floats([]) }),
        (code::NOT_FINITE, Datum { weights: floats([f32::NAN; 8]), ..good.clone() }),
        (code::NOT_FINITE, Datum { weights: floats([f32::INFINITY; 8]), ..good.clone() }),
        // Finite, but the gradient is not.
        (code::NOT_FINITE, Datum { weights: floats([3e38; 8]), ..good.clone() }),
        (code::CONTEXT_EXCEEDED, datum(2049, 1)),
    ];
    for (code, bad) in cases {
        let error = engine.forward_backward(&ask("m", vec![good.clone(), bad])).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert_eq!(error.kind(), Kind::InvalidInput);
        assert!(error.hint().is_some(), "{error}");
        assert_eq!(digest(&mut engine, "m"), before, "{error}");
    }
    let error = engine.forward_backward(&ask("m", vec![])).unwrap_err();
    assert_eq!(error.code(), code::BAD_PARAMETER);
    let error = engine.forward_backward(&ask("nobody", vec![good])).unwrap_err();
    assert_eq!((error.code(), error.kind()), (code::UNKNOWN_MODEL, Kind::NotFound));
}

#[test]
fn steps_that_make_no_sense_are_refused_without_effect() {
    let home = Home::new();
    let mut engine = home.trainer(2);
    forward_backward(&mut engine, "m", vec![datum(10, 1)]);
    let before = digest(&mut engine, "m");
    for (code, adam) in [
        (code::NOT_FINITE, Adam { learning_rate: f64::NAN, ..ADAM }),
        (code::BAD_PARAMETER, Adam { beta2: 1.0, ..ADAM }),
        (code::NOT_FINITE, Adam { learning_rate: 1e300, ..ADAM }),
    ] {
        let error = engine.optimize(&Optimize { model: model("m"), adam }).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert_eq!(digest(&mut engine, "m"), before);
    }
    for lora in [
        LoraSpec { rank: 0, ..LORA },
        LoraSpec { rank: 257, ..LORA },
        LoraSpec { train_attn: false, train_mlp: false, train_unembed: false, ..LORA },
    ] {
        assert_eq!(create(&mut engine, "n", lora).unwrap_err().code(), code::BAD_PARAMETER);
    }
    let ask = CreateModel { model: model("n"), base: "nobody".to_owned(), lora: LORA };
    assert_eq!(engine.create_model(&ask).unwrap_err().code(), code::UNKNOWN_BASE);
}

#[test]
fn a_step_of_rate_zero_moves_no_weight() {
    let home = Home::new();
    let mut engine = home.trainer(2);
    let before = digest(&mut engine, "m");
    let adam = Adam { learning_rate: 0.0, ..ADAM };
    let step = engine.optimize(&Optimize { model: model("m"), adam }).unwrap();
    assert_eq!((step.step, step.grad_norm), (1, 0.0));
    assert_eq!(digest(&mut engine, "m").adapter, before.adapter);
}

#[test]
fn samples_that_make_no_sense_are_refused() {
    let home = Home::new();
    let mut engine = home.engine(2);
    load_sampler(&mut engine, "s", None).unwrap();
    let mut empty = request("s", "", 1, params());
    let error = engine.sample(&empty).unwrap_err();
    assert_eq!(error.code(), code::BAD_PARAMETER);
    empty.prompt = ints([300]);
    assert_eq!(engine.sample(&empty).unwrap_err().code(), code::TOKEN_OUT_OF_RANGE);
    assert_eq!(
        engine.sample(&request("x", "a", 1, params())).unwrap_err().code(),
        code::UNKNOWN_SAMPLER
    );
    for (code, num, params) in [
        (code::BAD_PARAMETER, 0, params()),
        (code::NOT_FINITE, 1, SampleParams { temperature: f32::NAN, ..params() }),
        (code::BAD_PARAMETER, 1, SampleParams { top_p: 0.0, ..params() }),
        (code::TOKEN_OUT_OF_RANGE, 1, SampleParams { stop: Stop::Tokens(vec![264]), ..params() }),
        (
            code::BAD_PARAMETER,
            1,
            SampleParams { stop: Stop::Texts(vec![String::new()]), ..params() },
        ),
    ] {
        assert_eq!(engine.sample(&request("s", "a", num, params)).unwrap_err().code(), code);
    }
}

/// Spoils a directory.
type Damage<'a> = &'a dyn Fn(&std::path::Path);

/// Each way in which a model directory can be half-written.
#[test]
fn half_written_model_directories_say_what_is_missing() {
    let home = Home::new();
    let spoil: [(&str, Damage<'_>); 9] = [
        ("config.json is missing", &|d| std::fs::remove_file(d.join("config.json")).unwrap()),
        ("tokenizer.json is missing", &|d| std::fs::remove_file(d.join("tokenizer.json")).unwrap()),
        ("model.safetensors is missing", &|d| {
            std::fs::remove_file(d.join("model.safetensors")).unwrap();
        }),
        ("config.json is not JSON", &|d| edit(d, "config.json", |t| t[..t.len() / 2].to_owned())),
        ("tokenizer.json", &|d| edit(d, "tokenizer.json", |t| t[..t.len() / 2].to_owned())),
        ("model.safetensors", &|d| {
            let path = d.join("model.safetensors");
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
        }),
        ("has shape", &|d| {
            edit(d, "config.json", |t| {
                t.replace("\"intermediate_size\":384", "\"intermediate_size\":385")
            });
        }),
        ("layers.2.input_layernorm.weight` is missing", &|d| {
            edit(d, "config.json", |t| {
                t.replace("\"num_hidden_layers\":2", "\"num_hidden_layers\":3")
            });
        }),
        ("is not expected", &|d| {
            edit(d, "config.json", |t| {
                t.replace("\"num_hidden_layers\":2", "\"num_hidden_layers\":1")
            });
        }),
    ];
    for (i, (expected, damage)) in spoil.iter().enumerate() {
        let dir = home.path(&format!("broken-{i}"));
        copy(&home.path("tiny"), &dir);
        damage(&dir);
        let mut engine = Engine::new(EngineConfig { threads: 1, fault: None });
        let error = load(&mut engine, "tiny", &dir).unwrap_err();
        assert_eq!(error.code(), code::BAD_DIRECTORY);
        assert!(error.to_string().contains(expected), "{error} should say {expected}");
    }
    let mut engine = Engine::new(EngineConfig { threads: 1, fault: None });
    let error = load(&mut engine, "tiny", &home.path("nowhere")).unwrap_err();
    assert!(error.to_string().contains("no such directory"), "{error}");
}

#[test]
fn models_of_another_kind_are_named() {
    let home = Home::new();
    for (i, (expected, from, to)) in [
        ("is not Qwen3ForCausalLM", "qwen3", "llama"),
        ("`attention_bias`", "\"attention_bias\":false", "\"attention_bias\":true"),
        ("`use_sliding_window`", "\"use_sliding_window\":false", "\"use_sliding_window\":true"),
        ("activation `gelu`", "silu", "gelu"),
        (
            "rope scaling `yarn`",
            "\"rope_theta\"",
            "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4},\"rope_theta\"",
        ),
        ("`hidden_size`", "\"hidden_size\":128", "\"hidden_size\":\"wide\""),
        ("`vocab_size` is missing", "\"vocab_size\"", "\"vocabulary\""),
        ("not a multiple", "\"num_key_value_heads\":2", "\"num_key_value_heads\":3"),
    ]
    .into_iter()
    .enumerate()
    {
        let dir = home.path(&format!("other-{i}"));
        copy(&home.path("tiny"), &dir);
        edit(&dir, "config.json", |t| {
            t.replace(from, to).replace("Qwen3For", if i == 0 { "LlamaFor" } else { "Qwen3For" })
        });
        let mut engine = Engine::new(EngineConfig { threads: 1, fault: None });
        let error = load(&mut engine, "tiny", &dir).unwrap_err();
        assert!(error.to_string().contains(expected), "{error} should say {expected}");
    }
}

#[test]
fn damaged_checkpoints_are_refused() {
    let home = Home::new();
    let mut engine = home.trainer(2);
    train(&mut engine, "m", 0..1);
    let before = digest(&mut engine, "m");
    let snap = home.path("snap");
    engine.snapshot(&Snapshot { model: model("m"), dir: text(&snap) }).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(&snap)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "adapter_config.json",
            "adapter_model.safetensors",
            "gradient.safetensors",
            "manifest.json",
            "optimizer.safetensors"
        ]
    );
    let restore = |dir: &std::path::Path| Restore {
        model: model("m"),
        base: "tiny".to_owned(),
        dir: text(dir),
    };
    for (i, name) in names.iter().enumerate() {
        for (j, damage) in [0, 1].into_iter().enumerate() {
            let dir = home.path(&format!("damaged-{i}-{j}"));
            copy(&snap, &dir);
            let path = dir.join(name);
            if damage == 0 {
                std::fs::remove_file(&path).unwrap();
            } else {
                let mut bytes = std::fs::read(&path).unwrap();
                let last = bytes.len() - 5;
                bytes[last] ^= 1;
                std::fs::write(&path, bytes).unwrap();
            }
            let error = engine.restore(&restore(&dir)).unwrap_err();
            assert_eq!(error.code(), code::BAD_DIRECTORY, "{name}: {error}");
            assert_eq!(digest(&mut engine, "m"), before);
        }
    }
    // Every file is whole, and the manifest says another step.
    let step = home.path("step");
    copy(&snap, &step);
    edit(&step, "manifest.json", |t| t.replace("\"step\": 1", "\"step\": 3"));
    let error = engine.restore(&restore(&step)).unwrap_err();
    assert_eq!(error.code(), code::BAD_DIRECTORY, "{error}");
    assert_eq!(digest(&mut engine, "m"), before);
    // Another release of the same arithmetic wrote it.
    let release = home.path("release");
    copy(&snap, &release);
    edit(&release, "manifest.json", |t| {
        t.replace("\"arithmetic 1-", "\"snakehouse-engine 0.0.9 arithmetic 1-")
    });
    engine.restore(&restore(&release)).unwrap();
    assert_eq!(digest(&mut engine, "m"), before);
    let other = home.path("foreign");
    copy(&snap, &other);
    edit(&other, "manifest.json", |t| t.replace("arithmetic 1-", "arithmetic 0-"));
    let error = engine.restore(&restore(&other)).unwrap_err();
    assert_eq!(error.code(), code::FINGERPRINT_MISMATCH);
    // What is not bound to arithmetic loads all the same.
    let load = LoadModel {
        model: model("n"),
        base: "tiny".to_owned(),
        dir: text(&other),
        optimizer: true,
    };
    engine.load_model(&load).unwrap();
    assert_eq!(digest(&mut engine, "n"), before);
}

#[test]
fn a_damaged_snapshot_is_written_again_and_nothing_else_is() {
    let home = Home::new();
    let mut engine = home.trainer(2);
    train(&mut engine, "m", 0..1);
    let before = digest(&mut engine, "m");
    let dir = home.path("snap");
    let snapshot = Snapshot { model: model("m"), dir: text(&dir) };
    let saved = engine.snapshot(&snapshot).unwrap();
    let spoil: [Damage<'_>; 4] = [
        &|d| edit(d, "manifest.json", |t| t.replace("\"step\": 1", "\"step\": 3")),
        &|d| edit(d, "manifest.json", |t| t[..t.len() / 2].to_owned()),
        &|d| std::fs::remove_file(d.join("gradient.safetensors")).unwrap(),
        &|d| {
            let path = d.join("adapter_model.safetensors");
            let mut bytes = std::fs::read(&path).unwrap();
            let last = bytes.len() - 5;
            bytes[last] ^= 4;
            std::fs::write(&path, bytes).unwrap();
        },
    ];
    for damage in spoil {
        damage(&dir);
        assert_eq!(engine.snapshot(&snapshot).unwrap(), saved);
        let restore = Restore { model: model("m"), base: "tiny".to_owned(), dir: text(&dir) };
        assert_eq!(engine.restore(&restore).unwrap().step, 1);
        assert_eq!(digest(&mut engine, "m"), before);
    }
    std::fs::write(dir.join("thesis.txt"), "of somebody").unwrap();
    assert_eq!(engine.snapshot(&snapshot).unwrap_err().code(), code::BAD_DIRECTORY);
    assert!(dir.join("thesis.txt").exists());
}

#[test]
fn weights_that_overflow_are_not_sampled_from() {
    let home = Home::new();
    let mut engine = home.trainer(2);
    let adam = Adam { learning_rate: 1e25, ..ADAM };
    forward_backward(&mut engine, "m", vec![datum(64, 1)]);
    engine.optimize(&Optimize { model: model("m"), adam }).unwrap();
    let dir = home.path("weights");
    engine.save(&Save { model: model("m"), dir: text(&dir), what: SaveKind::Sampler }).unwrap();
    load_sampler(&mut engine, "s", Some(&dir)).unwrap();
    for temperature in [0.0, 1.0] {
        for prompt_logprobs in [false, true] {
            let params = SampleParams { temperature, ..params() };
            let mut ask = request("s", "abc", 3, params);
            ask.prompt_logprobs = prompt_logprobs;
            let error = engine.sample(&ask).unwrap_err();
            assert_eq!((error.code(), error.kind()), (code::NOT_FINITE, Kind::InvalidInput));
        }
    }
}

#[test]
fn a_checkpoint_of_another_kind_or_base_is_refused() {
    let home = Home::new();
    let mut engine = home.trainer(2);
    let dir = text(&home.path("weights"));
    let save = Save { model: model("m"), dir: dir.clone(), what: SaveKind::Sampler };
    engine.save(&save).unwrap();
    // No moments in it.
    let mut load =
        LoadModel { model: model("n"), base: "tiny".to_owned(), dir: dir.clone(), optimizer: true };
    assert_eq!(engine.load_model(&load).unwrap_err().code(), code::BAD_DIRECTORY);
    load.optimizer = false;
    engine.load_model(&load).unwrap();
    let wrong = Save { what: SaveKind::Training, ..save };
    assert_eq!(engine.save(&wrong).unwrap_err().code(), code::BAD_DIRECTORY);

    snakehouse_engine::make_tiny(&home.path("other"), 2).unwrap();
    crate::common::load(&mut engine, "other", &home.path("other")).unwrap();
    load.base = "other".to_owned();
    let error = engine.load_model(&load).unwrap_err();
    assert!(error.to_string().contains("another base model"), "{error}");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn edit(dir: &std::path::Path, name: &str, change: impl Fn(&str) -> String) {
    let path = dir.join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let changed = change(&text);
    assert_ne!(changed, text, "the edit must change something");
    std::fs::write(&path, changed).unwrap();
}
