//! Workers of another host: 127.0.0.1, where the pool is at 127.0.0.2.

use futures_util::stream;
use snakehouse_grpc::proto::{StreamRequest, stream_request};
use snakehouse_pool::{Args, Birth, CallError, CallOptions, Death, Value};
use tonic::Code;

use crate::support::{
    BOUND, Rig, Trace, agents, args, config, dial, is_alive, request, run, told, wait_until,
};

fn soon() -> CallOptions {
    CallOptions::within(BOUND)
}

#[test]
fn a_worker_on_another_host_serves_like_one_beside_the_pool() {
    run(async {
        let rig = Rig::new().await;
        let (pool, workers) = rig.open_pool(1).await;
        let (server, _scope) = rig.serve(config(), Some(&pool), Some(&workers)).await;
        let mut agent = rig.agent(agents(server.local_addr()));
        let pid = agent.next_pid().await;
        let found = pool.call("pid", Args::none(), soon()).await.unwrap();
        assert_eq!(found, Value::from(pid));
        let Some(Birth::Attached { peer }) = pool.workers()[0].birth.clone() else { panic!() };
        assert!(peer.starts_with("there (127.0.0.1:"), "{peer}");

        let large = Value::Tuple(vec![Value::Bytes(vec![9; 5 << 20].into()), i128::MIN.into()]);
        let back = pool.call("echo", Args::none().arg(large.clone()), soon()).await.unwrap();
        assert_eq!(back, large);
        let failed = pool.call("fail", Args::none().arg("why"), soon()).await.unwrap_err();
        assert!(matches!(&failed, CallError::Tool { failure, .. } if failure.message == "why"));

        let stream = pool.stream("double", Args::none(), CallOptions::stream()).await.unwrap();
        let sending = async {
            for number in 0..300 {
                stream.send(number).await.unwrap();
            }
            stream.finish_sending();
        };
        let taking = async {
            for number in 0..300 {
                assert_eq!(stream.next().await.unwrap().unwrap(), Value::from(2 * number));
            }
        };
        tokio::join!(sending, taking);
        assert_eq!(stream.result().await.unwrap(), Value::from(44_850));
        rig.end().await;
    });
}

#[test]
fn a_cancel_reaches_a_call_on_another_host() {
    run(async {
        let rig = Rig::new().await;
        let (pool, workers) = rig.open_pool(1).await;
        let (server, _scope) = rig.serve(config(), None, Some(&workers)).await;
        let mut agent = rig.agent(agents(server.local_addr()));
        let pid = agent.next_pid().await;
        let trace = Trace::new();
        let args = Args::none().arg(trace.path()).arg("began").arg(600);
        tokio::select! {
            biased;
            _ = pool.call("append", args, soon()) => panic!("it slept enough"),
            () = trace.wait_for("began") => {}
        }
        let next = pool.call("pid", Args::none(), soon()).await.unwrap();
        assert_eq!(next, Value::from(pid), "the same worker: it was interrupted, not killed");
        rig.end().await;
    });
}

#[test]
fn a_worker_that_dies_there_is_replaced_and_its_cause_is_known_here() {
    run(async {
        let rig = Rig::new().await;
        let (pool, workers) = rig.open_pool(1).await;
        let (server, _scope) = rig.serve(config(), None, Some(&workers)).await;
        let mut agent = rig.agent(agents(server.local_addr()));
        let first = agent.next_pid().await;
        let error = pool.call("segfault", Args::none(), soon()).await.unwrap_err();
        let CallError::WorkerDied { started, cause, .. } = error else { panic!("{error:?}") };
        assert_eq!((started, cause), (true, Death::Signalled { signal: 11 }));
        // The next one comes by itself.
        let pid = pool.call("pid", Args::none(), soon()).await.unwrap();
        assert_eq!(pid, Value::from(agent.next_pid().await));
        assert!(!is_alive(first));
        assert_eq!(pool.stats().deaths.get("segfault"), Some(&1));
        rig.end().await;
    });
}

#[test]
fn with_its_agent_a_worker_ends_and_its_calls_are_of_unknown_outcome() {
    run(async {
        let rig = Rig::new().await;
        let (pool, workers) = rig.open_pool(1).await;
        let (server, _scope) = rig.serve(config(), None, Some(&workers)).await;
        let mut agent = rig.agent(agents(server.local_addr()));
        let pid = agent.next_pid().await;
        let trace = Trace::new();
        let args = Args::none().arg(trace.path()).arg("began").arg(600);
        let call = pool.call("append", args, soon());
        let end = async {
            trace.wait_for("began").await;
            agent.scope.stop().await;
        };
        let (called, ()) = tokio::join!(call, end);
        let error = called.unwrap_err();
        let CallError::OutcomeUnknown { cause, .. } = error else { panic!("{error:?}") };
        assert_eq!(cause.code(), "link_lost");
        wait_until(|| !is_alive(pid)).await;
        rig.end().await;
    });
}

#[test]
fn an_agent_comes_back_when_the_pool_does() {
    run(async {
        let rig = Rig::new().await;
        let (pool, workers) = rig.open_pool(1).await;
        let (server, scope) = rig.serve(config(), None, Some(&workers)).await;
        let mut agent = rig.agent(agents(server.local_addr()));
        let first = agent.next_pid().await;
        pool.call("pid", Args::none(), soon()).await.unwrap();
        scope.stop().await;
        wait_until(|| !is_alive(first)).await;
        let mut config = config();
        config.listen = server.local_addr();
        let (_server, _scope) = rig.serve(config, None, Some(&workers)).await;
        let second = agent.next_pid().await;
        let pid = pool.call("pid", Args::none(), soon()).await.unwrap();
        assert_eq!(pid, Value::from(second));
        rig.end().await;
    });
}

#[test]
fn a_pool_that_stops_lets_its_workers_there_finish() {
    run(async {
        let rig = Rig::new().await;
        let (pool, workers) = rig.open_pool(1).await;
        let (server, _scope) = rig.serve(config(), None, Some(&workers)).await;
        let mut agent = rig.agent(agents(server.local_addr()));
        let pid = agent.next_pid().await;
        let trace = Trace::new();
        let args = Args::none().arg(trace.path()).arg("began").arg(Value::Float(0.2));
        let call = pool.call("append", args, soon());
        let stop = async {
            trace.wait_for("began").await;
            pool.stop().await;
        };
        let (called, ()) = tokio::join!(call, stop);
        assert_eq!(called.unwrap(), Value::from("began"));
        wait_until(|| !is_alive(pid)).await;
        rig.end().await;
    });
}

#[test]
fn the_front_door_is_open_to_a_pool_of_such_workers() {
    run(async {
        let rig = Rig::new().await;
        let (pool, workers) = rig.open_pool(1).await;
        let (server, _scope) = rig.serve(config(), Some(&pool), Some(&workers)).await;
        let _agent = rig.agent(agents(server.local_addr()));
        let mut client = rig.client(&dial(server.local_addr())).await;
        client.call(request("pid", None)).await.unwrap();
        let open = stream_request::Message::Open(request("count", args(vec![3.into()])));
        let requests = stream::iter([StreamRequest { message: Some(open) }]);
        let mut answers = client.stream(requests).await.unwrap().into_inner();
        let mut messages = 0;
        while answers.message().await.unwrap().is_some() {
            messages += 1;
        }
        assert_eq!(messages, 4);
        let status = client.call(request("segfault", None)).await.unwrap_err();
        assert_eq!((status.code(), told(&status).code.as_str()), (Code::Aborted, "worker_died"));
        rig.end().await;
    });
}
