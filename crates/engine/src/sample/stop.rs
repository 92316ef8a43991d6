//! What ends a sample.

use snakehouse_engine_api::Stop;

use crate::EngineError;
use crate::model::BaseModel;

/// A request's stop rule, ready to ask after each token.
#[derive(Debug)]
pub(super) enum StopRule {
    /// Any of these tokens.
    Tokens(Vec<u32>),
    /// Any of these texts; looked for in the last tokens, `window` of them.
    Texts { texts: Vec<String>, window: usize },
}

impl StopRule {
    /// The rule of a request.
    ///
    /// # Errors
    /// [`EngineError`] if a stop token is outside the vocabulary or a stop text is empty.
    pub(super) fn new(stop: &Stop, base: &BaseModel) -> Result<Self, EngineError> {
        match stop {
            Stop::Eos => Ok(Self::Tokens(base.config.eos.clone())),
            Stop::Tokens(tokens) => {
                let vocab_size = base.config.vocab_size;
                match tokens.iter().find(|&&t| t as usize >= vocab_size) {
                    None => Ok(Self::Tokens(tokens.clone())),
                    Some(&token) => Err(EngineError::TokenOutOfRange {
                        token: i32::try_from(token).unwrap_or(i32::MAX),
                        place: "stop".to_owned(),
                        vocab_size,
                    }),
                }
            }
            Stop::Texts(texts) => {
                if texts.iter().any(String::is_empty) {
                    return Err(EngineError::BadParameter("a stop text is empty".to_owned()));
                }
                // A token is at least one byte of text, and a letter has at most four.
                let longest = texts.iter().map(String::len).max().unwrap_or(0);
                Ok(Self::Texts { texts: texts.clone(), window: longest + 4 })
            }
        }
    }

    /// Whether the last of these tokens ends the sample.
    pub(super) fn ends(&self, drawn: &[u32], base: &BaseModel) -> bool {
        match self {
            Self::Tokens(tokens) => drawn.last().is_some_and(|t| tokens.contains(t)),
            Self::Texts { texts, window } => {
                let tail = &drawn[drawn.len().saturating_sub(*window)..];
                let text = base.text.decode(tail);
                texts.iter().any(|stop| text.contains(stop.as_str()))
            }
        }
    }
}
