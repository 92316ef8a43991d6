//! Why input cannot be accepted.

use snakehouse_base::{Coded, Kind};

/// Input that breaks a rule of the protocol or of the model. The same input fails again.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidInput {
    /// The body is not what its content type says.
    #[error("the body cannot be read: {reason}")]
    MalformedBody {
        /// What the decoder said.
        reason: String,
    },
    /// The loss is in no list.
    #[error("there is no loss function named {name:?}")]
    UnknownLoss {
        /// The name as it came.
        name: String,
    },
    /// The protocol has this loss, this service does not.
    #[error("the loss function {name:?} is not available here")]
    UnsupportedLoss {
        /// The name of the loss.
        name: &'static str,
    },
    /// The loss does not take this setting.
    #[error("{loss} has no setting {key:?}")]
    UnknownLossSetting {
        /// The loss.
        loss: &'static str,
        /// The setting as it came.
        key: String,
    },
    /// An input chunk that is not text.
    #[error("datum {datum}: chunks of kind {chunk} are not supported by this model")]
    UnsupportedChunk {
        /// Which datum, from 0; 0 for a prompt.
        datum: usize,
        /// The chunk's kind.
        chunk: &'static str,
    },
    /// The request carries no datum.
    #[error("the request has no data")]
    NoData,
    /// More datums than one request may have.
    #[error("the request has {count} datums, more than {most}")]
    TooManyDatums {
        /// How many came.
        count: usize,
        /// How many are allowed.
        most: usize,
    },
    /// No token to work on.
    #[error("datum {datum}: the model input has no tokens")]
    EmptyInput {
        /// Which datum, from 0; 0 for a prompt.
        datum: usize,
    },
    /// More tokens than the model's context.
    #[error("datum {datum}: {length} tokens do not fit into a context of {most}")]
    TooLong {
        /// Which datum, from 0; 0 for a prompt.
        datum: usize,
        /// Tokens needed.
        length: usize,
        /// The model's context in tokens.
        most: usize,
    },
    /// A token id the model does not have.
    #[error(
        "datum {datum}: token {token} at position {position} of {input} is outside the vocabulary of {vocab_size}"
    )]
    TokenOutsideVocabulary {
        /// Which datum, from 0; 0 for a prompt.
        datum: usize,
        /// `model_input` or the loss input's name.
        input: &'static str,
        /// Where, from 0.
        position: usize,
        /// The id as it came.
        token: i64,
        /// How many ids the model has.
        vocab_size: u32,
    },
    /// The loss needs an input that is not there.
    #[error("datum {datum}: the loss input {input:?} is missing")]
    MissingLossInput {
        /// Which datum, from 0.
        datum: usize,
        /// The input's name.
        input: &'static str,
    },
    /// The loss does not know an input that is there.
    #[error("datum {datum}: {loss} takes no loss input {input:?}")]
    UnexpectedLossInput {
        /// Which datum, from 0.
        datum: usize,
        /// The loss.
        loss: &'static str,
        /// The input's name.
        input: String,
    },
    /// Two things that must be equally long are not.
    #[error("datum {datum}: {input} has {got} elements, the model input has {expected} tokens")]
    LengthMismatch {
        /// Which datum, from 0.
        datum: usize,
        /// The loss input.
        input: &'static str,
        /// The length it must have.
        expected: usize,
        /// The length it has.
        got: usize,
    },
    /// A tensor of the wrong element type.
    #[error("datum {datum}: {input} must be {expected}")]
    WrongDtype {
        /// Which datum, from 0.
        datum: usize,
        /// The loss input.
        input: &'static str,
        /// The element type it must have.
        expected: &'static str,
    },
    /// A tensor with the wrong number of dimensions.
    #[error("datum {datum}: {input} must have one dimension, it has {got}")]
    WrongRank {
        /// Which datum, from 0.
        datum: usize,
        /// The loss input.
        input: &'static str,
        /// How many it has.
        got: usize,
    },
    /// NaN or infinity where a finite number must be.
    #[error("datum {datum}: {input}[{position}] is {value}")]
    NotFinite {
        /// Which datum, from 0.
        datum: usize,
        /// The loss input.
        input: &'static str,
        /// Where, from 0.
        position: usize,
        /// The value, as text.
        value: String,
    },
    /// A tensor whose parts contradict each other.
    #[error("a tensor cannot be read: {reason}")]
    MalformedTensor {
        /// Which rule it breaks.
        reason: String,
    },
    /// A number outside its range.
    #[error("{name} must be {rule}, it is {value}")]
    OutOfRange {
        /// The parameter.
        name: &'static str,
        /// The rule, as a phrase after "must be".
        rule: &'static str,
        /// The value, as text.
        value: String,
    },
    /// The protocol has this option, this service does not.
    #[error("{name} is not available here")]
    UnsupportedOption {
        /// The option.
        name: &'static str,
    },
    /// Not a `tinker://run/kind/name` path.
    #[error("{path:?} is not a checkpoint path: {reason}")]
    InvalidPath {
        /// The path as it came.
        path: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// A checkpoint name that cannot be a file name everywhere.
    #[error("{name:?} cannot be a checkpoint name: {reason}")]
    InvalidName {
        /// The name as it came.
        name: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// Fields that exclude each other, or a needed one that is absent.
    #[error("{reason}")]
    InconsistentFields {
        /// What is wrong.
        reason: &'static str,
    },
}

impl Coded for InvalidInput {
    fn kind(&self) -> Kind {
        Kind::InvalidInput
    }

    fn code(&self) -> &'static str {
        match self {
            Self::MalformedBody { .. } => "malformed_body",
            Self::UnknownLoss { .. } => "unknown_loss",
            Self::UnsupportedLoss { .. } => "unsupported_loss",
            Self::UnknownLossSetting { .. } => "unknown_loss_setting",
            Self::UnsupportedChunk { .. } => "unsupported_chunk",
            Self::NoData => "no_data",
            Self::TooManyDatums { .. } => "too_many_datums",
            Self::EmptyInput { .. } => "empty_input",
            Self::TooLong { .. } => "context_exceeded",
            Self::TokenOutsideVocabulary { .. } => "token_out_of_range",
            Self::MissingLossInput { .. } => "missing_loss_input",
            Self::UnexpectedLossInput { .. } => "unexpected_loss_input",
            Self::LengthMismatch { .. } => "length_mismatch",
            Self::WrongDtype { .. } => "wrong_dtype",
            Self::WrongRank { .. } => "wrong_rank",
            Self::NotFinite { .. } => "not_finite",
            Self::MalformedTensor { .. } => "malformed_tensor",
            Self::OutOfRange { .. } => "out_of_range",
            Self::UnsupportedOption { .. } => "unsupported_option",
            Self::InvalidPath { .. } => "invalid_path",
            Self::InvalidName { .. } => "invalid_name",
            Self::InconsistentFields { .. } => "inconsistent_fields",
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::MalformedBody { .. } | Self::MalformedTensor { .. } => {
                "encode the request with a Tinker client".to_owned()
            }
            Self::UnknownLoss { .. } | Self::UnsupportedLoss { .. } => {
                format!("use one of: {}", crate::LossFn::available_names())
            }
            Self::UnknownLossSetting { .. } => "leave the setting out".to_owned(),
            Self::UnsupportedChunk { .. } => "send text tokens only".to_owned(),
            Self::NoData => "send at least one datum".to_owned(),
            Self::TooManyDatums { .. } => "split the batch".to_owned(),
            Self::EmptyInput { .. } => "leave out empty examples".to_owned(),
            Self::TooLong { .. } => "cut the tokens or ask for fewer new ones".to_owned(),
            Self::TokenOutsideVocabulary { .. } => {
                "encode the text with the tokenizer of this base model".to_owned()
            }
            Self::MissingLossInput { input, .. } => {
                format!("add {input:?} to loss_fn_inputs of every datum")
            }
            Self::UnexpectedLossInput { .. } => "leave the input out".to_owned(),
            Self::LengthMismatch { .. } => {
                "give one target and one weight per input token (inputs [:-1], targets [1:])"
                    .to_owned()
            }
            Self::WrongDtype { expected, .. } => format!("make the tensor {expected}"),
            Self::WrongRank { .. } => "flatten the tensor".to_owned(),
            Self::NotFinite { .. } => "replace NaN and infinities before sending".to_owned(),
            Self::InvalidPath { .. } => {
                "use the path that a save returned: tinker://RUN/weights/NAME".to_owned()
            }
            Self::InvalidName { .. } => {
                "use letters, digits, '-', '_' and '.', not starting with '.'".to_owned()
            }
            Self::OutOfRange { name, rule, .. } => format!("set {name} to a value that is {rule}"),
            Self::UnsupportedOption { name } => format!("leave {name} out"),
            Self::InconsistentFields { .. } => "send the request with a Tinker client".to_owned(),
        };
        Some(hint)
    }
}
