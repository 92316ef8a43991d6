//! Telemetry of one worker: it is asked when it can tell, and again when something else is wanted.

use bytes::Bytes;
use snakehouse_base::id::Incarnation;
use snakehouse_wire::{Message, Value};

use super::Connection;
use crate::dispatcher::worker_id;
use crate::worker::WorkerRef;

/// What a connection knows about its worker's telemetry.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// Whether it can tell.
    pub(super) can: bool,
    /// Which filter it knows; 0 is none.
    known: u64,
    /// Which life it is, once it serves.
    incarnation: Option<Incarnation>,
}

impl Connection<'_> {
    /// Says whose telemetry it is.
    pub(crate) fn is_life(&mut self, incarnation: Incarnation) {
        self.telling.incarnation = Some(incarnation);
    }

    /// Tells the worker what it does not know yet of what is wanted.
    pub(super) fn ask_telemetry(&mut self) {
        let Some(hub) = &self.shared.telemetry else { return };
        if !self.telling.can {
            return;
        }
        let Some(settings) = hub.settings(&mut self.telling.known) else { return };
        let settings = Value::Dict(vec![(Value::from("telemetry"), settings)]);
        match settings.encode() {
            Ok(body) => self.output.put(Message::Settings(body)),
            Err(error) => tracing::warn!(%error, "a filter of telemetry cannot be sent"),
        }
    }

    /// What the worker tells goes on. Unasked, it goes nowhere.
    pub(super) fn told(&self, body: &Bytes) {
        let shared = self.shared;
        if let (Some(hub), Some(reader), Some(incarnation)) =
            (&shared.telemetry, &shared.reader, self.telling.incarnation)
        {
            let (id, pid) = (worker_id(self.place), self.process.pid);
            reader.take(hub, &shared.late, WorkerRef { id, incarnation, pid }, body);
        }
    }
}
