//! A worker in Rust with the tools that the conformance check asks for.
//!
//! ```sh
//! cargo build -p snakehouse-wire --example conformance_worker
//! PYTHONPATH=python python3 -m snakehouse.conformance -- target/debug/examples/conformance_worker
//! ```

#![allow(clippy::print_stderr, reason = "a program says why it ends")]

use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use snakehouse_base::Kind;
use snakehouse_wire::worker::{CallContext, Handler, Host, serve};
use snakehouse_wire::{Failure, Value};

struct Tools;

impl Handler for Tools {
    fn tools(&self) -> Vec<String> {
        ["echo", "fail", "wait", "ask"].map(str::to_owned).into()
    }

    fn call(&mut self, tool: &str, body: Bytes, context: &CallContext) -> Result<Bytes, Failure> {
        let mut args = arguments(&body)?.into_iter();
        match (tool, args.next()) {
            ("echo", Some(value)) => value.encode().map_err(|error| malformed(&error.to_string())),
            ("fail", Some(Value::Str(message))) => {
                Err(Failure::new(Kind::Tool, "tool_raised", message))
            }
            ("wait", None) => wait(context),
            _ => Err(malformed("these arguments do not fit the tool")),
        }
    }

    fn call_with_host(
        &mut self,
        tool: &str,
        body: Bytes,
        context: &CallContext,
        host: &mut Host<'_>,
    ) -> Result<Bytes, Failure> {
        match tool {
            // What the host's tool says to the same arguments.
            "ask" => host.call(self, "echo", body),
            _ => self.call(tool, body, context),
        }
    }
}

/// The positional arguments of `[args, kwargs]`.
fn arguments(body: &Bytes) -> Result<Vec<Value>, Failure> {
    match Value::decode(body).map_err(|error| malformed(&error.to_string()))? {
        Value::List(parts) => match <[Value; 2]>::try_from(parts) {
            Ok([Value::List(args), Value::Dict(_)]) => Ok(args),
            _ => Err(malformed("it is not [args, kwargs]")),
        },
        _ => Err(malformed("it is not a list")),
    }
}

/// Runs until it is cancelled. A handler's code is not interrupted: it has to ask.
fn wait(context: &CallContext) -> Result<Bytes, Failure> {
    let (_open, never) = mpsc::sync_channel::<()>(1);
    for _ in 0..60_000 {
        if context.is_cancelled() {
            return Err(Failure::new(Kind::Cancelled, "cancelled", "the caller gave up"));
        }
        // A pause of a millisecond: nothing ever comes.
        let _ = never.recv_timeout(Duration::from_millis(1));
    }
    Ok(Bytes::new())
}

fn malformed(reason: &str) -> Failure {
    Failure::new(Kind::InvalidInput, "malformed_value", reason)
}

fn main() -> ExitCode {
    match serve(&mut Tools) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("conformance_worker: {error}");
            ExitCode::from(error.exit_status())
        }
    }
}
