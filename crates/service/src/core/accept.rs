//! Admission: what is accepted is durable before anybody hears so.

use std::sync::Arc;

use snakehouse_base::id::{ModelId, SamplerId, SessionId};
use snakehouse_store::StoreError;
use tokio::time::Instant;

use super::departure::room_for_model;
use super::fault::FaultPoint;
use super::journal::{self, Inserted, ModelState, NewModel, NewOp};
use super::op::{Job, Place};
use super::plan::{Plan, model_id, plan, size_of};
use super::queue::Admitted;
use super::shared::{Model, Room, Shared};
use super::submit::{LoadTarget, Submit, Target};
use super::{Category, CoreError, Promise};

/// What must exist for an operation to be accepted.
struct Standing {
    session: SessionId,
    /// The model to be made.
    makes: Option<NewModel>,
    /// A model that cannot be trained any more, with the reason.
    stopped: Option<String>,
}

/// Accepts one operation.
pub(super) async fn accept(shared: Arc<Shared>, op: Submit) -> Result<Promise, CoreError> {
    let mut standing = standing(&shared, &op).await?;
    shared.state().queue.touch(&standing.session, Instant::now());
    let (size, worker) = (size_of(&op), shared.clone());
    let mut planned = shared.compute(size, move || plan(op, &worker.chance)).await??;
    if let (Some(why), None) = (&standing.stopped, &planned.failed) {
        let why = format!("the model is stopped: {why}; create a new one from a checkpoint");
        planned.failed = Some((why, Category::Server));
    }
    if planned.failed.is_some() {
        // A creation that has failed already leaves no model.
        standing.makes = None;
    }
    let room = match shared.room(planned.body.len() as u64) {
        Ok(room) => room,
        Err(full) => return repeated(&shared, &planned).await?.ok_or(full),
    };
    if standing.makes.is_some()
        && let Err(full) = room_for_model(&shared).await
    {
        return repeated(&shared, &planned).await?.ok_or(full);
    }
    shared.at(FaultPoint::BeforeAccept).await;
    record(&shared, planned, standing, room).await
}

/// Writes the operation down and hands it to the queue.
async fn record(
    shared: &Arc<Shared>,
    planned: Plan,
    standing: Standing,
    room: Room<'_>,
) -> Result<Promise, CoreError> {
    let Plan { kind, place, sample_seq, samples, content, body, failed } = planned;
    let size = body.len() as u64;
    if shared.vault.is_large(body.len())
        && let Some(known) = known_promise(shared, &place, sample_seq, content).await?
    {
        // A retry: its body is in the log already.
        return Ok(known);
    }
    let kept = match shared.vault.admit(body).await {
        Ok(kept) => kept,
        Err(refused) => {
            if matches!(refused, StoreError::Full { .. }) {
                shared.note_crowded();
            }
            let known = known_promise(shared, &place, sample_seq, content).await?;
            return known.ok_or(refused.into());
        }
    };
    let has_failed = failed.is_some();
    let (made, session) = (standing.makes, standing.session);
    let entry = made.as_ref().map(|new| Model {
        session: session.clone(),
        base: new.base.clone(),
        lora: None,
        state: ModelState::Making,
        stopped: None,
    });
    let new = NewOp {
        kind,
        place: place.clone(),
        sample_seq,
        samples,
        content,
        body: kept.stored.clone(),
        size,
        failed,
        makes: made,
    };
    let passage = shared.gate.read().await;
    let inserted = shared.db.write(move |c| Box::pin(journal::insert(c, new))).await?;
    drop(kept);
    shared.at(FaultPoint::AfterAccept).await;
    let op = match inserted {
        Inserted::Same { op, samples } => return Ok(promise(shared, op, &place, samples)),
        Inserted::Other => return Err(conflict(&place, sample_seq)),
        Inserted::New(op) => op,
    };
    let job = Job { op, kind, place: place.clone(), size };
    let admitted = {
        let mut state = shared.state();
        if let (Some(entry), Place::Model(model, _)) = (entry, &place) {
            if !state.sessions.contains_key(&session) {
                // It was finished in between: the model leaves when it has been made.
                state.queue.touch(&session, Instant::now());
                state.queue.finish_session(&session);
                state.retired.push(model.clone());
            }
            state.queue.open(model.clone(), session, 0);
            state.models.insert(model.clone(), entry);
        }
        match (&place, has_failed) {
            (Place::Model(model, seq), true) => {
                state.queue.use_up(model, *seq);
                None
            }
            (Place::Sampler(_), true) => None,
            (_, false) => Some(state.queue.push(job.clone())),
        }
    };
    drop(passage);
    match admitted {
        // It has failed already: the room is free again.
        None => {}
        Some(Admitted::Queued) => room.used(),
        Some(Admitted::PassedOver) => {
            room.used();
            let why =
                "its sequence number was passed over: the session had been idle for long, so \
                       later operations ran without it"
                    .to_owned();
            shared.refuse(&job, why, Category::User, false).await?;
        }
        Some(Admitted::UnknownModel) => {
            room.used();
            let why = "its model was closed in the meantime".to_owned();
            shared.refuse(&job, why, Category::User, false).await?;
        }
    }
    shared.wake.notify_one();
    Ok(promise(shared, op, &place, samples))
}

/// The promise of an operation that is in the journal already, if it is.
async fn repeated(shared: &Shared, planned: &Plan) -> Result<Option<Promise>, CoreError> {
    known_promise(shared, &planned.place, planned.sample_seq, planned.content).await
}

async fn known_promise(
    shared: &Shared,
    place: &Place,
    sample_seq: u64,
    content: [u8; 32],
) -> Result<Option<Promise>, CoreError> {
    let key = place.clone();
    let found = shared.db.read(|c| Box::pin(journal::find(c, key, sample_seq, content))).await?;
    match found {
        None => Ok(None),
        Some(Inserted::Other) => Err(conflict(place, sample_seq)),
        Some(Inserted::Same { op, samples }) => Ok(Some(promise(shared, op, place, samples))),
        Some(Inserted::New(_)) => Ok(None),
    }
}

fn promise(shared: &Shared, op: snakehouse_base::id::OpId, place: &Place, samples: u32) -> Promise {
    let request_id = shared.request_id(op);
    let model_id = match place {
        Place::Model(model, _) => Some(model.clone()),
        Place::Sampler(_) => None,
    };
    let sample_sequence_ids = (0..samples).map(|n| format!("{request_id}-{n}")).collect();
    Promise { request_id, model_id, sample_sequence_ids }
}

fn conflict(place: &Place, sample_seq: u64) -> CoreError {
    let key = match place {
        Place::Model(model, 0) => format!("model {model}"),
        Place::Model(model, seq) => format!("seq_id {seq} of model {model}"),
        Place::Sampler(sampler) => format!("seq_id {sample_seq} of sampling session {sampler}"),
    };
    CoreError::Conflict { key }
}

/// Checks that everything an operation names exists.
async fn standing(shared: &Shared, op: &Submit) -> Result<Standing, CoreError> {
    match op {
        Submit::CreateModel { session, model_seq_id, base_model, user_metadata, .. } => {
            require_session(shared, session).await?;
            require_base(shared, base_model)?;
            let makes = NewModel {
                id: model_id(session, *model_seq_id),
                session: session.clone(),
                base: base_model.clone(),
                metadata: user_metadata
                    .as_ref()
                    .map(|m| serde_json::Value::from(m.clone()).to_string()),
            };
            Ok(Standing { session: session.clone(), makes: Some(makes), stopped: None })
        }
        Submit::LoadWeights {
            target: LoadTarget::Create { session, model_seq_id, base_model, user_metadata },
            ..
        } => {
            require_session(shared, session).await?;
            if let Some(base) = base_model {
                require_base(shared, base)?;
            }
            let makes = NewModel {
                id: model_id(session, *model_seq_id),
                session: session.clone(),
                base: base_model.clone().unwrap_or_default(),
                metadata: user_metadata
                    .as_ref()
                    .map(|m| serde_json::Value::from(m.clone()).to_string()),
            };
            Ok(Standing { session: session.clone(), makes: Some(makes), stopped: None })
        }
        Submit::Invalid { target: Target::Session(session, _), .. } => {
            require_session(shared, session).await?;
            Ok(Standing { session: session.clone(), makes: None, stopped: None })
        }
        Submit::ForwardBackward { model, .. }
        | Submit::OptimStep { model, .. }
        | Submit::SaveWeights { model, .. }
        | Submit::SaveForSampler { model, .. }
        | Submit::LoadWeights { target: LoadTarget::Overwrite { model, .. }, .. }
        | Submit::Invalid { target: Target::Model(model, _), .. } => of_model(shared, model).await,
        Submit::Sample { sampler, .. }
        | Submit::Invalid { target: Target::Sampler(sampler, _), .. } => {
            of_sampler(shared, sampler).await
        }
    }
}

async fn of_model(shared: &Shared, model: &ModelId) -> Result<Standing, CoreError> {
    let known = {
        let mut state = shared.state();
        let known = state.models.get(model).cloned();
        if let Some(session) = known.as_ref().and_then(|m| state.sessions.get_mut(&m.session)) {
            session.last_seen = Instant::now();
        }
        known
    };
    let Some(known) = known else {
        let id = model.clone();
        let row =
            shared.read(|c| Box::pin(async move { journal::find_model(c, &id).await })).await?;
        return Err(match row {
            Some(row) if row.state != ModelState::NeverMade => {
                CoreError::SessionFinished(row.session.to_string())
            }
            _ => CoreError::UnknownModel(model.to_string()),
        });
    };
    require_session(shared, &known.session).await?;
    Ok(Standing { session: known.session, makes: None, stopped: known.stopped })
}

async fn of_sampler(shared: &Shared, sampler: &SamplerId) -> Result<Standing, CoreError> {
    let id = sampler.clone();
    let row = shared.read(|c| Box::pin(async move { journal::find_sampler(c, &id).await })).await?;
    let row = row.ok_or_else(|| CoreError::UnknownSampler(sampler.to_string()))?;
    require_session(shared, &row.session).await?;
    Ok(Standing { session: row.session, makes: None, stopped: None })
}

/// The session exists and is open; notes that its client is there.
pub(super) async fn require_session(shared: &Shared, id: &SessionId) -> Result<(), CoreError> {
    if let Some(session) = shared.state().sessions.get_mut(id) {
        session.last_seen = Instant::now();
        return Ok(());
    }
    let copy = id.clone();
    let finished = shared
        .db
        .read(|c| Box::pin(async move { journal::session_finished(c, &copy).await }))
        .await?;
    match finished {
        Some(false) => adopt_session(shared, id).await,
        Some(true) => Err(CoreError::SessionFinished(id.to_string())),
        None => Err(CoreError::UnknownSession(id.to_string())),
    }
}

/// Takes a session into memory that the database calls open: the database is right.
async fn adopt_session(shared: &Shared, id: &SessionId) -> Result<(), CoreError> {
    // Nobody opens or ends one meanwhile.
    let _nobody_else = shared.gate.write().await;
    let copy = id.clone();
    let finished = shared
        .db
        .read(|c| Box::pin(async move { journal::session_finished(c, &copy).await }))
        .await?;
    if finished == Some(false) {
        shared.state().add_session(id.clone());
        return Ok(());
    }
    Err(CoreError::SessionFinished(id.to_string()))
}

/// The base model is served.
pub(super) fn require_base(shared: &Shared, name: &str) -> Result<(), CoreError> {
    if shared.sources.iter().any(|source| source.name == name) {
        return Ok(());
    }
    let served: Vec<_> = shared.sources.iter().map(|source| source.name.as_str()).collect();
    Err(CoreError::UnknownBaseModel { name: name.to_owned(), served: served.join(", ") })
}
