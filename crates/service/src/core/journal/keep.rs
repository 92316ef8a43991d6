//! What is kept for replay and for clients, and what may go.

use std::collections::HashSet;

use snakehouse_base::id::{ModelId, OpId};
use sqlx::query;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::super::CoreError;
use super::super::vault::{get, sql, unsql};

/// A complete snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core) struct SnapshotRow {
    /// The operation it was taken after, which names its directory.
    pub(in crate::core) op: OpId,
    pub(in crate::core) model: ModelId,
    /// That operation's number.
    pub(in crate::core) seq: u64,
    pub(in crate::core) digest: String,
}

pub(in crate::core) async fn add_snapshot(
    c: &mut SqliteConnection,
    new: &SnapshotRow,
) -> Result<(), sqlx::Error> {
    query("INSERT OR REPLACE INTO snapshot (op, model, seq, digest) VALUES (?1, ?2, ?3, ?4)")
        .bind(sql(new.op.0))
        .bind(new.model.as_str())
        .bind(sql(new.seq))
        .bind(&new.digest)
        .execute(c)
        .await
        .map(drop)
}

/// The snapshots of a model, or of all, newest first.
pub(in crate::core) async fn snapshots_of(
    c: &mut SqliteConnection,
    model: Option<&ModelId>,
) -> Result<Result<Vec<SnapshotRow>, CoreError>, sqlx::Error> {
    let rows = query(
        "SELECT op, model, seq, digest FROM snapshot WHERE ?1 IS NULL OR model = ?1
         ORDER BY seq DESC",
    )
    .bind(model.map(ModelId::as_str))
    .fetch_all(c)
    .await?;
    let read = |row: &SqliteRow| {
        Ok(SnapshotRow {
            op: OpId(unsql(get(row, 0)?)),
            model: ModelId::new(get::<String>(row, 1)?),
            seq: unsql(get(row, 2)?),
            digest: get(row, 3)?,
        })
    };
    Ok(rows.iter().map(read).collect())
}

/// Live models of open sessions that have taken effects since their last snapshot.
pub(in crate::core) async fn unsnapshotted(
    c: &mut SqliteConnection,
) -> Result<Vec<ModelId>, sqlx::Error> {
    let ids: Vec<String> = sqlx::query_scalar(
        "SELECT m.id FROM model m JOIN session s ON m.session = s.id
         WHERE m.state = 1 AND s.finished IS NULL AND EXISTS (
             SELECT 1 FROM operation o WHERE o.model = m.id AND o.effect = 1 AND o.seq >
                 coalesce((SELECT max(p.seq) FROM snapshot p WHERE p.model = m.id), -1))",
    )
    .fetch_all(c)
    .await?;
    Ok(ids.into_iter().map(ModelId::new).collect())
}

pub(in crate::core) async fn drop_snapshots(
    c: &mut SqliteConnection,
    ops: &[OpId],
) -> Result<(), sqlx::Error> {
    for op in ops {
        query("DELETE FROM snapshot WHERE op = ?1").bind(sql(op.0)).execute(&mut *c).await?;
    }
    Ok(())
}

/// Forgets the bodies that no kept snapshot needs for a replay.
pub(in crate::core) async fn drop_old_bodies(
    c: &mut SqliteConnection,
    model: &ModelId,
    up_to: u64,
) -> Result<(), sqlx::Error> {
    query(
        "UPDATE operation SET body_bytes = NULL, body_segment = NULL, body_offset = NULL,
             body_len = NULL
         WHERE model = ?1 AND seq <= ?2 AND state != 0
             AND (body_bytes IS NOT NULL OR body_segment IS NOT NULL)",
    )
    .bind(model.as_str())
    .bind(sql(up_to))
    .execute(c)
    .await
    .map(drop)
}

/// The models whose ended operations have bodies in the blob log, those with the oldest first.
pub(in crate::core) async fn log_holders(
    c: &mut SqliteConnection,
) -> Result<Vec<ModelId>, sqlx::Error> {
    let ids: Vec<String> = sqlx::query_scalar(
        "SELECT model FROM operation
         WHERE state != 0 AND body_segment IS NOT NULL AND model IS NOT NULL
         GROUP BY model ORDER BY min(body_segment)",
    )
    .fetch_all(c)
    .await?;
    Ok(ids.into_iter().map(ModelId::new).collect())
}

/// Models of finished sessions with nothing left to do: one, if it is such a model, or all.
const DEPARTED: &str = "(SELECT m.id FROM model m JOIN session s ON m.session = s.id
     WHERE s.finished IS NOT NULL AND (?1 IS NULL OR m.id = ?1) AND NOT EXISTS
         (SELECT 1 FROM operation o WHERE o.model = m.id AND o.state = 0))";

/// Forgets what models of finished sessions would need to go on. Gives the operations whose
/// snapshots are gone.
pub(in crate::core) async fn let_go(
    c: &mut SqliteConnection,
    model: Option<&ModelId>,
) -> Result<Vec<OpId>, sqlx::Error> {
    let model = model.map(ModelId::as_str);
    let forgotten = format!("DELETE FROM snapshot WHERE model IN {DEPARTED} RETURNING op");
    let snapshots: Vec<i64> =
        sqlx::query_scalar(sqlx::AssertSqlSafe(forgotten)).bind(model).fetch_all(&mut *c).await?;
    query(sqlx::AssertSqlSafe(format!(
        "UPDATE operation SET body_bytes = NULL, body_segment = NULL, body_offset = NULL,
             body_len = NULL
         WHERE model IN {DEPARTED} AND state != 0
             AND (body_bytes IS NOT NULL OR body_segment IS NOT NULL)"
    )))
    .bind(model)
    .execute(c)
    .await?;
    Ok(snapshots.into_iter().map(|op| OpId(unsql(op))).collect())
}

/// Forgets the oldest ended operations past the bounds, except those that a replay needs.
pub(in crate::core) async fn trim(
    c: &mut SqliteConnection,
    rows: u64,
    result_bytes: u64,
) -> Result<(), sqlx::Error> {
    query(
        "DELETE FROM operation
         WHERE id <= (SELECT max(id) FROM operation) - ?1 AND state != 0
             AND body_bytes IS NULL AND body_segment IS NULL",
    )
    .bind(sql(rows))
    .execute(&mut *c)
    .await?;
    query(
        "UPDATE operation SET result_bytes = NULL, result_segment = NULL, result_offset = NULL,
             result_len = NULL
         WHERE state != 0 AND id <= (
             SELECT id FROM (
                 SELECT id, sum(coalesce(result_len, length(result_bytes), 0))
                     OVER (ORDER BY id DESC) AS newer
                 FROM operation)
             WHERE newer > ?1 ORDER BY id DESC LIMIT 1)",
    )
    .bind(sql(result_bytes))
    .execute(c)
    .await
    .map(drop)
}

/// The segments of the blob log that some row points to.
pub(in crate::core) async fn referenced_segments(
    c: &mut SqliteConnection,
) -> Result<HashSet<u64>, sqlx::Error> {
    let segments: Vec<i64> = sqlx::query_scalar(
        "SELECT body_segment FROM operation WHERE body_segment IS NOT NULL
         UNION SELECT result_segment FROM operation WHERE result_segment IS NOT NULL",
    )
    .fetch_all(c)
    .await?;
    Ok(segments.into_iter().map(unsql).collect())
}

/// Saves that nothing points to: no name, no sampling session of an open session or with a sample
/// that is still to be drawn, no replay.
pub(in crate::core) async fn doomed_saves(
    c: &mut SqliteConnection,
) -> Result<Vec<OpId>, sqlx::Error> {
    let ops: Vec<i64> = sqlx::query_scalar(
        "SELECT op FROM save
         WHERE op NOT IN (SELECT op FROM checkpoint)
             AND op NOT IN (SELECT p.save_op FROM sampler p JOIN session s ON p.session = s.id
                 WHERE p.save_op IS NOT NULL AND s.finished IS NULL)
             AND op NOT IN (SELECT p.save_op FROM sampler p
                 JOIN operation o ON o.sampler = p.id AND o.state = 0
                 WHERE p.save_op IS NOT NULL)
             AND op NOT IN (SELECT source_op FROM operation WHERE source_op IS NOT NULL
                 AND (body_bytes IS NOT NULL OR body_segment IS NOT NULL))",
    )
    .fetch_all(c)
    .await?;
    Ok(ops.into_iter().map(|op| OpId(unsql(op))).collect())
}

/// The operations whose save directories are complete.
pub(in crate::core) async fn all_saves(c: &mut SqliteConnection) -> Result<Vec<OpId>, sqlx::Error> {
    let ops: Vec<i64> = sqlx::query_scalar("SELECT op FROM save").fetch_all(c).await?;
    Ok(ops.into_iter().map(|op| OpId(unsql(op))).collect())
}

pub(in crate::core) async fn drop_saves(
    c: &mut SqliteConnection,
    ops: &[OpId],
) -> Result<(), sqlx::Error> {
    for op in ops {
        query("DELETE FROM sampler WHERE save_op = ?1").bind(sql(op.0)).execute(&mut *c).await?;
        query("DELETE FROM save WHERE op = ?1").bind(sql(op.0)).execute(&mut *c).await?;
    }
    Ok(())
}
