//! `manifest.json`: what a directory holds, and how to know that it still does.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use snakehouse_engine_api::LoraSpec;

use super::hex;
use crate::EngineError;

/// File name.
pub(super) const MANIFEST: &str = "manifest.json";
/// The layout this build writes and reads.
const FORMAT: u32 = 1;

/// The manifest of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) format: u32,
    /// `training`, `sampler` or `snapshot`.
    pub(super) kind: String,
    /// Digest of the base model's weights.
    pub(super) base: String,
    pub(super) lora: LoraSpec,
    /// Optimizer steps taken.
    pub(super) step: u64,
    /// The arithmetic that computed it.
    pub(super) fingerprint: String,
    /// Bytes of all other files.
    pub(super) bytes: u64,
    /// SHA-256 over the tensors.
    pub(super) digest: String,
    /// SHA-256 of each other file.
    pub(super) files: BTreeMap<String, String>,
}

impl Manifest {
    /// An empty one, to be completed by [`add`](Self::add).
    pub(super) fn new(kind: &str, base: &str, lora: LoraSpec, step: u64, arithmetic: &str) -> Self {
        Self {
            format: FORMAT,
            kind: kind.to_owned(),
            base: base.to_owned(),
            lora,
            step,
            fingerprint: arithmetic.to_owned(),
            bytes: 0,
            digest: String::new(),
            files: BTreeMap::new(),
        }
    }

    /// Records a file.
    pub(super) fn add(&mut self, name: &str, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.files.insert(name.to_owned(), sha(bytes));
    }

    /// Reads the manifest of a directory; `None` if it has none.
    ///
    /// # Errors
    /// [`EngineError::BadDirectory`] if it is damaged or of another format.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, EngineError> {
        let path = dir.join(MANIFEST);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(EngineError::io("reading", &path)(e)),
        };
        let manifest: Self = serde_json::from_slice(&text)
            .map_err(|e| EngineError::directory(dir, format!("{MANIFEST}: {e}")))?;
        if manifest.format != FORMAT {
            let reason = format!("{MANIFEST} has format {}, not {FORMAT}", manifest.format);
            return Err(EngineError::directory(dir, reason));
        }
        Ok(Some(manifest))
    }

    /// Reads a file and checks that it is what was written.
    ///
    /// # Errors
    /// [`EngineError::BadDirectory`] if it is missing or has changed.
    pub(super) fn file(&self, dir: &Path, name: &str) -> Result<Vec<u8>, EngineError> {
        let missing = || EngineError::directory(dir, format!("{name} is missing"));
        let digest = self.files.get(name).ok_or_else(missing)?;
        let path = dir.join(name);
        let bytes = std::fs::read(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => missing(),
            _ => EngineError::io("reading", &path)(e),
        })?;
        if sha(&bytes) != *digest {
            let reason = format!("{name} is not what {MANIFEST} says");
            return Err(EngineError::directory(dir, reason));
        }
        Ok(bytes)
    }
}

fn sha(bytes: &[u8]) -> String {
    hex(Sha256::new().chain_update(bytes))
}
