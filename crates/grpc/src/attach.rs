//! `snakehouse.v1.Worker`: workers of other hosts come in here.

use std::collections::VecDeque;
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use snakehouse_base::{ByteSize, Kind};
use snakehouse_guard::{Permit, Permits};
use snakehouse_pool::{Attached as Ends, Attachments, FromPool, Hosted, PoolSays, ToPool};
use snakehouse_supervise::{CancellationToken, Scope};
use snakehouse_wire::PROTOCOL_VERSION;
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

use crate::farewell;
use crate::proto::worker_server::Worker;
use crate::proto::{Attach, Attached, Cancels, FromWorker, ToWorker, from_worker, to_worker};
use crate::refusal::{Refusal, refuse, refused};
use crate::server::PeerName;

/// How long an agent may take to say what it is.
const FIRST: Duration = Duration::from_secs(10);

/// Messages with frames that may be on their way to a worker.
const AHEAD: usize = Hosted::AHEAD as usize;

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
        let room = Arc::new(Room::new());
        let taking = take_in(requests, to_pool, room.clone(), peer, stopping);
        drop(self.scope.task("attached", taking));
        let first = ToWorker { message: Some(to_worker::Message::Attached(Attached {})) };
        let told = stream::unfold(Telling { from_pool, room, next: None }, |mut telling| async {
            let message = Some(telling.next().await?);
            Some((Ok(ToWorker { message }), telling))
        });
        Ok(Response::new(stream::once(std::future::ready(Ok(first))).chain(told).boxed()))
    }
}

/// Room for messages with frames that the worker does not have yet.
struct Room {
    permits: Permits,
    on_the_way: Mutex<VecDeque<Permit>>,
}

impl Room {
    fn new() -> Self {
        let permits = Permits::counted(AHEAD).expect("it is more than none");
        Self { permits, on_the_way: Mutex::default() }
    }

    fn on_the_way(&self) -> MutexGuard<'_, VecDeque<Permit>> {
        // Nothing panics while it is held.
        self.on_the_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker has so many more; `false` if it was not sent that many.
    fn taken(&self, taken: u32) -> bool {
        let mut on_the_way = self.on_the_way();
        let taken = usize::try_from(taken).unwrap_or(usize::MAX);
        let sent = on_the_way.len();
        on_the_way.drain(..taken.min(sent));
        taken <= sent
    }
}

/// What goes to the agent.
struct Telling {
    from_pool: FromPool,
    room: Arc<Room>,
    /// Room for the next message with frames.
    next: Option<Permit>,
}

impl Telling {
    async fn next(&mut self) -> Option<to_worker::Message> {
        loop {
            let has_room = self.next.is_some();
            let says = tokio::select! {
                biased;
                says = self.from_pool.next(has_room) => says?,
                room = self.room.permits.acquire(ByteSize(1)), if !has_room => {
                    self.next = Some(room);
                    continue;
                }
            };
            return Some(match says {
                PoolSays::Frames(frames) => {
                    self.room.on_the_way().extend(self.next.take());
                    to_worker::Message::Frames(frames)
                }
                PoolSays::Cancels(calls) => to_worker::Message::Cancels(Cancels { calls }),
            });
        }
    }
}

/// Passes on what the worker says, until it is dead or lost.
async fn take_in(
    mut requests: Streaming<FromWorker>,
    mut to_pool: ToPool,
    room: Arc<Room>,
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
            Some(from_worker::Message::Taken(taken)) => {
                if !room.taken(taken) {
                    return to_pool.broken("it took more than it was sent".to_owned());
                }
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
