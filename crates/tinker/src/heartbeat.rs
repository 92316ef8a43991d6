//! Telling the service that the session is still wanted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use snakehouse_base::Deadline;
use snakehouse_base::id::SessionId;
use snakehouse_supervise::{BoxError, ChildSpec, Restart};
use snakehouse_tinker_api::json;
use tokio::time::Instant;

use crate::error::ClientError;
use crate::link::Link;
use crate::session::request;

/// How often.
const EVERY: Duration = Duration::from_secs(10);
/// How long one beat may take.
const BEAT: Duration = Duration::from_secs(10);
/// A service that has not answered for this long is worth a warning.
const WORRY: Duration = Duration::from_secs(120);

/// The supervised child that beats until the service ends the session or the scope stops. A beat that fails is not repeated: the next one comes soon enough.
pub(crate) fn child(session: SessionId, link: Link, ended: Arc<AtomicBool>) -> ChildSpec {
    ChildSpec::new("heartbeat", move |ctx| {
        let (session, link, ended) = (session.clone(), link.clone(), Arc::clone(&ended));
        async move {
            ctx.ready();
            let stopped = ctx.cancelled();
            tokio::select! {
                () = stopped.cancelled() => {}
                () = beat(&session, &link, &ended) => {}
            }
            Ok::<(), BoxError>(())
        }
    })
    .restart(Restart::Transient)
}

/// Beats for ever, or until the service says that the session is over.
async fn beat(session: &SessionId, link: &Link, ended: &AtomicBool) {
    let body = json::Heartbeat { session_id: session.to_string() };
    let mut last_answer = Instant::now();
    let mut worried = false;
    loop {
        tokio::time::sleep(EVERY).await;
        let Ok(beat) = request("session_heartbeat", &body) else { return };
        let deadline = Deadline::after(Instant::now().into_std(), BEAT);
        match link.bounded(link.send(beat), "session_heartbeat", deadline).await {
            Err(ClientError::Stopped) => return,
            Ok(Ok(response)) if response.status == 410 => {
                tracing::warn!(%session, "the service has ended the session");
                ended.store(true, Ordering::Relaxed);
                return;
            }
            Ok(Ok(response)) if response.is_success() => {
                last_answer = Instant::now();
                worried = false;
            }
            _ if !worried && last_answer.elapsed() >= WORRY => {
                worried = true;
                let silent_s = last_answer.elapsed().as_secs();
                tracing::warn!(%session, silent_s, "no heartbeat has been answered");
            }
            _ => {}
        }
    }
}
