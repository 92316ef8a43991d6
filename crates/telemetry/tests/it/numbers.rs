//! The page of numbers.

use std::net::SocketAddr;

use snakehouse_base::Coded;
use snakehouse_pool::Args;
use snakehouse_supervise::Root;
use snakehouse_telemetry::{Metrics, Otlp, OtlpConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Rig, run, soon};

async fn get(addr: SocketAddr) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("version=0.0.4"), "{head}");
    page.to_owned()
}

/// The value of a sample, by its name and labels as they stand there.
fn sample(page: &str, name: &str) -> f64 {
    let line = page.lines().find(|line| line.rsplit_once(' ').is_some_and(|(n, _)| n == name));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{page}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn the_page_has_the_numbers_of_a_pool() {
    run(async {
        let root = Root::new("test");
        let otlp = Otlp::start(root.scope(), OtlpConfig::new("http://127.0.0.1:1")).unwrap();
        let rig = Rig::new(root).await;
        let pool = rig.pool(&otlp).await;
        let addr = "127.0.0.1:0".parse().unwrap();
        let metrics =
            Metrics::start(rig.root.scope(), addr, vec![pool.clone()], Some(otlp)).await.unwrap();
        for _ in 0..3 {
            pool.call("work", Args::none().arg(1), soon()).await.unwrap();
        }
        pool.call("spill", Args::none().arg("no list"), soon()).await.unwrap_err();
        let page = get(metrics.local_addr()).await;
        let number = |name: &str| sample(&page, name);
        assert_eq!(number("snakehouse_pool_workers{pool=\"tools\"}"), 1.0);
        assert_eq!(number("snakehouse_pool_waiting{pool=\"tools\"}"), 0.0);
        assert_eq!(number("snakehouse_pool_calls_total{pool=\"tools\",outcome=\"ok\"}"), 3.0);
        let failed = "snakehouse_pool_calls_total{pool=\"tools\",outcome=\"tool_failed\"}";
        assert_eq!(number(failed), 1.0);
        assert_eq!(number("snakehouse_pool_events_total{pool=\"tools\",event=\"starts\"}"), 1.0);
        let duration = "snakehouse_pool_call_duration_seconds";
        assert_eq!(number(&format!("{duration}_count{{pool=\"tools\"}}")), 4.0);
        assert_eq!(number(&format!("{duration}_bucket{{pool=\"tools\",le=\"+Inf\"}}")), 4.0);
        assert!(number(&format!("{duration}_sum{{pool=\"tools\"}}")) > 0.0);
        let buckets: Vec<f64> = page
            .lines()
            .filter(|line| line.starts_with(&format!("{duration}_bucket")))
            .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
            .collect();
        assert!(buckets.len() > 10 && buckets.is_sorted(), "{buckets:?}");
        assert!(number("snakehouse_pool_telemetry_total{pool=\"tools\",what=\"spans\"}") >= 4.0);
        assert!(number("snakehouse_otlp_total{what=\"dropped\"}") >= 0.0);
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with("snakehouse_") && value.parse::<f64>().is_ok(), "{line}");
        }
        let taken = Metrics::start(rig.root.scope(), metrics.local_addr(), Vec::new(), None).await;
        assert_eq!(taken.unwrap_err().code(), "metrics_not_listening");
        let open = "0.0.0.0:0".parse().unwrap();
        let open = Metrics::start(rig.root.scope(), open, Vec::new(), None).await.unwrap_err();
        assert_eq!(open.code(), "metrics_not_loopback");
        let report = rig.root.stop().await;
        assert!(report.is_clean(), "{report:?}");
    });
}
