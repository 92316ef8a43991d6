//! Sessions.

use serde::{Deserialize, Serialize};

use super::Metadata;

/// Body of `create_session`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "create_session")]
pub struct CreateSession {
    /// Words to find it by.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Free data.
    #[serde(default)]
    pub user_metadata: Metadata,
    /// The client's version.
    #[serde(default)]
    pub sdk_version: String,
    /// The project it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
}

/// Answer of `create_session`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionCreated {
    /// The new session.
    pub session_id: String,
    /// Shown as information.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info_message: Option<String>,
    /// Shown as a warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning_message: Option<String>,
    /// Shown as an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
}

/// Body of `session_heartbeat`. Status 410 answers for a finished session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "session_heartbeat")]
pub struct Heartbeat {
    /// The session.
    pub session_id: String,
}

/// Body of `sessions/{id}/finish`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishSession {
    /// How it ended.
    pub reason: FinishReason,
    /// More about it; sent as `null` when absent.
    #[serde(default)]
    pub detail: Option<String>,
}

/// How a session ended, as an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishReason {
    /// How.
    #[serde(rename = "type")]
    pub status: FinishStatus,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishStatus {
    /// As intended.
    Success,
    /// With an error.
    Errored,
    /// By the user.
    Interrupted,
}

impl FinishStatus {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Errored => "errored",
            Self::Interrupted => "interrupted",
        }
    }
}
