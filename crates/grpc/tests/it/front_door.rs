//! Calls through the front door.

use std::time::Duration;

use snakehouse_base::ByteSize;
use snakehouse_grpc::proto::value::Encoding;
use snakehouse_grpc::proto::{
    CallRequest, CloseSessionRequest, ListToolsRequest, OpenSessionRequest, StatsRequest,
};
use snakehouse_pool::{Args, CallOptions, SessionOptions, Value};
use tonic::{Code, Request};

use crate::support::{
    BOUND, Rig, Trace, args, config, dial, json, request, run, told, value, wait_until,
};

#[test]
fn values_come_back_exactly_and_json_is_for_people() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool().await;
        let (server, _scope) = rig.serve(config(), Some(&pool), None).await;
        let mut client = rig.client(&dial(server.local_addr())).await;
        let exact = Value::Tuple(vec![i128::MAX.into(), Value::Bytes(vec![0; 1 << 20].into())]);
        let call = request("echo", args(vec![exact.clone()]));
        assert_eq!(value(client.call(call).await.unwrap().into_inner().result), exact);

        for (arguments, expected) in [(r#"[[40], {"b": 2}]"#, "42"), (r#"{"a": 1}"#, "2")] {
            let answer = client.call(request("add", json(arguments))).await.unwrap().into_inner();
            assert_eq!(answer.result, json(expected), "{arguments}");
        }
        let pid = client.call(request("pid", None)).await.unwrap().into_inner();
        let worker = pool.workers()[0].pid.unwrap();
        assert_eq!(value(pid.result), Value::from(worker), "without arguments");
        rig.end().await;
    });
}

#[test]
fn each_failure_has_a_status_and_says_what_to_do() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool().await;
        let (server, _scope) = rig.serve(config(), Some(&pool), None).await;
        let mut client = rig.client(&dial(server.local_addr())).await;

        let status = client.call(request("fail", json(r#"{"message": "why"}"#))).await.unwrap_err();
        let error = told(&status);
        assert_eq!((status.code(), error.kind.as_str()), (Code::Unknown, "tool"));
        assert_eq!((error.code.as_str(), error.r#type.as_str()), ("tool_raised", "ValueError"));
        assert_eq!((error.message.as_str(), error.without_effect), ("why", false));
        let raised = error.traceback.last().unwrap();
        assert_eq!(raised.function, "fail");
        assert!(raised.file.ends_with("tools.py") && raised.source.contains("raise ValueError"));
        assert_eq!(error.cause.unwrap().r#type, "KeyError");

        let status = client.call(request("nothing", None)).await.unwrap_err();
        let error = told(&status);
        assert_eq!((status.code(), error.code.as_str()), (Code::NotFound, "unknown_tool"));
        assert!(error.without_effect && error.hint.contains("echo"), "{}", error.hint);

        let status = client.call(request("segfault", None)).await.unwrap_err();
        assert_eq!((status.code(), told(&status).code.as_str()), (Code::Aborted, "worker_died"));

        let status = client.call(request("add", json("{"))).await.unwrap_err();
        assert_eq!(
            (status.code(), told(&status).code.as_str()),
            (Code::InvalidArgument, "bad_json")
        );
        rig.end().await;
    });
}

#[test]
fn a_call_keeps_to_the_deadline_of_its_caller() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool().await;
        let (server, _scope) = rig.serve(config(), Some(&pool), None).await;
        let mut client = rig.client(&dial(server.local_addr())).await;
        let trace = Trace::new();
        let slow = args(vec![trace.path().into(), "began".into(), 600.into()]);
        let mut call = Request::new(request("append", slow));
        call.metadata_mut().insert("grpc-timeout", "200m".parse().unwrap());
        let status = client.call(call).await.unwrap_err();
        assert_eq!(
            (status.code(), told(&status).code.as_str()),
            (Code::DeadlineExceeded, "deadline")
        );
        // The worker is free again.
        client.call(request("pid", None)).await.unwrap();
        rig.end().await;
    });
}

#[test]
fn a_client_that_goes_away_takes_its_call_with_it() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool().await;
        let (server, _scope) = rig.serve(config(), Some(&pool), None).await;
        let mut client = rig.client(&dial(server.local_addr())).await;
        let trace = Trace::new();
        let slow =
            || request("append", args(vec![trace.path().into(), "began".into(), 600.into()]));
        tokio::select! {
            biased;
            _ = client.call(slow()) => panic!("it slept enough"),
            () = trace.wait_for("began") => {}
        }
        wait_until(|| pool.stats().outcomes.dropped == 1).await;
        client.call(request("pid", None)).await.unwrap();

        // The whole connection, while a call waits.
        let other = rig.scope().open("other");
        let (channel, _) =
            snakehouse_grpc::Channel::connect(&other, &dial(server.local_addr())).await.unwrap();
        let mut leaving = snakehouse_grpc::proto::pool_client::PoolClient::new(channel);
        let call = slow();
        let hold = other.task("call", async move { leaving.call(call).await.map(drop) });
        wait_until(|| pool.stats().in_flight == 1).await;
        hold.abort();
        other.stop().await;
        wait_until(|| pool.stats().outcomes.dropped == 2).await;
        rig.end().await;
    });
}

#[test]
fn tools_and_numbers_can_be_read() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool().await;
        let (server, _scope) = rig.serve(config(), Some(&pool), None).await;
        let mut client = rig.client(&dial(server.local_addr())).await;
        client.call(request("pid", None)).await.unwrap();
        let tools = client.list_tools(ListToolsRequest {}).await.unwrap().into_inner().tools;
        let add = tools.iter().find(|tool| tool.name == "add").unwrap();
        assert_eq!((add.kind.as_str(), add.doc.as_str()), ("function", "Adds two numbers."));
        assert!(add.parameters_schema.contains(r#""required":["a"]"#), "{}", add.parameters_schema);
        assert!(add.result_schema.contains("integer"));
        assert_eq!(tools.iter().find(|tool| tool.name == "count").unwrap().kind, "generator");
        let stats = client.stats(StatsRequest {}).await.unwrap().into_inner();
        assert_eq!((stats.pool.as_str(), stats.workers), ("tools", 1));
        assert_eq!((stats.outcomes["ok"], stats.outcomes["tool_failed"]), (1, 0));
        rig.end().await;
    });
}

#[test]
fn a_session_has_one_worker_and_is_lost_with_it_until_it_is_made_anew() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool().await;
        let (server, _scope) = rig.serve(config(), Some(&pool), None).await;
        let mut client = rig.client(&dial(server.local_addr())).await;
        let name = || "visitor".to_owned();
        let visit = |tool| CallRequest { session: name(), ..request(tool, None) };
        for expected in 1..=3 {
            let answer = client.call(visit("visit")).await.unwrap().into_inner();
            assert_eq!(value(answer.result), Value::from(expected));
        }
        client.call(visit("segfault")).await.unwrap_err();
        let status = client.call(visit("visit")).await.unwrap_err();
        assert_eq!(told(&status).code, "session_lost");
        let open = OpenSessionRequest { name: name(), recreate: true };
        client.open_session(open).await.unwrap();
        let answer = client.call(visit("visit")).await.unwrap().into_inner();
        assert_eq!(value(answer.result), Value::from(1), "without its state");
        let close = || CloseSessionRequest { name: name() };
        assert!(client.close_session(close()).await.unwrap().into_inner().existed);
        assert!(!client.close_session(close()).await.unwrap().into_inner().existed);
        let bad = OpenSessionRequest { name: "#".to_owned(), recreate: false };
        let status = client.open_session(bad).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        rig.end().await;
    });
}

#[test]
fn sessions_of_clients_are_apart_from_those_of_the_host_and_have_a_quota() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool().await;
        let mut config = config();
        config.sessions = Some(2);
        let (server, scope) = rig.serve(config, Some(&pool), None).await;
        let mut client = rig.client(&dial(server.local_addr())).await;
        let ours = pool.named_session("visitor", SessionOptions::default()).unwrap();
        let count =
            async || ours.call("remember", Args::none(), CallOptions::within(BOUND)).await.unwrap();
        assert_eq!(count().await, Value::from(1));
        let visit =
            |name: &str| CallRequest { session: name.to_owned(), ..request("remember", None) };
        let answer = client.call(visit("visitor")).await.unwrap().into_inner();
        assert_eq!(value(answer.result), Value::from(1), "the host's is another one");
        client.call(visit("second")).await.unwrap();
        let status = client.call(visit("third")).await.unwrap_err();
        assert_eq!(
            (status.code(), told(&status).code.as_str()),
            (Code::ResourceExhausted, "session_quota")
        );
        pool.named_session("third", SessionOptions::default()).expect("the host has room");
        let close = CloseSessionRequest { name: "visitor".to_owned() };
        assert!(client.close_session(close).await.unwrap().into_inner().existed);
        assert_eq!(count().await, Value::from(2), "it is not theirs to close");
        client.call(visit("third")).await.unwrap();
        // What clients left goes with the door.
        assert_eq!(pool.sessions().len(), 4);
        scope.stop().await;
        wait_until(|| pool.sessions().len() == 2).await;
        rig.end().await;
    });
}

#[test]
fn a_message_over_the_cap_is_refused() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool().await;
        let mut config = config();
        config.max_message = ByteSize::mib(1);
        let (server, _scope) = rig.serve(config, Some(&pool), None).await;
        let mut client = rig.client(&dial(server.local_addr())).await;
        let large = Value::Bytes(vec![0; 2 << 20].into());
        let status = client.call(request("echo", args(vec![large]))).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status}");
        client.call(request("pid", None)).await.unwrap();
        rig.end().await;
    });
}

#[test]
fn what_is_under_way_at_a_stop_is_finished() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool().await;
        let (server, scope) = rig.serve(config(), Some(&pool), None).await;
        let mut client = rig.client(&dial(server.local_addr())).await;
        let trace = Trace::new();
        let slow = args(vec![trace.path().into(), "began".into(), Value::Float(0.3)]);
        let call = client.call(request("append", slow));
        let stop = async {
            trace.wait_for("began").await;
            scope.stop().await
        };
        let (answer, report) = tokio::join!(call, stop);
        assert_eq!(value(answer.unwrap().into_inner().result), Value::from("began"));
        assert!(report.is_clean(), "{report:?}");
        let gone = client.call(request("pid", None));
        assert!(tokio::time::timeout(BOUND, gone).await.unwrap().is_err());
        rig.end().await;
    });
}

#[test]
fn many_calls_share_a_connection() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool().await;
        let (server, _scope) = rig.serve(config(), Some(&pool), None).await;
        let client = rig.client(&dial(server.local_addr())).await;
        let calls = (0..500).map(|number| {
            let mut client = client.clone();
            async move {
                let mut call = Request::new(request("echo", json(&format!("[[{number}], {{}}]"))));
                call.set_timeout(Duration::from_secs(25));
                assert_eq!(
                    client.call(call).await.unwrap().into_inner().result,
                    json(&number.to_string())
                );
            }
        });
        futures_util::future::join_all(calls).await;
        let answer = client.clone().call(request("echo", json("[[{}], {}]"))).await.unwrap();
        let Some(Encoding::Json(text)) = answer.into_inner().result.unwrap().encoding else {
            panic!()
        };
        assert_eq!(text, "{}");
        rig.end().await;
    });
}
