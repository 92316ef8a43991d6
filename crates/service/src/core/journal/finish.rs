//! Writing down how operations ended.

use snakehouse_base::id::{ModelId, OpId};
use sqlx::query;
use sqlx::sqlite::SqliteConnection;

use super::super::Category;
use super::super::vault::{Stored, sql, unsql};
use super::clients::{SamplerRow, SaveRow, add_sampler, put_save};

/// The end of an operation.
#[derive(Debug)]
pub(in crate::core) struct Finish {
    pub(in crate::core) op: OpId,
    /// `None` if it took place.
    pub(in crate::core) failed: Option<Category>,
    /// It changed its model, so replay repeats it and needs its body.
    pub(in crate::core) effect: bool,
    /// The result, or the error's text.
    pub(in crate::core) result: Stored,
    pub(in crate::core) reply_digest: Option<[u8; 32]>,
    /// The save that it loaded.
    pub(in crate::core) source: Option<OpId>,
    /// The model's order has come past this number.
    pub(in crate::core) passed: Option<(ModelId, u64)>,
    pub(in crate::core) extra: Extra,
}

/// What becomes true together with the end.
#[derive(Debug)]
pub(in crate::core) enum Extra {
    /// Nothing else.
    Nothing,
    /// The model is there.
    Live {
        /// It.
        model: ModelId,
        /// Its base.
        base: String,
        /// Its adapters, as JSON.
        lora: String,
    },
    /// The model will never be there.
    NeverMade(ModelId),
    /// A directory is complete.
    Saved {
        /// It.
        save: SaveRow,
        /// The name that points to it.
        name: Option<String>,
        /// The sampling session that draws from it.
        sampler: Option<SamplerRow>,
    },
}

/// Ends an operation and everything that goes with it.
pub(in crate::core) async fn finish(
    c: &mut SqliteConnection,
    end: Finish,
) -> Result<(), sqlx::Error> {
    let (bytes, segment, offset, len) = end.result.columns();
    query(
        "UPDATE operation SET state = ?2, category = ?3, effect = ?4, reply_digest = ?5,
             source_op = ?6, result_bytes = ?7, result_segment = ?8, result_offset = ?9,
             result_len = ?10
         WHERE id = ?1",
    )
    .bind(sql(end.op.0))
    .bind(if end.failed.is_some() { 2 } else { 1 })
    .bind(end.failed.map(|category| category as i64))
    .bind(end.effect)
    .bind(end.reply_digest.as_ref().map(|digest| digest.as_slice()))
    .bind(end.source.map(|op| sql(op.0)))
    .bind(bytes)
    .bind(segment)
    .bind(offset)
    .bind(len)
    .execute(&mut *c)
    .await?;
    if !end.effect {
        query(
            "UPDATE operation SET body_bytes = NULL, body_segment = NULL, body_offset = NULL,
                 body_len = NULL
             WHERE id = ?1",
        )
        .bind(sql(end.op.0))
        .execute(&mut *c)
        .await?;
    }
    if let Some((model, seq)) = &end.passed {
        query("UPDATE model SET next_seq = max(next_seq, ?2) WHERE id = ?1")
            .bind(model.as_str())
            .bind(sql(seq + 1))
            .execute(&mut *c)
            .await?;
    }
    match end.extra {
        Extra::Nothing => Ok(()),
        Extra::Live { model, base, lora } => {
            let made = query("UPDATE model SET state = 1, base = ?2, lora = ?3 WHERE id = ?1");
            made.bind(model.as_str()).bind(base).bind(lora).execute(&mut *c).await.map(drop)
        }
        Extra::NeverMade(model) => {
            let failed = query("UPDATE model SET state = 2 WHERE id = ?1 AND state = 0");
            failed.bind(model.as_str()).execute(&mut *c).await.map(drop)
        }
        Extra::Saved { save, name, sampler } => {
            put_save(c, &save, name.as_deref()).await?;
            match sampler {
                Some(sampler) => add_sampler(c, &sampler).await.map(drop),
                None => Ok(()),
            }
        }
    }
}

/// Counts an engine death against the operation that was running; returns how many there were.
pub(in crate::core) async fn add_death(
    c: &mut SqliteConnection,
    op: OpId,
) -> Result<u64, sqlx::Error> {
    let deaths: i64 = sqlx::query_scalar(
        "UPDATE operation SET deaths = deaths + 1 WHERE id = ?1 RETURNING deaths",
    )
    .bind(sql(op.0))
    .fetch_one(&mut *c)
    .await?;
    Ok(unsql(deaths))
}

/// Marks a model as stopped, with the reason.
pub(in crate::core) async fn stop_model(
    c: &mut SqliteConnection,
    model: &ModelId,
    why: &str,
) -> Result<(), sqlx::Error> {
    query("UPDATE model SET state = 3, stopped = ?2 WHERE id = ?1")
        .bind(model.as_str())
        .bind(why)
        .execute(&mut *c)
        .await
        .map(drop)
}
