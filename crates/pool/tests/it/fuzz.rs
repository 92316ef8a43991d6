//! Both sides of the wire agree on what is a value, and on which.
//!
//! The inputs of `crates/wire/tests/fuzz.rs`, put before a real worker: what Rust accepts, Python
//! accepts, as the same value, and the other way round. `SNAKEHOUSE_FUZZ` says how many (default
//! 20,000; soak 40,000,000). With `SNAKEHOUSE_MSGPACK_PYTHON` the C codec is asked as well.

use bytes::Bytes;
use snakehouse_pool::{Args, Value, WorkerSpec};

use crate::support::{Rig, call, python, tools, workers};

#[path = "../../../wire/tests/mutate/mod.rs"]
mod mutate;

/// Inputs of one call.
const BATCH: usize = 500;

#[test]
fn rust_and_python_agree_on_mutated_values() {
    let python = match std::env::var_os("SNAKEHOUSE_MSGPACK_PYTHON") {
        Some(path) => snakehouse_pool::Interpreter::find(Some(path.as_ref())).unwrap(),
        None => {
            println!("not run: the C codec, since SNAKEHOUSE_MSGPACK_PYTHON names no interpreter");
            python()
        }
    };
    // Each call has its own bound; all of them together take as long as they are many.
    snakehouse_supervise::run(async {
        let rig = Rig::new().await;
        let module = tools().with_file_name("value_tools.py");
        let spec = WorkerSpec::python("fuzz", python).module(module.to_str().unwrap());
        let pool = rig.pool_of(spec, workers(1)).await;
        let mutator = mutate::Mutator::new(mutate::corpus("values"), mutate::seed());
        let (mut accepted, mut asked) = (0, 0);
        while asked < mutate::count() {
            let inputs: Vec<_> = (0..BATCH).map(|_| Bytes::from(mutator.next())).collect();
            asked += BATCH as u64;
            let sent = Args::none().arg(inputs.clone());
            let verdicts = call(&pool, "judge", sent).await.unwrap();
            for (input, verdict) in inputs.iter().zip(verdicts.as_slice().unwrap()) {
                // A body with attachments is for a host only.
                if input.starts_with(&[0xc1]) {
                    continue;
                }
                // Its own form of the value, or none.
                let theirs = match verdict {
                    Value::Bytes(encoded) => Some(encoded.clone()),
                    _ => None,
                };
                let ours = Value::decode(input).ok().map(|value| value.encode().unwrap());
                accepted += u64::from(ours.is_some());
                assert!(
                    ours == theirs,
                    "seed {}, input {}: Rust says {:?}, Python says {verdict:?}",
                    mutate::seed(),
                    mutate::hex(input),
                    Value::decode(input),
                );
            }
        }
        assert!(accepted * 10 > asked, "only {accepted} of {asked} inputs are values");
        rig.end().await;
    });
}
