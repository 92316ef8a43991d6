//! `pool stream` prints items as they come, then the result; one JSON document a line.

use snakehouse_system_tests::{Ran, run};

const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/tools/words.py");

fn stream(args: &[&str]) -> Ran {
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut all = vec!["--json", "pool", "stream", "--tools", TOOLS];
    all.extend(args);
    run(home.path(), &all)
}

fn lines(ran: &Ran) -> Vec<serde_json::Value> {
    ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn items_come_before_the_result() {
    let ran = stream(&["countdown", "2"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let expected = [r#"{"item":2}"#, r#"{"item":1}"#, r#"{"value":"lift-off"}"#];
    assert_eq!(
        lines(&ran),
        expected.map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
    );
}

#[test]
fn items_are_sent_and_a_tool_that_ends_early_is_no_failure() {
    let ran = stream(&["total", "--send", "40", "--send", "2"]);
    assert_eq!(lines(&ran), [serde_json::json!({"value": 42})], "{ran:?}");
    let many = (0..200).flat_map(|_| ["--send", "0"]);
    let ran = stream(&["countdown", "1"].into_iter().chain(many).collect::<Vec<_>>());
    assert_eq!((ran.code, lines(&ran).len()), (Some(0), 2), "{ran:?}");
}

#[test]
fn a_stream_that_fails_says_so_after_its_items() {
    let ran = stream(&["total", "--send", "1", "--send", r#""x""#]);
    assert_eq!((ran.error_code().as_str(), ran.code), ("tool_raised", Some(7)), "{ran:?}");
    let ran = stream(&["nobody"]);
    assert_eq!((ran.error_code().as_str(), ran.code), ("unknown_tool", Some(3)), "{ran:?}");
}
