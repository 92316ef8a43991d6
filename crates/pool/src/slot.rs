//! A worker's place in a pool, as a supervised child: each incarnation is one process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use snakehouse_supervise::{BoxError, ChildCtx, ChildSpec};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::connection::{Connection, Settled};
use crate::death::Death;
use crate::dispatcher::worker_id;
use crate::error::PoolError;
use crate::output::Stream;
use crate::pool::Shared;
use crate::start_delay::StartDelay;

/// A worker that served this long was of use, even without a call.
const SETTLED: Duration = Duration::from_secs(1);

/// What a dead worker wrote is read until its pipes end; whoever holds them open is being ended.
const OUTPUT_WITHIN: Duration = Duration::from_millis(200);

/// Last lines that an error quotes.
const QUOTED_LINES: usize = 20;

/// Told once, how the first incarnation got on.
type First = oneshot::Sender<Result<(), PoolError>>;

/// The child that keeps one worker alive.
pub(crate) fn spec(shared: Arc<Shared>, place: usize, first: First) -> ChildSpec {
    let name = format!("worker-{}", worker_id(place));
    let grace = shared.config.stop_grace + Duration::from_secs(5);
    let first = Arc::new(Mutex::new(Some(first)));
    let delay = Arc::new(StartDelay::default());
    let spec = ChildSpec::new(name, move |ctx| {
        let (shared, first, delay) = (shared.clone(), first.clone(), delay.clone());
        async move {
            match incarnation(&ctx, &shared, place, &first, &delay).await {
                Ok(()) => Ok(()),
                Err(error) => {
                    let text = error.to_string();
                    shared.lock().ended(text.clone());
                    tell(&first, Err(error));
                    Err(BoxError::from(text))
                }
            }
        }
    });
    // Never given up: calls have deadlines for that.
    StartDelay::supervise(spec).grace(grace)
}

fn tell(first: &Mutex<Option<First>>, outcome: Result<(), PoolError>) {
    if let Some(first) = first.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // Nobody waits for it if the start was given up.
        let _ = first.send(outcome);
    }
}

/// One life. `Ok` is an end that was asked for.
async fn incarnation(
    ctx: &ChildCtx,
    shared: &Shared,
    place: usize,
    first: &Mutex<Option<First>>,
    delay: &StartDelay,
) -> Result<(), PoolError> {
    let worker = worker_id(place);
    let stop = ctx.cancelled();
    if delay.begin(&stop).await {
        shared.reaper.mend_package().await;
    }
    let mut seat = Seat { shared, place, over: false };
    let incarnation = shared.lock().starting(place);
    let command = shared
        .spec
        .command(&shared.reaper.python_worker())
        .map_err(|message| PoolError::Spawn { worker, message })?;
    let mut process = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        process = shared.reaper.spawn(worker, command, shared.config.start_within) => process?,
    };
    shared.lock().started(place, process.pid);
    let captures = process.output.take().map(|(stdout, stderr)| {
        let output = &shared.outputs[place];
        let capture = |name, stream, pipe| {
            ctx.scope().task(name, output.clone().capture(worker, incarnation, stream, pipe))
        };
        (capture("stdout", Stream::Stdout, stdout), capture("stderr", Stream::Stderr, stderr))
    });
    let mut connection = Connection::new(shared, place, process);
    let hello = connection.hello(&stop).await;
    let served = hello.is_ok();
    let death = match hello {
        Ok(hello) => {
            tracing::info!(
                %worker, %incarnation, pid = hello.pid, runtime = %hello.runtime, "worker serves"
            );
            shared.change(|dispatcher, after| dispatcher.serving(place, hello.tools, after));
            shared.served.send_modify(|times| *times += 1);
            ctx.ready();
            tell(first, Ok(()));
            let since = Instant::now();
            let death = connection.serve(&stop).await;
            if connection.was_of_use() || since.elapsed() >= SETTLED {
                delay.useful();
            }
            death
        }
        Err(death) => death,
    };
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
        self.shared.change(|dispatcher, after| {
            after.fail.extend(settled.failed);
            dispatcher.gone(self.place, death, settled.unstarted, after);
        });
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.leave(&Death::Unknown, Settled::default());
        }
    }
}
