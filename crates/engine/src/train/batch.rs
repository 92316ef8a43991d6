//! The data of a request: bytes on the wire to checked numbers.

use snakehouse_engine_api::Datum;

use crate::EngineError;
use crate::model::ModelConfig;
use crate::pass::Example;

/// Datums in flight before their gradients are added up. A constant: memory follows it.
pub(crate) const WAVE: usize = 16;

/// Checked data.
#[derive(Debug)]
pub(crate) struct Batch {
    rows: Vec<(Vec<u32>, Vec<u32>, Vec<f32>)>,
}

impl Batch {
    /// Decodes and checks every datum.
    ///
    /// # Errors
    /// [`EngineError`] naming the datum: lengths that differ, ids outside the vocabulary, too many
    /// tokens, weights that are not finite, or no data at all.
    pub(crate) fn decode(data: &[Datum], config: &ModelConfig) -> Result<Self, EngineError> {
        if data.is_empty() {
            return Err(EngineError::BadParameter("data is empty".to_owned()));
        }
        let rows = data.iter().enumerate().map(|(i, datum)| {
            let tokens = ids(&datum.tokens, config, || format!("datum {i}, tokens"))?;
            let targets = ids(&datum.targets, config, || format!("datum {i}, targets"))?;
            let weights = floats(&datum.weights, || format!("datum {i}, weights"))?;
            if tokens.len() != targets.len() || tokens.len() != weights.len() {
                return Err(EngineError::LengthMismatch(format!(
                    "datum {i} has {} tokens, {} targets and {} weights",
                    tokens.len(),
                    targets.len(),
                    weights.len()
                )));
            }
            if tokens.is_empty() {
                return Err(EngineError::LengthMismatch(format!("datum {i} has no tokens")));
            }
            if tokens.len() > config.context {
                let (tokens, context) = (tokens.len(), config.context);
                return Err(EngineError::ContextExceeded { tokens, context });
            }
            Ok((tokens, targets, weights))
        });
        Ok(Self { rows: rows.collect::<Result<_, _>>()? })
    }

    /// How many datums.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// One datum.
    pub(crate) fn example(&self, i: usize) -> Example<'_> {
        let (tokens, targets, weights) = &self.rows[i];
        Example { tokens, targets, weights }
    }
}

/// Token ids out of little-endian `i32`.
pub(crate) fn ids(
    bytes: &[u8],
    config: &ModelConfig,
    place: impl Fn() -> String,
) -> Result<Vec<u32>, EngineError> {
    let (words, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(ragged(bytes.len(), &place()));
    }
    let id = |(i, word): (usize, &[u8; 4])| {
        let token = i32::from_le_bytes(*word);
        match u32::try_from(token) {
            Ok(id) if (id as usize) < config.vocab_size => Ok(id),
            _ => Err(EngineError::TokenOutOfRange {
                token,
                place: format!("{}, position {i}", place()),
                vocab_size: config.vocab_size,
            }),
        }
    };
    words.iter().enumerate().map(id).collect()
}

fn floats(bytes: &[u8], place: impl Fn() -> String) -> Result<Vec<f32>, EngineError> {
    let (words, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(ragged(bytes.len(), &place()));
    }
    let number = |(i, word): (usize, &[u8; 4])| {
        let x = f32::from_le_bytes(*word);
        if x.is_finite() {
            Ok(x)
        } else {
            Err(EngineError::NotFinite(format!("{} at {i}: {x}", place())))
        }
    };
    words.iter().enumerate().map(number).collect()
}

fn ragged(bytes: usize, place: &str) -> EngineError {
    EngineError::LengthMismatch(format!("{place}: {bytes} bytes are not whole 4-byte numbers"))
}
