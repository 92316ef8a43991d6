//! Streams through the front door: two directions that do not wait for each other.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use snakehouse_base::Kind;
use snakehouse_guard::by;
use snakehouse_pool::Stream as PoolStream;
use snakehouse_supervise::{CancellationToken, Lane};
use tokio::sync::oneshot;
use tonic::metadata::MetadataMap;
use tonic::{Status, Streaming};

use crate::front_door::{FrontDoor, options};
use crate::payload::{self, Form};
use crate::proto::{CallRequest, StreamRequest, StreamResponse, stream_request, stream_response};
use crate::refusal::{Refusal, call_failed, refuse};
use crate::server::Terms;

/// What a tool gives, and its result.
pub(crate) type Items = Pin<Box<dyn Stream<Item = Result<StreamResponse, Status>> + Send>>;

/// Opens the stream that the first message names. What the client sends runs as a task of the scope,
/// which ends with the requests; what the tool gives is the response, and dropping it cancels the
/// call.
pub(crate) async fn open(
    door: &FrontDoor,
    terms: &Terms,
    headers: &MetadataMap,
    mut requests: Streaming<StreamRequest>,
) -> Result<Items, Status> {
    let FrontDoor { pool, scope, lane, .. } = door;
    let unopened = options(headers, terms, false);
    let first = by(unopened.deadline, requests.message()).await;
    let first = first.ok_or_else(|| out_of_place("the stream was never opened"))??;
    let Some(stream_request::Message::Open(open)) = first.and_then(|first| first.message) else {
        return Err(out_of_place("the first message is not `open`"));
    };
    let CallRequest { tool, arguments, idempotent, session } = open;
    if idempotent {
        return Err(refuse(Refusal {
            kind: Kind::InvalidInput,
            code: "stream_not_repeatable",
            message: "a stream is not run again: its items are with its caller".to_owned(),
            hint: Some("leave `idempotent` out, and open another stream after a death".to_owned()),
        }));
    }
    let (body, form) = payload::arguments(arguments)?;
    let opened = match door.named(&session)? {
        None => pool.stream_bytes(&tool, body, unopened).await,
        Some(session) => session.stream_bytes(&tool, body, unopened).await,
    };
    let stream = Arc::new(opened.map_err(|error| call_failed(&error))?);
    let (broken, breaks) = oneshot::channel();
    let gone = CancellationToken::new();
    let (ended, sender) = (gone.clone(), stream.clone());
    drop(scope.task("items", async move {
        tokio::select! {
            () = ended.cancelled() => {}
            () = send_all(requests, sender, broken) => {}
        }
    }));
    let taking = Taking {
        stream,
        form,
        breaks: Some(breaks),
        over: false,
        lane: lane.clone(),
        _gone: Gone(gone),
    };
    Ok(stream::unfold(taking, |mut taking| async {
        let next = taking.next().await?;
        Some((next, taking))
    })
    .boxed())
}

/// Sends what the client sends until there is no more, or it is wrong.
async fn send_all(
    mut requests: Streaming<StreamRequest>,
    stream: Arc<PoolStream>,
    broken: oneshot::Sender<Status>,
) {
    while let Some(next) = next_item(&mut requests).await {
        match next {
            // One that the tool does not take any more is dropped, as in a pool.
            Ok(item) => drop(stream.send_bytes(item).await),
            Err(status) => {
                // Nobody hears it if the stream is over.
                let _ = broken.send(status);
                return;
            }
        }
    }
    stream.finish_sending();
}

/// The next item of the client; `None` at the end of its requests. A client that goes away ends the
/// response as well.
async fn next_item(requests: &mut Streaming<StreamRequest>) -> Option<Result<Bytes, Status>> {
    let message = match requests.message().await {
        Ok(message) => message?.message,
        Err(status) => return Some(Err(status)),
    };
    Some(match message {
        Some(stream_request::Message::Item(item)) => payload::item(item),
        _ => Err(out_of_place("a message after the first is not `item`")),
    })
}

/// The response's side of a stream.
struct Taking {
    stream: Arc<PoolStream>,
    form: Form,
    /// Says what was wrong with the client's side.
    breaks: Option<oneshot::Receiver<Status>>,
    over: bool,
    lane: Lane,
    /// Ends the sending with the response.
    _gone: Gone,
}

/// Fires when it is dropped.
struct Gone(CancellationToken);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Taking {
    async fn next(&mut self) -> Option<Result<StreamResponse, Status>> {
        if self.over {
            return None;
        }
        let breaks = &mut self.breaks;
        let broken = async {
            if let Some(receiver) = breaks {
                match receiver.await {
                    Ok(status) => return status,
                    // The client has no more to send.
                    Err(_gone) => *breaks = None,
                }
            }
            std::future::pending().await
        };
        let next = tokio::select! {
            biased;
            status = broken => Err(status),
            next = self.stream.next_bytes() => Ok(next),
        };
        let message = match next {
            Err(status) => Err(status),
            Ok(Some(Ok(item))) => {
                payload::told(item, self.form).map(stream_response::Message::Item)
            }
            Ok(Some(Err(error))) => Err(call_failed(&error)),
            Ok(None) => {
                self.over = true;
                match self.stream.result_bytes().await {
                    Ok(result) => payload::plain(result, &self.lane)
                        .await
                        .and_then(|result| payload::told(result, self.form))
                        .map(stream_response::Message::Result),
                    Err(error) => Err(call_failed(&error)),
                }
            }
        };
        self.over |= message.is_err();
        Some(message.map(|message| StreamResponse { message: Some(message) }))
    }
}

fn out_of_place(message: &str) -> Status {
    refuse(Refusal {
        kind: Kind::InvalidInput,
        code: "stream_out_of_place",
        message: message.to_owned(),
        hint: Some("send `open` once and first, then `item`".to_owned()),
    })
}
