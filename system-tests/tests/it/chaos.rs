//! SIGKILL at random moments under load: nothing is left after 0.2 s and the next start is clean.
//!
//! The load: tool calls that compute and start short processes, one tool that has started a process
//! in a session of its own, and optimizer steps of a model. The moment: when a seeded number of the
//! calls in flight has been answered. The seed is printed; `SNAKEHOUSE_SEED` replays it.

use std::time::Duration;

use serde_json::{Value, json};
use snakehouse_system_tests::{
    InFlight, Up, begin_post, descendants, get, post_json, wait_gone, wait_no_survivors,
};

const ROUNDS: u64 = 10;
const BOUND: Duration = Duration::from_millis(200);
const IN_FLIGHT: u64 = 8;

fn tools() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tools/misbehaving.py").to_owned()
}

/// Seeded numbers: one multiplication and a shift each (constants of splitmix64).
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let given = std::env::var("SNAKEHOUSE_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
        println!("seed {seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 27)) % bound
    }
}

fn post(port: u16, path: &str, body: &Value) -> Value {
    let answer = post_json(port, path, body).unwrap();
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json
}

/// Calls a tool of `up` and returns its value.
fn call(up: &Up, tool: &str, args: Value) -> Value {
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
fn load(up: &Up, dice: &mut Dice) -> (u32, Vec<InFlight>) {
    let escaped = call(up, "escape", json!([]));
    let model = model(up);
    let mut flying = Vec::new();
    for n in 0..IN_FLIGHT {
        let churn = json!({"args": [1 + dice.below(60)]});
        flying.push(begin_post(up.port, "/api/v1/snakehouse/tools/churn", &churn).unwrap());
        let step = json!({"model_id": model, "seq_id": n + 1, "type": "optim_step",
            "adam_params": {"learning_rate": 1e-4, "beta1": 0.9, "beta2": 0.95, "eps": 1e-12,
            "weight_decay": 0.0, "grad_clip_norm": 0.0}});
        flying.push(begin_post(up.port, "/api/v1/optim_step", &step).unwrap());
    }
    let answered = dice.below(2 * IN_FLIGHT);
    let rest = flying.split_off(usize::try_from(answered).unwrap());
    for request in flying {
        assert_eq!(request.finish().unwrap().status, 200);
    }
    (u32::try_from(escaped.as_u64().expect("escape returns a pid")).expect("a pid fits"), rest)
}

#[test]
fn killing_up_leaves_nothing_and_the_next_start_is_clean() {
    let home = tempfile::tempdir().unwrap();
    let mut dice = Dice::new();
    for round in 0..ROUNDS {
        let up = Up::start(home.path(), 0, &["--tools", &tools()]);
        let (escaped, _flying) = load(&up, &mut dice);
        let mut below = descendants(up.pid());
        below.push(escaped);
        let token = up.run_token.clone();
        up.kill();
        let left = wait_gone(&below, BOUND);
        assert!(left.is_empty(), "round {round}: left after {BOUND:?}: {left:?}");
        let left = wait_no_survivors(&token, BOUND);
        assert!(left.is_empty(), "round {round}: by token: {left:?}");
    }
    let up = Up::start(home.path(), 0, &[]);
    assert_eq!(get(up.port, "/api/v1/healthz").unwrap().status, 200);
    assert_eq!(up.stop(), Some(0));
}

#[test]
fn killing_up_while_it_starts_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let mut dice = Dice::new();
    for round in 0..ROUNDS {
        // Reaper, tool worker, engine: the start is in another place for each number.
        let processes = usize::try_from(1 + dice.below(3)).unwrap();
        let below = Up::kill_while_starting(home.path(), &["--tools", &tools()], processes);
        let left = wait_gone(&below, BOUND);
        assert!(left.is_empty(), "round {round}: left after {BOUND:?}: {left:?}");
    }
    let up = Up::start(home.path(), 0, &[]);
    assert_eq!(up.stop(), Some(0));
    let records = std::fs::read_dir(home.path().join("runs")).unwrap().count();
    assert_eq!(records, 0, "every dead run was looked after");
}

#[test]
fn killing_the_reaper_leaves_nothing_and_up_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let mut dice = Dice::new();
    let up = Up::start(home.path(), 0, &["--tools", &tools()]);
    for round in 0..ROUNDS {
        let (escaped, flying) = load(&up, &mut dice);
        let status = get(up.port, "/api/v1/snakehouse/status").unwrap().json;
        let reaper = u32::try_from(status["reaper_pid"].as_u64().expect("a reaper")).unwrap();
        let mut below = descendants(reaper);
        below.extend([escaped, reaper]);
        let pid = i32::try_from(reaper).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let left = wait_gone(&below, BOUND);
        assert!(left.is_empty(), "round {round}: left after {BOUND:?}: {left:?}");
        // Every request in flight gets exactly one answer: a value, or a typed error.
        for request in flying {
            let answer = request.finish().unwrap();
            assert!(answer.status == 200 || answer.json["error"]["code"].is_string(), "{answer:?}");
        }
        // The same `up` serves again, on a new reaper and new workers.
        assert_eq!(call(&up, "echo", json!([round])), round);
    }
    assert_eq!(get(up.port, "/api/v1/healthz").unwrap().status, 200);
    let token = up.run_token.clone();
    assert_eq!(up.stop(), Some(0));
    assert!(wait_no_survivors(&token, Duration::ZERO).is_empty());
}
