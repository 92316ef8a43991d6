//! The demo's recipe: random weights learn the shipped text.
//!
//! Experiment 2 of the first issue, kept: LoRA over `tiny` with random weights more than halves the
//! loss, answers training questions exactly and carries over to questions it never saw. The numbers
//! of the recipe stand in `examples/data/README.md`; `demo` uses the same.

use crate::common::*;
use snakehouse_engine::{Engine, EngineConfig, TINY_SEED, make_tiny};
use snakehouse_engine_api::{
    Adam, Datum, ForwardBackward, LoraSpec, Loss, Optimize, SampleParams, Save, SaveKind, Stop,
};

const STEPS: usize = 240;
const BATCH: usize = 32;
const RATE: f64 = 3e-3;
const END: i32 = 256;

struct Pair {
    prompt: String,
    completion: String,
}

fn pairs(name: &str) -> Vec<Pair> {
    let path = format!("{}/../../examples/data/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            let part = |key: &str| value[key].as_str().unwrap().to_owned();
            Pair { prompt: part("prompt"), completion: part("completion") }
        })
        .collect()
}

impl Pair {
    fn datum(&self) -> Datum {
        let mut all: Vec<i32> = self.prompt.bytes().map(i32::from).collect();
        let asked = all.len();
        all.extend(self.completion.bytes().map(i32::from));
        all.push(END);
        Datum {
            tokens: ints(all[..all.len() - 1].iter().copied()),
            targets: ints(all[1..].iter().copied()),
            weights: floats((1..all.len()).map(|i| if i < asked { 0.0 } else { 1.0 })),
        }
    }
}

/// Mean loss per counted token.
fn loss(engine: &mut Engine, pairs: &[&Pair], forward_only: bool) -> f64 {
    let ask = ForwardBackward {
        model: model("m"),
        data: pairs.iter().map(|p| p.datum()).collect(),
        loss: Loss::CrossEntropy,
        forward_only,
    };
    let counted: usize = pairs.iter().map(|p| p.completion.len() + 1).sum();
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let counted = counted as f64;
    engine.forward_backward(&ask).unwrap().loss_sum / counted
}

fn matches(engine: &mut Engine, name: &str, pairs: &[Pair]) -> usize {
    let asked = pairs.iter().step_by(pairs.len() / 20).take(20);
    asked
        .filter(|pair| {
            let params = SampleParams {
                max_tokens: Some(60),
                temperature: 0.0,
                stop: Stop::Eos,
                ..params()
            };
            let sampled = sample(engine, &request(name, &pair.prompt, 1, params));
            let mut drawn = tokens(&sampled.sequences[0].tokens);
            drawn.pop_if(|last| *last == END);
            drawn == pair.completion.bytes().map(i32::from).collect::<Vec<_>>()
        })
        .count()
}

#[test]
fn random_weights_learn_the_shipped_text() {
    let home = Home::new();
    make_tiny(&home.path("shipped"), TINY_SEED).unwrap();
    let mut engine = Engine::new(EngineConfig::default());
    load(&mut engine, "tiny", &home.path("shipped")).unwrap();
    create(&mut engine, "m", LoraSpec { rank: 32, seed: 1, ..LORA }).unwrap();
    load_sampler(&mut engine, "base", None).unwrap();
    let (train, held_out) = (pairs("train.jsonl"), pairs("heldout.jsonl"));
    let held_out: Vec<&Pair> = held_out.iter().collect();

    let held_out_base = loss(&mut engine, &held_out, true);
    let match_base = matches(&mut engine, "base", &train);
    let mut losses = Vec::new();
    for step in 0..STEPS {
        let place = |n: usize| {
            let index = step * BATCH + n;
            let (round, within) = (index / train.len(), index % train.len());
            &train[(within * 7919 + round * 31) % train.len()]
        };
        let batch: Vec<&Pair> = (0..BATCH).map(place).collect();
        losses.push(loss(&mut engine, &batch, false));
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let learning_rate = RATE * (1.0 - 0.9 * step as f64 / STEPS as f64);
        let adam = Adam { learning_rate, ..ADAM };
        engine.optimize(&Optimize { model: model("m"), adam }).unwrap();
    }
    let held_out_tuned = loss(&mut engine, &held_out, true);
    let dir = text(&home.path("weights"));
    engine.save(&Save { model: model("m"), dir, what: SaveKind::Sampler }).unwrap();
    load_sampler(&mut engine, "tuned", Some(&home.path("weights"))).unwrap();
    let match_tuned = matches(&mut engine, "tuned", &train);
    let (first, last) = (losses[0], losses[STEPS - 1]);
    println!(
        "loss {first:.3} to {last:.3}, held out {held_out_base:.3} to {held_out_tuned:.3}, \
         answered {match_base} to {match_tuned} of 20"
    );
    assert!(last <= 0.5 * first, "{first} to {last}");
    assert!(held_out_tuned <= 0.7 * held_out_base, "{held_out_base} to {held_out_tuned}");
    assert!(match_base == 0 && match_tuned >= 18, "{match_base} to {match_tuned}");
}
