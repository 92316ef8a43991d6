//! A peer that is silent without having said goodbye.

use std::net::SocketAddr;
use std::time::Duration;

use snakehouse_pool::{Args, CallError, CallOptions};
use snakehouse_supervise::{CancellationToken, Scope};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{BOUND, Rig, Trace, agents, config, is_alive, run, wait_until};

/// Passes bytes on until `silent` fires; from then on it takes nothing and says nothing, and closes
/// nothing either.
async fn wire(scope: &Scope, to: SocketAddr, silent: CancellationToken) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (inner, stop) = (scope.clone(), scope.cancelled());
    drop(scope.task("wire", async move {
        loop {
            let near = tokio::select! {
                accepted = listener.accept() => accepted.unwrap().0,
                () = stop.cancelled() => return,
            };
            let far = tokio::time::timeout(BOUND, TcpStream::connect(to)).await.unwrap().unwrap();
            let (near, far) = (near.into_split(), far.into_split());
            for (mut from, mut to) in [(near.0, far.1), (far.0, near.1)] {
                let (silent, stop) = (silent.clone(), inner.cancelled());
                drop(inner.task("direction", async move {
                    let mut buffer = vec![0; 64 * 1024];
                    loop {
                        tokio::select! {
                            biased;
                            () = stop.cancelled() => return,
                            () = silent.cancelled() => {
                                stop.cancelled().await;
                                return;
                            }
                            read = from.read(&mut buffer) => match read {
                                Ok(read) if read > 0 => {
                                    if to.write_all(&buffer[..read]).await.is_err() {
                                        return;
                                    }
                                }
                                _ => return,
                            }
                        }
                    }
                }));
            }
        }
    }));
    address
}

#[test]
fn both_ends_find_out_that_the_other_is_silent() {
    run(async {
        let rig = Rig::new().await;
        let (pool, workers) = rig.open_pool(1).await;
        let (every, within) = (Duration::from_millis(200), Duration::from_millis(800));
        let mut config = config();
        (config.ping_every, config.ping_within) = (every, within);
        let (server, _scope) = rig.serve(config, None, Some(&workers)).await;
        let silent = CancellationToken::new();
        let wires = rig.scope().open("wires");
        let through = wire(&wires, server.local_addr(), silent.clone()).await;
        let mut dial = agents(through);
        (dial.ping_every, dial.ping_within) = (every, within);
        let mut agent = rig.agent(dial);
        let pid = agent.next_pid().await;
        let trace = Trace::new();
        let args = Args::none().arg(trace.path()).arg("began").arg(600);
        let call = pool.call("append", args, CallOptions::within(BOUND));
        let fall_silent = async {
            trace.wait_for("began").await;
            silent.cancel();
            tokio::time::Instant::now()
        };
        let (called, since) = tokio::join!(call, fall_silent);
        println!("found out after {:?}; the bound is {:?}", since.elapsed(), every + within);
        let error = called.unwrap_err();
        let CallError::OutcomeUnknown { cause, .. } = error else { panic!("{error:?}") };
        assert_eq!(cause.code(), "link_lost");
        wait_until(|| !is_alive(pid)).await;
        rig.end().await;
    });
}
