//! Tokens as text, where the engine itself needs it: stop texts.

use std::path::Path;

use tokenizers::Tokenizer;

use crate::EngineError;

/// The tokenizer of a base model.
pub(crate) struct Text {
    tokenizer: Tokenizer,
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Text").finish_non_exhaustive()
    }
}

impl Text {
    /// Reads `tokenizer.json` and checks that its ids fit the vocabulary.
    ///
    /// # Errors
    /// [`EngineError::BadDirectory`] if the file is missing or is no tokenizer.
    pub(crate) fn read(dir: &Path, vocab_size: usize) -> Result<Self, EngineError> {
        let path = dir.join("tokenizer.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(EngineError::directory(dir, "tokenizer.json is missing"));
            }
            Err(e) => return Err(EngineError::io("reading", &path)(e)),
        };
        let tokenizer = Tokenizer::from_bytes(&bytes)
            .map_err(|e| EngineError::directory(dir, format!("tokenizer.json: {e}")))?;
        let tokens = tokenizer.get_vocab_size(true);
        if tokens > vocab_size {
            let reason = format!("tokenizer.json has {tokens} tokens, the model only {vocab_size}");
            return Err(EngineError::directory(dir, reason));
        }
        Ok(Self { tokenizer })
    }

    /// The text of these tokens, special ones included. Bytes that are not UTF-8 yet become U+FFFD.
    pub(crate) fn decode(&self, tokens: &[u32]) -> String {
        self.tokenizer.decode(tokens, false).unwrap_or_default()
    }

    /// The tokens of a text.
    #[cfg(test)]
    pub(crate) fn encode(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text, false).map(|e| e.get_ids().to_vec()).unwrap_or_default()
    }
}
