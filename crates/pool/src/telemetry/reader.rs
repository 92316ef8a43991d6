//! Reads what workers tell: a small report where it comes, a large one in a lane.
//!
//! A report is decoded and its texts are searched for secrets, which takes about 1 µs for each piece, or
//! for 20 bytes. Workers send a few KiB at a time unless they are told off for longer, or do not keep to the
//! protocol: what takes longer than a fraction of a millisecond must not hold up their connection's calls.
//! What comes faster than the lane reads is dropped and counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use snakehouse_base::ByteSize;
use snakehouse_guard::Permits;
use snakehouse_supervise::{Lane, Scope};

use super::Hub;
use crate::worker::WorkerRef;

/// A report that is not longer is read at once.
const AT_ONCE: usize = 8 << 10;
/// A longer one makes no sense: a worker sends a quarter of a MiB at most.
const MAX_REPORT: usize = 512 << 10;
/// Large reports that may wait for the lane.
const WAITING: usize = 16;

/// Reads the large reports of a pool.
#[derive(Debug)]
pub(crate) struct Reader {
    lane: Lane,
    places: Permits,
}

impl Reader {
    pub(crate) fn new(scope: &Scope) -> Self {
        let places = Permits::counted(WAITING).expect("16 is not 0");
        Self { lane: Lane::new(scope, "telemetry", 1, WAITING), places }
    }

    /// Passes on what a worker tells; if that may take long, in a task of the scope's.
    pub(crate) fn take(&self, hub: &Arc<Hub>, scope: &Scope, worker: WorkerRef, body: &Bytes) {
        if body.len() <= AT_ONCE {
            return hub.report(worker, body);
        }
        if body.len() > MAX_REPORT {
            hub.malformed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let Some(place) = self.places.try_acquire(ByteSize(0)) else {
            hub.dropped.fetch_add(pieces(body), Ordering::Relaxed);
            return;
        };
        let (lane, hub, body) = (self.lane.clone(), hub.clone(), body.clone());
        // The scope joins it.
        drop(scope.task("report", async move {
            // A panic is logged by the lane, and the pool has stopped if it is closed.
            let _ = lane.run(move || hub.report(worker, &body)).await;
            drop(place);
        }));
    }
}

/// How many pieces a report says that it has; one, if it is none.
fn pieces(body: &[u8]) -> u64 {
    match body {
        [0xdc, a, b, ..] => u64::from(u16::from_be_bytes([*a, *b])),
        [0xdd, a, b, c, d, ..] => u64::from(u32::from_be_bytes([*a, *b, *c, *d])),
        [short, ..] if short & 0xf0 == 0x90 => u64::from(short & 0x0f),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use snakehouse_base::id::{Incarnation, WorkerId};
    use snakehouse_supervise::Root;
    use snakehouse_wire::Value;
    use tokio::sync::{mpsc, oneshot};
    use tokio::time::timeout;

    use super::*;
    use crate::telemetry::{Telemetry, TelemetryConfig};

    const BOUND: Duration = Duration::from_secs(30);

    /// So many events, each with a text of a KiB.
    fn report(count: usize) -> Bytes {
        let text = "a long text ".repeat(85);
        let entry = |(key, value): (&str, Value)| (Value::from(key), value);
        let attributes = Value::Dict(vec![entry(("text", Value::from(&*text)))]);
        let event =
            [("event", Value::from("e")), ("at", Value::from(1)), ("attributes", attributes)];
        let event = Value::Dict(event.map(entry).into());
        Value::List(vec![event; count]).encode().unwrap()
    }

    #[test]
    fn a_large_report_waits_for_the_lane_and_too_many_are_counted() {
        snakehouse_supervise::run(async {
            let root = Root::new("test");
            let (sink, mut told) = mpsc::channel(10_000);
            let hub = Hub::new("tools", TelemetryConfig::new(Arc::new(sink)));
            let worker = WorkerRef { id: WorkerId(0), incarnation: Incarnation(1), pid: 1 };
            let reader = Reader::new(root.scope());
            let take = |body: Bytes| reader.take(&hub, root.scope(), worker, &body);
            let (go_on, blocked) = std::sync::mpsc::sync_channel::<()>(1);
            let (began, begun) = oneshot::channel();
            let block = reader.lane.run(move || {
                let _ = began.send(());
                blocked.recv_timeout(4 * BOUND)
            });
            let sending = async {
                begun.await.unwrap();
                take(report(5));
                assert!(matches!(told.try_recv(), Ok(Telemetry::Event(_))), "a small one is read");
                (0..4).for_each(|_| drop(told.try_recv().unwrap()));
                (0..WAITING + 2).for_each(|_| take(report(20)));
                assert!(told.try_recv().is_err(), "a large one waits");
                assert_eq!(hub.counts().dropped, 40);
                take(report(600));
                assert_eq!(hub.counts().malformed, 1);
                go_on.send(()).unwrap();
                for _ in 0..WAITING * 20 {
                    timeout(BOUND, told.recv()).await.unwrap().unwrap();
                }
            };
            let (blocked, ()) = tokio::join!(block, sending);
            blocked.unwrap().unwrap();
            assert!(root.stop().await.is_clean());
            assert_eq!(hub.counts().events, 5 + 20 * WAITING as u64);
        });
    }

    #[test]
    fn the_pieces_of_a_report_are_read_off_its_front() {
        for count in [0, 7, 15, 16, 70_000] {
            let body = Value::List(vec![Value::None; count]).encode().unwrap();
            assert_eq!(pieces(&body), count as u64);
        }
        assert_eq!((pieces(b""), pieces(b"\xc0")), (1, 1));
    }
}
