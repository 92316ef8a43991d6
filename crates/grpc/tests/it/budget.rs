//! What all requests of a front door may hold together.

use snakehouse_base::ByteSize;
use snakehouse_grpc::Channel;
use snakehouse_grpc::proto::pool_client::PoolClient;
use snakehouse_grpc::proto::{CallRequest, CallResponse, StreamRequest, stream_request};
use snakehouse_pool::Value;
use tokio::time::timeout;
use tonic::Code;

use crate::support::{
    BOUND, Rig, Trace, args, config, dial, msgpack, request, run, told, value, wait_until,
};

fn bytes(len: usize) -> Value {
    Value::Bytes(vec![7; len].into())
}

/// The server lets go of what it sent a moment after it has arrived.
async fn once_there_is_room(client: &mut PoolClient<Channel>, call: CallRequest) -> CallResponse {
    let calling = async {
        loop {
            match client.call(call.clone()).await {
                Ok(answer) => return answer.into_inner(),
                Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status}"),
            }
        }
    };
    timeout(BOUND, calling).await.expect("there is never room")
}

#[test]
fn requests_share_one_bound_over_all_connections() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool().await;
        let mut config = config();
        config.max_bytes = ByteSize::mib(2);
        let (server, _scope) = rig.serve(config, Some(&pool), None).await;
        let mut first = rig.client(&dial(server.local_addr())).await;
        let mut second = rig.client(&dial(server.local_addr())).await;
        let trace = Trace::new();
        let holding = vec![trace.path().into(), "began".into(), 600.into(), bytes(3 << 19)];
        {
            let mut held = Box::pin(first.call(request("append", args(holding))));
            tokio::select! {
                biased;
                _ = &mut held => panic!("it slept enough"),
                () = trace.wait_for("began") => {}
            }
            let large = || request("echo", args(vec![bytes(1 << 20)]));
            let status = second.call(large()).await.unwrap_err();
            let error = told(&status);
            assert_eq!(
                (status.code(), error.code.as_str(), error.without_effect),
                (Code::ResourceExhausted, "front_door_full", true)
            );
            assert!(error.message.contains("2.0 MiB") && !error.hint.is_empty(), "{error:?}");
            let open = stream_request::Message::Open(request("double", None));
            let item = stream_request::Message::Item(msgpack(bytes(1 << 20)).unwrap());
            let requests = [open, item].map(|message| StreamRequest { message: Some(message) });
            let requests = futures_util::stream::iter(requests);
            // With the opening, or after it: as the bytes happen to come.
            let status = match second.stream(requests).await {
                Ok(answers) => answers.into_inner().message().await.unwrap_err(),
                Err(status) => status,
            };
            assert_eq!(told(&status).code, "front_door_full");
        }
        // The first call was cancelled, and what it held is free; one that is longer than all bytes
        // together runs alone.
        wait_until(|| pool.stats().outcomes.dropped >= 1 && pool.stats().in_flight == 0).await;
        for (tool, argument) in [("echo", bytes(1 << 20)), ("zeros", Value::from(3 << 20))] {
            let expected = if tool == "echo" { 1 << 20 } else { 3 << 20 };
            let answer = once_there_is_room(&mut second, request(tool, args(vec![argument]))).await;
            let Value::Bytes(given) = value(answer.result) else { panic!("{tool}") };
            assert_eq!(given.len(), expected);
        }
        rig.end().await;
    });
}
