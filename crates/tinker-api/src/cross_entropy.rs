//! What `cross_entropy` asks of a datum.

use crate::{Datum, InvalidInput, LossFn, Tensor};

/// What a model can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelBounds {
    /// How many token ids the model has.
    pub vocab_size: u32,
    /// The longest input, in tokens.
    pub max_context: usize,
}

impl ModelBounds {
    /// Checks token ids against the vocabulary. `input` names them in the error.
    ///
    /// # Errors
    /// [`InvalidInput::TokenOutsideVocabulary`] for the first id that the model does not have.
    pub fn check_tokens<T: Copy + Into<i64>>(
        &self,
        datum: usize,
        input: &'static str,
        tokens: &[T],
    ) -> Result<Vec<u32>, InvalidInput> {
        tokens
            .iter()
            .enumerate()
            .map(|(position, &token)| {
                let token: i64 = token.into();
                u32::try_from(token).ok().filter(|&id| id < self.vocab_size).ok_or(
                    InvalidInput::TokenOutsideVocabulary {
                        datum,
                        input,
                        position,
                        token,
                        vocab_size: self.vocab_size,
                    },
                )
            })
            .collect()
    }

    /// Checks that `length` tokens are some and fit.
    ///
    /// # Errors
    /// [`InvalidInput::EmptyInput`] or [`InvalidInput::TooLong`].
    pub fn check_length(&self, datum: usize, length: usize) -> Result<(), InvalidInput> {
        match length {
            0 => Err(InvalidInput::EmptyInput { datum }),
            n if n > self.max_context => {
                Err(InvalidInput::TooLong { datum, length, most: self.max_context })
            }
            _ => Ok(()),
        }
    }
}

/// A datum that `cross_entropy` can run on: three lists of one length, ids inside the vocabulary,
/// weights finite. Made only by [`check`](CrossEntropyDatum::check).
#[derive(Clone, Debug, PartialEq)]
pub struct CrossEntropyDatum {
    /// The model's input.
    pub tokens: Vec<u32>,
    /// What to predict at each position.
    pub targets: Vec<u32>,
    /// How much each position counts.
    pub weights: Vec<f32>,
}

impl CrossEntropyDatum {
    /// Checks datum number `index` of a request.
    ///
    /// # Errors
    /// [`InvalidInput`] names the first rule that the datum breaks.
    pub fn check(index: usize, datum: &Datum, bounds: &ModelBounds) -> Result<Self, InvalidInput> {
        const TARGETS: &str = "target_tokens";
        const WEIGHTS: &str = "weights";
        if let Some(input) = datum.loss_inputs.keys().find(|k| ![TARGETS, WEIGHTS].contains(&&***k))
        {
            return Err(InvalidInput::UnexpectedLossInput {
                datum: index,
                loss: LossFn::CrossEntropy.as_str(),
                input: input.clone(),
            });
        }
        bounds.check_length(index, datum.tokens.len())?;
        let tokens = bounds.check_tokens(index, "model_input", &datum.tokens)?;

        let targets = flat(index, datum, TARGETS, tokens.len())?
            .as_int64()
            .ok_or(InvalidInput::WrongDtype { datum: index, input: TARGETS, expected: "int64" })?;
        let targets = bounds.check_tokens(index, TARGETS, targets)?;

        let weights = flat(index, datum, WEIGHTS, tokens.len())?.as_float32().ok_or(
            InvalidInput::WrongDtype { datum: index, input: WEIGHTS, expected: "float32" },
        )?;
        if let Some((position, value)) = weights.iter().enumerate().find(|(_, w)| !w.is_finite()) {
            return Err(InvalidInput::NotFinite {
                datum: index,
                input: WEIGHTS,
                position,
                value: value.to_string(),
            });
        }
        Ok(Self { tokens, targets, weights: weights.to_vec() })
    }
}

/// The one-dimensional loss input `input` with `expected` elements.
fn flat<'a>(
    index: usize,
    datum: &'a Datum,
    input: &'static str,
    expected: usize,
) -> Result<&'a Tensor, InvalidInput> {
    let tensor = datum
        .loss_inputs
        .get(input)
        .ok_or(InvalidInput::MissingLossInput { datum: index, input })?;
    match *tensor.shape() {
        [got] if got == expected => Ok(tensor),
        [got] => Err(InvalidInput::LengthMismatch { datum: index, input, expected, got }),
        ref shape => Err(InvalidInput::WrongRank { datum: index, input, got: shape.len() }),
    }
}

#[cfg(test)]
mod tests {
    use snakehouse_base::Coded;

    use super::*;

    const BOUNDS: ModelBounds = ModelBounds { vocab_size: 264, max_context: 8 };

    fn code(datum: &Datum) -> &'static str {
        CrossEntropyDatum::check(0, datum, &BOUNDS).map_or_else(|e| e.code(), |_| "accepted")
    }

    #[test]
    fn a_good_datum_is_accepted() {
        let datum = Datum::supervised(vec![1, 2], vec![2, 263], vec![0.0, 1.0]);
        let checked = CrossEntropyDatum::check(0, &datum, &BOUNDS).unwrap();
        assert_eq!(checked.tokens, [1, 2]);
        assert_eq!(checked.targets, [2, 263]);
        assert_eq!(checked.weights, [0.0, 1.0]);
    }

    #[test]
    fn each_bad_datum_has_its_own_code() {
        let good = Datum::supervised(vec![1, 2], vec![2, 3], vec![1.0, 1.0]);
        let without = |name: &str| {
            let mut datum = good.clone();
            datum.loss_inputs.remove(name);
            datum
        };
        let with = |name: &str, tensor: Tensor| {
            let mut datum = good.clone();
            datum.loss_inputs.insert(name.to_owned(), tensor);
            datum
        };
        let square = Tensor::new(crate::TensorData::Int64(vec![1; 4]), vec![2, 2]).unwrap();
        for (datum, expected) in [
            (good.clone(), "accepted"),
            (Datum { tokens: vec![], ..good.clone() }, "empty_input"),
            (Datum { tokens: vec![0; 9], ..good.clone() }, "context_exceeded"),
            (Datum { tokens: vec![1, 264], ..good.clone() }, "token_out_of_range"),
            (Datum { tokens: vec![-1, 2], ..good.clone() }, "token_out_of_range"),
            (Datum { tokens: vec![1, 2, 3], ..good.clone() }, "length_mismatch"),
            (without("target_tokens"), "missing_loss_input"),
            (without("weights"), "missing_loss_input"),
            (with("target_tokens", Tensor::int64(vec![1, 264])), "token_out_of_range"),
            (with("target_tokens", Tensor::float32(vec![1.0, 2.0])), "wrong_dtype"),
            (with("target_tokens", square), "wrong_rank"),
            (with("weights", Tensor::float32(vec![1.0])), "length_mismatch"),
            (with("weights", Tensor::float32(vec![1.0, f32::NAN])), "not_finite"),
            (with("weights", Tensor::float32(vec![f32::NEG_INFINITY, 1.0])), "not_finite"),
            (with("advantages", Tensor::float32(vec![1.0, 1.0])), "unexpected_loss_input"),
        ] {
            assert_eq!(code(&datum), expected, "{datum:?}");
        }
    }
}
