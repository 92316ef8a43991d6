//! Writing down what was accepted.

use snakehouse_base::id::{ModelId, OpId, SessionId};
use sqlx::sqlite::SqliteConnection;
use sqlx::{Row as _, query};

use super::super::Category;
use super::super::op::{OpKind, Place};
use super::super::vault::{Stored, sql, unsql};

/// An operation about to be accepted.
#[derive(Debug)]
pub(in crate::core) struct NewOp {
    pub(in crate::core) kind: OpKind,
    pub(in crate::core) place: Place,
    /// The client's number, if the place is a sampler.
    pub(in crate::core) sample_seq: u64,
    /// Continuations asked for.
    pub(in crate::core) samples: u32,
    /// SHA-256 of what the client asked for.
    pub(in crate::core) content: [u8; 32],
    pub(in crate::core) body: Stored,
    pub(in crate::core) size: u64,
    /// An operation that has already failed.
    pub(in crate::core) failed: Option<(String, Category)>,
    /// The model that this operation makes.
    pub(in crate::core) makes: Option<NewModel>,
}

/// A model about to be made.
#[derive(Debug)]
pub(in crate::core) struct NewModel {
    pub(in crate::core) id: ModelId,
    pub(in crate::core) session: SessionId,
    pub(in crate::core) base: String,
    pub(in crate::core) metadata: Option<String>,
}

/// What became of a [`NewOp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) enum Inserted {
    /// It is in the journal now.
    New(OpId),
    /// It was there before.
    Same {
        /// Its id.
        op: OpId,
        /// Continuations it was accepted for.
        samples: u32,
    },
    /// Its key belongs to another request.
    Other,
}

/// What the journal holds under a key, compared with `content`; `None` if nothing.
pub(in crate::core) async fn find(
    c: &mut SqliteConnection,
    place: Place,
    sample_seq: u64,
    content: [u8; 32],
) -> Result<Option<Inserted>, sqlx::Error> {
    let known = match &place {
        Place::Model(model, seq) => {
            query("SELECT id, content, samples FROM operation WHERE model = ?1 AND seq = ?2")
                .bind(model.as_str().to_owned())
                .bind(sql(*seq))
        }
        Place::Sampler(sampler) => query(
            "SELECT id, content, samples FROM operation WHERE sampler = ?1 AND sample_seq = ?2",
        )
        .bind(sampler.as_str().to_owned())
        .bind(sql(sample_seq)),
    };
    let Some(row) = known.fetch_optional(c).await? else { return Ok(None) };
    if row.try_get::<Vec<u8>, _>(1)? != content {
        return Ok(Some(Inserted::Other));
    }
    let op = OpId(unsql(row.try_get(0)?));
    Ok(Some(Inserted::Same { op, samples: row.try_get(2)? }))
}

/// Writes an operation down, unless its key is taken.
pub(in crate::core) async fn insert(
    c: &mut SqliteConnection,
    new: NewOp,
) -> Result<Inserted, sqlx::Error> {
    if let Some(known) = find(c, new.place.clone(), new.sample_seq, new.content).await? {
        return Ok(known);
    }
    let (model, seq, sampler, sample_seq) = match &new.place {
        Place::Model(model, seq) => (Some(model.as_str()), Some(sql(*seq)), None, None),
        Place::Sampler(sampler) => (None, None, Some(sampler.as_str()), Some(sql(new.sample_seq))),
    };
    if let Some(made) = &new.makes {
        let done = query(
            "INSERT INTO model (id, session, base, metadata, state, next_seq)
             VALUES (?1, ?2, ?3, ?4, 0, 0) ON CONFLICT DO NOTHING",
        )
        .bind(made.id.as_str())
        .bind(made.session.as_str())
        .bind(&made.base)
        .bind(&made.metadata)
        .execute(&mut *c)
        .await?;
        if done.rows_affected() == 0 {
            // Made so long ago that the operation is forgotten; the number stays taken.
            return Ok(Inserted::Other);
        }
    }
    let (bytes, segment, offset, len) = new.body.columns();
    let (state, category, error) = match &new.failed {
        None => (0, None, None),
        Some((error, category)) => (2, Some(*category as i64), Some(error.as_bytes())),
    };
    let done = query(
        "INSERT INTO operation (kind, model, seq, sampler, sample_seq, samples, content, body_bytes,
             body_segment, body_offset, body_len, body_size, state, category, result_bytes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
    )
    .bind(new.kind.code())
    .bind(model)
    .bind(seq)
    .bind(sampler)
    .bind(sample_seq)
    .bind(new.samples)
    .bind(new.content.as_slice())
    .bind(bytes)
    .bind(segment)
    .bind(offset)
    .bind(len)
    .bind(sql(new.size))
    .bind(state)
    .bind(category)
    .bind(error)
    .execute(&mut *c)
    .await?;
    Ok(Inserted::New(OpId(unsql(done.last_insert_rowid()))))
}
