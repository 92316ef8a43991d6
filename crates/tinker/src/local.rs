//! What a local Snakehouse service offers beyond the Tinker API: a look inside, and its tools.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use snakehouse_base::{Chance, Deadline};
use snakehouse_supervise::CancellationToken;

use crate::config::ClientConfig;
use crate::error::ClientError;
use crate::http::HttpTransport;
use crate::link::Link;
use crate::session::{post, read};
use crate::transport::Request;

/// A client of the routes below `/api/v1/snakehouse/`. Opens no session.
#[derive(Clone, Debug)]
pub struct LocalService {
    link: Link,
}

impl LocalService {
    /// A client that gives up when `ended` is cancelled. Sends nothing yet.
    ///
    /// # Errors
    /// [`ClientError::Config`] if the address or key cannot be used.
    pub fn new(config: &ClientConfig, ended: CancellationToken) -> Result<Self, ClientError> {
        let base_url = config.checked_base_url()?;
        let transport = Arc::new(HttpTransport::new(config, &base_url)?);
        let link = Link::new(transport, &base_url, config.patience, Chance::from_entropy(), ended);
        Ok(Self { link })
    }

    /// A look inside the service: workers, engine, queues.
    ///
    /// # Errors
    /// What the service or the way to it says.
    pub async fn status<T: DeserializeOwned>(&self, deadline: Deadline) -> Result<T, ClientError> {
        const ENDPOINT: &str = "snakehouse/status";
        let response = self.link.call(Request::get(ENDPOINT), deadline).await?;
        read(ENDPOINT, &response.body)
    }

    /// Calls a tool of the service. The answer is the tool's value or its failure, as the service
    /// wrote it.
    ///
    /// # Errors
    /// What the service or the way to it says; a tool that fails is an answer.
    pub async fn call_tool<T: DeserializeOwned>(
        &self,
        tool: &str,
        arguments: &impl Serialize,
        deadline: Deadline,
    ) -> Result<T, ClientError> {
        post(&self.link, &format!("snakehouse/tools/{tool}"), arguments, deadline).await
    }
}
