//! Large results on their way out of a worker's slots: copied in a lane of the pool, so that the
//! connection does other things meanwhile, and one after the other.
//!
//! Owns the calls that have been answered and whose bytes are still in slots. There are no more of them
//! than the ring has slots. What a worker had answered when it died is copied on, and nobody else waits for
//! that. Tested with real workers here and in `tests/it/buffers.rs`.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use snakehouse_supervise::{Lane, LaneError};
use snakehouse_wire::buffer::{HostRing, RingError};

use crate::call::{Call, CallError};

type Work = Pin<Box<dyn Future<Output = Result<Result<Bytes, RingError>, LaneError>> + Send>>;

/// Results that are being copied.
#[derive(Default)]
pub(super) struct Copies {
    running: Option<(Call, Work)>,
    waiting: VecDeque<(Call, Arc<HostRing>, Bytes)>,
    /// Their results cannot be had.
    lost: Vec<Call>,
}

/// A result that was copied.
pub(super) struct Copied {
    pub(super) call: Call,
    /// What is wrong with the worker, if the bytes are not there.
    pub(super) outcome: Result<Result<Bytes, CallError>, RingError>,
}

impl Copies {
    /// The call's result is this lent body.
    pub(super) fn add(&mut self, call: Call, ring: Arc<HostRing>, body: Bytes) {
        self.waiting.push_back((call, ring, body));
    }

    /// The bytes of this call are not where the worker said: it fails with the worker.
    pub(super) fn lose(&mut self, call: Call) {
        self.lost.push(call);
    }

    pub(super) fn take_lost(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.lost)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty()
    }

    /// The next one that is done. Pending also if there is none.
    pub(super) fn poll_next(&mut self, lane: &Lane, cx: &mut Context<'_>) -> Poll<Copied> {
        if self.running.is_none()
            && let Some((call, ring, body)) = self.waiting.pop_front()
        {
            let lane = lane.clone();
            let fetched = async move { lane.run(move || ring.fetch(&body)).await };
            self.running = Some((call, Box::pin(fetched)));
        }
        let Some((_, work)) = &mut self.running else { return Poll::Pending };
        let Poll::Ready(done) = work.as_mut().poll(cx) else { return Poll::Pending };
        let Some((call, _)) = self.running.take() else { return Poll::Pending };
        let outcome = done
            .map_or_else(|error| Ok(Err(CallError::of_lane(&error))), |fetched| fetched.map(Ok));
        Poll::Ready(Copied { call, outcome })
    }

    /// Gives every call its result after the worker's death, and those that have none `lost`.
    pub(super) async fn finish(mut self, lane: Lane, lost: CallError) {
        while !self.is_empty() {
            let Copied { call, outcome } = poll_fn(|cx| self.poll_next(&lane, cx)).await;
            call.finish(outcome.unwrap_or_else(|_gone| Err(lost.clone())));
        }
    }
}

impl fmt::Debug for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Copies").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use snakehouse_base::id::RunToken;
    use snakehouse_base::{Coded, Kind};
    use snakehouse_supervise::Root;
    use snakehouse_wire::Value;

    use super::*;
    use crate::call::{Args, CallOptions};
    use crate::{Interpreter, Pool, PoolConfig, Reaper, ReaperConfig, WorkerSpec};

    const BOUND: Duration = Duration::from_secs(30);
    const SIZE: usize = 1 << 20;
    const TOOLS: &str = "import os\nfrom snakehouse import tool\n\n@tool\ndef large(size):\n    \
                         return bytes(size)\n\n@tool\ndef die():\n    os._exit(7)\n";

    /// A pool of one worker, and the directory of its tools.
    async fn pool(root: &Root) -> (Pool, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let tools = directory.path().join("tools.py");
        std::fs::write(&tools, TOOLS).unwrap();
        let python = Interpreter::find(None).expect("the tests need python3 on PATH");
        let config = ReaperConfig {
            python: python.clone(),
            run_token: RunToken::fresh(),
            cache: Some(directory.path().join("cache")),
        };
        let reaper = Reaper::start(root.scope(), config).await.unwrap();
        let spec = WorkerSpec::python("tools", python).module(tools.to_str().unwrap());
        let config = PoolConfig { workers: 1, ..PoolConfig::default() };
        (Pool::start(root.scope(), reaper, spec, config).await.unwrap(), directory)
    }

    #[test]
    fn a_death_is_told_although_a_result_of_the_worker_is_still_being_copied() {
        snakehouse_supervise::run(async {
            let root = Root::new("test");
            let (pool, _directory) = pool(&root).await;
            let lane = pool.shared().copier.clone();
            let (go_on, blocked) = mpsc::sync_channel::<()>(1);
            let (began, begun) = tokio::sync::oneshot::channel();
            let block = lane.run(move || {
                let _ = began.send(());
                blocked.recv_timeout(4 * BOUND)
            });
            let calls = async {
                begun.await.unwrap();
                let options = || CallOptions::within(BOUND);
                let args = Args::none().arg(SIZE as u64);
                let mut large = Box::pin(pool.call("large", args, options()));
                // One answer after the other: the large one was given when the worker dies.
                let death = tokio::select! {
                    biased;
                    large = &mut large => panic!("nothing can be copied: {large:?}"),
                    death = pool.call("die", Args::none(), options()) => death,
                };
                assert_eq!(death.unwrap_err().code(), "worker_died");
                go_on.send(()).unwrap();
                let Value::Bytes(bytes) = large.await.unwrap() else { panic!("no bytes") };
                assert_eq!(bytes.len(), SIZE);
            };
            let (blocked, ()) = tokio::join!(block, calls);
            blocked.unwrap().unwrap();
            assert!(root.stop().await.is_clean());
        });
    }

    #[test]
    fn a_copy_that_panics_is_told_as_that() {
        let lane = "buffers".to_owned();
        let error = CallError::of_lane(&LaneError::Panicked { lane, payload: "slot 7".to_owned() });
        assert_eq!((error.kind(), error.code()), (Kind::Internal, "lane_panicked"));
        assert!(error.to_string().contains("slot 7") && !error.is_without_effect());
        let closed = CallError::of_lane(&LaneError::Closed { lane: "buffers".to_owned() });
        assert_eq!(closed, CallError::Stopped);
    }
}
