//! The `up` that runs on the same state, if there is one.

use std::time::Duration;

use serde::Deserialize;
use snakehouse_base::{Deadline, Kind, Secret};
use snakehouse_supervise::CancellationToken;
use snakehouse_tinker::{ClientConfig, LocalService};

use crate::config::Config;
use crate::error::CliError;
use crate::home::Home;

/// How long an answer of a service on the same machine may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running `up`.
#[derive(Debug)]
pub(crate) struct Running {
    url: String,
    pid: u32,
    service: LocalService,
}

impl Running {
    /// Its address.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Its client.
    pub(crate) fn service(&self) -> &LocalService {
        &self.service
    }
}

/// Finds the `up` that holds the configured state directory.
///
/// # Errors
/// `not_running` when nobody holds it.
pub(crate) async fn find(config: &Config) -> Result<Running, CliError> {
    #[derive(Deserialize)]
    struct Identity {
        pid: u32,
    }
    let state = Home::new(&config.home.value).state();
    let holder = snakehouse_store::StateDir::holder(&state).ok_or_else(not_running)?;
    let port = holder.port.ok_or_else(not_running)?;
    let url = format!("http://127.0.0.1:{port}");
    let mut client = ClientConfig::new(url.clone(), Secret::new("tml-local"));
    client.patience = Duration::ZERO;
    let service = LocalService::new(&client, CancellationToken::new())?;
    let deadline = Deadline::after(tokio::time::Instant::now().into_std(), PATIENCE);
    let identity: Identity = service.status(deadline).await.map_err(|_| not_running())?;
    Ok(Running { url, pid: identity.pid, service })
}

fn not_running() -> CliError {
    CliError::new(
        Kind::Unavailable,
        "not_running",
        "no `snakehouse up` runs on this state directory",
    )
    .with_hint("start one with `snakehouse up`, or name its state with --home")
}
