//! From what is stored to what is in memory, at every start of the owner.

use tokio::time::Instant;

use super::journal::{self, ModelRow, ModelState};
use super::op::Job;
use super::queue::Admitted;
use super::shared::{Model, Shared};
use super::{Category, CoreError};

/// Reads sessions, models and accepted operations, and begins anew with them.
pub(super) async fn load(shared: &Shared) -> Result<(), CoreError> {
    let _nobody_else = shared.gate.write().await;
    let sessions = shared.db.read(|c| Box::pin(journal::open_sessions(c))).await?;
    let models = shared.read(|c| Box::pin(journal::open_models(c))).await?;
    let accepted = shared.read(|c| Box::pin(journal::accepted(c))).await?;
    let used_up = shared.read(|c| Box::pin(journal::used_up(c))).await?;
    let refused = {
        let mut state = shared.state();
        state.clear(&shared.limits);
        let now = Instant::now();
        for id in sessions {
            state.add_session(id);
        }
        for row in models {
            if !state.sessions.contains_key(&row.session) {
                // Its session is finished; it stays until its last operation is done.
                state.queue.touch(&row.session, now);
                state.queue.finish_session(&row.session);
                state.retired.push(row.id.clone());
            }
            state.queue.open(row.id.clone(), row.session.clone(), row.next_seq);
            state.models.insert(row.id.clone(), entry(row));
        }
        state.set_pending(accepted.len(), accepted.iter().map(|job| job.size).sum());
        for (model, seq) in used_up {
            state.queue.use_up(&model, seq);
        }
        let mut refused: Vec<Job> = Vec::new();
        for job in accepted {
            if state.queue.push(job.clone()) != Admitted::Queued {
                refused.push(job);
            }
        }
        refused
    };
    for job in refused {
        let why = "its sequence number was passed over, or its model was never made".to_owned();
        shared.refuse(&job, why, Category::User, false).await?;
    }
    Ok(())
}

fn entry(row: ModelRow) -> Model {
    let (mut state, mut stopped) = (row.state, row.stopped);
    let lora = row.lora.as_deref().map(serde_json::from_str).transpose().unwrap_or_else(|error| {
        tracing::error!(model = %row.id, %error, "the adapters of a model cannot be read");
        (state, stopped) = (ModelState::Stopped, Some("journal_damaged".to_owned()));
        None
    });
    Model {
        session: row.session,
        base: row.base,
        lora,
        state,
        stopped: stopped.filter(|_| state == ModelState::Stopped),
    }
}
