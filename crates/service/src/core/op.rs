//! An operation as the journal knows it.

use bytes::Bytes;
use snakehouse_base::id::{ModelId, OpId, SamplerId};
use snakehouse_engine_api::{CreateModel, ForwardBackward, Optimize, Request as _, Sample};

use super::vault::Stored;
use super::{Category, CoreError, OpResult};

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpKind {
    CreateModel,
    LoadWeights,
    ForwardBackward,
    Forward,
    OptimStep,
    SaveWeights,
    SaveForSampler,
    Sample,
    Invalid,
}

impl OpKind {
    const ALL: [Self; 9] = [
        Self::CreateModel,
        Self::LoadWeights,
        Self::ForwardBackward,
        Self::Forward,
        Self::OptimStep,
        Self::SaveWeights,
        Self::SaveForSampler,
        Self::Sample,
        Self::Invalid,
    ];

    /// The number in the database. Never changed.
    pub(super) const fn code(self) -> i64 {
        self as i64
    }

    pub(super) fn from_code(code: i64) -> Result<Self, CoreError> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.code() == code)
            .ok_or_else(|| CoreError::Corrupt(format!("operation kind {code} is unknown")))
    }

    /// Whether success changes a model's state, so that replay must repeat it.
    pub(super) const fn changes_model(self) -> bool {
        matches!(
            self,
            Self::CreateModel | Self::LoadWeights | Self::ForwardBackward | Self::OptimStep
        )
    }

    /// The tool that runs the stored body as it is, for kinds where there is one.
    pub(super) const fn tool(self) -> Option<&'static str> {
        match self {
            Self::CreateModel => Some(CreateModel::TOOL),
            Self::ForwardBackward | Self::Forward => Some(ForwardBackward::TOOL),
            Self::OptimStep => Some(Optimize::TOOL),
            Self::Sample => Some(Sample::TOOL),
            Self::LoadWeights | Self::SaveWeights | Self::SaveForSampler | Self::Invalid => None,
        }
    }
}

/// What the queue must know of an accepted operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) op: OpId,
    pub(super) kind: OpKind,
    pub(super) place: Place,
    /// Length of the body in bytes.
    pub(super) size: u64,
}

/// The order an operation belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the order of a model.
    Model(ModelId, u64),
    /// In no order.
    Sampler(SamplerId),
}

impl Job {
    /// The model whose order this is part of.
    pub(super) fn model(&self) -> Option<(&ModelId, u64)> {
        match &self.place {
            Place::Model(model, seq) => Some((model, *seq)),
            Place::Sampler(_) => None,
        }
    }
}

/// How an operation ended, as it goes into its row.
#[derive(Clone, Debug)]
pub(super) enum Ending {
    /// It took place.
    Done {
        /// What the client gets.
        result: Bytes,
        /// SHA-256 of the engine's reply, which a replay must reproduce.
        reply_digest: Option<[u8; 32]>,
    },
    /// It left nothing behind.
    Failed {
        /// For the client.
        error: String,
        /// Whose fault.
        category: Category,
    },
}

/// What a stored result is, given its operation.
pub(super) fn read_result(
    kind: OpKind,
    model: Option<&ModelId>,
    result: &[u8],
) -> Result<OpResult, CoreError> {
    let text = || String::from_utf8_lossy(result).into_owned();
    let model_id =
        || model.cloned().ok_or_else(|| CoreError::Corrupt("an operation without a model".into()));
    let damaged = |e: snakehouse_engine_api::CodecError| CoreError::Corrupt(e.to_string());
    Ok(match kind {
        OpKind::CreateModel => OpResult::ModelCreated { model_id: model_id()? },
        OpKind::LoadWeights => OpResult::Loaded { model_id: model_id()?, path: text() },
        OpKind::ForwardBackward | OpKind::Forward => {
            OpResult::ForwardBackward(ForwardBackward::decode_reply(result).map_err(damaged)?)
        }
        OpKind::OptimStep => OpResult::Optimized(Optimize::decode_reply(result).map_err(damaged)?),
        OpKind::SaveWeights => OpResult::Saved { path: text() },
        OpKind::SaveForSampler => {
            let text = text();
            match text.strip_prefix(SAMPLER_MARK) {
                Some(sampler) => OpResult::SamplerSaved { sampler: SamplerId::new(sampler) },
                None => OpResult::Saved { path: text },
            }
        }
        OpKind::Sample => OpResult::Sampled(Sample::decode_reply(result).map_err(damaged)?),
        OpKind::Invalid => return Err(CoreError::Corrupt("a refused operation is done".into())),
    })
}

/// Begins the stored result of an unnamed save, which is a sampler and not a path.
pub(super) const SAMPLER_MARK: &str = "sampler ";

/// An operation's row.
#[derive(Clone, Debug)]
pub(super) struct OpRow {
    pub(super) job: Job,
    pub(super) body: Stored,
    pub(super) source: Option<OpId>,
    pub(super) reply_digest: Option<Vec<u8>>,
}
