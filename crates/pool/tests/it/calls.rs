//! Calls that end well, and calls that fail because of what the tool does.

use snakehouse_base::{Coded, Kind};
use snakehouse_pool::{Args, CallError, Value};

use crate::support::{Rig, call, run, workers};

#[test]
fn a_tool_is_called_and_everything_ends() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let sum = call(&pool, "add", Args::none().arg(40).kwarg("b", 2)).await.unwrap();
        assert_eq!(sum.as_i64(), Some(42));
        rig.end().await;
    });
}

#[test]
fn a_tool_that_raises_is_a_typed_error_and_the_worker_lives() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let before = crate::support::call_pid(&pool).await;
        let error = call(&pool, "fail", Args::none().arg("no luck")).await.unwrap_err();
        match &error {
            CallError::Tool { tool, failure } => {
                assert_eq!(tool, "fail");
                assert_eq!(failure.type_name, "ValueError");
                assert_eq!(failure.message, "no luck");
                let line = failure.traceback.last().unwrap();
                assert_eq!(line.function, "fail");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(error.kind(), Kind::Tool);
        assert_eq!(crate::support::call_pid(&pool).await, before);
        rig.end().await;
    });
}

#[test]
fn an_unknown_tool_is_named_with_what_there_is() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let error = call(&pool, "ech", Args::none()).await.unwrap_err();
        assert_eq!(error.code(), "unknown_tool");
        assert!(error.hint().unwrap().contains("echo"), "{:?}", error.hint());
        rig.end().await;
    });
}

#[test]
fn bodies_of_every_size_come_back() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        for size in [0, 1, 1000, 32 << 10, (1 << 20) - 20, 1 << 20, (3 << 20) + 7] {
            let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let value = Value::Bytes(bytes.into());
            let back = call(&pool, "echo", Args::none().arg(value.clone())).await.unwrap();
            assert!(back == value, "{size} bytes came back as others");
        }
        rig.end().await;
    });
}
