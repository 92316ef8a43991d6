//! Which callbacks of a worker are open, and what is on its way to it.
//!
//! A worker chooses the numbers of its callbacks and may use one again as soon as it is answered. A
//! host tool that was dropped may have had its outcome ready by then. So outcomes carry a number of the
//! host's own, and one that no open callback has is late: it is dropped and counted. Nothing here waits
//! or fails; tested below.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use snakehouse_base::ByteSize;
use snakehouse_guard::{Permit, Permits};
use snakehouse_supervise::Task;
use snakehouse_wire::Failure;
use tokio::sync::Notify;

use crate::host::convert::{Answer, AnswerRoom};

/// Callbacks of one worker that are open, or answered and the answer is not written.
const MOST: usize = 1024;

/// Bytes of their arguments, together.
const MOST_BYTES: ByteSize = ByteSize::mib(256);

/// What a host tool comes to.
pub(super) type Outcome = Result<Answer, Failure>;

/// The worker's permit, and the pool's.
pub(super) type Held = (Permit, Permit);

/// A callback that is not answered.
#[derive(Debug)]
pub(super) struct Open {
    /// The host's number of the call that it is made in.
    pub(super) call: u32,
    /// No other callback of this worker has it, whatever the worker numbers them.
    serial: u64,
    pub(super) task: Task<()>,
    held: Held,
}

/// The open callbacks.
#[derive(Debug)]
pub(super) struct Book {
    /// By the worker's numbers.
    open: HashMap<u32, Open>,
    /// Those of each call.
    by_call: BTreeSet<(u32, u32)>,
    serial: u64,
    done: Arc<Done>,
    permits: Option<Permits>,
    room: Option<AnswerRoom>,
    /// Answers that are not written, by where they end in what is.
    unwritten: VecDeque<(u64, Held, Option<Permit>)>,
}

/// Outcomes of host tools, for the connection to fetch.
#[derive(Debug)]
pub(super) struct Done {
    outcomes: Mutex<Vec<(u32, u64, Outcome)>>,
    bell: Arc<Notify>,
}

impl Done {
    pub(super) fn put(&self, callback: u32, serial: u64, outcome: Outcome) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.push((callback, serial, outcome));
        drop(outcomes);
        self.bell.notify_one();
    }
}

impl Book {
    /// `bell` is rung when there is an outcome.
    pub(super) fn new(bell: Arc<Notify>) -> Self {
        Self {
            open: HashMap::new(),
            by_call: BTreeSet::new(),
            serial: 0,
            done: Arc::new(Done { outcomes: Mutex::default(), bell }),
            permits: Permits::new(MOST, MOST_BYTES).ok(),
            room: AnswerRoom::new(MOST),
            unwritten: VecDeque::new(),
        }
    }

    /// Where the next callback's outcome goes, and under which number.
    pub(super) fn next(&mut self) -> (Arc<Done>, u64) {
        self.serial += 1;
        (self.done.clone(), self.serial)
    }

    /// Leave for one more callback whose arguments are so long, and the room for its answer.
    pub(super) fn admit(&self, bytes: usize, pool: Option<&Permits>) -> Option<(Held, AnswerRoom)> {
        let bytes = ByteSize(bytes as u64);
        let own = self.permits.as_ref()?.try_acquire(bytes)?;
        let held = (own, pool?.try_acquire(bytes)?);
        Some((held, self.room.clone()?))
    }

    pub(super) fn enter(&mut self, callback: u32, call: u32, task: Task<()>, held: Held) {
        self.by_call.insert((call, callback));
        self.open.insert(callback, Open { call, serial: self.serial, task, held });
    }

    pub(super) fn is_open(&self, callback: u32) -> bool {
        self.open.contains_key(&callback)
    }

    /// Whether a call waits for a callback.
    pub(super) fn is_waited_for(&self, call: u32) -> bool {
        self.of_call(call).next().is_some()
    }

    /// The callbacks of a call.
    pub(super) fn of_call(&self, call: u32) -> impl Iterator<Item = u32> + '_ {
        self.by_call.range((call, 0)..=(call, u32::MAX)).map(|(_, callback)| *callback)
    }

    /// What host tools came to whose callbacks are open, and how many came too late.
    pub(super) fn take_done(&mut self) -> (Vec<(u32, Outcome)>, u64) {
        let mut outcomes = self.done.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        if outcomes.is_empty() {
            return (Vec::new(), 0);
        }
        let all = std::mem::take(&mut *outcomes);
        drop(outcomes);
        let count = all.len();
        let in_time: Vec<_> = all
            .into_iter()
            .filter(|(callback, serial, _)| {
                self.open.get(callback).is_some_and(|open| open.serial == *serial)
            })
            .map(|(callback, _, outcome)| (callback, outcome))
            .collect();
        let late = (count - in_time.len()) as u64;
        (in_time, late)
    }

    /// It is answered: its number may be used again. Gives what it holds until that is
    /// [written](Self::unwritten).
    pub(super) fn close(&mut self, callback: u32) -> Option<(u32, Held)> {
        let open = self.open.remove(&callback)?;
        self.by_call.remove(&(open.call, callback));
        open.task.abort();
        Some((open.call, open.held))
    }

    /// An answer that ends at `end` of what is to be written.
    pub(super) fn unwritten(&mut self, end: u64, held: Held, room: Option<Permit>) {
        self.unwritten.push_back((end, held, room));
    }

    /// The worker's socket has taken what there is to write up to here.
    pub(super) fn written(&mut self, upto: u64) {
        while self.unwritten.front().is_some_and(|(end, ..)| *end <= upto) {
            self.unwritten.pop_front();
        }
    }
}

impl Drop for Book {
    fn drop(&mut self) {
        for open in self.open.values() {
            open.task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use snakehouse_supervise::Root;

    use super::*;

    fn answer(text: &'static str) -> Outcome {
        Ok(Answer { body: Bytes::from_static(text.as_bytes()), room: None })
    }

    /// A book with callbacks under these numbers of the worker and of its calls; their serials.
    fn enter(book: &mut Book, root: &Root, callbacks: &[(u32, u32)]) -> Vec<u64> {
        let pool = Permits::counted(100).unwrap();
        let enter = |&(callback, call): &(u32, u32)| {
            let (held, _) = book.admit(8, Some(&pool)).unwrap();
            let (_, serial) = book.next();
            let task = root.scope().task("callback", std::future::pending());
            book.enter(callback, call, task, held);
            serial
        };
        callbacks.iter().map(enter).collect()
    }

    fn run(test: impl FnOnce(&mut Book, &Root)) {
        snakehouse_supervise::run(async {
            let root = Root::new("test");
            let mut book = Book::new(Arc::default());
            test(&mut book, &root);
            drop(book);
            assert!(root.stop().await.is_clean());
        });
    }

    #[test]
    fn an_outcome_is_not_given_to_another_callback_of_the_same_number() {
        run(|book, root| {
            let first = enter(book, root, &[(7, 1)])[0];
            let done = book.done.clone();
            // It is over, and the worker uses its number again, before its outcome is fetched.
            done.put(7, first, answer("stale"));
            assert!(book.close(7).is_some());
            let second = enter(book, root, &[(7, 1)])[0];
            let (outcomes, late) = book.take_done();
            assert!(outcomes.is_empty(), "{outcomes:?}");
            assert_eq!(late, 1);
            assert!(book.is_open(7), "it waits for its own");
            done.put(7, second, answer("its own"));
            done.put(8, second, answer("of nobody"));
            let (outcomes, late) = book.take_done();
            assert_eq!(outcomes.len(), 1);
            assert_eq!(outcomes[0].1.as_ref().unwrap().body, "its own");
            assert_eq!(late, 1);
        });
    }

    #[test]
    fn callbacks_are_found_by_their_call() {
        run(|book, root| {
            enter(book, root, &[(1, 5), (u32::MAX, 5), (2, 6), (0, 4)]);
            assert_eq!(book.of_call(5).collect::<Vec<_>>(), [1, u32::MAX]);
            assert_eq!(book.close(1).unwrap().0, 5);
            assert!(book.is_waited_for(5));
            assert!(book.close(u32::MAX).is_some() && book.close(u32::MAX).is_none());
            assert!(!book.is_waited_for(5) && book.is_waited_for(6) && book.is_waited_for(4));
        });
    }

    #[test]
    fn what_is_held_comes_back_when_the_answer_is_written() {
        run(|book, root| {
            enter(book, root, &[(1, 5), (2, 5)]);
            for (callback, end) in [(1, 100), (2, 200)] {
                let (_, held) = book.close(callback).unwrap();
                book.unwritten(end, held, None);
            }
            let held = |book: &Book| book.permits.as_ref().unwrap().in_flight().0;
            for (upto, left) in [(99, 2), (100, 1), (199, 1), (300, 0)] {
                book.written(upto);
                assert_eq!(held(book), left, "{upto}");
            }
        });
    }
}
