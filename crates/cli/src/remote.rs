//! `pool serve` and `worker attach`: the two ends of a pool that is not in one process.

mod attach;
mod serve;

use std::path::Path;

use snakehouse_base::{Kind, Secret};
use snakehouse_pool::{Interpreter, Reaper, ReaperConfig, Run};
use snakehouse_supervise::{Lane, Scope};

use crate::config::Config;
use crate::error::CliError;
use crate::home::Home;

pub(crate) use attach::run as attach;
pub(crate) use serve::run as serve;

/// What both need before anything is started, read off the async threads.
struct Begun<T> {
    python: Interpreter,
    run: Run,
    files: T,
}

async fn begin<T: Send + 'static>(
    scope: &Scope,
    config: &Config,
    read: impl FnOnce() -> Result<T, CliError> + Send + 'static,
) -> Result<Begun<T>, CliError> {
    let lane = Lane::new(scope, "start", 1, 1);
    let config = config.clone();
    lane.run(move || {
        let files = read()?;
        let python = Interpreter::find(config.python.value.as_deref())?;
        let run = Run::begin(&Home::open(&config.home.value)?.runs())?;
        Ok(Begun { python, run, files })
    })
    .await?
}

impl<T> Begun<T> {
    async fn reaper(&self, scope: &Scope) -> Result<Reaper, CliError> {
        let run_token = self.run.token().clone();
        let config = ReaperConfig { python: self.python.clone(), run_token, cache: None };
        Ok(Reaper::start(scope, config).await?)
    }
}

/// A file that a flag names.
fn read(flag: &str, file: &Path) -> Result<Vec<u8>, CliError> {
    std::fs::read(file).map_err(|error| {
        let text = format!("cannot read {} of {flag}: {error}", file.display());
        CliError::new(Kind::NotFound, "file_missing", text)
    })
}

/// The token in a file that a flag names, without the line's end.
fn token(flag: &str, file: &Path) -> Result<Secret, CliError> {
    let bytes = read(flag, file)?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    Ok(Secret::new(text.trim_end()))
}
