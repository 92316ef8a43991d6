//! Calls the Python functions of `examples/tools/text.py` from Rust, typed both ways.
//!
//! ```sh
//! cargo run -p snakehouse-pool --example typed_tool
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::time::Duration;

use snakehouse_pool::{Args, CallError, CallOptions, Host, PoolConfig, Value, WorkerSpec, script};

const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tools/text.py");

snakehouse_pool::tools! {
    /// The functions of that file, as they stand there.
    struct Text {
        /// Counts words; gives the `most` frequent ones.
        def word_count(text: str, most: int = 3) -> dict[str, int];
        def score(answer: str, expected: str) -> float;
    }
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    // Ends the worker and everything it may have started, whatever happens.
    script(calls)
}

async fn calls(host: &Host) -> Result<(), Box<dyn Error>> {
    // SNAKEHOUSE_PYTHON, else python3 on PATH; 3.11 or newer.
    let spec = WorkerSpec::python("text", host.python()).module(TOOLS);
    let pool = host.pool(spec, PoolConfig::default()).await?;

    // Fails here if the Python file has other functions than those above.
    let text = Text::bind(&pool).await?.within(Duration::from_secs(10));

    let counts = text.word_count("to be or not to be", Some(2)).await?;
    println!("\"to\" occurs {:?} times in {counts:?}", counts.get("to"));
    assert_eq!(counts.get("to"), Some(&2));

    let score = text.score("a b", "a b c d").await?;
    println!("score {score}");
    assert!((score - 0.5).abs() < 1e-9);

    // Untyped calls take and give any value. What Python raises is an error with its type and
    // traceback; the worker serves on.
    let seven = Args::none().arg(Value::from(7));
    let wrong = pool.call("word_count", seven, CallOptions::default()).await;
    let Err(CallError::Tool { failure, .. }) = wrong else {
        return Err("a number has no words".into());
    };
    println!("a number has no words: {}: {}", failure.code, failure.message);
    Ok(())
}
