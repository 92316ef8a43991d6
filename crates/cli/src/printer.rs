//! Standard output that may stand still: a reader that does not read holds up no signal.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use serde::Serialize;
use snakehouse_base::Kind;
use snakehouse_supervise::{Lane, Root};

use crate::error::CliError;
use crate::output::{self, Output};

/// Writes results in a thread of its own, which the end of the process does not wait for.
pub(crate) struct Printer {
    out: Output,
    // Not that of standard output's lock: who holds it may be stuck for ever.
    stdout: Arc<File>,
    lane: Lane,
    _root: Root,
}

impl Printer {
    pub(crate) fn new(out: Output) -> Result<Self, CliError> {
        let stdout = rustix::io::dup(rustix::stdio::stdout()).map_err(|error| {
            CliError::new(Kind::Environment, "stdout_closed", error.to_string())
        })?;
        let root = Root::new("printer");
        let lane = Lane::new(root.scope(), "stdout", 1, 1);
        Ok(Self { out, stdout: Arc::new(File::from(stdout)), lane, _root: root })
    }

    /// As [`Output::data`].
    pub(crate) async fn data<T: Serialize>(
        &self,
        document: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        let mut line = self.out.line(document, text)?.trim_end().to_owned();
        line.push('\n');
        let stdout = Arc::clone(&self.stdout);
        let written: io::Result<()> =
            self.lane.run(move || (&*stdout).write_all(line.as_bytes())).await?;
        output::written(written)
    }

    /// Reports a failure that does not end the command.
    pub(crate) async fn failure(&self, error: &CliError) -> Result<(), CliError> {
        if self.out.is_json() {
            return self.data(&error.document(), String::new).await;
        }
        self.out.failure(error);
        Ok(())
    }
}
