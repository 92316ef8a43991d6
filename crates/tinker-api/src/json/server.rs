//! What a server says about itself, and telemetry.

use serde::{Deserialize, Serialize};

use crate::limits;

/// Body of `client/config` and `client/dynamic_config`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigRequest {
    /// The client's version.
    #[serde(default)]
    pub sdk_version: String,
}

/// Answer of `client/config`: how the client should behave. Defaults are the official client's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientConfig {
    /// Exchange the credential for a token.
    pub pjwt_auth_enabled: bool,
    /// Bytes of prompts being sent at once.
    pub sample_dispatch_bytes_semaphore_size: u64,
    /// Bytes of large results being fetched at once.
    pub inflight_response_bytes_semaphore_size: u64,
    /// Send the chunks of one batch at once.
    pub parallel_fwdbwd_chunks: bool,
    /// Compress protobuf bodies.
    pub proto_compress_fwdbwd: bool,
    /// Datums per chunk.
    pub fwdbwd_max_chunk_len: u64,
    /// Estimated bytes per chunk.
    pub fwdbwd_max_chunk_bytes_count: u64,
    /// Estimated bytes of chunks being sent at once.
    pub fwdbwd_dispatch_bytes_semaphore_size: u64,
    /// Samples in flight per sampling client.
    pub sample_max_concurrent_requests: u64,
    /// Use the poller of a whole session.
    pub sample_use_retrieve_futures: bool,
    /// Upload traced losses.
    pub custom_loss_server_side: bool,
    /// Clones of a sampling client ask the server for their id.
    pub sample_join_sampling_session: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            pjwt_auth_enabled: false,
            sample_dispatch_bytes_semaphore_size: 10_485_760,
            inflight_response_bytes_semaphore_size: 52_428_800,
            parallel_fwdbwd_chunks: true,
            proto_compress_fwdbwd: false,
            fwdbwd_max_chunk_len: limits::DATUMS as u64,
            fwdbwd_max_chunk_bytes_count: 5_000_000,
            fwdbwd_dispatch_bytes_semaphore_size: 50_000_000,
            sample_max_concurrent_requests: 2000,
            sample_use_retrieve_futures: false,
            custom_loss_server_side: false,
            sample_join_sampling_session: false,
        }
    }
}

/// Answer of `client/dynamic_config`, asked for again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DynamicConfig {
    /// When to ask again, in seconds; 10 at least.
    pub refresh_interval_sec: u64,
    /// Abandoned samples are cancelled.
    pub sample_cancel_enabled: bool,
    /// Cancels at once.
    pub sample_cancel_max_batch_size: u64,
}

impl Default for DynamicConfig {
    fn default() -> Self {
        Self {
            refresh_interval_sec: 300,
            sample_cancel_enabled: false,
            sample_cancel_max_batch_size: 64,
        }
    }
}

/// Answer of `healthz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok` when ready.
    pub status: String,
}

/// Answer of `get_server_capabilities`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// The base models.
    pub supported_models: Vec<SupportedModel>,
}

/// A base model that a server has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupportedModel {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// Its longest sequence, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_context_length: Option<u64>,
    /// Whether it can be trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainable: Option<bool>,
    /// Whether it can be sampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampleable: Option<bool>,
}

/// Body of `telemetry`: up to 100 events of a client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Telemetry {
    /// The events.
    #[serde(default)]
    pub events: Vec<serde_json::Value>,
    /// The client's operating system.
    #[serde(default)]
    pub platform: String,
    /// The client's version.
    #[serde(default)]
    pub sdk_version: String,
    /// The session, or `sessionless-<uuid>`.
    #[serde(default)]
    pub session_id: String,
    /// One per process of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_uuid: Option<String>,
}

/// Answer of `telemetry`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TelemetryAccepted {
    /// Always `accepted`.
    pub status: String,
}
