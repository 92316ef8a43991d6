//! Reading the journal.

use snakehouse_base::id::{ModelId, OpId, SamplerId};
use sqlx::query;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::super::op::{Job, OpKind, OpRow, Place};
use super::super::vault::{Stored, get, sql, unsql};
use super::super::{Category, CoreError};

type Read<T> = Result<Result<T, CoreError>, sqlx::Error>;

/// What an operation's row says about its end.
#[derive(Debug)]
pub(in crate::core) enum StoredOutcome {
    /// Not ended.
    Accepted,
    /// Took place.
    Done {
        /// What it did.
        kind: OpKind,
        /// To which model.
        model: Option<ModelId>,
        /// The result.
        result: Stored,
    },
    /// Failed.
    Failed {
        /// The text.
        error: Stored,
        /// Whose fault.
        category: Category,
    },
}

const JOB: &str = "SELECT id, kind, model, seq, sampler, body_size FROM operation ";

fn job(row: &SqliteRow) -> Result<Job, CoreError> {
    let place = match get::<Option<String>>(row, 2)? {
        Some(model) => Place::Model(ModelId::new(model), unsql(get(row, 3)?)),
        None => Place::Sampler(SamplerId::new(get::<String>(row, 4)?)),
    };
    Ok(Job {
        op: OpId(unsql(get(row, 0)?)),
        kind: OpKind::from_code(get(row, 1)?)?,
        place,
        size: unsql(get(row, 5)?),
    })
}

/// Everything accepted and not ended, in order of acceptance.
pub(in crate::core) async fn accepted(c: &mut SqliteConnection) -> Read<Vec<Job>> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!("{JOB} WHERE state = 0 ORDER BY id")));
    let rows = rows.fetch_all(c).await?;
    Ok(rows.iter().map(job).collect())
}

/// Numbers that failed before their turn came.
pub(in crate::core) async fn used_up(c: &mut SqliteConnection) -> Read<Vec<(ModelId, u64)>> {
    let rows = query(
        "SELECT o.model, o.seq FROM operation o JOIN model m ON o.model = m.id
         WHERE o.state = 2 AND o.seq >= m.next_seq",
    );
    let rows = rows.fetch_all(c).await?;
    let number = |row: &SqliteRow| Ok((ModelId::new(get::<String>(row, 0)?), unsql(get(row, 1)?)));
    Ok(rows.iter().map(number).collect())
}

const OP_ROW: &str = "SELECT id, kind, model, seq, sampler, body_size, body_bytes, body_segment,
     body_offset, body_len, source_op, reply_digest FROM operation ";

fn row(row: &SqliteRow) -> Result<OpRow, CoreError> {
    Ok(OpRow {
        job: job(row)?,
        body: Stored::from_row(row, 6..10)?,
        source: get::<Option<i64>>(row, 10)?.map(|op| OpId(unsql(op))),
        reply_digest: get(row, 11)?,
    })
}

/// One operation.
pub(in crate::core) async fn op_row(c: &mut SqliteConnection, op: OpId) -> Read<Option<OpRow>> {
    let found = query(sqlx::AssertSqlSafe(format!("{OP_ROW} WHERE id = ?1")));
    let found = found.bind(sql(op.0)).fetch_optional(c).await?;
    Ok(found.as_ref().map(row).transpose())
}

/// The next `limit` operations of a model that took effect, from `seq` on.
pub(in crate::core) async fn effects_after(
    c: &mut SqliteConnection,
    model: &ModelId,
    seq: u64,
    limit: u32,
) -> Read<Vec<OpRow>> {
    let rows = query(sqlx::AssertSqlSafe(format!(
        "{OP_ROW} WHERE model = ?1 AND seq >= ?2 AND effect = 1 ORDER BY seq LIMIT ?3"
    )));
    let rows = rows.bind(model.as_str()).bind(sql(seq)).bind(limit).fetch_all(c).await?;
    Ok(rows.iter().map(row).collect())
}

/// How an operation ended, or `None` if there is no such row.
pub(in crate::core) async fn outcome(
    c: &mut SqliteConnection,
    op: OpId,
) -> Read<Option<StoredOutcome>> {
    let found = query(
        "SELECT state, kind, model, category, result_bytes, result_segment, result_offset,
             result_len
         FROM operation WHERE id = ?1",
    );
    let found = found.bind(sql(op.0)).fetch_optional(c).await?;
    let read = |row: &SqliteRow| {
        let result = Stored::from_row(row, 4..8)?;
        Ok(match get::<i64>(row, 0)? {
            0 => StoredOutcome::Accepted,
            1 => StoredOutcome::Done {
                kind: OpKind::from_code(get(row, 1)?)?,
                model: get::<Option<String>>(row, 2)?.map(ModelId::new),
                result,
            },
            _ => StoredOutcome::Failed {
                error: result,
                category: match get::<Option<i64>>(row, 3)? {
                    Some(0) => Category::User,
                    _ => Category::Server,
                },
            },
        })
    };
    Ok(found.as_ref().map(read).transpose())
}

/// The highest operation id ever given.
pub(in crate::core) async fn highest_op(c: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
    let seq: Option<i64> =
        sqlx::query_scalar("SELECT seq FROM sqlite_sequence WHERE name = 'operation'")
            .fetch_optional(c)
            .await?;
    Ok(seq.map_or(0, unsql))
}
