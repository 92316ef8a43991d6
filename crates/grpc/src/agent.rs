//! Beside a worker on another host: dials the pool, starts the worker, passes frames on, begins anew.

use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use snakehouse_base::{Backoff, Chance, Coded, Jitter, Kind, Row};
use snakehouse_pool::{Bytes, Death, Farewell, Hosted, Reaper, WorkerSpec};
use snakehouse_supervise::Scope;
use snakehouse_wire::PROTOCOL_VERSION;
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

/// Messages on their way in one direction: each is a frame of at most 1 MiB, or 64 KiB of small ones.
const ON_THE_WAY: usize = 4;

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
    farewell: Farewell,
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
    /// [`BadUrl`](GrpcError::BadUrl), [`BadToken`](GrpcError::BadToken).
    pub async fn run(&self, scope: &Scope, attached: impl Fn(u32)) -> GrpcError {
        let law = Backoff::new(PAUSES.0, PAUSES.1, Jitter::Half).expect("the bounds are in order");
        let mut row = Row::default();
        loop {
            let scope = scope.open("attachment");
            let served = self.attach(&scope, &attached).await;
            scope.stop().await;
            match served {
                Ok(Served { farewell, of_use }) => {
                    tracing::info!(death = %farewell.death, "the worker ended");
                    if of_use {
                        row = Row::default();
                    }
                }
                Err(error) if is_final(&error) => return error,
                Err(error) => tracing::warn!(%error, "no worker is attached"),
            }
            sleep(law.next(&mut row, self.chance.next_unit())).await;
        }
    }

    /// One worker, from the dial to its death.
    async fn attach(&self, scope: &Scope, attached: &impl Fn(u32)) -> Result<Served, GrpcError> {
        let (channel, connection) = Channel::connect(scope, &self.config.dial).await?;
        let (down, pool_says) = mpsc::channel(ON_THE_WAY);
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
        let responses = admitted.map_err(|status| self.refused(&status))?;
        let AgentConfig { worker, start_within, .. } = &self.config;
        let hosted = match Hosted::start(scope, &self.reaper, worker, *start_within).await {
            Ok(hosted) => hosted,
            Err(error) => {
                let why = error.to_string();
                tracing::error!(%error, "the worker cannot be started");
                return Err(GrpcError::NotReached { url: self.config.dial.url.clone(), why });
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
        let hearing = hear(responses, down, &mut of_use);
        let (farewell, ()) = tokio::join!(working, async {
            hearing.await;
        });
        drop(client);
        // What is still to be said goes out before the connection is closed.
        let _ = timeout(LAST_WORD, connection).await;
        Ok(Served { farewell, of_use })
    }

    /// What goes to the pool: who it is, its frames, its last word.
    fn requests(
        &self,
        frames: mpsc::Receiver<Bytes>,
        ended: oneshot::Receiver<Farewell>,
    ) -> impl Stream<Item = FromWorker> + Send + use<> {
        let told = |message| FromWorker { message: Some(message) };
        let attach = Attach { protocol: PROTOCOL_VERSION, host: self.config.host.clone() };
        let first = std::future::ready(told(from_worker::Message::Attach(attach)));
        let frames = stream::unfold(frames, |mut frames| async {
            let next = frames.recv().await?;
            Some((from_worker::Message::Frames(next), frames))
        });
        let last = async {
            let lost = Farewell { death: Death::Unknown, started: None };
            let farewell = ended.await.unwrap_or(lost);
            from_worker::Message::Ended(farewell::to_wire(&farewell))
        };
        stream::once(first).chain(frames.chain(stream::once(last)).map(told))
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

/// Passes on what the pool says, to the end of the stream; that is the worker's end as well.
async fn hear(mut responses: Streaming<ToWorker>, down: mpsc::Sender<Bytes>, of_use: &mut bool) {
    loop {
        let message = match responses.message().await {
            Ok(Some(ToWorker { message })) => message,
            Ok(None) => return,
            Err(status) => {
                tracing::warn!(%status, "the connection to the pool is lost");
                return;
            }
        };
        let Some(to_worker::Message::Frames(frames)) = message else {
            tracing::error!("the pool's server says something out of place");
            return;
        };
        *of_use = true;
        if down.send(frames).await.is_err() {
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
