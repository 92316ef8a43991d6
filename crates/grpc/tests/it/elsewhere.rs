//! What the pool's side and its workers have in common is there for workers on another host as well.

use std::sync::Arc;

use snakehouse_pool::{
    Args, CallError, CallOptions, HostTool, PoolConfig, SessionOptions, SpanKind, Telemetry,
    TelemetryConfig, TraceContext, Value, WorkerSpec,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::{BOUND, Rig, Trace, agents, config, run};

fn soon() -> CallOptions {
    CallOptions::within(BOUND)
}

/// A worker there has credits and cancels of its own for what it does not read.
#[test]
fn a_cancel_overtakes_what_a_worker_there_does_not_read() {
    run(async {
        let rig = Rig::new().await;
        let (pool, workers) = rig.open_pool(1).await;
        let (server, _scope) = rig.serve(config(), None, Some(&workers)).await;
        let mut agent = rig.agent(agents(server.local_addr()));
        let pid = agent.next_pid().await;
        let trace = Trace::new();
        let args = Args::none().arg(trace.path()).arg("began").arg(600);
        let stream = pool.stream("append", args, soon()).await.unwrap();
        trace.wait_for("began").await;
        // More than is on its way anywhere: in sockets, in windows, at the agent.
        stream.send(Value::Bytes(vec![0; 48 << 20].into())).await.unwrap();
        drop(stream);
        let next = pool.call("pid", Args::none(), soon()).await.unwrap();
        assert_eq!(next, Value::from(pid), "the same worker: it was interrupted, not killed");
        rig.end().await;
    });
}

#[test]
fn a_tool_there_calls_tools_of_the_pool_s_host() {
    run(async {
        let rig = Rig::new().await;
        let echo = HostTool::raw("echo", |_, mut args: Args| async move {
            Ok(args.args.pop().unwrap_or(Value::None))
        });
        let adapt = |spec: WorkerSpec| spec.host_tool(echo);
        let (pool, workers) = rig.open_pool_of(PoolConfig::default(), adapt).await;
        let (server, _scope) = rig.serve(config(), None, Some(&workers)).await;
        let _agent = rig.agent(agents(server.local_addr()));
        for value in [Value::from(7), Value::Bytes(vec![1; 3 << 20].into())] {
            let asked = pool.call("ask", Args::none().arg(value.clone()), soon()).await.unwrap();
            assert_eq!(asked, value);
        }
        rig.end().await;
    });
}

#[test]
fn a_session_there_has_its_state_until_its_worker_dies() {
    run(async {
        let rig = Rig::new().await;
        let (pool, workers) = rig.open_pool(2).await;
        let (server, _scope) = rig.serve(config(), None, Some(&workers)).await;
        let _agents = [0, 1].map(|_| rig.agent(agents(server.local_addr())));
        let session = pool.named_session("s", SessionOptions::default()).unwrap();
        for expected in 1..=3 {
            let visits = session.call("remember", Args::none(), soon()).await.unwrap();
            assert_eq!(visits, Value::from(expected));
        }
        let other = pool.named_session("other", SessionOptions::default()).unwrap();
        assert_eq!(other.call("remember", Args::none(), soon()).await.unwrap(), Value::from(1));
        session.call("segfault", Args::none(), soon()).await.unwrap_err();
        let lost = session.call("remember", Args::none(), soon()).await.unwrap_err();
        assert!(matches!(lost, CallError::SessionLost { .. }), "{lost:?}");
        let next = session.recreate().unwrap();
        assert_eq!(next.call("remember", Args::none(), soon()).await.unwrap(), Value::from(1));
        rig.end().await;
    });
}

#[test]
fn a_trace_leads_to_a_worker_there_and_events_come_back() {
    run(async {
        let rig = Rig::new().await;
        let (sink, mut told) = mpsc::channel(100);
        let telemetry = Some(TelemetryConfig::new(Arc::new(sink)));
        let (pool, workers) =
            rig.open_pool_of(PoolConfig { telemetry, ..PoolConfig::default() }, |spec| spec).await;
        let (server, _scope) = rig.serve(config(), None, Some(&workers)).await;
        let _agent = rig.agent(agents(server.local_addr()));
        let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let root: TraceContext = header.parse().unwrap();
        pool.call("tell", Args::none().arg(3), soon().traced(root)).await.unwrap();
        let (mut call, mut tool, mut event) = (None, None, None);
        while call.is_none() || tool.is_none() || event.is_none() {
            match timeout(BOUND, told.recv()).await.unwrap().unwrap() {
                Telemetry::Span(span) if span.kind == SpanKind::Call => call = Some(span),
                Telemetry::Span(span) => tool = Some(span),
                Telemetry::Event(told) => event = Some(told),
                other => panic!("{other:?}"),
            }
        }
        let (call, tool) = (call.unwrap(), tool.unwrap());
        assert_eq!((call.parent, tool.parent), (root.span, call.context.span));
        assert_eq!(tool.context.trace, root.trace);
        assert_eq!(event.unwrap().name, "told");
        rig.end().await;
    });
}
