//! Streams: calls with items before the result, in both directions.
//!
//! What the caller holds is a [`Stream`]; what it shares with the worker's connection is a
//! [`Flow`](flow::Flow). A stream waits, is given out, is cancelled and fails like a call; it has
//! exactly one outcome. Tested in `flow.rs` without workers, and with real ones in `tests/it`.

pub(crate) mod flow;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use snakehouse_base::Deadline;
use snakehouse_guard::by;
use snakehouse_wire::{Value, ValueError};
use tokio::time::Instant;

use crate::attempts::admit;
use crate::call::{Args, Body, Call, CallError, CallOptions, Reply, Where};
use crate::dispatcher::Ticket;
use crate::host::chain::Chain;
use crate::pool::{Pin, Pool, Shared};
use crate::session::Session;
use crate::telemetry::{OpenSpan, SpanKind};
use flow::{Flow, FlowHold, Next};

/// A call whose tool gives items, takes items, or both.
///
/// Items come in order, each as soon as the tool gives it; then the result. The other direction is
/// independent: [`send`](Self::send) and [`finish_sending`](Self::finish_sending) may be used while
/// another task takes items, since all methods take `&self`. Each direction has about 1 MiB of
/// credit (64 items of up to 16 KiB) and room for one item more: a slow side makes the other wait and
/// never lets memory grow.
///
/// ```no_run
/// # use snakehouse_pool::{Args, CallError, CallOptions, Pool};
/// # async fn example(pool: &Pool) -> Result<(), CallError> {
/// let stream = pool.stream("translate", Args::none().arg("fr"), CallOptions::stream()).await?;
/// let sending = async {
///     for line in ["good", "morning"] {
///         stream.send(line).await?;
///     }
///     stream.finish_sending();
///     Ok(())
/// };
/// let taking = async {
///     while let Some(item) = stream.next().await {
///         println!("{:?}", item?);
///     }
///     Ok(())
/// };
/// tokio::try_join!(sending, taking)?;
/// let returned = stream.result().await?;
/// # Ok(())
/// # }
/// ```
///
/// The deadline covers the stream to its end. Dropping it cancels it: the tool's generator is closed,
/// and its worker is killed if it does not react within the grace of its spec.
pub struct Stream {
    shared: Arc<Shared>,
    flow: Arc<Flow>,
    tool: String,
    deadline: Deadline,
    ticket: Ticket,
    span: OpenSpan,
}

impl CallOptions {
    /// For streams: a deadline 900 s from now.
    pub fn stream() -> Self {
        Self::within(Deadline::STREAM)
    }
}

impl Pool {
    /// Opens a stream of a Python tool on any worker: a generator, or any other tool, which can read
    /// what is sent to it and gives its result at the end.
    ///
    /// It waits for its turn like a call, and occupies one of the places of its worker until it is
    /// over. This returns once it waits; what is sent until then waits with it.
    ///
    /// # Errors
    /// [`CallError::Saturated`], [`CallError::Stopped`] and [`CallError::BadArguments`]; everything
    /// else comes from [`Stream::next`].
    pub async fn stream(
        &self,
        tool: &str,
        args: Args,
        options: CallOptions,
    ) -> Result<Stream, CallError> {
        let body =
            args.encode(self.shared().spec.has_buffers()).map_err(CallError::BadArguments)?;
        open(self.shared(), None, tool, body, options)
    }

    /// Opens a stream of a tool that reads its own bytes.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub async fn stream_bytes(
        &self,
        tool: &str,
        body: Bytes,
        options: CallOptions,
    ) -> Result<Stream, CallError> {
        open(self.shared(), None, tool, body, options)
    }
}

impl Session {
    /// Opens a stream of a Python tool on the session's worker.
    ///
    /// # Errors
    /// As [`Pool::stream`], [`CallError::SessionLost`] and [`CallError::SessionEnded`];
    /// [`CallError::WorkerBusy`] comes from [`Stream::next`].
    pub async fn stream(
        &self,
        tool: &str,
        args: Args,
        options: CallOptions,
    ) -> Result<Stream, CallError> {
        let body =
            args.encode(self.shared().spec.has_buffers()).map_err(CallError::BadArguments)?;
        open(self.shared(), Some(self.tag()), tool, body, options)
    }

    /// Opens a stream of a tool that reads its own bytes.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub async fn stream_bytes(
        &self,
        tool: &str,
        body: Bytes,
        options: CallOptions,
    ) -> Result<Stream, CallError> {
        open(self.shared(), Some(self.tag()), tool, body, options)
    }
}

fn open(
    shared: &Arc<Shared>,
    pin: Pin<'_>,
    tool: &str,
    body: impl Into<Body>,
    mut options: CallOptions,
) -> Result<Stream, CallError> {
    let (chain, outer) = Chain::enter(shared, &mut options)?;
    let mut span = shared.span(SpanKind::Stream, tool, &mut options.trace);
    let now = Instant::now();
    let submitted = admit(shared.breaker.as_ref(), now).and_then(|permit| {
        let flow = Arc::new(Flow::new(permit));
        let call = Call {
            ticket: Ticket::default(),
            tool: tool.to_owned(),
            number: 0,
            body: body.into(),
            options,
            session: pin.cloned(),
            stream: true,
            deaths: 0,
            chain,
            outer,
            reply: Reply::Stream(FlowHold(flow.clone())),
        };
        let ticket = shared.change(|pool, after| pool.submit(call, now, after))?;
        Ok((ticket, flow))
    });
    if let Err(error) = &submitted {
        let outcome = Err(error.clone());
        shared.tally.stream_over::<()>(Some(&outcome));
        span.end(&outcome);
    }
    let (ticket, flow) = submitted?;
    let shared = shared.clone();
    let (tool, deadline) = (tool.to_owned(), options.deadline);
    Ok(Stream { shared, flow, tool, deadline, ticket, span })
}

impl Stream {
    /// The next item; `None` at the end. An error is given once, after the items that came before it.
    ///
    /// Cancel safe: an item that is not returned is not lost.
    ///
    /// # Errors
    /// [`CallError`]: the one outcome of the stream. [`CallError::BadItem`] for an item that is no
    /// value; the tool is stopped then.
    pub async fn next(&self) -> Option<Result<Value, CallError>> {
        let item = match self.next_bytes().await? {
            Ok(item) => item,
            Err(error) => return Some(Err(error)),
        };
        Some(Value::decode(&item).map_err(|error| {
            let error = CallError::BadItem { tool: self.tool.clone(), error };
            self.flow.refuse(error.clone());
            self.cancel();
            error
        }))
    }

    /// The next item as it came.
    ///
    /// # Errors
    /// As [`next`](Self::next), without [`CallError::BadItem`].
    pub async fn next_bytes(&self) -> Option<Result<Bytes, CallError>> {
        let next = match by(self.deadline, self.flow.next()).await {
            Some(next) => next,
            None => {
                self.expire();
                self.flow.next().await
            }
        };
        match next {
            Next::Item(item) => Some(Ok(item)),
            Next::Failed(error) => Some(Err(error)),
            Next::Over => None,
        }
    }

    /// Sends an item to the tool. Waits while the tool is behind by its credits.
    ///
    /// Cancel safe: an item whose future is dropped was not sent.
    ///
    /// # Errors
    /// [`CallError::BadArguments`] if it cannot travel; [`CallError::StreamOver`] if the stream is over
    /// or [`finish_sending`](Self::finish_sending) was called. [`next`](Self::next) and
    /// [`result`](Self::result) say how it ended.
    pub async fn send(&self, item: impl Into<Value>) -> Result<(), CallError> {
        let item = item.into().encode().map_err(CallError::BadArguments)?;
        self.send_bytes(item).await
    }

    /// Sends an item as it is.
    ///
    /// # Errors
    /// As [`send`](Self::send); [`CallError::BadArguments`] only if it is longer than
    /// [`Value::MAX_BYTES`]. The stream goes on then.
    pub async fn send_bytes(&self, item: Bytes) -> Result<(), CallError> {
        if item.len() > Value::MAX_BYTES {
            // A worker takes it for a broken protocol, and every call on it would pay.
            return Err(CallError::BadArguments(ValueError::TooLarge));
        }
        let sent = by(self.deadline, self.flow.send(item)).await.unwrap_or_else(|| {
            self.expire();
            false
        });
        if sent { Ok(()) } else { Err(CallError::StreamOver) }
    }

    /// Tells the tool that no more items come. What was sent still arrives.
    pub fn finish_sending(&self) {
        self.flow.end();
    }

    /// What the tool returned: waits for the end, and drops the items that are left.
    ///
    /// # Errors
    /// The outcome of the stream, also if [`next`](Self::next) told it already.
    pub async fn result(&self) -> Result<Value, CallError> {
        let result = self.result_bytes().await?;
        Value::decode(&result)
            .map_err(|error| CallError::BadResult { tool: self.tool.clone(), error })
    }

    /// What the tool returned, as it came.
    ///
    /// # Errors
    /// As [`result`](Self::result).
    pub async fn result_bytes(&self) -> Result<Bytes, CallError> {
        while self.next_bytes().await.is_some() {}
        self.flow.outcome().unwrap_or(Err(CallError::Stopped))
    }

    /// Bytes of items that came and were not taken. At most about 1 MiB and one item.
    pub fn held(&self) -> usize {
        self.flow.held()
    }

    /// The deadline has passed. If another task says so right now, the outcome is about to come.
    fn expire(&self) {
        if self.flow.claim() {
            match self.cancel() {
                Some(Where::Queue) => self.flow.expire(self.shared.not_given_out()),
                Some(at @ Where::Worker) => self.flow.expire(CallError::Deadline { at }),
                None => self.flow.unclaim(),
            }
        }
    }

    fn cancel(&self) -> Option<Where> {
        let now = Instant::now();
        self.shared.change(|dispatcher, after| dispatcher.cancel(self.ticket, now, after))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.flow.is_over() {
            self.flow.abandon();
            self.cancel();
            self.shared.tally.stream_over::<()>(None);
            return;
        }
        let outcome = self.flow.outcome();
        self.shared.tally.stream_over(outcome.as_ref());
        if let Some(outcome) = &outcome {
            self.span.end(outcome);
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("id", &self.ticket.id).field("tool", &self.tool).finish()
    }
}
