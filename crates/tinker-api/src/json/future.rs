//! Promises and their answers.

use serde::{Deserialize, Serialize};
use snakehouse_base::Kind;

use super::failure::ErrorDetail;
use crate::InvalidInput;

/// The immediate answer to a heavy operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// What to poll for.
    pub request_id: String,
    /// The model the operation belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// One id per requested sample; the official client insists on them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_sequence_ids: Option<Vec<String>>,
}

/// Body of `retrieve_future`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetrieveFuture {
    /// From the [`Promise`].
    pub request_id: String,
    /// A large result may be announced instead of sent.
    #[serde(default)]
    pub allow_metadata_only: bool,
}

/// Body of `cancel_future`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelFuture {
    /// From the [`Promise`].
    pub request_id: String,
}

/// Why an operation waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueState {
    /// It is in the queue or running.
    Active,
    /// There is no capacity.
    PausedCapacity,
    /// The caller has used up its rate.
    PausedRateLimit,
    /// Something newer.
    #[serde(other)]
    Unknown,
}

/// The body of "not yet" (status 408).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Why.
    pub queue_state: QueueState,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_state_reason: Option<String>,
}

/// Whose fault a failed operation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// The request cannot succeed.
    User,
    /// The service failed.
    Server,
    /// Not said.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Category {
    /// Whose fault an error of this kind is.
    pub const fn of(kind: Kind) -> Self {
        match kind {
            Kind::InvalidInput
            | Kind::NotFound
            | Kind::Conflict
            | Kind::Unauthenticated
            | Kind::Forbidden
            | Kind::Cancelled => Self::User,
            _ => Self::Server,
        }
    }
}

/// The final answer of a failed operation. Sent with status 200: the official client takes any
/// 4xx or 5xx here for a failure of transport and polls again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// What happened and what to do, for people.
    pub error: String,
    /// Whose fault it is.
    #[serde(default)]
    pub category: Category,
    /// The stable name of the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The family's stable name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failed {
    /// The answer for this failure.
    pub fn new(error: ErrorDetail, category: Category) -> Self {
        Self {
            error: error.sentence(),
            category,
            code: Some(error.code),
            kind: Some(error.kind),
            hint: error.hint,
        }
    }
}

/// What a JSON answer of `retrieve_future` with status 200 means.
#[derive(Clone, Debug, PartialEq)]
pub enum FutureAnswer {
    /// Not yet; poll again.
    Pending(Pending),
    /// There, but large: poll again without `allow_metadata_only`.
    Announced {
        /// The size of the result in bytes.
        response_payload_size: u64,
    },
    /// Final: it failed.
    Failed(Failed),
    /// Final: the result, in the form of the operation.
    Done(serde_json::Value),
}

impl FutureAnswer {
    /// Tells the answers apart, in the order in which the official client does.
    ///
    /// # Errors
    /// [`InvalidInput::MalformedBody`] when the body is not JSON or not one of the forms.
    pub fn read(body: &[u8]) -> Result<Self, InvalidInput> {
        let malformed =
            |e: serde_json::Error| InvalidInput::MalformedBody { reason: e.to_string() };
        let value: serde_json::Value = serde_json::from_slice(body).map_err(malformed)?;
        let text = |key: &str| value.get(key).and_then(serde_json::Value::as_str);
        if text("type") == Some("try_again") {
            return serde_json::from_value(value).map(Self::Pending).map_err(malformed);
        }
        if text("status") == Some("complete_metadata") {
            let response_payload_size =
                value.get("response_payload_size").and_then(serde_json::Value::as_u64).unwrap_or(0);
            return Ok(Self::Announced { response_payload_size });
        }
        if value.get("error").is_some() {
            return serde_json::from_value(value).map(Self::Failed).map_err(malformed);
        }
        Ok(Self::Done(value))
    }
}
