//! The service on a real socket and a real core, whose engine never comes: everything that must
//! hold before, beside and after training.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use snakehouse_base::Coded as _;
use snakehouse_supervise::{Root, Scope};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{ServeError, Service, ServiceConfig};
use crate::core::{
    CoreConfig, EngineConnector, EngineError, EngineFuture, EngineSource, ModelSource,
};

/// Far more than any of this takes; a test that waits so long has failed.
const LONG: Duration = Duration::from_secs(20);

/// An engine that is starting for ever.
#[derive(Debug)]
struct NeverReady;

impl EngineSource for NeverReady {
    fn open(&self, _: &Scope) -> EngineFuture<'_, Box<dyn EngineConnector>> {
        Box::pin(async { Ok(Box::new(NeverReady) as Box<dyn EngineConnector>) })
    }
}

impl EngineConnector for NeverReady {
    fn connect(&mut self) -> EngineFuture<'_, Box<dyn crate::core::Engine>> {
        Box::pin(std::future::pending::<Result<_, EngineError>>())
    }
}

fn config(home: &tempfile::TempDir, addr: SocketAddr) -> ServiceConfig {
    let tiny = ModelSource { name: "tiny".to_owned(), dir: home.path().join("tiny") };
    let core = CoreConfig::new(home.path().join("state"), Arc::new(NeverReady), vec![tiny]);
    ServiceConfig::new(addr, core)
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Sends one request with these headers and reads the answer to its end.
async fn send(
    addr: SocketAddr,
    line: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, String, Value) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let mut head = format!("{line} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), serde_json::from_str(body).unwrap_or_default())
}

async fn post(addr: SocketAddr, path: &str, body: Value) -> (u16, Value) {
    let headers = [("host", "127.0.0.1"), ("x-api-key", "tml-test")];
    let line = format!("POST /api/v1/{path}");
    let (status, _, json) = send(addr, &line, &headers, body.to_string().as_bytes()).await;
    (status, json)
}

fn code(json: &Value) -> &str {
    json["error"]["code"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_refused_with_a_code_and_a_hint_before_it_costs_anything() {
    let home = tempfile::tempdir().unwrap();
    let root = Root::new("test");
    let service = Service::start(root.scope(), config(&home, anywhere())).await.unwrap();
    let addr = service.local_addr();
    const HOST: (&str, &str) = ("host", "localhost");
    const KEY: (&str, &str) = ("x-api-key", "tml-test");
    let large = vec![b' '; (1 << 20) + 1];
    for (line, headers, body, status, expected) in [
        (
            "POST /api/v1/create_session",
            &[("host", "evil.example"), KEY][..],
            &b"{}"[..],
            421,
            "foreign_host",
        ),
        (
            "POST /api/v1/create_session",
            &[HOST, KEY, ("origin", "https://evil.example")],
            b"{}",
            403,
            "foreign_origin",
        ),
        ("POST /api/v1/create_session", &[HOST], b"{}", 401, "bad_key"),
        ("POST /api/v1/create_session", &[HOST, KEY], b"{", 422, "malformed_body"),
        ("POST /api/v1/create_session", &[HOST, KEY], &large, 413, "body_too_large"),
        (
            "POST /api/v1/create_session",
            &[HOST, KEY, ("content-encoding", "zstd")],
            b"{}",
            415,
            "compressed_body",
        ),
        (
            "POST /api/v1/forward_backward",
            &[HOST, KEY, ("content-type", "application/json")],
            b"{}",
            415,
            "wrong_content_type",
        ),
        (
            "POST /api/v1/forward_backward",
            &[HOST, KEY, ("content-type", "application/x-protobuf")],
            b"\xff",
            422,
            "malformed_body",
        ),
        ("POST /api/v1/no_such_thing", &[HOST, KEY], b"{}", 404, "unknown_route"),
        ("GET /api/v1/create_session", &[HOST, KEY], b"", 404, "unknown_route"),
        ("POST /api/v1/snakehouse/tools/x", &[HOST, KEY], b"{}", 404, "no_tools"),
        ("GET /api/v1/healthz", &[HOST], b"", 503, "not_ready"),
    ] {
        let (got, head, json) = send(addr, line, headers, body).await;
        assert_eq!((got, code(&json)), (status, expected), "{line} {headers:?}: {json}");
        assert!(json["detail"].as_str().unwrap().starts_with(expected), "{json}");
        assert!(json["error"]["hint"].is_string() || expected == "body_lost", "{json}");
        assert!(head.to_ascii_lowercase().contains("content-type: application/json"), "{head}");
    }
    assert!(root.stop().await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_official_client_asks_first_is_answered_before_the_engine_serves() {
    let home = tempfile::tempdir().unwrap();
    let root = Root::new("test");
    let service = Service::start(root.scope(), config(&home, anywhere())).await.unwrap();
    let addr = service.local_addr();
    let (status, configuration) =
        post(addr, "client/config", json!({"sdk_version": "0.38.0"})).await;
    assert_eq!((status, &configuration["parallel_fwdbwd_chunks"]), (200, &json!(true)));
    let (status, _) = post(addr, "client/dynamic_config", json!({})).await;
    assert_eq!(status, 200);
    let (status, session) = post(addr, "create_session", json!({"tags": []})).await;
    let session = session["session_id"].as_str().unwrap();
    assert_eq!((status, session.is_empty()), (200, false));
    let heartbeat = json!({"session_id": session});
    assert_eq!(post(addr, "session_heartbeat", heartbeat.clone()).await, (200, json!({})));
    let telemetry = json!({"events": [{}], "platform": "Linux", "session_id": session});
    assert_eq!(post(addr, "telemetry", telemetry).await, (200, json!({"status": "accepted"})));
    let finish = json!({"reason": {"type": "success"}, "detail": null});
    assert_eq!(post(addr, &format!("sessions/{session}/finish"), finish).await.0, 200);
    // 410 ends the client's heartbeats quietly.
    let (status, gone) = post(addr, "session_heartbeat", heartbeat).await;
    assert_eq!((status, code(&gone)), (410, "session_finished"));
    let (status, unknown) = post(addr, "session_heartbeat", json!({"session_id": "x"})).await;
    assert_eq!((status, code(&unknown)), (404, "unknown_session"));
    let (status, unknown) = post(addr, "retrieve_future", json!({"request_id": "77"})).await;
    assert_eq!((status, code(&unknown)), (404, "unknown_request"));
    assert!(root.stop().await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_service_is_told_who_has_the_port() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = Root::new("test");
    let first = Service::start(root.scope(), config(&home, anywhere())).await.unwrap();
    let addr = first.local_addr();

    let elsewhere = Service::start(root.scope(), config(&other, addr)).await.unwrap_err();
    assert!(matches!(elsewhere, ServeError::PortInUse { .. }), "{elsewhere}");
    assert!(elsewhere.hint().unwrap().contains("--port"));
    // Same state, same port: that the state is held says more.
    let same = Service::start(root.scope(), config(&home, addr)).await.unwrap_err();
    let said = format!("{same} {}", same.hint().unwrap());
    assert!(matches!(same, ServeError::Core(_)), "{same}");
    assert!(said.contains(&addr.port().to_string()), "{said}");
    assert!(said.contains(&std::process::id().to_string()), "{said}");

    let open = SocketAddr::from(([0, 0, 0, 0], 0));
    let refused = Service::start(root.scope(), config(&other, open)).await.unwrap_err();
    assert_eq!(refused.code(), "not_loopback");
    assert!(root.stop().await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_held_polls_at_once_and_frees_the_port() {
    let home = tempfile::tempdir().unwrap();
    let root = Root::new("test");
    let service = Service::start(root.scope(), config(&home, anywhere())).await.unwrap();
    let addr = service.local_addr();
    let (_, session) = post(addr, "create_session", json!({})).await;
    let create =
        json!({"session_id": session["session_id"], "model_seq_id": 0, "base_model": "tiny"});
    let (status, promise) = post(addr, "create_model", create).await;
    assert_eq!(status, 200, "{promise}");
    // Nothing computes, so the poll is held until the stop.
    let poll = json!({"request_id": promise["request_id"], "allow_metadata_only": true});
    let polling =
        root.scope().task("poll", async move { post(addr, "retrieve_future", poll).await });
    let held = async {
        let headers = [("host", "127.0.0.1"), ("x-api-key", "tml-test")];
        let status = "GET /api/v1/snakehouse/status";
        while send(addr, status, &headers, b"").await.2["held_polls"] != 1 {}
    };
    timeout(LONG, held).await.unwrap();
    assert!(service.stop().await.is_clean());
    let (status, pending) = timeout(LONG, polling).await.unwrap().unwrap();
    assert_eq!((status, &pending["queue_state"]), (408, &json!("active")));
    drop(service);
    let again = Service::start(root.scope(), config(&home, addr)).await.unwrap();
    assert_eq!(again.local_addr(), addr);
    assert!(root.stop().await.is_clean());
}
