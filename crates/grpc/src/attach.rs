//! `snakehouse.v1.Worker`: workers of other hosts come in here.

use std::fmt;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use snakehouse_base::Kind;
use snakehouse_pool::{Attached as Ends, Attachments, ToPool};
use snakehouse_supervise::{CancellationToken, Scope};
use snakehouse_wire::PROTOCOL_VERSION;
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

use crate::farewell;
use crate::proto::worker_server::Worker;
use crate::proto::{Attach, Attached, FromWorker, ToWorker, from_worker, to_worker};
use crate::refusal::{Refusal, refuse, refused};
use crate::server::PeerName;

/// How long an agent may take to say what it is.
const FIRST: Duration = Duration::from_secs(10);

/// Longest name of a host, for people.
const NAME: usize = 200;

#[derive(Clone)]
pub(crate) struct AttachService {
    attachments: Attachments,
    scope: Scope,
}

impl AttachService {
    pub(crate) fn new(attachments: Attachments, scope: Scope) -> Self {
        Self { attachments, scope }
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<ToWorker, Status>> + Send>>;

#[tonic::async_trait]
impl Worker for AttachService {
    type AttachStream = Frames;

    async fn attach(
        &self,
        request: Request<Streaming<FromWorker>>,
    ) -> Result<Response<Frames>, Status> {
        let peer = request.extensions().get::<PeerName>().map(|name| name.0.clone());
        let mut requests = request.into_inner();
        let first = timeout(FIRST, requests.message()).await.map_err(|_elapsed| silent())??;
        let Some(from_worker::Message::Attach(attach)) = first.and_then(|first| first.message)
        else {
            return Err(out_of_place("the first message is not `attach`"));
        };
        check(&attach)?;
        let host: String = attach.host.chars().filter(|c| !c.is_control()).take(NAME).collect();
        let peer = format!("{host} ({})", peer.as_deref().unwrap_or("?"));
        let Ends { from_pool, to_pool } =
            self.attachments.attach(&peer).map_err(|error| refused(&error))?;
        tracing::info!(peer, "a worker is attached");
        // It ends with the agent's stream, which ends with its connection.
        let stopping = self.scope.cancelled();
        drop(self.scope.task("attached", take_in(requests, to_pool, peer, stopping)));
        let first = ToWorker { message: Some(to_worker::Message::Attached(Attached {})) };
        let frames = stream::unfold(from_pool, |mut from_pool| async {
            let frames = from_pool.next().await?;
            let message = Some(to_worker::Message::Frames(frames));
            Some((Ok(ToWorker { message }), from_pool))
        });
        Ok(Response::new(stream::once(std::future::ready(Ok(first))).chain(frames).boxed()))
    }
}

/// Passes on what the worker says, until it is dead or lost.
async fn take_in(
    mut requests: Streaming<FromWorker>,
    mut to_pool: ToPool,
    peer: String,
    stopping: CancellationToken,
) {
    // One for all messages: whoever goes on talking has no more time than others.
    let mut overdue = pin!(to_pool.overdue());
    loop {
        let message = tokio::select! {
            biased;
            () = &mut overdue => return to_pool.lost("it was to end and did not say so"),
            message = requests.message() => message,
            () = stopping.cancelled() => return to_pool.lost("the server stops"),
        };
        let message = match message {
            Ok(Some(FromWorker { message })) => message,
            Ok(None) => return to_pool.lost("its host hung up"),
            Err(status) => {
                tracing::warn!(peer, %status, "an attached worker is lost");
                return to_pool.lost(status.message());
            }
        };
        match message {
            Some(from_worker::Message::Frames(frames)) => match to_pool.put(&frames).await {
                // Whoever does not read any more waits for the last word.
                Ok(_taken) => {}
                Err(error) => {
                    tracing::warn!(peer, %error, "an attached worker broke the protocol");
                    return to_pool.broken(error.to_string());
                }
            },
            Some(from_worker::Message::Ended(ended)) => {
                let farewell = farewell::from_wire(ended);
                tracing::info!(peer, death = %farewell.death, "an attached worker ended");
                return to_pool.end(farewell);
            }
            Some(from_worker::Message::Attach(_)) | None => {
                return to_pool.broken("a message is out of place".to_owned());
            }
        }
    }
}

fn check(attach: &Attach) -> Result<(), Status> {
    let theirs = attach.protocol;
    if theirs == PROTOCOL_VERSION {
        return Ok(());
    }
    Err(refuse(Refusal {
        kind: Kind::Environment,
        code: "protocol_mismatch",
        message: format!(
            "the worker speaks protocol {theirs}, this pool speaks {PROTOCOL_VERSION}"
        ),
        hint: Some("use one release on both hosts".to_owned()),
    }))
}

fn out_of_place(message: &str) -> Status {
    refuse(Refusal {
        kind: Kind::InvalidInput,
        code: "attach_out_of_place",
        message: message.to_owned(),
        hint: None,
    })
}

fn silent() -> Status {
    out_of_place("nothing was said for 10 s")
}

impl fmt::Debug for AttachService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttachService")
            .field("attachments", &self.attachments)
            .finish_non_exhaustive()
    }
}
