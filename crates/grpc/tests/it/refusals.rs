//! Who and what is not let in, each by name.

use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use snakehouse_base::{Coded, Kind, Secret};
use snakehouse_grpc::proto::pool_client::PoolClient;
use snakehouse_grpc::proto::{Attach, FromWorker, from_worker};
use snakehouse_grpc::{Channel, Dial, GrpcError, Server, Services};
use snakehouse_pool::{Args, Attachments, Bytes, CallOptions, WorkerSpec};
use snakehouse_wire::{MAX_FRAMES, MAX_PAYLOAD, PROTOCOL_VERSION};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::support::{
    BOUND, Rig, TOKEN, agents, config, dial, request, run, spec, told, wait_until,
};

fn attach(protocol: u32) -> FromWorker {
    let attach = Attach { protocol, host: "raw".to_owned() };
    FromWorker { message: Some(from_worker::Message::Attach(attach)) }
}

fn frames(bytes: impl Into<Bytes>) -> FromWorker {
    FromWorker { message: Some(from_worker::Message::Frames(bytes.into())) }
}

#[test]
fn a_wrong_token_is_refused_at_both_doors() {
    run(async {
        let rig = Rig::new().await;
        let (pool, workers) = rig.open_pool(1).await;
        let (server, _scope) = rig.serve(config(), Some(&pool), Some(&workers)).await;
        for (token, code) in [(None, "no_token"), (Some("another-token-of-tests"), "wrong_token")] {
            let dial = Dial { token: token.map(Secret::new), ..dial(server.local_addr()) };
            let status = rig.client(&dial).await.call(request("pid", None)).await.unwrap_err();
            assert_eq!((status.code(), told(&status).code.as_str()), (Code::Unauthenticated, code));
            let error = rig.agent(dial).gave_up().await;
            assert_eq!(error.code(), "attach_refused");
            let GrpcError::AttachRefused { reason, .. } = &error else { panic!("{error:?}") };
            assert_eq!(reason, code);
            assert!(error.hint().is_some_and(|hint| hint.contains("token")));
            assert!(!format!("{error} {error:?} {status:?}").contains(TOKEN));
        }
        assert_eq!(workers.attached(), 0);
        rig.end().await;
    });
}

#[test]
fn the_token_of_one_door_does_not_open_the_other() {
    run(async {
        let rig = Rig::new().await;
        let (pool, workers) = rig.open_pool(1).await;
        let (server, _scope) = rig.serve(config(), Some(&pool), Some(&workers)).await;
        let (clients, agents) = (dial(server.local_addr()), agents(server.local_addr()));
        let status = rig.client(&agents).await.call(request("pid", None)).await.unwrap_err();
        assert_eq!(told(&status).code, "wrong_token");
        let error = rig.agent(clients.clone()).gave_up().await;
        let GrpcError::AttachRefused { reason, .. } = &error else { panic!("{error:?}") };
        assert_eq!(reason, "wrong_token");
        let _agent = rig.agent(agents);
        rig.client(&clients).await.call(request("pid", None)).await.unwrap();
        rig.end().await;
    });
}

#[test]
fn another_version_of_the_frames_is_refused() {
    run(async {
        let rig = Rig::new().await;
        let (_pool, workers) = rig.open_pool(1).await;
        let (server, _scope) = rig.serve(config(), None, Some(&workers)).await;
        let mut client = rig.worker_client(&agents(server.local_addr())).await;
        let status = client.attach(stream::iter([attach(PROTOCOL_VERSION + 1)])).await.unwrap_err();
        let error = told(&status);
        assert_eq!(
            (status.code(), error.code.as_str()),
            (Code::FailedPrecondition, "protocol_mismatch")
        );
        assert!(error.message.contains(&format!("speaks protocol {}", PROTOCOL_VERSION + 1)));
        assert!(!error.hint.is_empty());
        let status = client.attach(stream::iter([frames(Bytes::new())])).await.unwrap_err();
        assert_eq!(
            (status.code(), told(&status).code.as_str()),
            (Code::InvalidArgument, "attach_out_of_place")
        );
        rig.end().await;
    });
}

/// Attaches, says this, and waits for the end; the pool's causes of death then.
async fn say(rig: &Rig, message: FromWorker) -> (Option<Status>, Vec<String>) {
    let (pool, workers) = rig.open_pool(1).await;
    let (server, _scope) = rig.serve(config(), None, Some(&workers)).await;
    let mut client = rig.worker_client(&agents(server.local_addr())).await;
    // Not before the pool has a place for it: until then nobody minds what becomes of it.
    let waits = pool.clone();
    let later = stream::once(async move {
        wait_until(|| waits.workers().iter().any(|worker| worker.birth.is_some())).await;
        message
    });
    let first = stream::iter([attach(PROTOCOL_VERSION)]);
    let requests = first.chain(later).chain(stream::pending());
    let mut answers = client.attach(requests).await.unwrap().into_inner();
    answers.message().await.unwrap().expect("it is let in");
    let status = loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => break None,
            Err(status) => break Some(status),
        }
    };
    wait_until(|| !pool.stats().deaths.is_empty()).await;
    assert_eq!(workers.attached(), 0);
    let deaths = pool.stats().deaths.keys().map(|cause| (*cause).to_owned()).collect();
    pool.stop().await;
    (status, deaths)
}

#[test]
fn what_are_no_whole_frames_ends_the_worker() {
    run(async {
        let rig = Rig::new().await;
        let over = u32::try_from(MAX_PAYLOAD + 1).unwrap().to_le_bytes();
        let oversize = [&over[..], &[1, 0, 0, 0, 0]].concat();
        let cut = vec![9, 0, 0, 0, 1, 0, 0, 0, 0, 1];
        let unknown = vec![0, 0, 0, 0, 99, 1, 0, 0, 0];
        for bytes in [oversize, cut, unknown] {
            let (_, deaths) = say(&rig, frames(bytes)).await;
            assert_eq!(deaths, ["broke_protocol"]);
        }
        let (_, deaths) = say(&rig, attach(PROTOCOL_VERSION)).await;
        assert_eq!(deaths, ["broke_protocol"], "let in twice");
        let taken = FromWorker { message: Some(from_worker::Message::Taken(9)) };
        let (_, deaths) = say(&rig, taken).await;
        assert_eq!(deaths, ["broke_protocol"], "more than was sent");
        rig.end().await;
    });
}

#[test]
fn a_message_over_the_cap_is_the_end_of_its_worker() {
    run(async {
        let rig = Rig::new().await;
        let (_, deaths) = say(&rig, frames(vec![0; MAX_FRAMES + 4096])).await;
        assert_eq!(deaths, ["link_lost"]);
        rig.end().await;
    });
}

#[test]
fn no_more_workers_are_let_in_than_the_pool_takes() {
    run(async {
        let rig = Rig::new().await;
        let (pool, workers) = rig.open_pool(1).await;
        let (server, _scope) = rig.serve(config(), None, Some(&workers)).await;
        let mut first = rig.agent(agents(server.local_addr()));
        first.next_pid().await;
        let mut client = rig.worker_client(&agents(server.local_addr())).await;
        let status = client.attach(stream::iter([attach(PROTOCOL_VERSION)])).await.unwrap_err();
        let error = told(&status);
        assert_eq!(
            (status.code(), error.code.as_str()),
            (Code::ResourceExhausted, "too_many_attached")
        );
        // An agent waits for its turn.
        let mut second = rig.agent(agents(server.local_addr()));
        first.scope.stop().await;
        let pid = second.next_pid().await;
        let found = pool.call("pid", Args::none(), CallOptions::within(BOUND)).await.unwrap();
        assert_eq!(found.as_i64(), Some(pid.into()));
        rig.end().await;
    });
}

#[test]
fn one_that_goes_before_it_has_a_place_leaves_none_taken() {
    run(async {
        let rig = Rig::new().await;
        let workers = Attachments::new(1);
        let (server, _scope) = rig.serve(config(), None, Some(&workers)).await;
        let mut agent = rig.agent(agents(server.local_addr()));
        agent.next_pid().await;
        assert_eq!(workers.attached(), 1);
        agent.scope.stop().await;
        wait_until(|| workers.attached() == 0).await;
        rig.end().await;
    });
}

#[test]
fn what_is_not_served_and_what_cannot_be_reached_is_said() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool().await;
        let (server, scope) = rig.serve(config(), Some(&pool), None).await;
        let mut client = rig.worker_client(&agents(server.local_addr())).await;
        let status = client.attach(stream::iter([attach(1)])).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);

        let mut taken = config();
        taken.listen = server.local_addr();
        let error = Server::start(rig.scope(), taken, Services::default()).await.unwrap_err();
        assert_eq!(error.code(), "not_bound");
        scope.stop().await;
        let dial = dial(server.local_addr());
        let error = Channel::connect(rig.scope(), &dial).await.unwrap_err();
        assert_eq!(error.code(), "not_reached");
        rig.end().await;
    });
}

#[test]
fn one_that_is_to_end_and_goes_on_talking_is_let_go() {
    run(async {
        let rig = Rig::new().await;
        let workers = Attachments::new(1);
        let (server, _scope) = rig.serve(config(), None, Some(&workers)).await;
        let mut client = rig.worker_client(&agents(server.local_addr())).await;
        let talk = stream::unfold((), |()| async {
            // audit(sleep): it is a peer that says something now and then, as long as it may.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let pong = vec![0, 0, 0, 0, 9, 0, 0, 0, 0];
            Some((frames(pong), ()))
        });
        let requests = stream::iter([attach(PROTOCOL_VERSION)]).chain(talk);
        let _answers = client.attach(requests).await.unwrap().into_inner();
        // The drop of a worker is its end.
        drop(workers.take().await);
        wait_until(|| workers.attached() == 0).await;
        rig.end().await;
    });
}

#[test]
fn who_makes_no_request_that_is_let_in_keeps_no_place() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool().await;
        let mut config = config();
        (config.connections, config.first_within) = (2, Duration::from_secs(2));
        let (server, _scope) = rig.serve(config, Some(&pool), None).await;
        let known = dial(server.local_addr());
        let mut client = rig.client(&known).await;
        client.call(request("pid", None)).await.unwrap();
        let mut silent = TcpStream::connect(server.local_addr()).await.unwrap();
        // There is a place for one who only speaks HTTP/2, then for the next one.
        let stranger = Dial { token: None, ..known.clone() };
        let (channel, connection) = Channel::connect(rig.scope(), &stranger).await.unwrap();
        let mut stranger = PoolClient::new(channel);
        let status = stranger.call(request("pid", None)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        rig.client(&known).await.call(request("pid", None)).await.unwrap();
        timeout(BOUND, silent.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
        timeout(BOUND, connection).await.unwrap().unwrap();
        client.call(request("pid", None)).await.expect("it was let in once");
        rig.end().await;
    });
}

#[test]
fn a_worker_that_cannot_be_started_is_told_to_both_sides() {
    run(async {
        let rig = Rig::new().await;
        let broken = [
            (WorkerSpec::program("none", "/nowhere/program", [""; 0]), "/nowhere/program"),
            (spec().module("no_such_module"), "no_such_module"),
        ];
        for (worker, expected) in broken {
            let (pool, workers) = rig.open_pool(1).await;
            let (server, scope) = rig.serve(config(), None, Some(&workers)).await;
            let waiting = pool.call("pid", Args::none(), CallOptions::within(BOUND));
            let agent = rig.agent_of(agents(server.local_addr()), worker).gave_up();
            let (called, error) = tokio::join!(waiting, agent);
            assert_eq!((error.code(), error.kind()), ("worker_not_ready", Kind::Environment));
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.hint().is_some());
            let called = called.unwrap_err();
            assert_eq!(called.code(), "no_worker");
            assert!(called.to_string().contains(expected), "{called}");
            pool.stop().await;
            scope.stop().await;
        }
        rig.end().await;
    });
}
