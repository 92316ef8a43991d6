//! What a core is started with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use snakehouse_base::ByteSize;
use snakehouse_store::{Disk, RealDisk};

use super::{EngineSource, Fault};

/// Everything [`Core::start`](super::Core::start) needs.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// The directory that holds all state. Made if absent, with access for its owner only.
    pub state_dir: PathBuf,
    /// Where the engine comes from.
    pub engine: Arc<dyn EngineSource>,
    /// The base models to serve.
    pub models: Vec<ModelSource>,
    /// How much is kept and queued.
    pub limits: Limits,
    /// The disk that the blob log is on.
    pub disk: Arc<dyn Disk>,
    /// A test instrument: where to kill a process. Never set in production.
    pub fault: Option<Fault>,
}

impl CoreConfig {
    /// A configuration with the default limits.
    pub fn new(
        state_dir: impl Into<PathBuf>,
        engine: Arc<dyn EngineSource>,
        models: Vec<ModelSource>,
    ) -> Self {
        Self {
            state_dir: state_dir.into(),
            engine,
            models,
            limits: Limits::default(),
            disk: Arc::new(RealDisk),
            fault: None,
        }
    }
}

/// A base model on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSource {
    /// The name clients use.
    pub name: String,
    /// A Hugging Face directory: `config.json`, safetensors, `tokenizer.json`.
    pub dir: PathBuf,
}

/// The bounds of a core. Past them it answers [`CoreError::Saturated`](super::CoreError).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Operations accepted and not finished, of all models together. Default 4,096.
    pub pending_ops: usize,
    /// Bodies of operations accepted and not finished. Default 512 MiB.
    pub pending_bytes: ByteSize,
    /// Open sessions. Default 4,096.
    pub sessions: usize,
    /// Live models. Default 64.
    pub models: usize,
    /// Samplers the engine holds at once; others are loaded again when used. Default 16.
    pub loaded_samplers: usize,
    /// Results kept for clients to fetch; older ones are gone. Default 16,384.
    pub kept_results: u64,
    /// Bytes of those results. Default 1 GiB.
    pub kept_result_bytes: ByteSize,
    /// The blob log on disk. Default 4 GiB.
    pub log_bytes: ByteSize,
    /// Bodies and results up to this size live in the database row itself. Default 16 KiB.
    pub inline_bytes: usize,
    /// How long a session may submit nothing before gaps in its sequences close. Default 60 s.
    pub gap_idle: Duration,
    /// Unsnapshotted compute that triggers a snapshot. Default 5 s.
    pub snapshot_compute: Duration,
    /// Unsnapshotted bodies that trigger a snapshot. Default 64 MiB.
    pub snapshot_bytes: ByteSize,
    /// Unsnapshotted operations that trigger a snapshot. Default 256.
    pub snapshot_ops: u64,
    /// Longest time one engine call may take. Default 1 h.
    pub call: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pending_ops: 4096,
            pending_bytes: ByteSize::mib(512),
            sessions: 4096,
            models: 64,
            loaded_samplers: 16,
            kept_results: 16_384,
            kept_result_bytes: ByteSize::mib(1024),
            log_bytes: ByteSize::mib(4096),
            inline_bytes: 16 << 10,
            gap_idle: Duration::from_secs(60),
            snapshot_compute: Duration::from_secs(5),
            snapshot_bytes: ByteSize::mib(64),
            snapshot_ops: 256,
            call: Duration::from_secs(3600),
        }
    }
}
