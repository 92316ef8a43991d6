//! The client of the limit program: blocking, on one thread, without a queue.
//!
//! See `bench/limit/README.md`. It stays as it is, so that ratios of different days compare.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;
use snakehouse_base::{Clock, SystemClock};

use super::cpu;
use super::sample::Sample;

/// u32 payload length, u8 kind, u32 stream id.
const HEAD: usize = 9;
const CALL: u8 = 1;

/// The limit worker and the socket to it. Ends it when dropped.
#[derive(Debug)]
pub(crate) struct Limit {
    child: Child,
    socket: UnixStream,
}

impl Limit {
    /// Starts `script` with its socket as standard input.
    ///
    /// Its buffer holds four frames of `payload` bytes, and 256 KiB at least.
    pub(crate) fn start(python: &Path, script: &Path, payload: usize) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        let child = Command::new(python)
            .arg(script)
            .arg(room(payload).to_string())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { child, socket })
    }

    /// The worker's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Keeps `in_flight` echoes of `payload`, which is MessagePack, going for a while.
    pub(crate) fn measure(
        &mut self,
        payload: &[u8],
        in_flight: u32,
        during: Duration,
    ) -> io::Result<Sample> {
        let clock = SystemClock;
        let worker_before = cpu::used(self.child.id())?;
        let host_before = cpu::used(std::process::id())?;
        let began = clock.now();
        let mut calls = Calls::begin(in_flight, payload, began, began + during);
        let mut now = began;
        while calls.open > 0 {
            self.exchange(&mut calls)?;
            now = clock.now();
            calls.take(now)?;
        }
        Ok(Sample::new(
            calls.latencies,
            now - began,
            cpu::used(self.child.id())? - worker_before,
            cpu::used(std::process::id())? - host_before,
        ))
    }

    /// The same over several workers, which share the calls in flight evenly: one thread still,
    /// which turns to whichever of them has answered.
    pub(crate) fn measure_all(
        limits: &mut [Self],
        payload: &[u8],
        in_flight: u32,
        during: Duration,
    ) -> io::Result<Sample> {
        if let ([first], _) | ([first, ..], 1) = (&mut *limits, in_flight) {
            return first.measure(payload, in_flight, during);
        }
        let clock = SystemClock;
        let cpu_of_workers = |limits: &[Self]| -> io::Result<Duration> {
            limits.iter().map(|limit| cpu::used(limit.child.id())).sum()
        };
        let worker_before = cpu_of_workers(limits)?;
        let host_before = cpu::used(std::process::id())?;
        let began = clock.now();
        let share = |n: usize| (n..in_flight as usize).step_by(limits.len()).count();
        let mut all: Vec<Calls<'_>> = (0..limits.len())
            .map(|n| u32::try_from(share(n)).unwrap_or(u32::MAX))
            .map(|share| Calls::begin(share, payload, began, began + during))
            .collect();
        let mut now = began;
        while all.iter().any(|calls| calls.open > 0) {
            for (limit, calls) in limits.iter().zip(&mut all) {
                limit.write(calls)?;
            }
            let mut fds: Vec<_> = limits
                .iter()
                .zip(&all)
                .map(|(limit, calls)| {
                    let out =
                        if calls.out.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
                    PollFd::new(&limit.socket, PollFlags::IN | out)
                })
                .collect();
            poll(&mut fds, None)?;
            let ready: Vec<_> = fds.iter().map(|fd| fd.revents().contains(PollFlags::IN)).collect();
            drop(fds);
            for (n, (limit, calls)) in limits.iter_mut().zip(&mut all).enumerate() {
                if ready[n] {
                    limit.read(calls)?;
                    now = clock.now();
                    calls.take(now)?;
                }
            }
        }
        Ok(Sample::new(
            all.into_iter().flat_map(|calls| calls.latencies).collect(),
            now - began,
            cpu_of_workers(limits)? - worker_before,
            cpu::used(std::process::id())? - host_before,
        ))
    }

    /// Writes what is to be written and reads once. A write that would block on a full socket
    /// must not keep answers from being read: both ends would wait for ever.
    fn exchange(&mut self, calls: &mut Calls<'_>) -> io::Result<()> {
        while !self.write(calls)? {
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN | PollFlags::OUT)];
            poll(&mut fds, None)?;
            if fds[0].revents().contains(PollFlags::IN) {
                break;
            }
        }
        self.read(calls)
    }

    /// Writes what the socket takes at once; whether that was all.
    fn write(&self, calls: &mut Calls<'_>) -> io::Result<bool> {
        while calls.written < calls.out.len() {
            match rustix::net::send(&self.socket, &calls.out[calls.written..], SendFlags::DONTWAIT)
            {
                Ok(count) => calls.written += count,
                Err(Errno::AGAIN) => {
                    // What is sent leaves the buffer once it is the larger half: new calls are
                    // appended, and a buffer that never runs empty must not grow.
                    if calls.written > calls.out.len() / 2 {
                        calls.out.drain(..calls.written);
                        calls.written = 0;
                    }
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        calls.out.clear();
        calls.written = 0;
        Ok(true)
    }

    fn read(&mut self, calls: &mut Calls<'_>) -> io::Result<()> {
        let count = self.socket.read(&mut calls.input[calls.end..])?;
        if count == 0 {
            return Err(io::Error::other("the limit worker ended; its error stands above"));
        }
        calls.end += count;
        Ok(())
    }
}

/// The calls that one worker has to answer.
struct Calls<'a> {
    payload: &'a [u8],
    until: Instant,
    sent: Vec<Instant>,
    latencies: Vec<Duration>,
    out: Vec<u8>,
    /// How much of `out` the socket has taken.
    written: usize,
    input: Vec<u8>,
    /// How much of `input` is filled.
    end: usize,
    /// Calls without an answer.
    open: u32,
}

impl<'a> Calls<'a> {
    fn begin(in_flight: u32, payload: &'a [u8], began: Instant, until: Instant) -> Self {
        let mut out = Vec::new();
        (0..in_flight).for_each(|stream| write_call(&mut out, stream, payload));
        Self {
            payload,
            until,
            sent: vec![began; in_flight as usize],
            latencies: Vec::with_capacity(1 << 20),
            out,
            written: 0,
            input: vec![0; room(payload.len())],
            end: 0,
            open: in_flight,
        }
    }

    /// Takes every complete answer that has arrived by `now`, and makes the next call for each.
    fn take(&mut self, now: Instant) -> io::Result<()> {
        let mut start = 0;
        while let Some((stream, frame)) =
            read_answer(&self.input[start..self.end], self.payload.len())?
        {
            start += frame;
            let slot = self.sent.get_mut(stream as usize).ok_or_else(broken)?;
            self.latencies.push(now - *slot);
            if now < self.until {
                *slot = now;
                write_call(&mut self.out, stream, self.payload);
            } else {
                self.open -= 1;
            }
        }
        // A large answer comes in many pieces, which need not move before it is whole.
        if start > 0 {
            self.input.copy_within(start..self.end, 0);
            self.end -= start;
        }
        Ok(())
    }
}

/// Bytes of a buffer on either side.
fn room(payload: usize) -> usize {
    (1 << 18).max(4 * (payload + 64))
}

impl Drop for Limit {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_call(out: &mut Vec<u8>, stream: u32, payload: &[u8]) {
    let size = u32::try_from(payload.len()).unwrap_or(u32::MAX).saturating_add(3);
    out.extend(size.to_le_bytes());
    out.push(CALL);
    out.extend(stream.to_le_bytes());
    // [[payload], {}]
    out.extend([0x92, 0x91]);
    out.extend(payload);
    out.push(0x80);
}

/// The first complete answer: its stream id and the size of its frame.
fn read_answer(input: &[u8], payload: usize) -> io::Result<Option<(u32, usize)>> {
    let Some((head, rest)) = input.split_first_chunk::<HEAD>() else { return Ok(None) };
    let [a, b, c, d, _kind, e, f, g, h] = *head;
    let body = u32::from_le_bytes([a, b, c, d]) as usize;
    if body != payload {
        return Err(broken());
    }
    let frame = HEAD + body;
    Ok((rest.len() >= body).then_some((u32::from_le_bytes([e, f, g, h]), frame)))
}

fn broken() -> io::Error {
    io::Error::other("the limit worker answered with something else")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_once_it_is_complete() {
        let mut frame = Vec::new();
        frame.extend(5u32.to_le_bytes());
        frame.push(2);
        frame.extend(7u32.to_le_bytes());
        frame.extend(b"\xc4\x03abc");
        assert_eq!(read_answer(&frame[..13], 5).unwrap(), None);
        assert_eq!(read_answer(&frame, 5).unwrap(), Some((7, 14)));
        assert!(read_answer(&frame, 300).is_err());
    }

    #[test]
    fn a_call_announces_exactly_its_bytes() {
        let mut out = Vec::new();
        write_call(&mut out, 3, &[9; 100]);
        assert_eq!(out.len(), HEAD + 103);
        assert_eq!(u32::from_le_bytes([out[0], out[1], out[2], out[3]]), 103);
    }
}
