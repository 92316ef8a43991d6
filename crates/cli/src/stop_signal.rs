//! The wish to end, from Ctrl-C or from whoever runs us.

use std::future::Future;

use snakehouse_base::Kind;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::CliError;

/// Begins to listen at once; the future resolves at the first SIGINT or SIGTERM.
pub(crate) fn listen() -> Result<impl Future<Output = ()>, CliError> {
    let one = |kind| {
        signal(kind).map_err(|error| {
            CliError::new(
                Kind::Environment,
                "no_signals",
                format!("cannot listen for signals: {error}"),
            )
        })
    };
    let (mut interrupt, mut terminate) =
        (one(SignalKind::interrupt())?, one(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
