//! Who watches a pool that is measured: a collector that takes what is exported, and a reader of the page
//! of numbers. Both are in this process, so that their CPU time counts against telemetry.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use snakehouse_supervise::Scope;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Takes whatever is posted to it and says so.
#[derive(Debug)]
pub(crate) struct Collector {
    addr: SocketAddr,
    taken: Arc<AtomicU64>,
}

impl Collector {
    /// Listens until the scope stops. One exporter has one connection, so it serves one at a time.
    pub(crate) async fn start(scope: &Scope) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let taken = Arc::<AtomicU64>::default();
        let (count, cancelled) = (taken.clone(), scope.cancelled());
        // The scope joins it.
        drop(scope.task("collector", async move {
            let serve = async {
                while let Ok((stream, _)) = listener.accept().await {
                    if let Err(error) = take_all(stream, &count).await {
                        tracing::debug!(%error, "connection ended");
                    }
                }
            };
            cancelled.run_until_cancelled(serve).await;
        }));
        Ok(Self { addr, taken })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Bytes of telemetry that it got.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

async fn take_all(stream: TcpStream, taken: &AtomicU64) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let header = line.trim_end().to_ascii_lowercase();
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        } else if header.is_empty() {
            tokio::io::copy(&mut (&mut stream).take(length), &mut tokio::io::sink()).await?;
            taken.fetch_add(length, Ordering::Relaxed);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
        }
    }
}

/// Reads the page of numbers once; its length.
pub(crate) async fn scrape(addr: SocketAddr) -> io::Result<usize> {
    // audit(deadline): the listener is in this process, and the kernel connects to it at once
    let mut stream = TcpStream::connect(addr).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut page = Vec::new();
    stream.read_to_end(&mut page).await
}
