//! Where a command writes: data on stdout, everything else on stderr.

use std::io::{self, IsTerminal, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::error::CliError;

/// The two streams of a command and whether data is JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// With `json`, every line of stdout is one JSON document.
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether data is JSON.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Whether a person is watching stderr, so that a progress bar makes sense.
    pub(crate) fn is_live(self) -> bool {
        !self.json && io::stderr().is_terminal()
    }

    /// The text of a result: `document` with `--json`, `text` without.
    pub(crate) fn line<T: Serialize>(
        self,
        document: &T,
        text: impl FnOnce() -> String,
    ) -> Result<String, CliError> {
        if !self.json {
            return Ok(text());
        }
        serde_json::to_string(document).map_err(|error| {
            CliError::new(snakehouse_base::Kind::Internal, "unprintable", error.to_string())
        })
    }

    /// Writes a result: `document` with `--json`, `text` without.
    pub(crate) fn data<T: Serialize>(
        self,
        document: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        let line = self.line(document, text)?;
        written(writeln!(io::stdout().lock(), "{}", line.trim_end()))
    }

    /// Tells a person what is going on. Never shown with `--json`.
    pub(crate) fn note(self, text: impl AsRef<str>) {
        if !self.json {
            // Losing a remark is no reason to fail the work it is about.
            let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
        }
    }

    /// Reports the failure that ends the command.
    pub(crate) fn failure(self, error: &CliError) {
        if self.json && error.is_interrupted() && !may_write() {
            // Whoever does not read holds up no end.
        } else if self.json {
            // The error itself is what we report; there is nowhere left to report a second one.
            let _ = self.data(&error.document(), String::new);
        } else {
            let mut stderr = io::stderr().lock();
            let _ = writeln!(stderr, "error: {error}");
            if let Some(hint) = error.hint() {
                let _ = writeln!(stderr, "hint:  {hint}");
            }
        }
    }
}

/// What came of writing to standard output. A reader that closed the pipe has seen enough.
pub(crate) fn written(outcome: io::Result<()>) -> Result<(), CliError> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CliError::new(
            snakehouse_base::Kind::Environment,
            "stdout_closed",
            format!("cannot write to standard output: {error}"),
        )),
        _ => Ok(()),
    }
}

/// Whether standard output takes a line now.
fn may_write() -> bool {
    let stdout = io::stdout();
    let mut ends = [PollFd::new(&stdout, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut ends, Some(&now)).is_ok_and(|ready| ready > 0)
}
