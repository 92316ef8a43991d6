//! How often a call is tried: once, and once more if its caller says that this is harmless.
//!
//! A worker that dies leaves open how far a started call had come, so by default the caller gets the
//! error and decides. A call that is marked [`idempotent`](crate::CallOptions::idempotent) is given
//! to another worker instead, within its own deadline and at most once: it runs twice at most.
//! A pool with a [breaker](crate::PoolConfig::breaker) asks it before each attempt and tells it
//! whether the worker lived; what a tool says is no matter of the breaker. Tested with workers that
//! die in `tests/it/attempts.rs`.

use bytes::Bytes;
use snakehouse_guard::{Breaker, BreakerPermit, Verdict};
use tokio::time::Instant;

use crate::call::{Body, CallError, CallOptions};
use crate::death::{Death, KillReason};
use crate::host::chain::{Chain, Place};
use crate::pool::{Pin, Shared, attempt};
use crate::telemetry::SpanKind;

/// Calls a tool. Dropping the future cancels the call.
pub(crate) async fn call_bytes(
    shared: &Shared,
    pin: Pin<'_>,
    tool: &str,
    body: impl Into<Body>,
    mut options: CallOptions,
) -> Result<Bytes, CallError> {
    let chain = Chain::enter(shared, &mut options)?;
    let now = Instant::now();
    let measure = shared.tally.begin(now);
    let mut span = shared.span(SpanKind::Call, tool, &mut options.trace);
    // A session's state is gone with its worker: there is nowhere to repeat its calls.
    let body = body.into();
    let again = (options.idempotent && pin.is_none()).then(|| body.clone());
    let mut outcome = guarded(shared, pin, tool, body, options, now, chain.clone()).await;
    if let (Some(body), Err(error)) = (again, &outcome)
        && may_have_run(error)
    {
        shared.tally.repeated();
        tracing::debug!(tool, %error, "idempotent call is repeated");
        match guarded(shared, None, tool, body, options, Instant::now(), chain).await {
            Err(error) if says_less(&error) => {}
            second => outcome = second,
        }
    }
    measure.end(&outcome);
    span.end(&outcome);
    outcome
}

async fn guarded(
    shared: &Shared,
    pin: Pin<'_>,
    tool: &str,
    body: Body,
    options: CallOptions,
    now: Instant,
    chain: (Place, Option<Chain>),
) -> Result<Bytes, CallError> {
    let permit = admit(shared.breaker.as_ref(), now)?;
    let outcome = attempt(shared, pin, tool, body, options, now, chain).await;
    resolve(permit, &outcome);
    outcome
}

/// Asks the breaker, if there is one.
pub(crate) fn admit(
    breaker: Option<&Breaker>,
    now: Instant,
) -> Result<Option<BreakerPermit>, CallError> {
    let admitted = breaker.map(|breaker| breaker.try_admit_at(now.into_std())).transpose();
    admitted.map_err(|open| CallError::BreakerOpen { retry_in: open.retry_in })
}

/// Tells the breaker how it went, if there is one.
pub(crate) fn resolve<T>(permit: Option<BreakerPermit>, outcome: &Result<T, CallError>) {
    if let Some(permit) = permit {
        permit.resolve(verdict(outcome));
    }
}

/// What an outcome says about the workers.
fn verdict<T>(outcome: &Result<T, CallError>) -> Verdict {
    let Err(error) = outcome else { return Verdict::Success };
    match error {
        CallError::Tool { .. } => Verdict::Success,
        CallError::WorkerDied { cause, .. } | CallError::OutcomeUnknown { cause, .. } => {
            match cause {
                // An end that was asked for.
                Death::Killed(
                    KillReason::Stop | KillReason::Recycled | KillReason::CancelIgnored,
                ) => Verdict::Ignored,
                _ => Verdict::Failure,
            }
        }
        CallError::NoWorker { .. } => Verdict::Failure,
        _ => Verdict::Ignored,
    }
}

fn may_have_run(error: &CallError) -> bool {
    matches!(error, CallError::WorkerDied { started: true, .. } | CallError::OutcomeUnknown { .. })
}

/// Whether the error of the second attempt tells the caller less than that of the first, which may
/// have had an effect.
fn says_less(second: &CallError) -> bool {
    second.is_without_effect() || *second == CallError::Stopped
}

#[cfg(test)]
mod tests {
    use snakehouse_base::id::{Incarnation, WorkerId};

    use super::*;
    use crate::call::Where;

    fn died(started: bool, cause: Death) -> CallError {
        let (worker, incarnation) = (WorkerId(0), Incarnation(1));
        CallError::WorkerDied { worker, incarnation, started, cause }
    }

    #[test]
    fn the_breaker_hears_of_dead_workers_and_of_nothing_else() {
        let verdict = |error: CallError| verdict::<()>(&Err(error));
        assert_eq!(super::verdict(&Ok(())), Verdict::Success);
        assert_eq!(verdict(died(true, Death::Signalled { signal: 11 })), Verdict::Failure);
        assert_eq!(verdict(died(false, Death::Exited { code: 1 })), Verdict::Failure);
        assert_eq!(verdict(CallError::NoWorker { cause: String::new() }), Verdict::Failure);
        assert_eq!(verdict(died(true, Death::Killed(KillReason::Stop))), Verdict::Ignored);
        for neutral in [
            CallError::Cancelled,
            CallError::Stopped,
            CallError::Saturated { limit: 1 },
            CallError::Deadline { at: Where::Worker },
        ] {
            assert_eq!(verdict(neutral), Verdict::Ignored);
        }
    }

    #[test]
    fn a_second_attempt_that_did_nothing_does_not_hide_the_first() {
        assert!(says_less(&CallError::Stopped), "that something ran is to be told");
        assert!(says_less(&CallError::Deadline { at: Where::Queue }));
        assert!(!says_less(&CallError::Deadline { at: Where::Worker }));
        assert!(!says_less(&died(true, Death::Exited { code: 1 })));
    }

    #[test]
    fn only_what_may_have_run_is_repeated() {
        assert!(may_have_run(&died(true, Death::Exited { code: 1 })));
        assert!(!may_have_run(&died(false, Death::Exited { code: 1 })));
        assert!(!may_have_run(&CallError::Cancelled));
        assert!(!may_have_run(&CallError::Deadline { at: Where::Worker }));
    }
}
