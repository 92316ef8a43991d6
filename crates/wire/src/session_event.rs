//! What a worker is told about a session.

use bytes::Bytes;

use crate::value::{Value, ValueError};

/// The payload of a [`Session`](crate::FrameKind::Session) frame: a MessagePack map with the keys
/// `id`, `event`, and what the event has to say.
///
/// A worker that is told nothing about a session may drop what it keeps of it when it likes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// `started` with `name`: before the first call of a session that has a name.
    Started {
        /// Its number, as it is in the head of its calls.
        id: u64,
        /// At most 256 bytes.
        name: String,
    },
    /// `ended` with `reason`: no call of it is open, and none comes.
    Ended {
        /// Its number.
        id: u64,
        /// `closed`, `expired` or `recycled`.
        reason: String,
    },
}

impl SessionEvent {
    /// The payload of the frame.
    ///
    /// # Errors
    /// [`ValueError`] if it is over a limit.
    pub fn encode(&self) -> Result<Bytes, ValueError> {
        let (id, event, key, text) = match self {
            Self::Started { id, name } => (id, "started", "name", name),
            Self::Ended { id, reason } => (id, "ended", "reason", reason),
        };
        Value::from_iter([
            ("id", Value::from(i64::try_from(*id).unwrap_or(i64::MAX))),
            ("event", event.into()),
            (key, text.as_str().into()),
        ])
        .encode()
    }

    /// Reads the payload of a frame. `None` is an event that this version does not know, or no event
    /// at all.
    pub fn decode(payload: &Bytes) -> Option<Self> {
        let map = Value::decode(payload).ok()?;
        let text = |key| map.get(key).and_then(Value::as_str).map(str::to_owned);
        let id = u64::try_from(map.get("id")?.as_i64()?).ok()?;
        match map.get("event")?.as_str()? {
            "started" => Some(Self::Started { id, name: text("name")? }),
            "ended" => Some(Self::Ended { id, reason: text("reason")? }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_reads_as_it_was_written() {
        for event in [
            SessionEvent::Started { id: 7, name: "user-42".to_owned() },
            SessionEvent::Ended { id: 1 << 40, reason: "expired".to_owned() },
        ] {
            assert_eq!(SessionEvent::decode(&event.encode().unwrap()), Some(event));
        }
        assert_eq!(SessionEvent::decode(&Bytes::from_static(b"\xc0")), None);
        assert_eq!(SessionEvent::decode(&Bytes::from_static(b"\xc1")), None);
    }
}
