//! Both directions of a stream at once, for long: everything comes back, and memory stays flat.
//!
//! `SNAKEHOUSE_MIB` chooses how much is echoed (default 64; soak 1,024).

use bytes::Bytes;
use snakehouse_base::ByteSize;
use snakehouse_pool::{Args, Pool, Value, WorkerSpec};
use snakehouse_testkit::in_own_process;

use crate::support::{BOUND, Rig, run, workers};
use crate::{python_streams, scripted};

const ITEM: usize = 64 << 10;
/// What a reader may hold: 64 credits, of which such an item costs five, and one item more.
const HELD: usize = 14 * (ITEM + 5);
/// Memory that may come and go for other reasons: buffers of sockets and allocators.
const SLACK: u64 = 32 << 20;

fn items() -> usize {
    let mib = std::env::var("SNAKEHOUSE_MIB").ok().and_then(|n| n.parse().ok()).unwrap_or(64);
    mib * (1 << 20) / ITEM
}

fn own_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * u64::try_from(rustix::param::page_size()).unwrap()
}

fn worker_memory(pool: &Pool) -> u64 {
    pool.workers()[0].rss.map_or(0, |ByteSize(bytes)| bytes)
}

async fn echoes_at_constant_memory(spec: WorkerSpec) {
    let rig = Rig::new().await;
    let pool = rig.pool_of(spec, workers(1)).await;
    let patience = snakehouse_pool::CallOptions::within(20 * BOUND);
    let stream = pool.stream("echo", Args::none(), patience).await.unwrap();
    let item = |n: usize| {
        let mut bytes = vec![7; ITEM];
        bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
        Value::from(&*bytes).encode().unwrap()
    };
    let sending = async {
        for n in 0..items() {
            stream.send_bytes(item(n)).await.unwrap();
        }
        stream.finish_sending();
    };
    let (mut most, mut early) = (0, None);
    let taking = async {
        for n in 0..items() {
            most = most.max(stream.held());
            let got: Bytes = stream.next_bytes().await.unwrap().unwrap();
            assert!(got == item(n), "item {n} is another");
            if n == items() / 4 {
                early = Some((own_memory(), worker_memory(&pool)));
            }
        }
        assert!(stream.next_bytes().await.is_none());
    };
    tokio::join!(sending, taking);
    assert!(most <= HELD, "{most} bytes were held");
    let (own, worker) = early.unwrap();
    let grown = (own_memory().saturating_sub(own), worker_memory(&pool).saturating_sub(worker));
    println!("{} MiB echoed; grown since the first quarter: {grown:?}", (items() * ITEM) >> 20);
    assert!(grown.0 < SLACK && grown.1 < SLACK, "{grown:?}");
    drop(stream);
    rig.end().await;
}

// It measures the memory of its process, to which other tests add.

#[test]
fn a_scripted_worker_echoes_at_constant_memory() {
    in_own_process("duplex::a_scripted_worker_echoes_at_constant_memory", || {
        run(echoes_at_constant_memory(scripted::spec()));
    });
}

#[test]
fn a_python_worker_echoes_at_constant_memory() {
    in_own_process("duplex::a_python_worker_echoes_at_constant_memory", || {
        run(echoes_at_constant_memory(python_streams::spec()));
    });
}
