//! A worker's place in a pool, as a supervised child: each incarnation is one process.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use snakehouse_base::id::{Incarnation, WorkerId};
use snakehouse_supervise::{BoxError, CancellationToken, ChildCtx, ChildSpec, Restart, Task};
use snakehouse_wire::Hello;
use tokio::time::{Instant, timeout};

use crate::connection::{Connection, Settled};
use crate::death::{Death, KillReason};
use crate::devices::Lease;
use crate::dispatcher::{Hail, worker_id};
use crate::error::PoolError;
use crate::output::Stream;
use crate::pool::Shared;
use crate::reaper::Process;
use crate::start_delay::StartDelay;
use crate::starts::Turn;

/// A worker that served this long was of use, even without a call.
const SETTLED: Duration = Duration::from_secs(1);

/// What a dead worker wrote is read until its pipes end; whoever holds them open is being ended.
const OUTPUT_WITHIN: Duration = Duration::from_millis(200);

/// Last lines that an error quotes.
const QUOTED_LINES: usize = 20;

/// The child that keeps one place occupied. It ends when no worker is wanted there any more.
pub(crate) fn spec(shared: Arc<Shared>, place: usize) -> ChildSpec {
    let name = format!("worker-{}", worker_id(place));
    let grace = shared.config.stop_grace + Duration::from_secs(5);
    let delay = Arc::new(StartDelay::default());
    let spec = ChildSpec::new(name, move |ctx| {
        let (shared, delay) = (shared.clone(), delay.clone());
        async move {
            let outcome = incarnation(&ctx, &shared, place, &delay).await;
            if let Err(error) = &outcome {
                let now = Instant::now();
                shared.change(|pool, after| pool.ended(error.to_string(), now, after));
            }
            if shared.lock().is_closing(place) {
                shared.change(|pool, after| pool.closed(place, Instant::now(), after));
                return Ok(());
            }
            outcome.map_err(|error| {
                let text = error.to_string();
                tell(&shared, error);
                BoxError::from(text)
            })
        }
    });
    // Never given up: calls have deadlines for that.
    StartDelay::supervise(spec).restart(Restart::Transient).grace(grace)
}

/// Those who wait for a first worker learn that it does not come.
fn tell(shared: &Shared, error: PoolError) {
    if !matches!(error, PoolError::Died { .. }) {
        let first = shared.first_failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Nobody waits for it if the start was given up.
        first.map(|first| first.send(error));
        shared.news.send_modify(|times| *times += 1);
    }
}

/// One life. `Ok` is an end that was asked for.
async fn incarnation(
    ctx: &ChildCtx,
    shared: &Arc<Shared>,
    place: usize,
    delay: &StartDelay,
) -> Result<(), PoolError> {
    let worker = worker_id(place);
    // Fires at the pool's stop, and when this worker is to go.
    let stop = ctx.cancelled().child_token();
    if !shared.lock().awaiting(place, stop.clone()) {
        return Ok(());
    }
    let suspect = delay.begin(&stop).await;
    if suspect && shared.spec.attachments().is_none() {
        shared.reaper.mend_package().await;
    }
    let arrival = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        arrival = arrival(shared) => arrival,
    };
    let device = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        device = device(shared) => device,
    };
    let variable = device.as_ref().map(Lease::variable);
    // What is started elsewhere wants no CPU of this host.
    let turn = match &arrival {
        Some(_) => None,
        None => tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            turn = shared.starts.turn(suspect) => Some(turn),
        },
    };
    let Some(incarnation) = shared.lock().starting(place, stop.clone()) else { return Ok(()) };
    let mut seat = Seat { shared, place, over: false };
    let starting = turn.as_ref().map(Turn::process).unwrap_or_default();
    let process = process(shared, worker, arrival, variable);
    let beginning = begin(ctx, shared, place, incarnation, process, &stop, &starting);
    let begun = match turn {
        Some(turn) => turn.during(beginning).await?,
        None => beginning.await?,
    };
    let Some(Begun { mut connection, captures, hello }) = begun else { return Ok(()) };
    let served = hello.is_ok();
    let death = match hello {
        Ok(hello) => {
            tracing::info!(
                %worker, %incarnation, pid = hello.pid, runtime = %hello.runtime, "worker serves"
            );
            connection.is_life(incarnation);
            let capacity = usize::try_from(hello.capacity).unwrap_or(1);
            let hears_of_sessions = hello.can(Hello::SESSIONS);
            let hail = Hail { tools: hello.tools, capacity, hears_of_sessions };
            let now = Instant::now();
            shared.change(|pool, after| pool.serving(place, hail, now, after));
            shared.news.send_modify(|times| *times += 1);
            ctx.ready();
            let death = connection.serve(&stop).await;
            if connection.was_of_use() || now.elapsed() >= SETTLED {
                delay.useful();
            }
            death
        }
        Err(death) => death,
    };
    let death = match death {
        // The pool goes on: it was this worker's time that was over.
        Death::Killed(KillReason::Stop) if !ctx.cancelled().is_cancelled() => {
            Death::Killed(KillReason::Recycled)
        }
        death => death,
    };
    if let Some(device) = device {
        device.end(&death, connection.was_of_use());
    }
    let settled = connection.settle(incarnation, &death);
    seat.leave(&death, settled);
    if let Some((mut stdout, mut stderr)) = captures {
        let read = async { ((&mut stdout).await, (&mut stderr).await) };
        if timeout(OUTPUT_WITHIN, read).await.is_err() {
            // A process that got away holds the pipes: nobody waits for what it has to say.
            stdout.abort();
            stderr.abort();
        }
    }
    if stop.is_cancelled() {
        return Ok(());
    }
    tracing::warn!(%worker, %incarnation, %death, "worker died");
    let output = shared.outputs[place].tail(incarnation, QUOTED_LINES);
    Err(PoolError::ended(shared.spec.name(), worker, served, &death, output))
}

/// The next worker that comes by itself, if those of the pool do. Waits for one.
async fn arrival(shared: &Shared) -> Option<Process> {
    match shared.spec.attachments() {
        Some(attachments) => Some(attachments.next().await),
        None => None,
    }
}

/// The process of an incarnation: the one that came, or a new one.
async fn process(
    shared: &Shared,
    worker: WorkerId,
    arrival: Option<Process>,
    device: Option<(String, String)>,
) -> Result<Process, PoolError> {
    if let Some(process) = arrival {
        return Ok(process);
    }
    let mut command = shared
        .spec
        .command(&shared.reaper.python_worker())
        .map_err(|message| PoolError::Spawn { worker, message })?;
    command.env.extend(device);
    shared.reaper.spawn(worker, command, shared.config.start_within).await
}

/// The device that the next incarnation is bound to, if the pool has devices. Waits for one.
async fn device(shared: &Shared) -> Option<Lease<'_>> {
    match &shared.devices {
        Some(devices) => Some(devices.lease().await),
        None => None,
    }
}

/// A worker that said hello, or died before it did.
struct Begun<'a> {
    connection: Connection<'a>,
    captures: Option<(Task<()>, Task<()>)>,
    hello: Result<Hello, Death>,
}

/// From nothing to the hello: what a [`Turn`](crate::starts::Turn) is for. `None` if it was stopped.
async fn begin<'a>(
    ctx: &ChildCtx,
    shared: &'a Arc<Shared>,
    place: usize,
    incarnation: Incarnation,
    process: impl Future<Output = Result<Process, PoolError>>,
    stop: &CancellationToken,
    starting: &AtomicU32,
) -> Result<Option<Begun<'a>>, PoolError> {
    let worker = worker_id(place);
    let mut process = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(None),
        process = process => process?,
    };
    starting.store(process.pid, Ordering::Relaxed);
    shared.lock().started(place, process.pid, process.birth.clone());
    let captures = process.output.take().map(|(stdout, stderr)| {
        let output = &shared.outputs[place];
        let capture = |name, stream, pipe| {
            ctx.scope().task(name, output.clone().capture(worker, incarnation, stream, pipe))
        };
        (capture("stdout", Stream::Stdout, stdout), capture("stderr", Stream::Stderr, stderr))
    });
    let mut connection = Connection::new(shared, place, incarnation, process, ctx.scope());
    let hello = connection.hello(stop).await;
    Ok(Some(Begun { connection, captures, hello }))
}

/// Gives the place back, also when the incarnation is dropped half-way.
struct Seat<'a> {
    shared: &'a Shared,
    place: usize,
    over: bool,
}

impl Seat<'_> {
    /// Whoever learns of the death from a call finds it known to the pool.
    fn leave(&mut self, death: &Death, settled: Settled) {
        self.over = true;
        let now = Instant::now();
        let Settled { failed, unstarted, copies } = settled;
        self.shared.change(|pool, after| {
            after.fail.extend(failed);
            if pool.gone(self.place, death, unstarted, now, after) {
                self.shared.tally.died(death);
            }
        });
        copies.finish(self.shared);
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.leave(&Death::Unknown, Settled::default());
        }
    }
}
