//! One life of the reaper: the loop that owns its process and its socket.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command as StdCommand, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use snakehouse_base::id::WorkerId;
use snakehouse_supervise::ChildCtx;
use snakehouse_wire::BUFFER_FD_VARIABLE;
use snakehouse_wire::page::HostPage;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::death::{Death, Status};
use crate::environment;
use crate::error::PoolError;
use crate::limits::Limits;
use crate::oom::OomCounter;
use crate::os::{Control, Group, Pidfd, Seqpacket};
use crate::sweep::{RUN_ENV, sweep};
use crate::worker::Birth;

use super::message::{Event, MAX_MESSAGE, Request, VERSION};
use super::process::{Command, Ends, Hold, Process};
use super::zygotes::Zygotes;
use super::{QUEUE, Shared, State};

/// A cold interpreter on a loaded machine takes 2 s.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// How long it may take to end everything below it once the socket is closed. The kernel and the
/// sweep do it without the reaper.
const END_WITHIN: Duration = Duration::from_secs(5);

/// What the handle asks the loop for.
#[derive(Debug)]
pub(crate) enum Ask {
    Spawn(Box<Spawn>),
    /// Nobody waits any more for this one.
    GiveUp(u64),
}

/// A request to start a worker.
#[derive(Debug)]
pub(crate) struct Spawn {
    pub(super) id: u64,
    pub(super) worker: WorkerId,
    pub(super) command: Command,
    /// What it runs in, if its limits need that.
    pub(super) group: Option<Group>,
    /// Told when the reaper has the request.
    pub(super) taken: oneshot::Sender<()>,
    pub(super) reply: oneshot::Sender<Result<Process, PoolError>>,
}

/// A request on its way, with the host's ends.
struct Pending {
    worker: WorkerId,
    taken: Option<oneshot::Sender<()>>,
    reply: oneshot::Sender<Result<Process, PoolError>>,
    control: Control,
    page: HostPage,
    buffers: Option<OwnedFd>,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    lifeline: OwnedFd,
    limits: Limits,
    group: Option<Group>,
}

/// A worker that lives.
struct Living {
    exited: oneshot::Sender<Death>,
    limits: Limits,
    group: Option<Group>,
    /// Its closing makes the kernel kill the process group.
    _lifeline: OwnedFd,
}

/// A packet that waits for room in the socket.
struct Packet {
    data: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// Runs one reaper until it dies or the scope stops. Leaves no process of this run behind.
pub(super) async fn run(ctx: &ChildCtx, shared: &Shared) -> Result<(), PoolError> {
    let cancelled = ctx.cancelled();
    if shared.delay.begin(&cancelled).await {
        shared.mend_package().await;
    }
    let (socket, theirs) = Seqpacket::pair().map_err(PoolError::os("make a socket pair"))?;
    let mut process = start(shared, theirs).await?;
    let pidfd = Arc::new(Pidfd::open(process.id()).map_err(PoolError::os("open a pidfd"))?);
    let (requests, inbox) = mpsc::channel(QUEUE);
    let mut reaper = Loop {
        zygotes: &shared.zygotes,
        socket,
        inbox,
        buffer: vec![0; MAX_MESSAGE],
        outbox: VecDeque::new(),
        pending: HashMap::new(),
        living: HashMap::new(),
        graves: Vec::new(),
        oom: shared.oom.clone(),
    };
    let ready = tokio::select! {
        ready = timeout(READY_WITHIN, reaper.ready()) => ready,
        () = cancelled.cancelled() => Ok(Err(PoolError::Stopped)),
    };
    let ended = match ready {
        Ok(Ok(())) => {
            tracing::debug!(pid = process.id(), "reaper is up");
            shared.delay.useful();
            shared.state.send_replace(State::Up {
                pid: process.id(),
                pidfd: pidfd.clone(),
                requests,
            });
            ctx.ready();
            reaper.serve(ctx).await
        }
        Ok(Err(error)) => Err(error),
        Err(_elapsed) => Err(PoolError::reaper_gone("it did not get ready in 20 s")),
    };
    // Nobody can be started by it any more; who asks now waits for the next one.
    shared.state.send_replace(State::Starting);
    shared.zygotes.clear();
    // Closes the socket and every lifeline, and tells everybody who waits.
    reaper.end();
    // One that somebody stopped could not end.
    pidfd.resume().map_err(PoolError::os("resume the reaper"))?;
    if timeout(END_WITHIN, pidfd.dead()).await.is_err() {
        tracing::error!(pid = process.id(), "reaper did not end and is killed");
        pidfd.kill().map_err(PoolError::os("kill the reaper"))?;
        pidfd.dead().await;
    }
    let token = shared.config.run_token.clone();
    let cleaned = shared
        .lane
        .run(move || {
            // Dead already, so this only collects the exit status.
            let status = process.wait();
            (status, sweep(&token), last_words(&mut process))
        })
        .await;
    if let Ok((status, left, words)) = cleaned {
        shared.swept.fetch_add(left.len() as u64, Ordering::Relaxed);
        for left in &left {
            tracing::warn!(pid = left.pid, command = %left.command, "left behind by the reaper, ended");
        }
        return match ended {
            Err(PoolError::ReaperGone { message }) => {
                let status = status.map_or_else(|error| error.to_string(), |s| s.to_string());
                Err(PoolError::reaper_gone(format!("{message} ({status}{words})")))
            }
            ended => ended,
        };
    }
    ended
}

/// Starts the process from the lane's thread, which lives as long as the scope: the death signal
/// that the reaper asks for fires when that *thread* ends.
async fn start(shared: &Shared, socket: OwnedFd) -> Result<Child, PoolError> {
    let mut command = StdCommand::new(shared.config.python.path());
    command
        .args(["-I", "-S"])
        .arg(shared.package.reaper())
        .arg(std::process::id().to_string())
        .env_clear()
        .envs(environment::inherited())
        .env(RUN_ENV, shared.config.run_token.as_str())
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let path = shared.config.python.path().to_owned();
    shared
        .lane
        .run(move || command.spawn())
        .await
        .map_err(PoolError::of_lane)?
        .map_err(|source| PoolError::InterpreterMissing { path, source })
}

/// The last line of a traceback, if it left one.
fn last_words(process: &mut Child) -> String {
    let Some(stderr) = process.stderr.take() else { return String::new() };
    // Everything that could hold the write end is dead, so this ends.
    let last = BufReader::new(stderr).lines().map_while(Result::ok).take(1000).last();
    last.map(|line| format!(": {line}")).unwrap_or_default()
}

struct Loop<'a> {
    zygotes: &'a Zygotes,
    socket: Seqpacket,
    inbox: mpsc::Receiver<Ask>,
    buffer: Vec<u8>,
    /// At most one packet; a request is taken only when there is none.
    outbox: VecDeque<Packet>,
    pending: HashMap<u64, Pending>,
    living: HashMap<u64, Living>,
    /// Groups of dead workers in which something still dies. No more than workers that died since
    /// the last one could be removed.
    graves: Vec<Group>,
    oom: Arc<OomCounter>,
}

impl Loop<'_> {
    /// Waits for its first words.
    async fn ready(&mut self) -> Result<(), PoolError> {
        match self.receive().await? {
            (Event::Ready { version: VERSION, .. }, _) => Ok(()),
            (Event::Ready { version, .. }, _) => {
                Err(PoolError::reaper_gone(format!("it speaks version {version}, not {VERSION}")))
            }
            (Event::Failed { code, message }, _) => {
                Err(PoolError::ReaperUnfit { reason: code, message })
            }
            (event, _) => Err(PoolError::reaper_gone(format!("it began with {event:?}"))),
        }
    }

    async fn serve(&mut self, ctx: &ChildCtx) -> Result<(), PoolError> {
        let cancelled = ctx.cancelled();
        loop {
            tokio::select! {
                biased;
                () = cancelled.cancelled() => return Ok(()),
                received = receive(&self.socket, &mut self.buffer) => {
                    let (event, fds) = received?;
                    self.handle(event, fds)?;
                }
                sent = send_first(&self.socket, &self.outbox), if !self.outbox.is_empty() => {
                    sent?;
                    // Closes the worker's ends on this side.
                    self.outbox.pop_front();
                }
                Some(ask) = self.inbox.recv(), if self.outbox.is_empty() => match ask {
                    Ask::Spawn(spawn) => self.begin(*spawn),
                    Ask::GiveUp(id) => self.give_up(id)?,
                },
            }
        }
    }

    async fn receive(&mut self) -> Result<(Event, Vec<OwnedFd>), PoolError> {
        receive(&self.socket, &mut self.buffer).await
    }

    fn begin(&mut self, spawn: Spawn) {
        let Spawn { id, worker, command, group, taken, reply } = spawn;
        match prepare(id, &command, group.as_ref()) {
            Ok((packet, ends)) => {
                self.outbox.push_back(packet);
                let (control, page, buffers, stdout, stderr, lifeline) = ends;
                let pending = Pending {
                    worker,
                    taken: Some(taken),
                    reply,
                    control,
                    page,
                    buffers,
                    stdout,
                    stderr,
                    lifeline,
                    limits: command.limits,
                    group,
                };
                self.pending.insert(id, pending);
            }
            Err(message) => {
                // Nobody waits any more if this fails.
                let _ = reply.send(Err(PoolError::Spawn { worker, message }));
            }
        }
    }

    fn give_up(&mut self, id: u64) -> Result<(), PoolError> {
        if self.pending.contains_key(&id) {
            let data = serde_json::to_vec(&Request::GiveUp { id })
                .map_err(|error| PoolError::reaper_gone(error.to_string()))?;
            self.outbox.push_back(Packet { data, fds: Vec::new() });
        }
        Ok(())
    }

    fn handle(&mut self, event: Event, fds: Vec<OwnedFd>) -> Result<(), PoolError> {
        match event {
            Event::Taken { id } => {
                let taken = self.pending.get_mut(&id).and_then(|pending| pending.taken.take());
                // If nobody waits any more, nobody needs to know.
                let _told = taken.map(|taken| taken.send(()));
            }
            Event::Spawned { id, pid, start, zygote, why } => {
                let (Some(pending), Some(pidfd)) =
                    (self.pending.remove(&id), fds.into_iter().next())
                else {
                    return Err(PoolError::reaper_gone(format!("it started {id} for nobody")));
                };
                tracing::debug!(worker = %pending.worker, pid, start, "worker process started");
                let (exited, exit) = oneshot::channel();
                let (limits, group) = (pending.limits, pending.group);
                let living = Living { exited, limits, group, _lifeline: pending.lifeline };
                self.living.insert(id, living);
                let process = Pidfd::adopt(pidfd)
                    .map(|pidfd| Process {
                        pid,
                        birth: match zygote {
                            Some(zygote) => Birth::Forked { zygote },
                            None => Birth::Executed { why },
                        },
                        hold: Hold::Process(pidfd),
                        control: pending.control,
                        page: pending.page,
                        buffers: pending.buffers,
                        output: Some((pending.stdout, pending.stderr)),
                        exited: exit,
                    })
                    .map_err(PoolError::os("watch a pidfd"));
                // If nobody waits any more, the process comes back here and its drop kills it.
                let _ = pending.reply.send(process);
            }
            Event::Refused { id, errno, message } => {
                let Some(pending) = id.and_then(|id| self.pending.remove(&id)) else {
                    return Err(PoolError::reaper_gone(format!("it refused a request: {message}")));
                };
                tracing::debug!(worker = %pending.worker, errno, message, "worker not started");
                let worker = pending.worker;
                let _ = pending.reply.send(Err(PoolError::Spawn { worker, message }));
            }
            Event::Exited { id, pid, code, signal, cpu_ms } => {
                tracing::debug!(pid, code, signal, cpu_ms, "worker process reaped");
                if let Some(living) = self.living.remove(&id) {
                    let status = Status { code, signal, cpu: cpu_ms.map(Duration::from_millis) };
                    let group = living.group.as_ref();
                    let death = Death::of(status, &living.limits, || self.oom.about(group));
                    let _ = living.exited.send(death);
                    self.graves.extend(living.group);
                }
                self.graves.retain_mut(|group| !group.remove());
            }
            Event::Zygote { pid, preload } => {
                tracing::info!(pid, ?preload, "zygote forks workers");
                self.zygotes.serves(pid, preload);
            }
            Event::ZygoteExited { pid, code, signal } => {
                tracing::info!(pid, code, signal, "zygote ended");
                self.zygotes.exited(pid);
            }
            Event::Unfit { preload, why } => {
                tracing::warn!(
                    ?preload,
                    why,
                    "no zygote can fork these workers, they are executed"
                );
                self.zygotes.unfit(preload, why);
            }
            Event::Ended { pids } => {
                tracing::info!(?pids, "processes that a worker left behind were ended");
            }
            Event::Failed { message, .. } => return Err(PoolError::reaper_gone(message)),
            Event::Ready { .. } => {
                return Err(PoolError::reaper_gone("it said twice that it is ready"));
            }
        }
        Ok(())
    }

    /// Closes the socket and the lifelines; whoever waits learns that the reaper is gone.
    fn end(self) {
        for (_, living) in self.living {
            let _ = living.exited.send(Death::ReaperDied);
        }
    }
}

async fn receive(
    socket: &Seqpacket,
    buffer: &mut [u8],
) -> Result<(Event, Vec<OwnedFd>), PoolError> {
    match socket.receive(buffer).await {
        Ok((0, _)) => Err(PoolError::reaper_gone("it died")),
        Ok((length, fds)) => match serde_json::from_slice(&buffer[..length]) {
            Ok(event) => Ok((event, fds)),
            Err(error) => Err(PoolError::reaper_gone(format!("it is not understood: {error}"))),
        },
        Err(error) => Err(PoolError::reaper_gone(format!("its socket failed: {error}"))),
    }
}

async fn send_first(socket: &Seqpacket, outbox: &VecDeque<Packet>) -> Result<(), PoolError> {
    let Some(packet) = outbox.front() else { return Ok(()) };
    let fds: Vec<BorrowedFd<'_>> = packet.fds.iter().map(AsFd::as_fd).collect();
    let sent: io::Result<()> = socket.send(&packet.data, &fds).await;
    sent.map_err(|error| PoolError::reaper_gone(format!("its socket failed: {error}")))
}

type HostEnds = (Control, HostPage, Option<OwnedFd>, pipe::Receiver, pipe::Receiver, OwnedFd);

/// The packet for a request, and the host's ends of what it carries.
fn prepare(
    id: u64,
    command: &Command,
    group: Option<&Group>,
) -> Result<(Packet, HostEnds), String> {
    let cwd = command.cwd.as_deref().map(|path| {
        path.to_str().ok_or_else(|| format!("the directory {} is not UTF-8", path.display()))
    });
    let cwd = cwd.transpose()?;
    let groups = group.map(Group::doors).transpose().map_err(|error| error.to_string())?;
    let request = Request::Spawn {
        id,
        argv: &command.argv,
        env: &command.env,
        cwd,
        limits: &command.limits.resources(),
        groups: &groups.unwrap_or_default(),
        zygote: command.zygote.as_ref(),
    };
    let data = serde_json::to_vec(&request).map_err(|error| error.to_string())?;
    if data.len() > MAX_MESSAGE {
        return Err(format!(
            "arguments and environment take {} bytes, and {MAX_MESSAGE} is the most",
            data.len()
        ));
    }
    let ends = Ends::new(command.env.contains_key(BUFFER_FD_VARIABLE))
        .map_err(|error| format!("sockets and pipes: {error}"))?;
    let packet = Packet { data, fds: ends.theirs };
    Ok((packet, (ends.control, ends.page, ends.buffers, ends.stdout, ends.stderr, ends.lifeline)))
}
