//! Workers that are programs: this test binary once more, as a worker written in Rust.

use std::time::Duration;

use bytes::Bytes;
use snakehouse_base::id::Incarnation;
use snakehouse_base::{Coded, Kind};
use snakehouse_pool::{CallError, CallOptions, Death, Pool, Where, WorkerSpec};
use snakehouse_wire::Failure;
use snakehouse_wire::worker::{CallContext, Handler, serve};

use crate::support::{Rig, run, soon, wait_until, workers};

#[derive(Default)]
struct Counter(u64);

impl Handler for Counter {
    fn tools(&self) -> Vec<String> {
        let names =
            ["echo", "count", "fail", "late", "gave_up", "panic", "abort", "until_cancelled"];
        names.map(str::to_owned).into()
    }

    fn call(&mut self, tool: &str, body: Bytes, context: &CallContext) -> Result<Bytes, Failure> {
        match tool {
            "echo" => Ok(body),
            "count" => {
                self.0 += 1;
                Ok(self.0.to_string().into())
            }
            "fail" => {
                Err(Failure::new(Kind::InvalidInput, "no_good", "not this").with_hint("that"))
            }
            "late" => Err(Failure::new(Kind::Deadline, "upstream_slow", "it did not answer")),
            "gave_up" => Err(Failure::new(Kind::Cancelled, "upstream_gave_up", "it stopped")),
            "panic" => panic!("a bug"),
            "until_cancelled" => {
                while !context.is_cancelled() {
                    std::hint::spin_loop();
                }
                Err(Failure::new(Kind::Cancelled, "cancelled", "as you wish"))
            }
            _ => std::process::abort(),
        }
    }
}

#[test]
#[ignore = "is started by the other tests here"]
fn a_worker() {
    if std::env::var_os(snakehouse_wire::FD_VARIABLE).is_some() {
        serve(&mut Counter::default()).unwrap();
    }
}

fn spec() -> WorkerSpec {
    let program = std::env::current_exe().unwrap();
    let args = ["--exact", "programs::a_worker", "--ignored", "--nocapture"];
    WorkerSpec::program("counter", program, args)
}

async fn call(pool: &Pool, tool: &str, body: &'static [u8]) -> Result<Bytes, CallError> {
    pool.call_bytes(tool, Bytes::from_static(body), soon()).await
}

#[test]
fn bytes_pass_through() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        assert_eq!(call(&pool, "echo", b"\x00\xff").await.unwrap(), &b"\x00\xff"[..]);
        let large: Bytes = (0..=255).cycle().take(5 << 20).collect::<Vec<u8>>().into();
        let back = pool.call_bytes("echo", large.clone(), soon()).await.unwrap();
        assert!(back == large, "5 MiB came back as others");
        rig.end().await;
    });
}

#[test]
fn a_failure_a_panic_and_an_abort_are_three_things() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        assert_eq!(call(&pool, "count", b"").await.unwrap(), "1");
        let error = call(&pool, "fail", b"").await.unwrap_err();
        assert_eq!((error.kind(), error.hint()), (Kind::InvalidInput, Some("that".to_owned())));
        match call(&pool, "panic", b"").await.unwrap_err() {
            CallError::Tool { failure, .. } => assert_eq!(failure.code, "panic"),
            other => panic!("{other:?}"),
        }
        assert_eq!(call(&pool, "count", b"").await.unwrap(), "2", "the worker lives");
        match call(&pool, "abort", b"").await.unwrap_err() {
            CallError::WorkerDied { incarnation, started: true, cause, .. } => {
                assert_eq!((incarnation, cause), (Incarnation(1), Death::Signalled { signal: 6 }));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(call(&pool, "count", b"").await.unwrap(), "1", "a new one");
        rig.end().await;
    });
}

#[test]
fn a_handler_s_own_deadline_is_not_the_call_s() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        for (tool, kind, code) in [
            ("late", Kind::Deadline, "upstream_slow"),
            ("gave_up", Kind::Cancelled, "upstream_gave_up"),
        ] {
            let error = call(&pool, tool, b"").await.unwrap_err();
            assert_eq!(error.kind(), kind);
            match error {
                CallError::Tool { failure, .. } => assert_eq!(failure.code, code),
                other => panic!("{other:?}"),
            }
        }
        rig.end().await;
    });
}

#[test]
fn a_cancel_reaches_the_handler() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec(), workers(1)).await;
        let briefly = CallOptions::within(Duration::from_millis(100));
        let error = pool.call_bytes("until_cancelled", Bytes::new(), briefly).await.unwrap_err();
        assert_eq!(error, CallError::Deadline { at: Where::Worker });
        wait_until(&pool, |pool| pool.workers()[0].in_flight == 0).await;
        assert_eq!(pool.workers()[0].restarts, 0);
        rig.end().await;
    });
}
