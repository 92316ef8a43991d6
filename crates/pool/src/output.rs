//! What workers print: kept in a ring, passed on to the log.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use snakehouse_base::id::{Incarnation, WorkerId};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Lines that are kept per worker, over its incarnations. Older ones are dropped.
const MAX_LINES: usize = 256;

/// Bytes of a line that are kept; the rest of the line is dropped and the line marked.
const MAX_LINE: usize = 4096;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line that a worker printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputLine {
    /// Which life of the worker.
    pub incarnation: Incarnation,
    /// Where it printed it.
    pub stream: Stream,
    /// Without its end; bytes that are not UTF-8 are replaced.
    pub text: String,
    /// Whether it was longer than the 4 KiB kept.
    pub cut: bool,
}

/// The last lines of one worker. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output(Arc<Mutex<VecDeque<OutputLine>>>);

impl Output {
    pub(crate) fn lines(&self) -> Vec<OutputLine> {
        self.ring().iter().cloned().collect()
    }

    /// What an incarnation wrote last, the newest at the end.
    pub(crate) fn tail(&self, incarnation: Incarnation, lines: usize) -> Vec<String> {
        let ring = self.ring();
        let of_it = ring.iter().filter(|line| line.incarnation == incarnation);
        let mut tail: Vec<_> = of_it.rev().take(lines).map(|line| line.text.clone()).collect();
        tail.reverse();
        tail
    }

    /// Reads until the end. Cancel safe, but what was read of an unfinished line is then lost.
    pub(crate) async fn capture(
        self,
        worker: WorkerId,
        incarnation: Incarnation,
        stream: Stream,
        mut from: impl AsyncRead + Unpin,
    ) {
        let mut line = Line::default();
        let mut chunk = vec![0; 8192];
        loop {
            let read = match from.read(&mut chunk).await {
                Ok(read) => read,
                Err(error) => {
                    tracing::warn!(%worker, ?stream, %error, "worker output not readable");
                    0
                }
            };
            let mut rest = &chunk[..read];
            while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                line.add(&rest[..end]);
                self.keep(worker, line.take(incarnation, stream));
                rest = &rest[end + 1..];
            }
            line.add(rest);
            if read == 0 {
                if !line.bytes.is_empty() {
                    self.keep(worker, line.take(incarnation, stream));
                }
                return;
            }
        }
    }

    fn keep(&self, worker: WorkerId, line: OutputLine) {
        tracing::info!(
            target: "snakehouse::worker",
            %worker, incarnation = %line.incarnation, stream = ?line.stream, "{}", line.text
        );
        let mut ring = self.ring();
        if ring.len() == MAX_LINES {
            ring.pop_front();
        }
        ring.push_back(line);
    }

    fn ring(&self) -> std::sync::MutexGuard<'_, VecDeque<OutputLine>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    cut: bool,
}

impl Line {
    fn add(&mut self, bytes: &[u8]) {
        let room = MAX_LINE - self.bytes.len();
        self.cut |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn take(&mut self, incarnation: Incarnation, stream: Stream) -> OutputLine {
        let text = String::from_utf8_lossy(&self.bytes).into_owned();
        self.bytes.clear();
        OutputLine { incarnation, stream, text, cut: std::mem::take(&mut self.cut) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn captured(input: &[u8]) -> Vec<OutputLine> {
        let output = Output::default();
        output.clone().capture(WorkerId(0), Incarnation(1), Stream::Stdout, input).await;
        output.lines()
    }

    #[tokio::test]
    async fn lines_are_split_and_an_unfinished_one_is_kept() {
        let lines = captured(b"one\n\ntwo \xff").await;
        let texts: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["one", "", "two \u{fffd}"]);
    }

    #[tokio::test]
    async fn a_long_line_is_cut_and_the_next_is_whole() {
        let mut input = vec![b'x'; 1 << 20];
        input.extend_from_slice(b"\nnext\n");
        let lines = captured(&input).await;
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].text.len(), lines[0].cut), (MAX_LINE, true));
        assert_eq!((lines[1].text.as_str(), lines[1].cut), ("next", false));
    }

    #[tokio::test]
    async fn the_newest_lines_are_kept() {
        let input: String = (0..1000).map(|n| format!("{n}\n")).collect();
        let lines = captured(input.as_bytes()).await;
        assert_eq!(lines.len(), MAX_LINES);
        assert_eq!(lines[MAX_LINES - 1].text, "999");
    }
}
