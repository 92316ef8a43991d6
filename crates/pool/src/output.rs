//! What workers print: the last lines are kept, and passed on to the log as fast as a log may grow.
//!
//! A worker is never held up by what it prints: everything is read at once. What is too much is
//! dropped here and counted: the rest of a long line, lines that newer ones push out, lines that
//! come faster than the log takes them. Memory per worker is at most [`MAX_LINES`] lines of three
//! times [`MAX_LINE`] bytes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use snakehouse_base::id::{Incarnation, WorkerId};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

/// Lines that are kept per worker, over its incarnations. Older ones are dropped.
const MAX_LINES: usize = 256;

/// Bytes of a line that are kept; the rest of the line is dropped and the line marked.
const MAX_LINE: usize = 4096;

/// Lines of one worker that are logged at once, and after that per second.
const LOGGED_AT_ONCE: u32 = 1000;
const LOGGED_PER_SECOND: u32 = 100;

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
    /// Without its end. Bytes that are not UTF-8 are replaced, control characters are written out,
    /// and of what a carriage return overwrites only the last is there, as on a terminal.
    pub text: String,
    /// Whether it was longer than the 4 KiB kept.
    pub cut: bool,
}

/// What became of the output of a pool's workers. Counts since the pool's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OutputCounts {
    /// Bytes that were read.
    pub bytes: u64,
    /// Lines that were read, unfinished last ones included.
    pub lines: u64,
    /// Lines of which only the first 4 KiB were kept.
    pub cut: u64,
    /// Lines that are not kept any more, because newer ones came.
    pub pushed_out: u64,
    /// Lines that came faster than the log takes them, and are missing in it.
    pub not_logged: u64,
}

impl OutputCounts {
    /// The counts of both.
    #[must_use]
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            lines: self.lines + other.lines,
            cut: self.cut + other.cut,
            pushed_out: self.pushed_out + other.pushed_out,
            not_logged: self.not_logged + other.not_logged,
        }
    }
}

/// The last lines of one worker. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<OutputLine>,
    counts: OutputCounts,
    log: LogRate,
}

impl Output {
    pub(crate) fn lines(&self) -> Vec<OutputLine> {
        self.kept().lines.iter().cloned().collect()
    }

    pub(crate) fn counts(&self) -> OutputCounts {
        self.kept().counts
    }

    /// What an incarnation wrote last, the newest at the end.
    pub(crate) fn tail(&self, incarnation: Incarnation, lines: usize) -> Vec<String> {
        let kept = self.kept();
        let of_it = kept.lines.iter().filter(|line| line.incarnation == incarnation);
        let mut tail: Vec<_> = of_it.rev().take(lines).map(|line| line.text.clone()).collect();
        tail.reverse();
        tail
    }

    /// Reads until the end. Cancel safe: what was read of an unfinished line is kept then.
    pub(crate) async fn capture(
        self,
        worker: WorkerId,
        incarnation: Incarnation,
        stream: Stream,
        mut from: impl AsyncRead + Unpin,
    ) {
        let mut reader =
            Reader { output: self, worker, incarnation, stream, line: Line::default() };
        let mut chunk = vec![0; 8192];
        loop {
            match from.read(&mut chunk).await {
                Ok(0) => return,
                Ok(read) => reader.take(&chunk[..read]),
                Err(error) => {
                    tracing::warn!(%worker, ?stream, %error, "worker output not readable");
                    return;
                }
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of a worker's pipes. Its end finishes the line that is unfinished.
struct Reader {
    output: Output,
    worker: WorkerId,
    incarnation: Incarnation,
    stream: Stream,
    line: Line,
}

impl Reader {
    fn take(&mut self, mut bytes: &[u8]) {
        self.output.kept().counts.bytes += bytes.len() as u64;
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.line.add(&bytes[..end]);
            self.finish();
            bytes = &bytes[end + 1..];
        }
        self.line.add(bytes);
    }

    fn finish(&mut self) {
        let (text, cut) = self.line.take();
        let (worker, incarnation, stream) = (self.worker, self.incarnation, self.stream);
        let mut kept = self.output.kept();
        kept.counts.lines += 1;
        kept.counts.cut += u64::from(cut);
        let logged = kept.log.admit(Instant::now());
        if let Some(missing) = logged {
            if missing > 0 {
                tracing::warn!(
                    target: "snakehouse::worker", %worker, missing,
                    "lines came faster than they are logged"
                );
            }
            tracing::info!(
                target: "snakehouse::worker", %worker, %incarnation, ?stream, "{text}"
            );
        } else {
            kept.counts.not_logged += 1;
        }
        if kept.lines.len() == MAX_LINES {
            kept.lines.pop_front();
            kept.counts.pushed_out += 1;
        }
        kept.lines.push_back(OutputLine { incarnation, stream, text, cut });
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.finish();
        }
    }
}

/// How fast lines may go into the log.
#[derive(Debug)]
struct LogRate {
    left: u32,
    since: Option<Instant>,
    missing: u64,
}

impl Default for LogRate {
    fn default() -> Self {
        Self { left: LOGGED_AT_ONCE, since: None, missing: 0 }
    }
}

impl LogRate {
    /// Whether a line may be logged now; if so, how many before it were not.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let since = *self.since.get_or_insert(now);
        let each = Duration::from_secs(1) / LOGGED_PER_SECOND;
        let more = (now - since).as_nanos() / each.as_nanos();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        self.since = Some(since + each.saturating_mul(more));
        self.left = self.left.saturating_add(more).min(LOGGED_AT_ONCE);
        if self.left == 0 {
            self.missing += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.missing))
    }
}

#[derive(Debug, Default)]
struct Line {
    bytes: Vec<u8>,
    cut: bool,
    /// A carriage return was read: what comes next begins at the front.
    returned: bool,
}

impl Line {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.cut
    }

    fn add(&mut self, bytes: &[u8]) {
        for (number, part) in bytes.split(|&byte| byte == b'\r').enumerate() {
            self.returned |= number > 0;
            if part.is_empty() {
                continue;
            }
            if std::mem::take(&mut self.returned) {
                self.bytes.clear();
                self.cut = false;
            }
            let room = MAX_LINE - self.bytes.len();
            self.cut |= part.len() > room;
            self.bytes.extend_from_slice(&part[..part.len().min(room)]);
        }
    }

    fn take(&mut self) -> (String, bool) {
        let mut text = String::with_capacity(self.bytes.len());
        for char in String::from_utf8_lossy(&self.bytes).chars() {
            match char.is_control() && char != '\t' {
                // Such a character in a log moves the cursor of whoever reads it, or worse.
                true => text.extend(char.escape_default()),
                false => text.push(char),
            }
        }
        self.bytes.clear();
        self.returned = false;
        (text, std::mem::take(&mut self.cut))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn captured(input: &[u8]) -> (Vec<OutputLine>, OutputCounts) {
        let output = Output::default();
        output.clone().capture(WorkerId(0), Incarnation(1), Stream::Stdout, input).await;
        assert_eq!(output.counts().bytes, input.len() as u64);
        (output.lines(), output.counts())
    }

    async fn texts(input: &[u8]) -> Vec<String> {
        captured(input).await.0.into_iter().map(|line| line.text).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn lines_are_split_and_an_unfinished_one_is_kept() {
        assert_eq!(texts(b"one\n\ntwo \xff").await, ["one", "", "two \u{fffd}"]);
        assert_eq!(texts(b"no end").await, ["no end"]);
        assert!(texts(b"").await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_line_is_cut_and_the_next_is_whole() {
        let mut input = vec![b'x'; 1 << 20];
        input.extend_from_slice(b"\nnext\n");
        let (lines, counts) = captured(&input).await;
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].text.len(), lines[0].cut), (MAX_LINE, true));
        assert_eq!((lines[1].text.as_str(), lines[1].cut), ("next", false));
        assert_eq!((counts.lines, counts.cut), (2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_lines_are_kept_and_the_others_counted() {
        let input: String = (0..5000).map(|n| format!("{n}\n")).collect();
        let (lines, counts) = captured(input.as_bytes()).await;
        assert_eq!(lines.len(), MAX_LINES);
        assert_eq!(lines[MAX_LINES - 1].text, "4999");
        assert_eq!((counts.lines, counts.pushed_out), (5000, 5000 - MAX_LINES as u64));
        assert_eq!(counts.not_logged, 5000 - u64::from(LOGGED_AT_ONCE), "no time has passed");
    }

    #[tokio::test(start_paused = true)]
    async fn binary_rubbish_stays_small_and_moves_no_cursor() {
        let rubbish: Vec<u8> =
            (0..1 << 20).map(|n: u32| n.wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect();
        let (lines, counts) = captured(&rubbish).await;
        assert!(lines.len() <= MAX_LINES && counts.lines >= lines.len() as u64);
        for line in &lines {
            assert!(line.text.chars().all(|char| char == '\t' || !char.is_control()));
        }
        assert_eq!(texts(b"\x1b[2Jcleared\0\n").await, ["\\u{1b}[2Jcleared\\u{0}"]);
        let (lines, _) = captured(&vec![0xff; 1 << 20]).await;
        assert_eq!(lines[0].text.len(), 3 * MAX_LINE, "each byte became a mark of three");
    }

    #[tokio::test(start_paused = true)]
    async fn a_progress_bar_is_its_last_state() {
        assert_eq!(texts(b" 1%\r 50%\r100%\nnext\r\n").await, ["100%", "next"]);
        let mut long: Vec<u8> =
            (0..5000).flat_map(|n| format!("\r{n} of 5000").into_bytes()).collect();
        long.push(b'\r');
        assert_eq!(texts(&long).await, ["4999 of 5000"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_unfinished_when_nobody_reads_on_is_kept() {
        let output = Output::default();
        let (mut write, read) = tokio::io::duplex(64);
        tokio::io::AsyncWriteExt::write_all(&mut write, b"half a li").await.unwrap();
        let capture = output.clone().capture(WorkerId(0), Incarnation(3), Stream::Stderr, read);
        let dropped = tokio::time::timeout(Duration::from_secs(1), capture).await;
        assert!(dropped.is_err(), "the writer lives");
        assert_eq!(output.tail(Incarnation(3), 5), ["half a li"]);
        assert!(output.tail(Incarnation(2), 5).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_takes_so_many_lines_a_second() {
        let mut rate = LogRate::default();
        let begin = Instant::now();
        let admitted = |rate: &mut LogRate, now| (0..2000).filter_map(|_| rate.admit(now)).count();
        assert_eq!(admitted(&mut rate, begin), LOGGED_AT_ONCE as usize);
        let later = begin + Duration::from_secs(1);
        assert_eq!(rate.admit(later), Some(2000 - u64::from(LOGGED_AT_ONCE)), "says how many");
        assert_eq!(admitted(&mut rate, later), LOGGED_PER_SECOND as usize - 1);
        let rested = begin + Duration::from_secs(3600);
        assert_eq!(admitted(&mut rate, rested), LOGGED_AT_ONCE as usize, "no more than at first");
    }
}
