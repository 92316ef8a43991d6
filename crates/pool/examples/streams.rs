//! Streams: a generator's items as they are yielded, items to Python, both at once.
//!
//! ```sh
//! cargo run -p snakehouse-pool --example streams
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use snakehouse_pool::{Args, CallOptions, Host, PoolConfig, Value, WorkerSpec, script};

const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tools/words.py");

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    script(streams)
}

async fn streams(host: &Host) -> Result<(), Box<dyn Error>> {
    let spec = WorkerSpec::python("words", host.python()).module(TOOLS);
    let pool = host.pool(spec, PoolConfig::default()).await?;

    // From Python: each item is here when it is yielded. A slow reader makes the generator wait.
    let stream = pool.stream("countdown", Args::none().arg(3), CallOptions::stream()).await?;
    let mut items = Vec::new();
    while let Some(item) = stream.next().await {
        items.push(item?);
    }
    println!("{items:?}, then {:?}", stream.result().await?);
    assert_eq!(items, [Value::from(3), Value::from(2), Value::from(1)]);

    // To Python: any tool may read what is sent to it.
    let stream = pool.stream("total", Args::none(), CallOptions::stream()).await?;
    for n in 1..=100 {
        stream.send(n).await?;
    }
    stream.finish_sending();
    let total = stream.result().await?;
    println!("total {total:?}");
    assert_eq!(total.as_i64(), Some(5050));

    // Both at once.
    let stream = pool.stream("upper", Args::none(), CallOptions::stream()).await?;
    for line in ["to be", "or not"] {
        stream.send(line).await?;
        let answer = stream.next().await.ok_or("the stream is open")??;
        println!("{line} -> {answer:?}");
        assert_eq!(answer.as_str(), Some(line.to_uppercase().as_str()));
    }
    // Dropping it closes the generator in Python, where `finally` blocks run.
    drop(stream);
    Ok(())
}
