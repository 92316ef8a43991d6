//! The telemetry of a command's pool of tools, and that a command is quiet without being asked.

use std::io::Read as _;
use std::net::TcpListener;

use snakehouse_system_tests::run;

const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/tools/seen.py");

#[test]
fn a_run_that_is_not_asked_for_more_prints_its_result_and_nothing_else() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let ran = run(home.path(), &["--json", "pool", "call", "--tools", TOOLS, "train", "1"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!((ran.stdout.lines().count(), ran.stderr.as_str()), (1, ""), "{ran:?}");
}

#[test]
fn a_call_is_sent_to_the_collector_and_a_password_is_not_shown() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let url = format!("http://me:hunter2@{address}");
    let args = ["--json", "pool", "call", "--tools", TOOLS, "--otlp", &url, "train", "1"];
    let ran = run(home.path(), &args);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    // Nobody answered, and the command ended all the same; what it posted waits here.
    let (mut stream, _) = listener.accept().expect("the exporter connected");
    let mut request = Vec::new();
    stream.read_to_end(&mut request).expect("the request is readable");
    let request = String::from_utf8_lossy(&request);
    assert!(request.starts_with("POST /v1/traces HTTP/1.1"), "{request}");
    assert!(request.contains("authorization: Basic ") && request.contains("train"), "{request}");
    let show = ["--json", "config", "show"];
    std::fs::write(home.path().join("snakehouse.toml"), format!("otlp = {url:?}\n"))
        .expect("the file can be written");
    let ran = run(home.path(), &show);
    assert!(ran.stdout.contains("[redacted]@"), "{ran:?}");
    assert!(!format!("{ran:?}").contains("hunter2"), "{ran:?}");
    let bad =
        ["--json", "pool", "call", "--tools", TOOLS, "--otlp", "https://me:hunter2@h", "train"];
    let ran = run(home.path(), &bad);
    assert_eq!(ran.error_code(), "collector_not_http", "{ran:?}");
    assert!(!format!("{ran:?}").contains("hunter2"), "{ran:?}");
}
