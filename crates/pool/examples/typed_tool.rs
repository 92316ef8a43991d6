//! Calls the Python functions of `examples/tools/text.py` from Rust, typed both ways.
//!
//! ```sh
//! cargo run -p snakehouse-pool --example typed_tool
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::time::Duration;

use snakehouse_base::id::RunToken;
use snakehouse_pool::{
    Args, CallError, CallOptions, Interpreter, Pool, PoolConfig, Reaper, ReaperConfig, WorkerSpec,
};
use snakehouse_supervise::{Root, Scope};

const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tools/text.py");

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    // SNAKEHOUSE_PYTHON, else python3 on PATH; 3.11 or newer.
    let python = Interpreter::find(None)?;
    snakehouse_supervise::run(async {
        let root = Root::new("example");
        let outcome = calls(root.scope(), python).await;
        // Ends the worker and everything it may have started, whatever happened.
        root.stop().await;
        outcome
    })
}

async fn calls(scope: &Scope, python: Interpreter) -> Result<(), Box<dyn Error>> {
    let config = ReaperConfig { python: python.clone(), run_token: RunToken::fresh(), cache: None };
    let reaper = Reaper::start(scope, config).await?;
    let spec = WorkerSpec::python("text", python).module(TOOLS);
    let pool = Pool::start(scope, reaper, spec, PoolConfig::default()).await?;
    let options = CallOptions::within(Duration::from_secs(10));

    // A dict comes back with its types.
    let arguments = Args::none().arg("to be or not to be").kwarg("most", 2);
    let counts = pool.call("word_count", arguments, options).await?;
    let to = counts.get("to").and_then(|count| count.as_i64());
    println!("\"to\" occurs {to:?} times in {counts:?}");
    assert_eq!(to, Some(2));

    // A float becomes an f64; any other type would be a typed error.
    let arguments = Args::none().arg("a b").kwarg("expected", "a b c d");
    let score: f64 = pool.call("score", arguments, options).await?.try_into()?;
    println!("score {score}");
    assert!((score - 0.5).abs() < 1e-9);

    // What Python raises is an error with its type and traceback; the worker serves on.
    let wrong = pool.call("word_count", Args::none().arg(7), options).await;
    let Err(CallError::Tool { failure, .. }) = wrong else {
        return Err("a number has no words".into());
    };
    println!("a number has no words: {}: {}", failure.code, failure.message);
    Ok(())
}
