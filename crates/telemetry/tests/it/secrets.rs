//! A corpus of secrets, put wherever one could be: what leaves has none of them.

use std::time::Duration;

use snakehouse_base::Coded;
use snakehouse_pool::{Args, CallError, Value};
use snakehouse_supervise::Root;
use snakehouse_telemetry::{Otlp, OtlpConfig};

use crate::collector::Collector;
use crate::support::{Rig, run, soon, spec};

/// Whole values, and the part of each that must not be seen.
const CORPUS: [(&str, &str); 12] = [
    ("sk-live-0123456789abcdef", "0123456789abcdef"),
    ("tml-abcdef0123456789", "abcdef0123456789"),
    ("ghp_A1b2C3d4E5f6G7h8I9j0", "A1b2C3d4"),
    ("github_pat_11ABCDEFG0aaaaaaaa", "11ABCDEFG0"),
    ("hf_QwErTyUiOpAsDfGh", "QwErTyUi"),
    ("AKIAIOSFODNN7EXAMPLE", "IOSFODNN7"),
    ("xoxb-1234567890-abcdefghij", "1234567890-abc"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "hbGciOiJIUzI1NiJ9"),
    ("https://admin:hunter2-very@db.internal/x", "hunter2-very"),
    ("Authorization: Bearer opaque-0f9e8d7c", "opaque-0f9e8d7c"),
    ("password=correct-horse-battery", "correct-horse-battery"),
    ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI", "wJalrXUtnFEMI"),
];

fn assert_clean(what: &str, text: &str) {
    for (_, part) in CORPUS {
        assert!(!text.contains(part), "{what} shows {part}: {text}");
    }
}

#[test]
fn a_corpus_of_secrets_leaves_in_no_telemetry_and_no_debug_text() {
    run(async {
        let outer = Root::new("collector");
        let mut collector = Collector::start(outer.scope()).await;
        let root = Root::new("test");
        let secret_url = collector.url.replace("http://", "http://admin:hunter2-very@");
        let config =
            OtlpConfig { gather: Duration::from_millis(20), ..OtlpConfig::new(secret_url) };
        assert_clean("the exporter's configuration", &format!("{config:?}"));
        let otlp = Otlp::start(root.scope(), config).unwrap();
        assert_clean("the exporter", &format!("{otlp:?}"));

        let spec = CORPUS.iter().enumerate().fold(spec(), |spec, (number, (secret, _))| {
            spec.env(format!("SECRET_{number}"), *secret)
        });
        let spec = spec.env("SPILLED_KEY", CORPUS[0].0);
        assert_clean("a spec", &format!("{spec:?}"));
        let rig = Rig::new(root).await;
        let pool = rig.pool_of(spec, &otlp).await;
        assert_clean("a pool", &format!("{pool:?} {:?}", pool.workers()));

        let secrets: Vec<Value> = CORPUS.iter().map(|(secret, _)| (*secret).into()).collect();
        let args = Args::none().arg(Value::List(secrets.clone()));
        let error = pool.call("spill", args, soon()).await.unwrap_err();
        let CallError::Tool { failure, .. } = &error else { panic!("{error:?}") };
        // The caller, and nobody else, is told what its tool says.
        assert!(&*failure.type_name == "PermissionError" && failure.message.contains(CORPUS[0].1));
        // What is refused before it travels does not quote the arguments.
        let never = pool.call("nothing", Args::none().arg(Value::List(secrets)), soon()).await;
        let never = never.unwrap_err();
        assert_clean("a refused call", &format!("{never} {never:?} {:?}", never.hint()));
        let stats = pool.stats();
        assert_clean("the statistics", &format!("{stats:?}"));

        let report = rig.root.stop().await;
        assert!(report.is_clean(), "{report:?}");
        let posted = collector.rest();
        let mut bodies = 0;
        for posted in posted {
            assert!(posted.authorization.is_some_and(|header| header.starts_with("Basic ")));
            bodies += posted.body.len();
            assert_clean(&posted.path, &String::from_utf8_lossy(&posted.body));
        }
        assert!(bodies > 2000, "all of it was sent: {bodies} bytes");
        // Every span and event of the tool, the calls, and nothing lost on the way.
        assert_eq!(otlp.counts().sent, 2 * CORPUS.len() as u64 + 3);
        outer.stop().await;
    });
}
