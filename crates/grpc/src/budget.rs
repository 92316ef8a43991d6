//! The bytes that all requests of a front door may hold together.
//!
//! A message says how long it is before it comes: it is refused there if there is no room for it, so
//! that nothing of it is held. What a request brought counts until its answer is out, because the pool
//! keeps the arguments of a call that it may have to give to another worker; of a stream, its opening,
//! and each item until the next one is taken, by which time the tool has it. A long result counts
//! like long arguments. Fails with the statuses `front_door_full` and `no_room_for_result`. Tested below
//! with bodies made by hand, and over connections in `tests/it/budget.rs`.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use snakehouse_base::{ByteSize, Deadline, Kind};
use snakehouse_guard::{Permit, Permits};
use tokio::time::{Sleep, sleep_until};
use tonic::Status;

use crate::refusal::{Refusal, refuse, refuse_after};

/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The permits of one front door.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    permits: Permits,
    most: ByteSize,
    /// Longest message; a longer one is refused for that.
    longest: u64,
}

impl Budget {
    pub(crate) fn new(most: ByteSize, longest: ByteSize) -> Self {
        let most = ByteSize(most.0.max(1));
        let permits = Permits::new(usize::MAX, most).expect("both are at least one");
        Self { permits, most, longest: longest.0 }
    }

    /// What a request holds from now on.
    pub(crate) fn account(&self, is_stream: bool) -> Account {
        let held = Mutex::new(Held { first: None, item: None, last: None });
        Account(Arc::new(Inner { budget: self.clone(), is_stream, held }))
    }

    fn full(&self) -> Refusal {
        Refusal {
            kind: Kind::Saturated,
            code: "front_door_full",
            message: format!("the requests of this server hold {} together already", self.most),
            hint: Some("send it again later, or less at once".to_owned()),
        }
    }
}

/// What one request holds, until the last clone is gone.
#[derive(Clone, Debug)]
pub(crate) struct Account(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    budget: Budget,
    is_stream: bool,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    first: Option<Permit>,
    /// Of the item that comes, and of the one before.
    item: Option<Permit>,
    last: Option<Permit>,
}

impl Account {
    /// A message of this length comes.
    fn begin(&self, len: u64) -> Result<(), Status> {
        let Inner { budget, .. } = &*self.0;
        if len == 0 || len > budget.longest {
            return Ok(());
        }
        let permit = budget.permits.try_acquire(ByteSize(len));
        let permit = permit.ok_or_else(|| refuse(budget.full()))?;
        let mut held = self.held();
        if held.first.is_none() {
            held.first = Some(permit);
        } else {
            held.item = Some(permit);
        }
        Ok(())
    }

    /// Whoever reads the messages has all that came, and wants the next one.
    fn wants_more(&self) {
        if self.0.is_stream {
            let mut held = self.held();
            if held.item.is_some() {
                held.last = held.item.take();
            }
        }
    }

    /// The call has a result of this length.
    ///
    /// # Errors
    /// A status if there is no room for it.
    pub(crate) fn result(&self, len: usize) -> Result<(), Status> {
        let len = ByteSize(u64::try_from(len).unwrap_or(u64::MAX));
        let mut held = self.held();
        // The arguments are of no use any more.
        held.first = None;
        match self.0.budget.permits.try_acquire(len) {
            Some(permit) => held.first = Some(permit),
            None => {
                let code = "no_room_for_result";
                let message = format!("the call ran, and there is no room for its result of {len}");
                return Err(refuse_after(Refusal { code, message, ..self.0.budget.full() }));
            }
        }
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Nothing panics while it is held.
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of a request whose messages are counted as they come.
pub(crate) struct Metered<B> {
    body: B,
    account: Account,
    /// What came of the next message's prefix.
    prefix: [u8; PREFIX],
    seen: usize,
    /// What is still to come of the message.
    left: u64,
    /// Until when the message of a call is to be there.
    deadline: Deadline,
    timer: Option<Pin<Box<Sleep>>>,
    broken: bool,
}

impl<B> Metered<B> {
    pub(crate) fn new(body: B, account: Account, deadline: Deadline) -> Self {
        let prefix = [0; PREFIX];
        Self { body, account, prefix, seen: 0, left: 0, deadline, timer: None, broken: false }
    }

    /// Looks at the lengths in these bytes.
    fn count(&mut self, mut bytes: &[u8]) -> Result<(), Status> {
        while !bytes.is_empty() {
            let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            bytes = &bytes[here..];
            self.left -= here as u64;
            let missing = (PREFIX - self.seen).min(bytes.len());
            self.prefix[self.seen..self.seen + missing].copy_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            self.seen += missing;
            if self.seen == PREFIX {
                let [_, length @ ..] = self.prefix;
                (self.seen, self.left) = (0, u64::from(u32::from_be_bytes(length)));
                self.account.begin(self.left)?;
            }
        }
        Ok(())
    }

    /// Whether the deadline of a call passes while its message comes. A stream's counts elsewhere.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(at) = self.deadline.instant().filter(|_| !self.account.0.is_stream) else {
            return false;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at.into())));
        timer.as_mut().poll(cx).is_ready()
    }
}

impl<B> Body for Metered<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.broken {
            return Poll::Ready(None);
        }
        if self.left == 0 && self.seen == 0 {
            self.account.wants_more();
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let counted = match &polled {
            Poll::Pending if self.is_late(cx) => Err(refuse(Refusal {
                kind: Kind::Deadline,
                code: "deadline",
                message: "the deadline passed while the request came".to_owned(),
                hint: None,
            })),
            Poll::Ready(Some(Ok(frame))) => match frame.data_ref() {
                Some(bytes) => {
                    let bytes = bytes.clone();
                    self.count(&bytes)
                }
                None => Ok(()),
            },
            _ => Ok(()),
        };
        if let Err(status) = counted {
            self.broken = true;
            return Poll::Ready(Some(Err(status.into())));
        }
        Poll::Ready(ready!(polled).map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.broken || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response that holds what its request does.
pub(crate) struct Holding<B> {
    body: B,
    _account: Account,
}

impl<B> Holding<B> {
    pub(crate) fn new(body: B, account: Account) -> Self {
        Self { body, _account: account }
    }
}

impl<B: Body + Unpin> Body for Holding<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> fmt::Debug for Metered<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metered").field("left", &self.left).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;
    use tokio::time::Instant;

    use super::*;
    use crate::error_of;

    fn message(len: u8) -> Vec<u8> {
        [&[0, 0, 0, 0, len][..], &vec![7; usize::from(len)]].concat()
    }

    fn held(budget: &Budget) -> u64 {
        budget.permits.in_flight().1.0
    }

    fn body(chunks: Vec<Vec<u8>>) -> impl Body<Data = Bytes, Error = BoxError> + Unpin {
        let frames = chunks.into_iter().map(|chunk| Ok(Frame::data(Bytes::from(chunk))));
        http_body_util::StreamBody::new(futures_util::stream::iter(frames))
    }

    fn later() -> Deadline {
        Deadline::after(Instant::now().into_std(), Duration::from_secs(5))
    }

    #[tokio::test]
    async fn a_call_holds_its_message_to_the_end_and_is_refused_before_it_comes() {
        let budget = Budget::new(ByteSize(100), ByteSize(200));
        let first = budget.account(false);
        // However it is cut.
        let pieces = message(60).chunks(3).map(<[u8]>::to_vec).collect();
        let whole = Metered::new(body(pieces), first.clone(), later());
        assert_eq!(whole.collect().await.unwrap().to_bytes().len(), 65);
        assert_eq!(held(&budget), 60);

        let second = budget.account(false);
        let refused = Metered::new(body(vec![message(60)[..5].to_vec()]), second, later());
        let error = refused.collect().await.unwrap_err();
        let told = error_of(error.downcast_ref::<Status>().unwrap()).unwrap();
        assert_eq!((told.code.as_str(), told.without_effect), ("front_door_full", true));
        assert_eq!(held(&budget), 60);

        first.result(80).unwrap();
        assert_eq!(held(&budget), 80, "in place of the arguments");
        let third = budget.account(false);
        let told = error_of(&third.result(30).unwrap_err()).unwrap();
        assert_eq!((told.code.as_str(), told.without_effect), ("no_room_for_result", false));
        drop(first);
        assert_eq!(held(&budget), 0);
    }

    #[tokio::test]
    async fn a_stream_holds_its_opening_and_two_items() {
        let budget = Budget::new(ByteSize(1000), ByteSize(200));
        let account = budget.account(true);
        let lengths = [10, 20, 30, 40];
        let mut items = Metered::new(body(lengths.map(message).into()), account.clone(), later());
        let mut seen = Vec::new();
        while items.frame().await.is_some() {
            seen.push(held(&budget));
        }
        assert_eq!(seen, [10, 10 + 20, 10 + 20 + 30, 10 + 30 + 40]);
        drop((items, account));
        assert_eq!(held(&budget), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_never_ends_holds_nothing_past_its_deadline() {
        let budget = Budget::new(ByteSize(100), ByteSize(100));
        let account = budget.account(false);
        let begun = body(vec![message(60)[..9].to_vec()]);
        let stalls = futures_util::stream::pending::<Result<Frame<Bytes>, BoxError>>();
        let begun = http_body_util::BodyStream::new(begun);
        let stalled = futures_util::StreamExt::chain(begun, stalls);
        let stalled = http_body_util::StreamBody::new(stalled);
        let metered = Metered::new(stalled, account, later());
        let error = metered.collect().await.unwrap_err();
        let told = error_of(error.downcast_ref::<Status>().unwrap()).unwrap();
        assert_eq!(told.kind, "deadline");
        assert_eq!(held(&budget), 0);
    }
}
