//! The text that the demo learns, shipped inside the binary.

use serde::Deserialize;
use snakehouse_base::Kind;
use snakehouse_tinker::Datum;

use crate::error::CliError;

/// The id that ends a text of `tiny`; ids below are bytes.
const END: i32 = 256;

/// A question and its only answer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pair {
    pub(crate) prompt: String,
    pub(crate) completion: String,
}

impl Pair {
    /// Every pair of a file with one JSON object per line.
    pub(crate) fn read(text: &str) -> Result<Vec<Self>, CliError> {
        text.lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| {
                serde_json::from_str(line).map_err(|error| {
                    CliError::new(Kind::Corrupt, "bad_demo_data", format!("{error}: {line}"))
                })
            })
            .collect()
    }

    /// The question as tokens.
    pub(crate) fn question(&self) -> Vec<i32> {
        tokens(&self.prompt)
    }

    /// Whether these tokens are exactly the answer.
    pub(crate) fn is_answered_by(&self, drawn: &[i32]) -> bool {
        drawn.strip_suffix(&[END]).unwrap_or(drawn) == tokens(&self.completion)
    }

    /// How many tokens the answer has, its end included: those that the loss counts.
    pub(crate) fn counted(&self) -> usize {
        self.completion.len() + 1
    }

    /// The pair as an example: the loss counts the answer and its end, not the question.
    pub(crate) fn datum(&self) -> Datum {
        let mut whole = self.question();
        let asked = whole.len();
        whole.extend(tokens(&self.completion));
        whole.push(END);
        let targets: Vec<i64> = whole[1..].iter().copied().map(i64::from).collect();
        let weights = (1..whole.len()).map(|at| if at < asked { 0.0 } else { 1.0 }).collect();
        whole.pop();
        Datum::supervised(whole, targets, weights)
    }
}

/// Text for people out of drawn tokens.
pub(crate) fn text_of(drawn: &[i32]) -> String {
    let bytes: Vec<u8> = drawn.iter().filter_map(|&token| u8::try_from(token).ok()).collect();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

fn tokens(text: &str) -> Vec<i32> {
    text.bytes().map(i32::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> Pair {
        Pair { prompt: "a?".to_owned(), completion: "b".to_owned() }
    }

    #[test]
    fn the_loss_counts_the_answer_and_its_end() {
        let datum = pair().datum();
        assert_eq!(datum.tokens, [97, 63, 98]);
        assert_eq!(datum.loss_inputs["target_tokens"].as_int64().unwrap(), [63, 98, 256]);
        assert_eq!(datum.loss_inputs["weights"].as_float32().unwrap(), [0.0, 1.0, 1.0]);
        assert_eq!(pair().counted(), 2);
    }

    #[test]
    fn only_the_exact_answer_counts() {
        assert!(pair().is_answered_by(&[98]) && pair().is_answered_by(&[98, 256]));
        assert!(!pair().is_answered_by(&[98, 98]) && !pair().is_answered_by(&[]));
        assert_eq!(text_of(&[32, 98, 256]), "b");
    }

    #[test]
    fn a_broken_line_is_named() {
        assert_eq!(Pair::read("{\"prompt\":\"a?\",\"completion\":\"b\"}\n\n").unwrap(), [pair()]);
        assert!(Pair::read("{\"prompt\":1}").unwrap_err().to_string().contains("{\"prompt\":1}"));
    }
}
