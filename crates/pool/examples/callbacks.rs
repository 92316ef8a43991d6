//! Lets the Python tools of `examples/tools/callbacks.py` call Rust closures.
//!
//! ```sh
//! cargo run -p snakehouse-pool --example callbacks
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::HashMap;
use std::error::Error;

use serde::Deserialize;
use snakehouse_base::Kind;
use snakehouse_pool::{
    Args, CallError, CallOptions, Host, HostCall, HostError, HostTool, PoolConfig, WorkerSpec,
    script,
};

const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tools/callbacks.py");

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    script(calls)
}

#[derive(Deserialize)]
struct Query {
    fruit: String,
    #[serde(default)]
    discount: i64,
}

/// A closure with state, typed by serde. Its error has a kind, a code and a hint in Python.
fn price() -> HostTool {
    let prices = HashMap::from([("apple", 30), ("fig", 90)]);
    HostTool::new("price", move |_: HostCall, query: Query| {
        let known = prices.get(query.fruit.as_str()).copied();
        async move {
            let unknown = || {
                HostError::new(Kind::NotFound, "no_price", format!("{} has no price", query.fruit))
                    .hint("ask for apple or fig")
            };
            Ok(known.ok_or_else(unknown)? - query.discount)
        }
    })
    .doc("The price of a fruit, in cents.")
}

/// A closure that calls Python again: in the worker that waits for it, if no other is free.
fn shout() -> HostTool {
    HostTool::new("shout", |call: HostCall, text: String| async move {
        let loud = call.call("upper", Args::none().arg(text), CallOptions::default()).await?;
        Ok(loud.as_str().unwrap_or_default().to_owned())
    })
}

async fn calls(host: &Host) -> Result<(), Box<dyn Error>> {
    let spec = WorkerSpec::python("callbacks", host.python())
        .module(TOOLS)
        .host_tool(price())
        .host_tool(shout());
    let pool = host.pool(spec, PoolConfig::default()).await?;

    let basket = Args::none().arg(vec!["apple", "fig", "fig"]);
    let total = pool.call("total", basket, CallOptions::default()).await?;
    println!("the basket costs {total:?}");
    assert_eq!(total.as_i64(), Some(210));

    let label = pool.call("label", Args::none().arg("fig"), CallOptions::default()).await?;
    println!("its label is {label:?}");
    assert_eq!(label.as_str(), Some("FIG"));

    let stone = Args::none().arg(vec!["stone"]);
    let wrong = pool.call("total", stone, CallOptions::default()).await;
    let Err(CallError::Tool { failure, .. }) = wrong else {
        return Err("a stone has no price".into());
    };
    println!("{}: {}", failure.code, failure.message);
    assert_eq!(failure.code, "no_price");
    Ok(())
}
