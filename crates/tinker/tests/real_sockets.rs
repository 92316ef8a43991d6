//! The HTTP transport over real sockets: a service that comes up late, breaks connections, and
//! answers again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use snakehouse_base::{Coded, Secret};
use snakehouse_supervise::{Root, thread};
use snakehouse_tinker::{ClientConfig, ServiceClient};

/// Reads one request to its end: its first line and its headers in lower case.
fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        seen.push(byte[0]);
    }
    let head = String::from_utf8(seen).ok()?.to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(Some(0), |n| n.parse().ok())?;
    stream.read_exact(&mut vec![0; length]).ok()?;
    Some(head)
}

fn answer(stream: &mut TcpStream, body: &str) {
    let length = body.len();
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
}

/// Serves until a request has asked for the models; returns the heads of all requests.
fn serve(listener: &TcpListener) -> Vec<String> {
    let mut heads = Vec::new();
    // The first connection is closed before it gets an answer.
    drop(listener.accept().expect("a listener accepts"));
    loop {
        let (mut stream, _) = listener.accept().expect("a listener accepts");
        while let Some(head) = read_request(&mut stream) {
            let done = head.contains("/prefix/api/v1/get_server_capabilities");
            let body = match () {
                () if done => r#"{"supported_models":[{"model_name":"tiny"}]}"#,
                () if head.contains("create_session") => r#"{"session_id":"s"}"#,
                () => "{}",
            };
            answer(&mut stream, body);
            heads.push(head);
            if done {
                return heads;
            }
        }
    }
}

#[test]
fn a_service_that_is_not_up_yet_is_waited_for() {
    let heads = snakehouse_supervise::run(async {
        let root = Root::new("test");
        // A port that nobody listens on yet.
        let address: SocketAddr = {
            let probe = TcpListener::bind("127.0.0.1:0").unwrap();
            probe.local_addr().unwrap()
        };
        let config = ClientConfig::new(format!("http://{address}/prefix/"), Secret::new("tml-k"));
        let scope = root.scope().clone();
        let client = root.scope().task("client", async move {
            ServiceClient::connect(&scope, config).await.unwrap().models().await.unwrap()
        });
        // Whether the client is refused first or not, the first connection breaks.
        let (sender, receiver) = tokio::sync::oneshot::channel();
        thread(root.scope(), "service", move || {
            let listener = TcpListener::bind(address).unwrap();
            let _ = sender.send(serve(&listener));
        });
        let models = client.await.unwrap();
        assert_eq!(models[0].model_name.as_deref(), Some("tiny"));
        let heads = receiver.await.unwrap();
        root.stop().await;
        heads
    });
    assert!(heads.iter().all(|head| head.contains("x-api-key: tml-k")));
    assert!(heads[0].starts_with("post /prefix/api/v1/client/config"));
    assert!(
        heads[0].contains("x-idempotency-key: ") && heads[0].contains("x-stainless-retry-count: ")
    );
}

#[test]
fn tls_is_refused_before_anything_is_sent() {
    snakehouse_supervise::run(async {
        let root = Root::new("test");
        let config = ClientConfig::new("https://example.org", Secret::new("tml-k"));
        let error = ServiceClient::connect(root.scope(), config).await.unwrap_err();
        assert_eq!(error.code(), "tls_unsupported");
        assert!(error.hint().unwrap().contains("http://127.0.0.1:8400"));
        root.stop().await;
    });
}
