//! Sampling from fixed weights.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use snakehouse_base::ByteSize;
use snakehouse_base::id::SamplerId;
use snakehouse_guard::Permits;
use snakehouse_tinker_api::json::{self, SamplingParams, SamplingPrompt};
use snakehouse_tinker_api::{InvalidInput, SampleOutput};

use crate::error::ClientError;
use crate::pending::Pending;
use crate::promise::{Operation, settle};
use crate::session::{Session, request};

/// Samples under way at once, per client; more wait their turn.
const AT_ONCE: usize = 2000;

/// Draws samples from fixed weights. Cheap to clone. Samples have no order.
#[derive(Clone, Debug)]
pub struct SamplingClient {
    session: Arc<Session>,
    id: SamplerId,
    next: Arc<AtomicU64>,
    permits: Permits,
}

impl SamplingClient {
    pub(crate) fn new(session: Arc<Session>, id: String) -> Self {
        Self {
            session,
            id: SamplerId::new(id),
            next: Arc::new(AtomicU64::new(0)),
            permits: Permits::counted(AT_ONCE).expect("the bound is not zero"),
        }
    }

    /// The sampling session's id.
    pub const fn sampler_id(&self) -> &SamplerId {
        &self.id
    }

    /// Continues `prompt` (token ids) `num_samples` times.
    ///
    /// Returns when the service has accepted the request. At most 2,000 samples of one client are
    /// under way; more wait here, in order. Cancel safe: dropping the result abandons it.
    ///
    /// # Errors
    /// [`ClientError::InvalidInput`] for an empty prompt; else what the service or the way to it
    /// says. A service that is out of capacity is asked again until the patience ends.
    pub async fn sample(
        &self,
        prompt: &[i32],
        params: SamplingParams,
        num_samples: u32,
    ) -> Result<Pending<SampleOutput>, ClientError> {
        if prompt.is_empty() {
            return Err(InvalidInput::EmptyInput { datum: 0 }.into());
        }
        let deadline = self.session.deadline();
        let link = &self.session.link;
        let permit = link.bounded(self.permits.acquire(ByteSize(0)), "asample", deadline).await?;
        let body = json::Sample {
            num_samples,
            prompt: SamplingPrompt::from_tokens(prompt.iter().copied().map(i64::from).collect()),
            sampling_params: params,
            sampling_session_id: Some(self.id.to_string()),
            seq_id: self.next.fetch_add(1, Ordering::Relaxed),
            base_model: None,
            model_path: None,
            prompt_logprobs: false,
            topk_prompt_logprobs: 0,
            topk_sample_logprobs: 0,
            target_prompt_logprobs: None,
            prompt_alt_tokens_k: 0,
            prompt_logprobs_last_n: None,
            record_stability_info: false,
        };
        let request = request("asample", &body)?.header("x-tinker-sampling-backpressure", "1");
        let accepted = self.session.submit(Operation::Sample, request, deadline).await?;
        let session = Arc::clone(&self.session);
        Ok(Pending::new(async move {
            let body = settle(&session.link, &accepted, deadline).await?;
            drop(permit);
            SampleOutput::decode(body)
                .map_err(|error| ClientError::protocol("retrieve_future", error.to_string()))
        }))
    }
}
