//! A pool for programs in any language: served over gRPC, called by a generated client.
//!
//! ```sh
//! cargo run -p snakehouse-grpc --example front_door
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use snakehouse_base::Secret;
use snakehouse_grpc::proto::pool_client::PoolClient;
use snakehouse_grpc::proto::value::Encoding;
use snakehouse_grpc::proto::{CallRequest, ListToolsRequest, Value};
use snakehouse_grpc::{Channel, Dial, Server, ServerConfig, Services, error_of};
use snakehouse_pool::{Host, PoolConfig, WorkerSpec, script};

const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tools/text.py");

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    script(front_door)
}

async fn front_door(host: &Host) -> Result<(), Box<dyn Error>> {
    let spec = WorkerSpec::python("text", host.python()).module(TOOLS);
    let pool = host.pool(spec, PoolConfig::default()).await?;

    // Opened after the pool, so that it is closed before it.
    let token = Secret::new("a-token-that-clients-know");
    let mut config = ServerConfig::new(([127, 0, 0, 1], 0).into());
    config.token = Some(token.clone());
    let services = Services { front_door: Some(pool), workers: None };
    let server = Server::start(host.scope(), config, services).await?;

    // The client of this repository; those of other languages come from the same proto.
    let url = format!("http://{}", server.local_addr());
    let dial = Dial { token: Some(token), ..Dial::new(url.clone()) };
    let mut client = PoolClient::new(Channel::connect(host.scope(), &dial).await?.0);
    let tools = client.list_tools(ListToolsRequest {}).await?.into_inner().tools;
    println!("{:?}", tools.iter().map(|tool| &tool.signature).collect::<Vec<_>>());

    let answer = client.call(word_count(r#"[["to be or not to be"], {"most": 1}]"#)).await?;
    let Some(Encoding::Json(counts)) = answer.into_inner().result.and_then(|told| told.encoding)
    else {
        return Err("the result has the form of the arguments".into());
    };
    println!("{counts}");
    assert_eq!(counts, r#"{"to":2}"#);

    // What fails has a status for machinery, and an error for programs and people.
    let Err(status) = client.call(word_count("[[], {}]")).await else {
        return Err("it needs a text".into());
    };
    let error = error_of(&status).ok_or("no error in the trailer")?;
    println!("{:?}: {} ({}): {}", status.code(), error.kind, error.r#type, error.message);
    assert_eq!(error.kind, "invalid_input");

    let stranger = Channel::connect(host.scope(), &Dial::new(url)).await?.0;
    let Err(status) = PoolClient::new(stranger).list_tools(ListToolsRequest {}).await else {
        return Err("it has no token".into());
    };
    assert_eq!(error_of(&status).map(|error| error.code).as_deref(), Some("no_token"));
    Ok(())
}

fn word_count(arguments: &str) -> CallRequest {
    CallRequest {
        tool: "word_count".to_owned(),
        arguments: Some(Value { encoding: Some(Encoding::Json(arguments.to_owned())) }),
        ..CallRequest::default()
    }
}
