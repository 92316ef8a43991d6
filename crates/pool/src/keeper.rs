//! The one task of a pool that acts without being called: it starts workers where they are wanted and
//! does what is due at a time.
//!
//! It sleeps until the dispatcher wakes it or the next time comes, and there is a next time only when
//! something waits for one: a call that may make the pool grow, an idle worker that may be one too
//! many, a worker with an age, a drain with a bound, memory that is to be measured after calls. A
//! pool of a fixed size never wakes it. What it decides is in the dispatcher, where it is tested.

use std::sync::Arc;

use snakehouse_base::ByteSize;
use snakehouse_base::id::Incarnation;
use snakehouse_supervise::{Lane, Scope};
use tokio::time::{Instant, sleep_until};

use crate::os;
use crate::pool::Shared;
use crate::slot;

/// Measurements that may wait: one request at a time.
const QUEUE: usize = 1;

/// Runs until the pool stops.
pub(crate) async fn run(shared: Arc<Shared>, scope: Scope) {
    let stop = scope.cancelled();
    let limit = shared.config.recycle.memory;
    let scales = limit.map(|limit| (limit, Lane::new(&scope, "memory", 1, QUEUE)));
    while !stop.is_cancelled() {
        let room = shared.starts.has_room();
        let chores = shared.change(|pool, after| pool.chores(Instant::now(), room, after));
        for place in chores.open {
            scope.child(slot::spec(shared.clone(), place));
        }
        if let Some((limit, lane)) = &scales
            && !chores.measure.is_empty()
        {
            measure(&shared, *limit, lane, chores.measure).await;
        }
        let next = async {
            match chores.next {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.keeper.notified() => {}
            () = next => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Looks what these workers hold.
async fn measure(
    shared: &Shared,
    limit: ByteSize,
    lane: &Lane,
    workers: Vec<(usize, Incarnation, u32)>,
) {
    let look = move || {
        let held = |(place, incarnation, pid)| (place, incarnation, os::group_bytes(pid, limit));
        workers.into_iter().map(held).collect::<Vec<_>>()
    };
    // A lane that is closed belongs to a pool that stops.
    for (place, incarnation, held) in lane.run(look).await.unwrap_or_default() {
        let now = Instant::now();
        shared.change(|pool, after| pool.measured(place, incarnation, held, now, after));
    }
}
