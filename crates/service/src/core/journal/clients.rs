//! Sessions, models, samplers and what was saved.

use snakehouse_base::id::{ModelId, OpId, SamplerId, SessionId};
use sqlx::query;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::super::CoreError;
use super::super::vault::{get, sql, unsql};

type Read<T> = Result<Result<T, CoreError>, sqlx::Error>;

/// How far a model has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) enum ModelState {
    /// Its creation is accepted.
    Making,
    /// It can be trained.
    Live,
    /// Its creation failed.
    NeverMade,
    /// It cannot be brought back.
    Stopped,
}

/// A model's row.
#[derive(Clone, Debug)]
pub(in crate::core) struct ModelRow {
    pub(in crate::core) id: ModelId,
    pub(in crate::core) session: SessionId,
    pub(in crate::core) base: String,
    /// JSON, once it is live.
    pub(in crate::core) lora: Option<String>,
    /// JSON.
    pub(in crate::core) metadata: Option<String>,
    pub(in crate::core) state: ModelState,
    pub(in crate::core) stopped: Option<String>,
    pub(in crate::core) next_seq: u64,
}

/// A sampling session's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core) struct SamplerRow {
    pub(in crate::core) id: SamplerId,
    pub(in crate::core) session: SessionId,
    pub(in crate::core) base: String,
    pub(in crate::core) path: Option<String>,
    pub(in crate::core) save: Option<OpId>,
}

/// A complete save directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core) struct SaveRow {
    pub(in crate::core) op: OpId,
    pub(in crate::core) model: ModelId,
    /// 0 training, 1 sampler.
    pub(in crate::core) kind: i64,
    pub(in crate::core) base: String,
    /// JSON.
    pub(in crate::core) lora: String,
    pub(in crate::core) bytes: u64,
}

pub(in crate::core) async fn add_session(
    c: &mut SqliteConnection,
    id: &SessionId,
    info: &str,
) -> Result<(), sqlx::Error> {
    query("INSERT INTO session (id, info) VALUES (?1, ?2)")
        .bind(id.as_str())
        .bind(info)
        .execute(c)
        .await
        .map(drop)
}

/// Ends a session. Ending it again changes nothing.
pub(in crate::core) async fn finish_session(
    c: &mut SqliteConnection,
    id: &SessionId,
    reason: &str,
    detail: Option<&str>,
) -> Result<(), sqlx::Error> {
    query("UPDATE session SET finished = ?2, detail = ?3 WHERE id = ?1 AND finished IS NULL")
        .bind(id.as_str())
        .bind(reason)
        .bind(detail)
        .execute(c)
        .await
        .map(drop)
}

/// Whether a session is finished; `None` if it does not exist.
pub(in crate::core) async fn session_finished(
    c: &mut SqliteConnection,
    id: &SessionId,
) -> Result<Option<bool>, sqlx::Error> {
    sqlx::query_scalar("SELECT finished IS NOT NULL FROM session WHERE id = ?1")
        .bind(id.as_str())
        .fetch_optional(c)
        .await
}

pub(in crate::core) async fn open_sessions(
    c: &mut SqliteConnection,
) -> Result<Vec<SessionId>, sqlx::Error> {
    let ids: Vec<String> =
        sqlx::query_scalar("SELECT id FROM session WHERE finished IS NULL").fetch_all(c).await?;
    Ok(ids.into_iter().map(SessionId::new).collect())
}

const MODEL: &str = "SELECT m.id, m.session, m.base, m.lora, m.metadata, m.state, m.stopped,
     m.next_seq FROM model m ";

fn model(row: &SqliteRow) -> Result<ModelRow, CoreError> {
    Ok(ModelRow {
        id: ModelId::new(get::<String>(row, 0)?),
        session: SessionId::new(get::<String>(row, 1)?),
        base: get(row, 2)?,
        lora: get(row, 3)?,
        metadata: get(row, 4)?,
        state: match get::<i64>(row, 5)? {
            0 => ModelState::Making,
            1 => ModelState::Live,
            2 => ModelState::NeverMade,
            _ => ModelState::Stopped,
        },
        stopped: get(row, 6)?,
        next_seq: unsql(get(row, 7)?),
    })
}

pub(in crate::core) async fn find_model(
    c: &mut SqliteConnection,
    id: &ModelId,
) -> Read<Option<ModelRow>> {
    let found = query(sqlx::AssertSqlSafe(format!("{MODEL} WHERE m.id = ?1")));
    let found = found.bind(id.as_str()).fetch_optional(c).await?;
    Ok(found.as_ref().map(model).transpose())
}

/// The models of open sessions, and those of finished ones that still have work.
pub(in crate::core) async fn open_models(c: &mut SqliteConnection) -> Read<Vec<ModelRow>> {
    let rows = query(sqlx::AssertSqlSafe(format!(
        "{MODEL} JOIN session s ON m.session = s.id
         WHERE m.state != 2 AND (s.finished IS NULL OR EXISTS
             (SELECT 1 FROM operation o WHERE o.model = m.id AND o.state = 0))"
    )));
    let rows = rows.fetch_all(c).await?;
    Ok(rows.iter().map(model).collect())
}

/// Opens a sampling session; says what is there if the id is taken.
pub(in crate::core) async fn add_sampler(
    c: &mut SqliteConnection,
    new: &SamplerRow,
) -> Result<bool, sqlx::Error> {
    let done = query(
        "INSERT INTO sampler (id, session, base, path, save_op) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO NOTHING",
    )
    .bind(new.id.as_str())
    .bind(new.session.as_str())
    .bind(&new.base)
    .bind(&new.path)
    .bind(new.save.map(|op| sql(op.0)))
    .execute(c)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(in crate::core) async fn find_sampler(
    c: &mut SqliteConnection,
    id: &SamplerId,
) -> Read<Option<SamplerRow>> {
    let found = query("SELECT session, base, path, save_op FROM sampler WHERE id = ?1")
        .bind(id.as_str())
        .fetch_optional(c)
        .await?;
    let read = |row: &SqliteRow| {
        Ok(SamplerRow {
            id: id.clone(),
            session: SessionId::new(get::<String>(row, 0)?),
            base: get(row, 1)?,
            path: get(row, 2)?,
            save: get::<Option<i64>>(row, 3)?.map(|op| OpId(unsql(op))),
        })
    };
    Ok(found.as_ref().map(read).transpose())
}

/// Notes a complete save and lets `name` point to it.
pub(super) async fn put_save(
    c: &mut SqliteConnection,
    save: &SaveRow,
    name: Option<&str>,
) -> Result<(), sqlx::Error> {
    query("INSERT INTO save (op, model, kind, base, lora, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")
        .bind(sql(save.op.0))
        .bind(save.model.as_str())
        .bind(save.kind)
        .bind(&save.base)
        .bind(&save.lora)
        .bind(sql(save.bytes))
        .execute(&mut *c)
        .await?;
    let Some(name) = name else { return Ok(()) };
    query("INSERT OR REPLACE INTO checkpoint (model, kind, name, op) VALUES (?1, ?2, ?3, ?4)")
        .bind(save.model.as_str())
        .bind(save.kind)
        .bind(name)
        .bind(sql(save.op.0))
        .execute(c)
        .await
        .map(drop)
}

const SAVE: &str = "SELECT s.op, s.model, s.kind, s.base, s.lora, s.bytes FROM save s ";

fn save(row: &SqliteRow) -> Result<SaveRow, CoreError> {
    Ok(SaveRow {
        op: OpId(unsql(get(row, 0)?)),
        model: ModelId::new(get::<String>(row, 1)?),
        kind: get(row, 2)?,
        base: get(row, 3)?,
        lora: get(row, 4)?,
        bytes: unsql(get(row, 5)?),
    })
}

/// The save that a name points to.
pub(in crate::core) async fn checkpoint(
    c: &mut SqliteConnection,
    model: &ModelId,
    kind: i64,
    name: &str,
) -> Read<Option<SaveRow>> {
    let found = query(sqlx::AssertSqlSafe(format!(
        "{SAVE} JOIN checkpoint p ON p.op = s.op
         WHERE p.model = ?1 AND p.kind = ?2 AND p.name = ?3"
    )));
    let found = found.bind(model.as_str()).bind(kind).bind(name).fetch_optional(c).await?;
    Ok(found.as_ref().map(save).transpose())
}
