//! What an engine operation can fail with.

use std::path::{Path, PathBuf};

use snakehouse_base::{Coded, Kind};
use snakehouse_engine_api::code;

/// A refused or failed operation. Nothing has changed when one is returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// No base model of this name is loaded.
    #[error("base model `{0}` is not loaded")]
    UnknownBase(String),
    /// No training model of this name is loaded.
    #[error("training model `{0}` is not loaded")]
    UnknownModel(String),
    /// No sampler of this name is loaded.
    #[error("sampler `{0}` is not loaded")]
    UnknownSampler(String),
    /// A token id is not in the vocabulary.
    #[error("token id {token} at {place} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The id.
        token: i32,
        /// Where it stands.
        place: String,
        /// Ids below this are valid.
        vocab_size: usize,
    },
    /// Arrays of one datum differ in length, or are not whole numbers.
    #[error("{0}")]
    LengthMismatch(String),
    /// More tokens than the model's context.
    #[error("{tokens} tokens do not fit the model's context of {context}")]
    ContextExceeded {
        /// Tokens asked for.
        tokens: usize,
        /// Tokens that fit.
        context: usize,
    },
    /// NaN or infinity.
    #[error("{0} is not a finite number")]
    NotFinite(String),
    /// A parameter is outside its range.
    #[error("{0}")]
    BadParameter(String),
    /// A directory is incomplete or does not say what it must.
    #[error("{} is not usable: {reason}", dir.display())]
    BadDirectory {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The checkpoint's arithmetic is not this engine's.
    #[error("snapshot was written by {found}, this engine is {expected}")]
    FingerprintMismatch {
        /// Who wrote it.
        found: String,
        /// Who reads it.
        expected: String,
    },
    /// A file could not be read or written.
    #[error("{action} {} failed", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The request's bytes are not the request.
    #[error("{0}")]
    BadRequest(String),
}

impl EngineError {
    /// A directory that cannot be used.
    pub(crate) fn directory(dir: &Path, reason: impl Into<String>) -> Self {
        Self::BadDirectory { dir: dir.to_owned(), reason: reason.into() }
    }

    /// Wraps an I/O error with what was tried.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

impl Coded for EngineError {
    fn kind(&self) -> Kind {
        match self {
            Self::UnknownBase(_) | Self::UnknownModel(_) | Self::UnknownSampler(_) => {
                Kind::NotFound
            }
            Self::TokenOutOfRange { .. }
            | Self::LengthMismatch(_)
            | Self::ContextExceeded { .. }
            | Self::NotFinite(_)
            | Self::BadParameter(_)
            | Self::BadRequest(_) => Kind::InvalidInput,
            Self::BadDirectory { .. } => Kind::Corrupt,
            Self::FingerprintMismatch { .. } => Kind::Conflict,
            Self::Io { .. } => Kind::Environment,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::UnknownBase(_) => code::UNKNOWN_BASE,
            Self::UnknownModel(_) => code::UNKNOWN_MODEL,
            Self::UnknownSampler(_) => code::UNKNOWN_SAMPLER,
            Self::TokenOutOfRange { .. } => code::TOKEN_OUT_OF_RANGE,
            Self::LengthMismatch(_) => code::LENGTH_MISMATCH,
            Self::ContextExceeded { .. } => code::CONTEXT_EXCEEDED,
            Self::NotFinite(_) => code::NOT_FINITE,
            Self::BadParameter(_) => code::BAD_PARAMETER,
            Self::BadDirectory { .. } => code::BAD_DIRECTORY,
            Self::FingerprintMismatch { .. } => code::FINGERPRINT_MISMATCH,
            Self::Io { .. } => code::IO,
            Self::BadRequest(_) => code::BAD_REQUEST,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::TokenOutOfRange { .. } => "encode the text with the tokenizer of this base model",
            Self::LengthMismatch(_) => "tokens, targets and weights of a datum need equal lengths",
            Self::ContextExceeded { .. } => "shorten the input or ask for fewer tokens",
            Self::NotFinite(_) => "look for a division by zero, or lower the learning rate",
            Self::BadDirectory { .. } => "copy or write the directory again",
            Self::FingerprintMismatch { .. } => {
                "run the build that wrote the snapshot, or load a saved checkpoint instead"
            }
            Self::Io { .. } => "check that the disk has room and the directory is writable",
            _ => return None,
        };
        Some(text.to_owned())
    }
}
