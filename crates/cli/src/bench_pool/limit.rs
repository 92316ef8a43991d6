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
    pub(crate) fn start(python: &Path, script: &Path) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        let child = Command::new(python)
            .arg(script)
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
        let mut sent: Vec<Instant> = vec![clock.now(); in_flight as usize];
        let mut latencies = Vec::with_capacity(1 << 20);
        let mut out = Vec::new();
        let mut input = vec![0; (1 << 18).max(4 * (payload.len() + 64))];
        let (mut start, mut end) = (0, 0);

        let worker_before = cpu::used(self.child.id())?;
        let host_before = cpu::used(std::process::id())?;
        let began = clock.now();
        (0..in_flight).for_each(|stream| write_call(&mut out, stream, payload));
        let mut open = in_flight;
        let mut now = began;
        while open > 0 {
            self.exchange(&mut out, &mut input, &mut end)?;
            now = clock.now();
            while let Some((stream, frame)) = read_answer(&input[start..end], payload.len())? {
                start += frame;
                let slot = sent.get_mut(stream as usize).ok_or_else(broken)?;
                latencies.push(now - *slot);
                if now - began < during {
                    *slot = now;
                    write_call(&mut out, stream, payload);
                } else {
                    open -= 1;
                }
            }
            input.copy_within(start..end, 0);
            (start, end) = (0, end - start);
        }
        Ok(Sample::new(
            latencies,
            now - began,
            cpu::used(self.child.id())? - worker_before,
            cpu::used(std::process::id())? - host_before,
        ))
    }

    /// Writes what is to be written and reads once. A write that would block on a full socket
    /// must not keep answers from being read: both ends would wait for ever.
    fn exchange(&mut self, out: &mut Vec<u8>, input: &mut [u8], end: &mut usize) -> io::Result<()> {
        let mut written = 0;
        while written < out.len() {
            match rustix::net::send(&self.socket, &out[written..], SendFlags::DONTWAIT) {
                Ok(count) => written += count,
                Err(Errno::AGAIN) => {
                    let mut fds = [PollFd::new(&self.socket, PollFlags::IN | PollFlags::OUT)];
                    poll(&mut fds, None)?;
                    if fds[0].revents().contains(PollFlags::IN) {
                        break;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        out.drain(..written);
        let count = self.socket.read(&mut input[*end..])?;
        if count == 0 {
            return Err(io::Error::other("the limit worker ended; its error stands above"));
        }
        *end += count;
        Ok(())
    }
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
