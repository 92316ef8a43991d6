//! `tinker://run/kind/name`: names of saved weights, safe to use as directory names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use snakehouse_base::id::ModelId;

use crate::{InvalidInput, limits};

const SCHEME: &str = "tinker://";

/// What a checkpoint holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CheckpointKind {
    /// Training weights with optimizer state: `weights`.
    #[serde(rename = "weights")]
    Training,
    /// Weights for sampling: `sampler_weights`.
    #[serde(rename = "sampler_weights")]
    Sampler,
}

impl CheckpointKind {
    /// The word that stands for this kind inside a path.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Training => "weights",
            Self::Sampler => "sampler_weights",
        }
    }
}

/// The user's name of a checkpoint: 1 to 255 letters, digits, `-`, `_`, `.`, no leading dot.
///
/// Such a name cannot leave its directory and cannot hide.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CheckpointName(String);

impl CheckpointName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`InvalidInput::InvalidName`] names the rule that `name` breaks.
    pub fn new(name: &str) -> Result<Self, InvalidInput> {
        let reason = if name.is_empty() {
            "it is empty"
        } else if name.len() > limits::CHECKPOINT_NAME {
            "it is longer than 255 characters"
        } else if name.starts_with('.') {
            "it starts with a dot"
        } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            "it has a character that is not a letter, a digit, '-', '_' or '.'"
        } else {
            return Ok(Self(name.to_owned()));
        };
        Err(InvalidInput::InvalidName { name: name.to_owned(), reason })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CheckpointName {
    type Error = InvalidInput;

    fn try_from(name: String) -> Result<Self, InvalidInput> {
        Self::new(&name)
    }
}

impl From<CheckpointName> for String {
    fn from(name: CheckpointName) -> Self {
        name.0
    }
}

impl fmt::Display for CheckpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one checkpoint of one training run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CheckpointPath {
    /// The training run, which is the model that made the checkpoint.
    pub run: ModelId,
    /// What it holds.
    pub kind: CheckpointKind,
    /// The user's name for it.
    pub name: CheckpointName,
}

impl FromStr for CheckpointPath {
    type Err = InvalidInput;

    fn from_str(path: &str) -> Result<Self, InvalidInput> {
        let invalid = |reason| InvalidInput::InvalidPath { path: path.to_owned(), reason };
        let rest =
            path.strip_prefix(SCHEME).ok_or_else(|| invalid("it does not start with tinker://"))?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [run, kind, name] = parts[..] else {
            return Err(invalid("it does not have the three parts run/kind/name"));
        };
        let run_is_safe = (1..=limits::RUN_ID).contains(&run.len())
            && !run.starts_with('.')
            && run.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
        if !run_is_safe {
            return Err(invalid("its first part is not the id of a training run"));
        }
        let kind = match kind {
            "weights" => CheckpointKind::Training,
            "sampler_weights" => CheckpointKind::Sampler,
            _ => return Err(invalid("its second part is neither weights nor sampler_weights")),
        };
        let name = CheckpointName::new(name)
            .map_err(|_| invalid("its last part cannot be a checkpoint name"))?;
        Ok(Self { run: ModelId::new(run), kind, name })
    }
}

impl TryFrom<String> for CheckpointPath {
    type Error = InvalidInput;

    fn try_from(path: String) -> Result<Self, InvalidInput> {
        path.parse()
    }
}

impl From<CheckpointPath> for String {
    fn from(path: CheckpointPath) -> Self {
        path.to_string()
    }
}

impl fmt::Display for CheckpointPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}", self.run, self.kind.as_str(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_goes_both_ways() {
        let text = "tinker://0192-ab:train:0/weights/step-10";
        let path: CheckpointPath = text.parse().unwrap();
        assert_eq!(path.run.as_str(), "0192-ab:train:0");
        assert_eq!(path.kind, CheckpointKind::Training);
        assert_eq!(path.name.as_str(), "step-10");
        assert_eq!(path.to_string(), text);
    }

    #[test]
    fn a_path_cannot_leave_its_directory() {
        for path in [
            "tinker://s:train:0/weights/..",
            "tinker://s:train:0/weights/../../x",
            "tinker://../weights/x",
            "tinker://s:train:0/weights/a/b",
            "tinker://s:train:0/weights/.hidden",
            "tinker://s:train:0/weights/a\\b",
            "tinker://s:train:0/weights/",
            "tinker://s:train:0/weights/a\0b",
            "tinker:///weights/x",
            "tinker://s:train:0/etc/x",
            "file:///etc/passwd",
            "s:train:0/weights/x",
        ] {
            assert!(path.parse::<CheckpointPath>().is_err(), "{path}");
        }
        assert!(CheckpointName::new(&"a".repeat(256)).is_err());
    }
}
