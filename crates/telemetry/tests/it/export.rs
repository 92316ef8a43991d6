//! One trace at a collector; collectors that are away, slow or refuse.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use snakehouse_base::Coded;
use snakehouse_pool::{Args, HostCall, HostTool, TraceContext};
use snakehouse_supervise::Root;
use snakehouse_telemetry::proto::{AnyValueKind, Span, SpanKind};
use snakehouse_telemetry::{Otlp, OtlpConfig};

use crate::collector::{Collector, attributes, spans_of};
use crate::support::{BOUND, Rig, run, soon, spec};

fn quickly(url: &str) -> OtlpConfig {
    OtlpConfig { gather: Duration::from_millis(50), ..OtlpConfig::new(url) }
}

fn by_name(spans: Vec<Span>) -> HashMap<(String, SpanKind), Span> {
    let key = |span: Span| ((span.name.clone(), SpanKind::try_from(span.kind).unwrap()), span);
    spans.into_iter().map(key).collect()
}

#[test]
fn a_collector_gets_one_trace_with_the_right_parents() {
    run(async {
        let root = Root::new("test");
        let mut collector = Collector::start(root.scope()).await;
        let otlp = Otlp::start(root.scope(), quickly(&collector.url)).unwrap();
        let rig = Rig::new(root).await;
        let pool = rig.pool(&otlp).await;
        let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context: TraceContext = header.parse().unwrap();
        let args = Args::none().arg(7);
        let places = pool.call("work", args, soon().traced(context)).await.unwrap();
        let (spans, records) = collector.take(4, 1).await;

        let spans = by_name(spans);
        let get = |name: &str, kind| &spans[&(name.to_owned(), kind)];
        let host = get("work", SpanKind::Client);
        let tool = get("work", SpanKind::Server);
        let (load, parse) = (get("load", SpanKind::Internal), get("parse", SpanKind::Internal));
        assert_eq!(host.parent_span_id, context.span.to_be_bytes().as_slice());
        assert_eq!(tool.parent_span_id, host.span_id);
        assert_eq!(load.parent_span_id, tool.span_id);
        assert_eq!(parse.parent_span_id, load.span_id);
        assert!(spans.values().all(|span| span.trace_id == context.trace.as_slice()));
        assert!(spans.values().all(|span| span.status.is_none() && span.flags == 1));
        assert!(spans.values().all(|span| span.start_time_unix_nano <= span.end_time_unix_nano));

        // What Python says of itself is what the collector has.
        let told = [tool, load, parse].map(|span| {
            let id = u64::from_be_bytes(span.span_id[..].try_into().unwrap());
            context.below(id).to_string()
        });
        let places: Vec<_> =
            places.as_slice().unwrap().iter().map(|place| place.as_str().unwrap()).collect();
        assert_eq!(places, told);

        let known = attributes(&load.attributes);
        assert_eq!(known["rows"], AnyValueKind::Int(7));
        assert_eq!(known["snakehouse.pool"], AnyValueKind::String("tools".to_owned()));
        assert!(
            known.contains_key("snakehouse.worker")
                && !attributes(&host.attributes).contains_key("rows")
        );
        let record = &records[0];
        assert_eq!((record.event_name.as_str(), &record.span_id), ("loaded", &load.span_id));
        assert_eq!(record.body.as_ref().unwrap().value, Some(AnyValueKind::Int(7)));
        assert_eq!(attributes(&record.attributes)["kind"], AnyValueKind::String("rows".to_owned()));
        rig.root.stop().await;
    });
}

#[test]
fn the_end_sends_what_waits() {
    run(async {
        // The collector outlives the tree that tells it.
        let outer = Root::new("collector");
        let mut collector = Collector::start(outer.scope()).await;
        let root = Root::new("test");
        let config = OtlpConfig { gather: 100 * BOUND, ..OtlpConfig::new(&collector.url) };
        let otlp = Otlp::start(root.scope(), config).unwrap();
        let rig = Rig::new(root).await;
        let pool = rig.pool(&otlp).await;
        pool.call("work", Args::none().arg(1), soon()).await.unwrap();
        let report = rig.root.stop().await;
        assert!(report.is_clean(), "{report:?}");
        let (spans, records) = collector.take(4, 1).await;
        assert_eq!((spans.len(), records.len()), (4, 1));
        assert_eq!(otlp.counts().sent, 5);
        outer.stop().await;
    });
}

#[test]
fn a_collector_that_is_not_well_costs_telemetry_and_nothing_else() {
    run(async {
        let outer = Root::new("collector");
        let mut collector = Collector::start(outer.scope()).await;
        let root = Root::new("test");
        let flush_within = Duration::from_millis(200);
        let config = OtlpConfig { flush_within, ..quickly(&collector.url) };
        let otlp = Otlp::start(root.scope(), config).unwrap();
        let rig = Rig::new(root).await;
        let pool = rig.pool(&otlp).await;
        let work = || async {
            pool.call("work", Args::none().arg(1), soon()).await.unwrap();
        };
        // Refused for good: dropped, and the next is tried.
        collector.status.store(400, Ordering::Relaxed);
        work().await;
        collector.take(4, 1).await;
        // Refused for now: repeated, the same bytes.
        collector.status.store(503, Ordering::Relaxed);
        work().await;
        let first = loop {
            let posted = collector.next().await;
            if posted.path == "/v1/traces" {
                break posted;
            }
        };
        collector.status.store(200, Ordering::Relaxed);
        let again = loop {
            let posted = collector.next().await;
            if posted.path == "/v1/traces" {
                break posted;
            }
        };
        assert!(spans_of(first.body).len() <= spans_of(again.body).len());
        // Away: the stop is not held up by it.
        collector.status.store(503, Ordering::Relaxed);
        work().await;
        let report = rig.root.stop().await;
        assert!(report.is_clean(), "{report:?}");
        let counts = otlp.counts();
        assert!(counts.dropped >= 5 && counts.failed_requests >= 3, "{counts:?}");
        outer.stop().await;
    });
}

#[test]
fn nobody_at_the_url_is_no_failure_of_anything() {
    run(async {
        let root = Root::new("test");
        // A port that nobody listens on.
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", free.local_addr().unwrap());
        drop(free);
        let config = OtlpConfig { flush_within: Duration::from_millis(100), ..quickly(&url) };
        let otlp = Otlp::start(root.scope(), config).unwrap();
        let rig = Rig::new(root).await;
        let pool = rig.pool(&otlp).await;
        pool.call("work", Args::none().arg(1), soon()).await.unwrap();
        let report = rig.root.stop().await;
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(otlp.counts().dropped, 5);
    });
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    run(async {
        let root = Root::new("test");
        for (url, code) in [
            ("127.0.0.1:4318", "bad_collector_url"),
            ("hunter2:token", "bad_collector_url"),
            ("https://me:hunter2@host", "collector_not_http"),
            ("grpc://me:hunter2@host:4317", "collector_not_http"),
            ("unix:/run/hunter2", "collector_not_http"),
            ("ftp://me:hunter2@host", "bad_collector_url"),
            ("http://me:hunter2@", "bad_collector_url"),
        ] {
            let error = Otlp::start(root.scope(), OtlpConfig::new(url)).unwrap_err();
            assert_eq!(error.code(), code, "{url}");
            assert!(error.hint().unwrap().contains("http://127.0.0.1:4318"));
            let scheme = url.split(':').next().unwrap();
            assert!(code != "collector_not_http" || error.to_string().ends_with(scheme), "{error}");
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
        let config = OtlpConfig { batch: 0, ..OtlpConfig::new("http://127.0.0.1:1") };
        let error = Otlp::start(root.scope(), config).unwrap_err();
        assert_eq!(error.code(), "bad_telemetry_config");
        root.stop().await;
    });
}

#[test]
fn one_trace_goes_through_python_a_host_tool_and_python_again() {
    run(async {
        let root = Root::new("test");
        let mut collector = Collector::start(root.scope()).await;
        let otlp = Otlp::start(root.scope(), quickly(&collector.url)).unwrap();
        let rig = Rig::new(root).await;
        let relay = HostTool::raw("relay", |call: HostCall, args: Args| async move {
            Ok(call.call("leaf", args, soon()).await?)
        });
        let pool = rig.pool_of(spec().host_tool(relay), &otlp).await;
        let context: TraceContext =
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().unwrap();
        let places = pool.call("outer", Args::none(), soon().traced(context)).await.unwrap();
        let (spans, _) = collector.take(6, 0).await;

        // Each is the parent of the next.
        let spans = by_name(spans);
        let chain = [
            ("outer", SpanKind::Client),
            ("outer", SpanKind::Server),
            ("asking", SpanKind::Internal),
            ("relay", SpanKind::Server),
            ("leaf", SpanKind::Client),
            ("leaf", SpanKind::Server),
        ];
        let mut parent = context.span.to_be_bytes().to_vec();
        for (name, kind) in chain {
            let span = &spans[&(name.to_owned(), kind)];
            assert_eq!(span.parent_span_id, parent, "{name} {kind:?}");
            assert_eq!(span.trace_id, context.trace.as_slice());
            parent = span.span_id.to_vec();
        }
        let id = |name: &str, kind| {
            let id = &spans[&(name.to_owned(), kind)].span_id;
            context.below(u64::from_be_bytes(id[..].try_into().unwrap())).to_string()
        };
        let told: Vec<_> = places.as_slice().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
        assert_eq!(told, [id("asking", SpanKind::Internal), id("leaf", SpanKind::Server)]);
        rig.root.stop().await;
    });
}
