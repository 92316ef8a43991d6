//! A look at the core from outside.

use serde::Serialize;

/// Where the engine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineState {
    /// No engine serves yet.
    #[default]
    Starting,
    /// Models are being brought back.
    Recovering,
    /// Waiting for work.
    Idle,
    /// Running an operation.
    Busy,
    /// Gone for good, with the service.
    Stopped,
}

/// Numbers about a core at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CoreStatus {
    /// Where the engine is.
    pub engine: EngineState,
    /// Its process, once there is one.
    pub engine_pid: Option<u32>,
    /// Which life of the engine.
    pub engine_incarnation: u64,
    /// Engines that died under this core.
    pub engine_deaths: u64,
    /// Recoveries since start, the one at start included.
    pub recoveries: u64,
    /// Operations replayed by the last recovery.
    pub replayed_ops: u64,
    /// How long the last recovery took, in milliseconds, from the death (or start) to serving.
    pub recovered_ms: u64,
    /// Operations finished since start.
    pub finished_ops: u64,
    /// Operations accepted and not finished.
    pub pending_ops: u64,
    /// Of those, waiting for an earlier number of their model.
    pub waiting_for_gap: u64,
    /// Live models.
    pub models: u64,
    /// Snapshots written since start.
    pub snapshots: u64,
    /// Bytes in the blob log.
    pub log_bytes: u64,
}
