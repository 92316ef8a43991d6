//! Connections of a server, real ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use snakehouse_supervise::{BoxError, ChildSpec, Root, accept};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const BOUND: Duration = Duration::from_secs(30);

async fn ask(stream: &mut TcpStream) -> u8 {
    stream.write_all(&[7]).await.unwrap();
    let mut answer = [0];
    timeout(BOUND, stream.read_exact(&mut answer)).await.expect("it is not served").unwrap();
    answer[0]
}

#[test]
fn so_many_connections_are_served_at_once_and_all_end_with_their_scope() {
    snakehouse_supervise::run(async {
        let root = Root::new("test");
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        let (served, owner) = (Arc::new(AtomicUsize::new(0)), root.scope().clone());
        let counted = served.clone();
        root.scope().child(ChildSpec::new("accept", move |ctx| {
            let (listener, owner, counted) = (listener.clone(), owner.clone(), counted.clone());
            async move {
                ctx.ready();
                let serve = |mut stream: TcpStream| {
                    let (stopping, counted) = (owner.cancelled(), counted.clone());
                    async move {
                        counted.fetch_add(1, Relaxed);
                        let mut byte = [0];
                        loop {
                            let read = tokio::select! {
                                read = stream.read_exact(&mut byte) => read,
                                () = stopping.cancelled() => return,
                            };
                            if read.is_err() || stream.write_all(&byte).await.is_err() {
                                return;
                            }
                        }
                    }
                };
                accept(&listener, &owner, 2, &ctx.cancelled(), serve).await;
                Ok::<(), BoxError>(())
            }
        }));
        let connect = || timeout(BOUND, TcpStream::connect(address));
        let (mut first, mut second) =
            (connect().await.unwrap().unwrap(), connect().await.unwrap().unwrap());
        assert_eq!((ask(&mut first).await, ask(&mut second).await), (7, 7));
        // The system takes it, and nobody else does.
        let mut third = connect().await.unwrap().unwrap();
        third.write_all(&[8]).await.unwrap();
        assert_eq!(ask(&mut first).await, 7);
        assert_eq!(served.load(Relaxed), 2);
        drop(second);
        let mut answer = [0];
        timeout(BOUND, third.read_exact(&mut answer)).await.expect("no place").unwrap();
        assert_eq!((answer[0], served.load(Relaxed)), (8, 3));
        assert!(root.stop().await.is_clean());
        assert_eq!(timeout(BOUND, first.read(&mut answer)).await.unwrap().unwrap(), 0);
    });
}
