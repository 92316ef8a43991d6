//! What a worker says, and what follows from it.

use bytes::Bytes;
use snakehouse_base::Kind;
use snakehouse_wire::buffer::is_lent;
use snakehouse_wire::{Failure, Frame, FrameError, FrameKind, Message};
use tokio::time::Instant;

use crate::call::{Call, CallError};
use crate::death::KillReason;

use super::Connection;
use super::copies::Copied;

/// Pongs that wait for a worker that does not read them.
const MAX_PONGS: usize = 32 * 1024;

impl Connection<'_> {
    /// Handles every whole frame that was read. A broken one is the worker's end.
    pub(super) fn handle_all(&mut self) {
        while self.kill.is_none() {
            let handled = match self.input.frame() {
                Ok(None) => return,
                Ok(Some(frame)) => self.take(frame),
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = handled {
                self.kill_for(KillReason::Garbage(error));
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), String> {
        // The assembler holds pieces for whoever they are; calls that are not here have none.
        if frame.kind == FrameKind::Data && self.sent.get(frame.stream).is_none() {
            return Err(format!("a piece on stream {}, which is not open", frame.stream));
        }
        match self.input.message(frame) {
            Ok(None) => Ok(()),
            Ok(Some(message)) => self.handle(message),
            // Too much for the host, which says nothing against the worker.
            Err(error @ FrameError::BodyTooLarge { stream, .. }) => {
                let failure = too_large(&error, "body_too_large");
                self.finish(stream, |call| call.failed(failure)).map(drop)
            }
            Err(error @ FrameError::CallbackTooLarge { callback, .. }) => {
                self.refuse_callback(callback, &too_large(&error, "body_too_large"))
            }
            Err(error @ FrameError::ItemTooLarge { stream, .. }) => {
                self.refuse_item(stream, &error);
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn handle(&mut self, message: Message) -> Result<(), String> {
        match message {
            Message::Reply { stream, body } => {
                if is_lent(&body) {
                    return self.lent(stream, body);
                }
                if !self.finish(stream, |call| call.finish(Ok(body)))? {
                    self.late += 1;
                }
                Ok(())
            }
            Message::Error { stream, body } => {
                let failure = Failure::decode(&body);
                if self.was_recalled(stream, &failure) {
                    return Ok(());
                }
                self.finish(stream, |call| call.failed(failure)).map(drop)
            }
            Message::Item { stream, body } if is_lent(&body) => {
                Err(format!("a lent item on stream {stream}: credits would not bound it"))
            }
            Message::Item { stream, body } => {
                let Some(sent) = self.sent.get(stream) else {
                    return Err(format!("an item on stream {stream}, which is not open"));
                };
                let in_time = match &sent.call {
                    None => false,
                    Some(call) => match call.flow() {
                        Some(flow) => flow.item(stream, body).map_err(|error| error.to_string())?,
                        None => return Err(format!("an item for call {stream}, no stream")),
                    },
                };
                if !in_time {
                    self.late_items += 1;
                }
                Ok(())
            }
            Message::Credit { stream, amount } => {
                let call = self.sent.get(stream).and_then(|sent| sent.call.as_ref());
                if let Some(flow) = call.and_then(Call::flow) {
                    flow.granted(amount);
                }
                Ok(())
            }
            Message::Ping { token } => {
                self.pongs += 1;
                if self.pongs > MAX_PONGS {
                    return Err("it pings and does not read the answers".to_owned());
                }
                self.output.put(Message::Pong { token });
                Ok(())
            }
            Message::Pong { .. } => {
                self.send_held();
                Ok(())
            }
            Message::Telemetry(body) => {
                self.told(&body);
                Ok(())
            }
            Message::CallbackOpen { callback, head, body } => {
                if is_lent(&body) {
                    return Err(format!("callback {callback} lends its arguments"));
                }
                self.open_callback(callback, &head, body)
            }
            Message::CallbackCancel { callback } => {
                self.cancel_callback(callback);
                Ok(())
            }
            // The exit follows.
            Message::Goaway { .. } => Ok(()),
            Message::Hello(_) => Err("it said hello twice".to_owned()),
            other => Err(format!("{other:?} is not for a host")),
        }
    }

    /// Gives an open call its outcome; whether anybody still waited for it.
    fn finish(&mut self, stream: u32, outcome: impl FnOnce(Call)) -> Result<bool, String> {
        let Some(sent) = self.sent.remove(stream) else {
            return Err(format!("it answered stream {stream}, which is not open"));
        };
        self.answered.push(sent.ticket);
        self.has_answered = true;
        self.end_callbacks(stream);
        let Some(call) = sent.call else {
            tracing::trace!(stream, "answer of a cancelled call dropped");
            self.cancels.answered(stream);
            return Ok(false);
        };
        if call.is_stream() {
            self.flows.retain(|(flow, _)| *flow != stream);
        }
        if call.is_abandoned() {
            return Ok(false);
        }
        outcome(call);
        Ok(true)
    }

    /// The result of a call is in the worker's slots. The worker is free; the caller waits on.
    fn lent(&mut self, stream: u32, body: Bytes) -> Result<(), String> {
        let ring = self.buffers.lender()?;
        let mut answered = None;
        if !self.finish(stream, |call| answered = Some(call))? {
            self.late += 1;
        }
        match answered {
            Some(call) => self.copies.add(call, ring, body),
            None => self.buffers.forget(&body)?,
        }
        Ok(())
    }

    /// The result of a call was copied.
    pub(super) fn copied(&mut self, Copied { call, outcome }: Copied) {
        match outcome {
            Err(error) => {
                self.kill_for(KillReason::Garbage(error.to_string()));
                self.copies.lose(call);
            }
            Ok(_) if call.is_abandoned() => self.late += 1,
            Ok(outcome) => call.finish(outcome),
        }
    }

    fn refuse_item(&mut self, stream: u32, error: &FrameError) {
        let Some(call) = self.sent.get(stream).and_then(|sent| sent.call.as_ref()) else { return };
        let failure = Box::new(too_large(error, "item_too_large"));
        let error = CallError::Tool { tool: call.tool.clone(), failure };
        self.end_stream(stream, error, Instant::now());
    }
}

fn too_large(error: &FrameError, code: &str) -> Failure {
    Failure::new(Kind::InvalidInput, code, error.to_string())
}
