//! What the workers of a command print, shown while they print it.
//!
//! The pool reads it and passes it on to the log, bounded; this shows those lines without the rest of
//! a log, on standard error. Tested with real commands (`system-tests/tests/it/pool_author.rs`).

use std::fmt::Debug;
use std::io::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// What the pool logs such lines as.
pub(crate) const TARGET: &str = "snakehouse::worker";

/// Shows each line with its worker.
#[derive(Debug)]
pub(crate) struct WorkerLines;

impl<S: Subscriber> Layer<S> for WorkerLines {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if event.metadata().target() != TARGET {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        // Who does not read it does not want it.
        let _ = writeln!(io::stderr().lock(), "[{}] {}", line.worker, line.text);
    }
}

#[derive(Debug, Default)]
struct Line {
    worker: String,
    text: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "worker" => self.worker = format!("{value:?}"),
            "message" => self.text = format!("{value:?}"),
            _ => {}
        }
    }
}
