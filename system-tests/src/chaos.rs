//! Random moments under load, for the tests that kill.
//!
//! The load: tool calls that compute and start short processes, one tool that has started a process
//! in a session of its own, and optimizer steps of a model. The moment: when a seeded number of the
//! calls in flight has been answered. The seed is printed; `SNAKEHOUSE_SEED` replays it.

use std::time::Duration;

use crate::{InFlight, Up, begin_post, post_json};
use serde_json::{Value, json};

/// Kills in each test.
pub const ROUNDS: u64 = 10;
/// Nothing may be left after this (law 7).
pub const BOUND: Duration = Duration::from_millis(200);
const IN_FLIGHT: u64 = 8;

/// The file of tools that misbehave.
pub fn tools() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tools/misbehaving.py").to_owned()
}

/// Seeded numbers: one multiplication and a shift each (constants of splitmix64).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// From `SNAKEHOUSE_SEED`, else from the process id; printed either way.
    #[expect(
        clippy::print_stdout,
        clippy::new_without_default,
        reason = "a seed that nobody sees replays nothing"
    )]
    pub fn new() -> Self {
        let given = std::env::var("SNAKEHOUSE_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
        println!("seed {seed}");
        Self(seed)
    }

    /// A number in `0..bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 27)) % bound
    }
}

fn post(port: u16, path: &str, body: &Value) -> Value {
    let answer = post_json(port, path, body).expect("the service answers");
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json
}

/// Calls a tool of `up` and returns its value.
///
/// # Panics
/// If it fails.
pub fn call(up: &Up, tool: &str, args: Value) -> Value {
    let path = format!("/api/v1/snakehouse/tools/{tool}");
    post(up.port, &path, &json!({ "args": args }))["value"].clone()
}

/// Makes a model whose optimizer steps are work for the engine.
fn model(up: &Up) -> Value {
    let session =
        json!({"tags": [], "user_metadata": {}, "sdk_version": "0", "type": "create_session"});
    let session = post(up.port, "/api/v1/create_session", &session)["session_id"].clone();
    let lora =
        json!({"rank": 4, "seed": 1, "train_unembed": true, "train_mlp": true, "train_attn": true});
    let model = json!({"session_id": session, "model_seq_id": 0, "base_model": "tiny",
        "lora_config": lora, "type": "create_model"});
    let promise = post(up.port, "/api/v1/create_model", &model);
    let wanted = json!({"request_id": promise["request_id"], "allow_metadata_only": true});
    post(up.port, "/api/v1/retrieve_future", &wanted)["model_id"].clone()
}

/// Puts the load on and returns when a random part of it is done: what a tool started, and the
/// requests that are still in flight.
///
/// # Panics
/// If any of it fails.
pub fn load(up: &Up, dice: &mut Dice) -> (u32, Vec<InFlight>) {
    let escaped = call(up, "escape", json!([]));
    let model = model(up);
    let mut flying = Vec::new();
    for n in 0..IN_FLIGHT {
        let churn = json!({"args": [1 + dice.below(60)]});
        flying.push(
            begin_post(up.port, "/api/v1/snakehouse/tools/churn", &churn)
                .expect("the service answers"),
        );
        let step = json!({"model_id": model, "seq_id": n + 1, "type": "optim_step",
            "adam_params": {"learning_rate": 1e-4, "beta1": 0.9, "beta2": 0.95, "eps": 1e-12,
            "weight_decay": 0.0, "grad_clip_norm": 0.0}});
        flying.push(begin_post(up.port, "/api/v1/optim_step", &step).expect("the service answers"));
    }
    let answered = dice.below(2 * IN_FLIGHT);
    let rest = flying.split_off(usize::try_from(answered).expect("the service answers"));
    for request in flying {
        assert_eq!(request.finish().expect("the service answers").status, 200);
    }
    (u32::try_from(escaped.as_u64().expect("escape returns a pid")).expect("a pid fits"), rest)
}
