//! What a worker is told about sessions: their limits first, then each one's beginning and end.

use snakehouse_wire::{Message, SessionEvent, Value};

use crate::dispatcher::{SessionNews, worker_id};
use crate::session::SessionLimits;

use super::Connection;

impl Connection<'_> {
    /// The first words to a worker that serves.
    pub(super) fn put_settings(&mut self) {
        if self.hears_of_sessions {
            match settings(&self.shared.config.sessions).encode() {
                Ok(body) => self.output.put(Message::Settings(body)),
                Err(error) => self.not_told(&error),
            }
        }
    }

    /// Before the calls that it is about.
    pub(super) fn tell_sessions(&mut self, news: Vec<SessionNews>) {
        for news in news {
            let event = match news {
                SessionNews::Named { id, name } => {
                    SessionEvent::Started { id, name: name.to_string() }
                }
                SessionNews::Ended { id, reason } => {
                    SessionEvent::Ended { id, reason: reason.to_owned() }
                }
            };
            match event.encode() {
                Ok(body) => self.output.put(Message::Session(body)),
                Err(error) => self.not_told(&error),
            }
        }
    }

    /// Names and numbers are short, so this does not happen; the worker goes on without.
    fn not_told(&self, error: &dyn std::fmt::Display) {
        tracing::error!(worker = %worker_id(self.place), %error, "worker not told of sessions");
    }
}

/// The map of a settings frame.
fn settings(limits: &SessionLimits) -> Value {
    let number = |number: u64| Value::from(i64::try_from(number).unwrap_or(i64::MAX));
    let micros = u64::try_from(limits.hooks_within.as_micros()).unwrap_or(u64::MAX);
    let sessions = Value::from_iter([
        ("count", number(limits.most as u64)),
        ("entries", number(limits.state_entries as u64)),
        ("bytes", number(limits.state_bytes.0)),
        ("hook_micros", number(micros)),
    ]);
    Value::from_iter([("sessions", sessions)])
}
