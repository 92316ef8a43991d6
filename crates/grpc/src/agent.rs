//! Beside a worker on another host: dials the pool, starts the worker, passes frames on, begins anew.

use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use snakehouse_base::{Backoff, Chance, Coded, Jitter, Kind, Row};
use snakehouse_pool::{
    Bytes, Death, Farewell, Hosted, HostedSays, KillReason, Reaper, ToHosted, WorkerSpec,
};
use snakehouse_supervise::Scope;
use snakehouse_wire::PROTOCOL_VERSION;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tonic::{Status, Streaming};

use crate::channel::{Channel, Dial};
use crate::error::GrpcError;
use crate::farewell;
use crate::proto::worker_client::WorkerClient;
use crate::proto::{Attach, FromWorker, ToWorker, from_worker, to_worker};
use crate::refusal::error_of;

/// From the request to the pool's word that the worker may start.
const ADMIT_WITHIN: Duration = Duration::from_secs(15);

/// How long the last word may take to go out.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Messages on their way to the pool: each is a frame of at most 1 MiB, or 64 KiB of small ones.
const ON_THE_WAY: usize = 4;

/// Messages of frames on their way to the worker. The server sends no more.
const AHEAD: usize = Hosted::AHEAD as usize;

/// The first pause before it dials again, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// What an agent attaches, and where.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The pool's server.
    pub dial: Dial,
    /// How the worker is started here.
    pub worker: WorkerSpec,
    /// What this host is called there, for people.
    pub host: String,
    /// How long the worker's process may take to start. Default of the pool: 60 s.
    pub start_within: Duration,
}

/// Keeps a worker of this host attached to a pool of another.
///
/// The worker lives as long as its connection: when that ends, the worker is killed, and when the
/// worker dies, the pool is told how. Then another one is attached.
#[derive(Debug)]
pub struct Agent {
    config: AgentConfig,
    reaper: Reaper,
    chance: Chance,
}

/// How one attachment ended, if it ever began.
#[derive(Debug)]
struct Served {
    death: Death,
    /// Whether the worker had something to say.
    of_use: bool,
}

impl Agent {
    /// An agent that starts workers below this reaper.
    pub fn new(config: AgentConfig, reaper: Reaper) -> Self {
        Self { config, reaper, chance: Chance::from_entropy() }
    }

    /// Attaches a worker again and again, at once after one that was of use and later and later
    /// after others (100 ms to 10 s, jittered). Returns when that is of no use: what it returns is
    /// why. Drop it to end the agent; the worker is killed then.
    ///
    /// `attached` is told of every worker that the pool lets in.
    ///
    /// # Errors
    /// [`GrpcError::AttachRefused`] for what will be refused again, a wrong token or another version;
    /// [`WorkerNotReady`](GrpcError::WorkerNotReady) if no worker ever served;
    /// [`BadUrl`](GrpcError::BadUrl), [`BadToken`](GrpcError::BadToken).
    pub async fn run(&self, scope: &Scope, attached: impl Fn(u32)) -> GrpcError {
        let law = Backoff::new(PAUSES.0, PAUSES.1, Jitter::Half).expect("the bounds are in order");
        let mut row = Row::default();
        let mut has_served = false;
        loop {
            let scope = scope.open("attachment");
            let served = self.attach(&scope, &attached).await;
            scope.stop().await;
            match served {
                Ok(Served { death, of_use }) => {
                    tracing::info!(%death, "the worker ended");
                    if of_use {
                        row = Row::default();
                        has_served = true;
                    }
                }
                // What never worked is told; what worked once is tried again.
                Err(error @ GrpcError::WorkerNotReady { .. }) if !has_served => return error,
                Err(error) if is_final(&error) => return error,
                Err(error) => tracing::warn!(%error, "no worker is attached"),
            }
            sleep(law.next(&mut row, self.chance.next_unit())).await;
        }
    }

    /// One worker, from the dial to its death.
    async fn attach(&self, scope: &Scope, attached: &impl Fn(u32)) -> Result<Served, GrpcError> {
        let (channel, connection) = Channel::connect(scope, &self.config.dial).await?;
        let (frames, to_worker) = mpsc::channel(AHEAD);
        let (cancels, to_host) = mpsc::channel(1);
        let pool_says = ToHosted { frames: to_worker, cancels: to_host };
        let (up, worker_says) = mpsc::channel(ON_THE_WAY);
        let (last_word, ended) = oneshot::channel();
        let requests = self.requests(worker_says, ended);
        let mut client = WorkerClient::new(channel)
            .max_decoding_message_size(snakehouse_wire::MAX_FRAMES + 1024);
        let admitted = async {
            let mut responses = client.attach(requests).await?.into_inner();
            match responses.message().await?.and_then(|first| first.message) {
                Some(to_worker::Message::Attached(_)) => Ok(responses),
                _ => Err(Status::invalid_argument("the first answer is not `attached`")),
            }
        };
        let admitted = timeout(ADMIT_WITHIN, admitted).await;
        let admitted = admitted.unwrap_or_else(|_| Err(Status::unavailable("it does not answer")));
        let mut responses = admitted.map_err(|status| self.refused(&status))?;
        let AgentConfig { worker, start_within, .. } = &self.config;
        let hosted = match Hosted::start(scope, &self.reaper, worker, *start_within).await {
            Ok(hosted) => hosted,
            Err(error) => {
                let why = error.to_string();
                let death = Death::Killed(KillReason::Refused(why.clone()));
                let _ = last_word.send(Farewell { death, started: None });
                drop(up);
                // The pool's callers wait for a worker, and are to learn of it.
                let told = async { while let Ok(Some(_)) = responses.message().await {} };
                let _ = timeout(LAST_WORD, told).await;
                return Err(self.not_ready(error.kind(), why));
            }
        };
        attached(hosted.pid());
        let mut of_use = false;
        let working = async {
            let farewell = hosted.relay(pool_says, up).await;
            // If the stream is over, nobody hears it.
            let _ = last_word.send(farewell.clone());
            farewell
        };
        let hearing = hear(responses, frames, cancels, &mut of_use);
        let (farewell, ()) = tokio::join!(working, async {
            hearing.await;
        });
        drop(client);
        // What is still to be said goes out before the connection is closed.
        let _ = timeout(LAST_WORD, connection).await;
        match farewell.death {
            Death::Killed(KillReason::Refused(why)) => Err(self.not_ready(Kind::Environment, why)),
            death => Ok(Served { death, of_use }),
        }
    }

    fn not_ready(&self, kind: Kind, why: String) -> GrpcError {
        let url = self.config.dial.url.clone();
        tracing::error!(why, "the worker does not get ready");
        GrpcError::WorkerNotReady { url, kind, why }
    }

    /// What goes to the pool: who it is, its frames, its last word.
    fn requests(
        &self,
        says: mpsc::Receiver<HostedSays>,
        ended: oneshot::Receiver<Farewell>,
    ) -> impl Stream<Item = FromWorker> + Send + use<> {
        let told = |message| FromWorker { message: Some(message) };
        let attach = Attach { protocol: PROTOCOL_VERSION, host: self.config.host.clone() };
        let first = std::future::ready(told(from_worker::Message::Attach(attach)));
        let said = stream::unfold(says, |mut says| async {
            let next = match says.recv().await? {
                HostedSays::Frames(frames) => from_worker::Message::Frames(frames),
                HostedSays::Taken(taken) => from_worker::Message::Taken(taken),
            };
            Some((next, says))
        });
        let last = async {
            let lost = Farewell { death: Death::Unknown, started: None };
            let farewell = ended.await.unwrap_or(lost);
            from_worker::Message::Ended(farewell::to_wire(&farewell))
        };
        stream::once(first).chain(said.chain(stream::once(last)).map(told))
    }

    fn refused(&self, status: &Status) -> GrpcError {
        let url = self.config.dial.url.clone();
        match error_of(status) {
            Some(error) => {
                let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == error.kind);
                let kind = kind.unwrap_or(Kind::Internal);
                GrpcError::AttachRefused { url, kind, reason: error.code, message: error.message }
            }
            None => GrpcError::NotReached { url, why: status.message().to_owned() },
        }
    }
}

/// Passes on what the pool says, to the end of the stream; that is the worker's end as well. It never
/// waits for the worker, so that cancels come through.
async fn hear(
    mut responses: Streaming<ToWorker>,
    frames: mpsc::Sender<Bytes>,
    cancels: mpsc::Sender<Vec<u32>>,
    of_use: &mut bool,
) {
    loop {
        let message = match responses.message().await {
            Ok(Some(ToWorker { message })) => message,
            Ok(None) => return,
            Err(status) => {
                tracing::warn!(%status, "the connection to the pool is lost");
                return;
            }
        };
        let is_there = match message {
            Some(to_worker::Message::Frames(next)) => match frames.try_send(next) {
                Ok(()) => true,
                Err(TrySendError::Closed(_)) => false,
                Err(TrySendError::Full(_)) => {
                    tracing::error!("the pool's server sends more than the worker takes");
                    return;
                }
            },
            Some(to_worker::Message::Cancels(told)) => cancels.send(told.calls).await.is_ok(),
            Some(to_worker::Message::Attached(_)) | None => {
                tracing::error!("the pool's server says something out of place");
                return;
            }
        };
        *of_use = true;
        if !is_there {
            // The worker is dead, and the pool hears of it.
            return;
        }
    }
}

/// Whether it will be so again.
fn is_final(error: &GrpcError) -> bool {
    match error {
        GrpcError::AttachRefused { kind, .. } => {
            !matches!(kind, Kind::Saturated | Kind::Unavailable | Kind::Internal)
        }
        error => error.kind() == Kind::InvalidInput,
    }
}
