//! Telemetry of real workers: one trace from the host into Python and back, bounded and filtered.

use std::collections::HashMap;
use std::sync::Arc;

use snakehouse_base::Coded;
use snakehouse_pool::{
    Args, Event, Pool, PoolConfig, Scalar, Span, SpanKind, Telemetry, TelemetryConfig,
    TelemetryFilter, TraceContext,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::{BOUND, Rig, call, run, soon, wait_until, workers};

struct Told(mpsc::Receiver<Telemetry>);

impl Told {
    async fn next(&mut self) -> Telemetry {
        timeout(BOUND, self.0.recv()).await.unwrap().unwrap()
    }

    /// The spans and events of one call: so many pieces.
    async fn take(&mut self, pieces: usize) -> (HashMap<String, Span>, Vec<Event>) {
        let (mut spans, mut events) = (HashMap::new(), Vec::new());
        for _ in 0..pieces {
            match self.next().await {
                Telemetry::Span(span) => {
                    let kind = span.kind;
                    assert!(spans.insert(format!("{kind:?} {}", span.name), span).is_none());
                }
                Telemetry::Event(event) => events.push(event),
                other => panic!("{other:?}"),
            }
        }
        (spans, events)
    }
}

fn telling(room: usize, filter: TelemetryFilter) -> (PoolConfig, Told) {
    let (sink, told) = mpsc::channel(room);
    let telemetry = Some(TelemetryConfig { filter, ..TelemetryConfig::new(Arc::new(sink)) });
    (PoolConfig { telemetry, ..workers(1) }, Told(told))
}

async fn places(pool: &Pool, context: TraceContext) -> Vec<TraceContext> {
    let args = Args::none().arg(7);
    let places = pool.call("work", args, soon().traced(context)).await.unwrap();
    places
        .as_slice()
        .unwrap()
        .iter()
        .map(|place| place.as_str().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn one_trace_leads_from_the_host_into_python() {
    run(async {
        let rig = Rig::new().await;
        let (config, mut told) = telling(100, TelemetryFilter::default());
        let pool = rig.pool(config).await;
        let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let root: TraceContext = header.parse().unwrap();
        let places = places(&pool, root).await;
        let (spans, events) = told.take(5).await;
        let [host, tool, load, parse] =
            ["Call work", "Tool work", "Inner load", "Inner parse"].map(|name| &spans[name]);
        assert_eq!(host.parent, root.span);
        assert_eq!(tool.parent, host.context.span);
        assert_eq!(load.parent, tool.context.span);
        assert_eq!(parse.parent, load.context.span);
        assert!(
            spans.values().all(|span| span.context.trace == root.trace && span.error.is_none())
        );
        assert_eq!(places, [tool.context, load.context, parse.context]);
        assert!(host.worker.is_none() && tool.worker.is_some());
        assert!(host.start <= tool.start && tool.end <= host.end, "{host:?} {tool:?}");
        let text = |text: &str| Scalar::Text(text.to_owned());
        let url = text("https://[redacted]@host/x");
        assert_eq!(load.attributes, [("rows".into(), Scalar::Int(7)), ("url".into(), url)]);
        let [event] = &events[..] else { panic!("{events:?}") };
        assert_eq!((event.name.as_str(), event.context), ("loaded", Some(load.context)));
        assert_eq!(event.values, [Scalar::Int(7), Scalar::Float(0.5)]);
        assert_eq!(event.attributes, [("api_key".into(), text("[redacted]"))]);

        // It is counted once the sink has it.
        wait_until(&pool, |pool| pool.stats().telemetry.spans == 4).await;
        let counts = pool.stats().telemetry;
        assert_eq!((counts.spans, counts.events, counts.dropped, counts.malformed), (4, 1, 0, 0));
        rig.end().await;
    });
}

#[test]
fn a_call_of_no_trace_begins_one_and_one_that_is_not_sampled_has_no_spans() {
    run(async {
        let rig = Rig::new().await;
        let (config, mut told) = telling(100, TelemetryFilter::default());
        let pool = rig.pool(config).await;
        let begun = places(&pool, TraceContext::NONE).await;
        let (spans, _) = told.take(5).await;
        assert_eq!(spans["Call work"].parent, 0);
        assert!(begun.iter().all(|place| place.trace == spans["Call work"].context.trace));
        let again = places(&pool, TraceContext::NONE).await;
        assert_ne!(again[0].trace, begun[0].trace);
        told.take(5).await;

        let quiet = TraceContext { sampled: false, ..begun[0] };
        assert_eq!(places(&pool, quiet).await, [quiet; 3]);
        let Telemetry::Event(event) = told.next().await else { panic!("a span was told") };
        assert_eq!(event.name, "loaded");

        let rare = TelemetryFilter { traces: 0.0, events: 0.0, ..TelemetryFilter::default() };
        pool.set_telemetry(rare).unwrap();
        let told_where = call(&pool, "where", Args::none()).await.unwrap();
        assert_eq!(told_where.as_str(), Some("None"));
        rig.end().await;
        assert!(told.0.try_recv().is_err(), "nothing more was told");
    });
}

#[test]
fn streams_failures_and_calls_that_are_given_up_are_told() {
    run(async {
        let rig = Rig::new().await;
        let (config, mut told) = telling(100, TelemetryFilter::default());
        let pool = rig.pool(config).await;
        let stream = pool.stream("work_stream", Args::none().arg(3), soon()).await.unwrap();
        stream.result().await.unwrap();
        drop(stream);
        let (spans, _) = told.take(2).await;
        assert_eq!(spans["Tool work_stream"].parent, spans["Stream work_stream"].context.span);

        let secret = "sk-live-0123456789";
        let error = call(&pool, "fail_in_a_span", Args::none().arg(secret)).await.unwrap_err();
        assert_eq!(error.code(), "tool_failed");
        let (spans, _) = told.take(3).await;
        let error = |name: &str| spans[name].error.as_deref();
        assert_eq!(error("Call fail_in_a_span"), Some("tool_raised"));
        assert_eq!(error("Tool fail_in_a_span"), Some("PermissionError"));
        assert_eq!(error("Inner inner"), Some("PermissionError"));
        assert!(!format!("{spans:?}").contains("sk-live"));

        tokio::select! {
            biased;
            _ = call(&pool, "sleep", Args::none().arg(600)) => panic!("it ended"),
            () = wait_until(&pool, |pool| pool.stats().in_flight == 1) => {}
        }
        let Telemetry::Span(span) = told.next().await else { panic!("no span") };
        assert_eq!((span.kind, span.error.as_deref()), (SpanKind::Call, Some("dropped")));
        rig.end().await;
    });
}

#[test]
fn a_filter_reaches_workers_that_serve() {
    run(async {
        let rig = Rig::new().await;
        let (config, mut told) = telling(100, TelemetryFilter::off());
        let pool = rig.pool(config).await;
        assert!(places_or_none(&pool).await.iter().all(|place| place == "None"));

        let allow = vec!["wor?".to_owned(), "pa*".to_owned()];
        pool.set_telemetry(TelemetryFilter { allow, ..TelemetryFilter::default() }).unwrap();
        // It is on its way before the call is.
        let places = places(&pool, TraceContext::NONE).await;
        let (spans, events) = told.take(3).await;
        assert_eq!(spans["Inner parse"].parent, spans["Tool work"].context.span);
        assert_eq!(places[1], spans["Tool work"].context, "nothing was made for load");
        assert!(events.is_empty());

        let wrong = TelemetryFilter { traces: 2.0, ..TelemetryFilter::default() };
        assert_eq!(pool.set_telemetry(wrong).unwrap_err().code(), "bad_pool_config");
        pool.set_telemetry(TelemetryFilter::off()).unwrap();
        assert!(places_or_none(&pool).await.iter().all(|place| place == "None"));
        wait_until(&pool, |pool| pool.stats().telemetry.spans == 3).await;
        rig.end().await;
    });
}

async fn places_or_none(pool: &Pool) -> Vec<String> {
    let places = call(pool, "work", Args::none().arg(1)).await.unwrap();
    let text = |place: &snakehouse_pool::Value| place.as_str().unwrap().to_owned();
    places.as_slice().unwrap().iter().map(text).collect()
}

#[test]
fn what_the_sink_has_no_room_for_is_dropped_and_counted() {
    run(async {
        let rig = Rig::new().await;
        let (config, mut told) = telling(1, TelemetryFilter::default());
        let pool = rig.pool(config).await;
        places(&pool, TraceContext::NONE).await;
        wait_until(&pool, |pool| {
            let counts = pool.stats().telemetry;
            counts.spans + counts.events + counts.dropped == 5
        })
        .await;
        assert_eq!(pool.stats().telemetry.dropped, 4);
        told.next().await;
        rig.end().await;
    });
}
