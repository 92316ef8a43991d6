//! How sessions end: by their client's word, or because their place is needed.

use std::time::Duration;

use snakehouse_base::id::{ModelId, SessionId};

use super::accept::require_session;
use super::shared::Shared;
use super::{CoreError, FinishReason, journal};

/// A session that has been silent for this long may be ended to make room for a new one.
const ABANDONED: Duration = Duration::from_secs(600);

/// Ends a session. Ending it again changes nothing.
pub(super) async fn finish_session(
    shared: &Shared,
    session: &SessionId,
    reason: FinishReason,
    detail: Option<String>,
) -> Result<(), CoreError> {
    match require_session(shared, session).await {
        Err(CoreError::SessionFinished(_)) => return Ok(()),
        other => other?,
    }
    let reason = match reason {
        FinishReason::Success => "success",
        FinishReason::Errored => "errored",
        FinishReason::Interrupted => "interrupted",
    };
    let id = session.clone();
    let passage = shared.gate.read().await;
    shared
        .db
        .write(move |c| {
            Box::pin(
                async move { journal::finish_session(c, &id, reason, detail.as_deref()).await },
            )
        })
        .await?;
    {
        let mut state = shared.state();
        state.sessions.remove(session);
        state.queue.finish_session(session);
        let ended = state.models.iter().filter(|(_, model)| model.session == *session);
        let ended: Vec<ModelId> = ended.map(|(id, _)| id.clone()).collect();
        if ended.is_empty() {
            state.queue.forget_session(session);
        }
        state.retired.extend(ended);
    }
    drop(passage);
    shared.wake.notify_one();
    Ok(())
}

/// Makes room for a session, at the cost of the most silent one if that is abandoned.
pub(super) async fn room_for_session(shared: &Shared) -> Result<(), CoreError> {
    let limit = shared.limits.sessions;
    if shared.state().sessions.len() < limit || end_most_silent(shared, false).await? {
        return Ok(());
    }
    Err(CoreError::Saturated { what: "the number of sessions", limit: limit as u64 })
}

/// Makes room for a model. What an abandoned session held is free a moment later.
pub(super) async fn room_for_model(shared: &Shared) -> Result<(), CoreError> {
    let limit = shared.limits.models;
    if shared.state().models.len() < limit {
        return Ok(());
    }
    end_most_silent(shared, true).await?;
    Err(CoreError::Saturated { what: "the number of live models", limit: limit as u64 })
}

/// Ends the session that has been silent longest, if that is long enough.
async fn end_most_silent(shared: &Shared, with_models: bool) -> Result<bool, CoreError> {
    let most_silent = {
        let state = shared.state();
        let holds = |id: &SessionId| state.models.values().any(|model| model.session == *id);
        let candidates = state.sessions.iter().filter(|(id, _)| !with_models || holds(id));
        candidates
            .min_by_key(|(_, session)| session.last_seen)
            .filter(|(_, session)| session.last_seen.elapsed() >= ABANDONED)
            .map(|(id, _)| id.clone())
    };
    let Some(id) = most_silent else { return Ok(false) };
    let why = Some("its client was silent and its place was needed".to_owned());
    finish_session(shared, &id, FinishReason::Interrupted, why).await?;
    Ok(true)
}
