//! Streams through the front door.

use futures_util::stream::{self, StreamExt};
use snakehouse_grpc::proto::{
    CallRequest, StreamRequest, Value as Told, stream_request, stream_response,
};
use snakehouse_pool::Value;
use snakehouse_supervise::CancellationToken;
use tonic::Code;

use crate::support::{
    Rig, Trace, args, config, dial, json, msgpack, request, run, told, value, wait_until,
};

fn open(call: CallRequest) -> StreamRequest {
    StreamRequest { message: Some(stream_request::Message::Open(call)) }
}

fn item(value: Option<Told>) -> StreamRequest {
    StreamRequest { message: value.map(stream_request::Message::Item) }
}

#[test]
fn items_come_in_order_and_the_result_is_the_last() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool().await;
        let (server, _scope) = rig.serve(config(), Some(&pool), None).await;
        let mut client = rig.client(&dial(server.local_addr())).await;
        let call = request("count", args(vec![1000.into()]));
        let mut answers = client.stream(stream::iter([open(call)])).await.unwrap().into_inner();
        for number in 0..1000 {
            let Some(stream_response::Message::Item(item)) =
                answers.message().await.unwrap().unwrap().message
            else {
                panic!("no item {number}")
            };
            assert_eq!(value(Some(item)), Value::from(number));
        }
        let Some(stream_response::Message::Result(result)) =
            answers.message().await.unwrap().unwrap().message
        else {
            panic!("no result")
        };
        assert_eq!(value(Some(result)), Value::from("counted"));
        assert!(answers.message().await.unwrap().is_none());
        rig.end().await;
    });
}

#[test]
fn items_travel_both_ways() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool().await;
        let (server, _scope) = rig.serve(config(), Some(&pool), None).await;
        let mut client = rig.client(&dial(server.local_addr())).await;
        let call = request("double", None);
        let items = (1..=200).map(|number| item(msgpack(number)));
        let requests = stream::iter([open(call)].into_iter().chain(items));
        let mut answers = client.stream(requests).await.unwrap().into_inner();
        let mut items = 0;
        let result = loop {
            match answers.message().await.unwrap().unwrap().message.unwrap() {
                stream_response::Message::Item(told) => {
                    items += 1;
                    assert_eq!(value(Some(told)), Value::from(2 * items));
                }
                stream_response::Message::Result(told) => break value(Some(told)),
            }
        };
        assert_eq!((items, result), (200, Value::from(20_100)));
        rig.end().await;
    });
}

#[test]
fn what_is_wrong_with_a_stream_is_told() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool().await;
        let (server, _scope) = rig.serve(config(), Some(&pool), None).await;
        let mut client = rig.client(&dial(server.local_addr())).await;
        let status = client.stream(stream::iter([item(json("1"))])).await.unwrap_err();
        assert_eq!(
            (status.code(), told(&status).code.as_str()),
            (Code::InvalidArgument, "stream_out_of_place")
        );

        let again = CallRequest { idempotent: true, ..request("double", None) };
        let status = client.stream(stream::iter([open(again)])).await.unwrap_err();
        assert_eq!(
            (status.code(), told(&status).code.as_str()),
            (Code::InvalidArgument, "stream_not_repeatable")
        );

        let requests = [open(request("double", json("{}"))), item(json("{"))];
        let mut answers = client.stream(stream::iter(requests)).await.unwrap().into_inner();
        let status = answers.message().await.unwrap_err();
        assert_eq!(
            (status.code(), told(&status).code.as_str()),
            (Code::InvalidArgument, "bad_json")
        );

        let call = request("fail", args(vec!["why".into()]));
        let mut answers = client.stream(stream::iter([open(call)])).await.unwrap().into_inner();
        let status = answers.message().await.unwrap_err();
        assert_eq!((status.code(), told(&status).r#type.as_str()), (Code::Unknown, "ValueError"));
        rig.end().await;
    });
}

#[test]
fn a_stream_that_is_dropped_is_cancelled() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool().await;
        let (server, _scope) = rig.serve(config(), Some(&pool), None).await;
        let mut client = rig.client(&dial(server.local_addr())).await;
        let trace = Trace::new();
        let call = request("stuck", args(vec![trace.path().into()]));
        // The client has more to say, and never says it.
        let gone = CancellationToken::new();
        let requests = stream::iter([open(call)]).chain(stream::pending());
        let requests = requests.take_until(gone.clone().cancelled_owned());
        let mut answers = client.stream(requests).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap();
        drop(answers);
        gone.cancel();
        trace.wait_for("closed").await;
        wait_until(|| pool.stats().outcomes.dropped == 1).await;
        client.call(request("pid", None)).await.unwrap();
        rig.end().await;
    });
}
