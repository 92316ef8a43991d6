//! What a stream's two ends have in common: items on their way, credits, and the outcome.
//!
//! The caller's [`Stream`](super::Stream) and the worker's connection share one of these behind a
//! short lock. Each direction holds what its credits allow and no more: the connection moves on to the
//! socket what the caller sends, and the caller takes what the connection puts here, which is what
//! gives the worker new credits. The outcome comes once and stays.
//!
//! A stream can be given out again if its worker died before it started it. The items that had been
//! sent by then are kept for that, until the worker shows that it has started: they cost what their
//! credits allow, as no new ones can have come.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use snakehouse_guard::BreakerPermit;
use snakehouse_wire::credit::{ReceiveCredit, SendCredit};
use snakehouse_wire::{FrameError, Message};
use tokio::sync::Notify;

use crate::attempts::resolve;
use crate::call::CallError;

/// The shared part of a stream.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    state: Mutex<State>,
    /// An item or the outcome came.
    arrived: Notify,
    /// More may be sent, or nothing any more.
    room: Notify,
    /// Whether the connection has something to fetch here.
    is_dirty: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// Came from the worker; the caller has not taken them.
    items: VecDeque<Bytes>,
    /// Bytes of them.
    held: usize,
    receiving: ReceiveCredit,
    /// To be granted to the worker.
    grant: u32,
    outcome: Option<Result<Bytes, CallError>>,
    /// Of the pool's breaker, if it has one, until there is an outcome.
    permit: Option<BreakerPermit>,
    /// Whoever saw the deadline pass is about to say the outcome.
    is_claimed: bool,
    /// The outcome that came meanwhile.
    crossed: Option<Result<Bytes, CallError>>,
    /// The caller has been told the error.
    is_told: bool,
    /// The caller sent them; the connection has not fetched them.
    queue: VecDeque<Bytes>,
    sending: SendCredit,
    end: End,
    /// Fetched, and the worker has not shown that it started. `None` once it has.
    unproved: Option<Vec<Bytes>>,
    /// Wakes the connection that has the call.
    bell: Option<Arc<Notify>>,
    /// The caller is gone.
    is_abandoned: bool,
}

/// The half-close of the caller's direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    No,
    Wanted,
    Told,
}

/// What the caller gets next.
#[derive(Debug)]
pub(super) enum Next {
    Item(Bytes),
    /// The first time that the error is told.
    Failed(CallError),
    Over,
}

impl State {
    /// The one outcome; a second one changes nothing. The breaker hears of it now, however long the
    /// caller keeps its handle.
    fn conclude(&mut self, outcome: Result<Bytes, CallError>) {
        if self.outcome.is_none() {
            resolve(self.permit.take(), &outcome);
            self.outcome = Some(outcome);
        }
    }

    fn abandon(&mut self) {
        self.is_abandoned = true;
        // It says nothing about the workers.
        self.permit = None;
        self.items.clear();
        self.queue.clear();
        self.held = 0;
    }
}

// === impl Flow: the caller's side ===

impl Flow {
    /// Nothing has come or gone. `permit` is resolved with the outcome.
    pub(super) fn new(permit: Option<BreakerPermit>) -> Self {
        Self { state: Mutex::new(State { permit, ..State::default() }), ..Self::default() }
    }

    /// Waits for the next item or the end. Cancel safe: an item is taken in the same step in which it
    /// is returned.
    pub(super) async fn next(&self) -> Next {
        loop {
            let arrived = self.arrived.notified();
            if let Some(next) = self.take() {
                return next;
            }
            arrived.await;
        }
    }

    fn take(&self) -> Option<Next> {
        let mut state = self.lock();
        if let Some(item) = state.items.pop_front() {
            state.held -= item.len();
            if let Some(grant) = state.receiving.taken(item.len())
                && state.outcome.is_none()
            {
                state.grant += grant;
                self.ring(&state);
            }
            return Some(Next::Item(item));
        }
        let is_over = state.outcome.is_some();
        let is_told = std::mem::replace(&mut state.is_told, is_over);
        match &state.outcome {
            None => None,
            Some(Err(error)) if !is_told => Some(Next::Failed(error.clone())),
            Some(_) => Some(Next::Over),
        }
    }

    /// Waits until there is credit and sends. `false` if the stream is over or half-closed. Cancel
    /// safe: what is dropped before it returns was not sent.
    pub(super) async fn send(&self, item: Bytes) -> bool {
        loop {
            let room = self.room.notified();
            {
                let mut state = self.lock();
                if state.outcome.is_some() || state.end != End::No {
                    return false;
                }
                if state.sending.can_send() {
                    state.sending.sent(item.len());
                    state.queue.push_back(item);
                    self.ring(&state);
                    return true;
                }
            }
            room.await;
        }
    }

    /// The caller sends no more.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        if state.end == End::No {
            state.end = End::Wanted;
            self.ring(&state);
        }
        drop(state);
        self.room.notify_waiters();
    }

    /// The caller is gone: what comes from now on is late.
    pub(super) fn abandon(&self) {
        self.lock().abandon();
    }

    /// The caller knows that this is how it ended, whatever else came or will come.
    pub(super) fn refuse(&self, error: CallError) {
        let mut state = self.lock();
        resolve(state.permit.take(), &Err::<(), _>(error.clone()));
        state.outcome = Some(Err(error));
        state.is_told = true;
        state.abandon();
    }

    /// Whether whoever asks is the first to see the deadline pass, and no outcome came before. Then
    /// it must [`expire`](Self::expire) or [`unclaim`](Self::unclaim) this, and nobody else says the
    /// outcome.
    pub(super) fn claim(&self) -> bool {
        let mut state = self.lock();
        state.outcome.is_none() && !std::mem::replace(&mut state.is_claimed, true)
    }

    /// The deadline passed. Items that came in time are still there.
    pub(super) fn expire(&self, error: CallError) {
        // An item that was refused meanwhile is the outcome already.
        self.lock().conclude(Err(error));
        self.room.notify_waiters();
        self.arrived.notify_waiters();
    }

    /// The stream is over otherwise: its outcome came meanwhile, or is about to.
    pub(super) fn unclaim(&self) {
        let mut state = self.lock();
        state.is_claimed = false;
        if let Some(outcome) = state.crossed.take() {
            state.conclude(outcome);
        }
        drop(state);
        self.room.notify_waiters();
        self.arrived.notify_waiters();
    }

    /// Bytes of items that the caller has not taken.
    pub(super) fn held(&self) -> usize {
        self.lock().held
    }

    pub(super) fn outcome(&self) -> Option<Result<Bytes, CallError>> {
        self.lock().outcome.clone()
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().outcome.is_some()
    }

    fn ring(&self, state: &State) {
        self.is_dirty.store(true, Ordering::Release);
        if let Some(bell) = &state.bell {
            bell.notify_one();
        }
    }
}

// === impl Flow: the connection's side ===

impl Flow {
    /// A connection has the call now, and writes `open` first. Everything of an earlier connection
    /// whose worker never started the call is undone.
    pub(crate) fn attach(&self, bell: Arc<Notify>) {
        let mut state = self.lock();
        let again = state.unproved.replace(Vec::new()).unwrap_or_default();
        for item in again.into_iter().rev() {
            state.queue.push_front(item);
        }
        if state.end == End::Told {
            state.end = End::Wanted;
        }
        state.bell = Some(bell);
        self.is_dirty.store(true, Ordering::Release);
    }

    /// Fetches what is to be written for the caller.
    pub(crate) fn fetch(&self, stream: u32, mut put: impl FnMut(Message)) {
        if !self.is_dirty.swap(false, Ordering::AcqRel) {
            return;
        }
        let mut state = self.lock();
        let State { queue, unproved, grant, end, .. } = &mut *state;
        if *grant > 0 {
            put(Message::Credit { stream, amount: std::mem::take(grant) });
        }
        for body in queue.drain(..) {
            if let Some(unproved) = unproved {
                unproved.push(body.clone());
            }
            put(Message::Item { stream, body });
        }
        if *end == End::Wanted {
            *end = End::Told;
            put(Message::End { stream });
        }
    }

    /// An item came. Gives whether it was in time for a caller.
    ///
    /// # Errors
    /// [`FrameError::OverSent`] if the worker had no credit for it.
    pub(crate) fn item(&self, stream: u32, item: Bytes) -> Result<bool, FrameError> {
        let mut state = self.lock();
        state.unproved = None;
        state.receiving.arrived(stream, item.len())?;
        if state.is_abandoned || state.outcome.is_some() {
            return Ok(false);
        }
        state.held += item.len();
        state.items.push_back(item);
        drop(state);
        self.arrived.notify_one();
        Ok(true)
    }

    /// The worker granted credits.
    pub(crate) fn granted(&self, amount: u32) {
        let mut state = self.lock();
        state.unproved = None;
        state.sending.granted(amount);
        drop(state);
        self.room.notify_waiters();
    }

    /// The one outcome; a second one changes nothing.
    pub(crate) fn finish(&self, outcome: Result<Bytes, CallError>) {
        let mut state = self.lock();
        // Whoever has the call drops it after its end, and that says nothing more.
        match state.is_claimed {
            true => drop(state.crossed.get_or_insert(outcome)),
            false => state.conclude(outcome),
        }
        state.queue.clear();
        state.unproved = None;
        state.bell = None;
        drop(state);
        self.arrived.notify_waiters();
        self.room.notify_waiters();
    }

    /// Whether nobody waits for the outcome any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        let state = self.lock();
        state.is_abandoned || state.outcome.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pool's hold on a stream. Dropped without an outcome, it says that the pool is gone: whoever had
/// the call was dropped with it.
#[derive(Debug)]
pub(crate) struct FlowHold(pub(crate) Arc<Flow>);

impl Drop for FlowHold {
    fn drop(&mut self) {
        self.0.finish(Err(CallError::Stopped));
    }
}

#[cfg(test)]
mod tests {
    use snakehouse_base::id::{Incarnation, WorkerId};
    use snakehouse_guard::{Breaker, BreakerConfig, BreakerState, Trip};

    use super::*;
    use crate::death::Death;

    fn item(byte: u8) -> Bytes {
        Bytes::from(vec![byte; 10])
    }

    fn fetched(flow: &Flow) -> Vec<Message> {
        let mut messages = Vec::new();
        flow.fetch(1, |message| messages.push(message));
        messages
    }

    fn sent(byte: u8) -> Message {
        Message::Item { stream: 1, body: item(byte) }
    }

    #[tokio::test]
    async fn items_come_before_the_error_and_the_error_once() {
        let flow = Flow::default();
        assert!(flow.item(1, item(1)).unwrap());
        flow.finish(Err(CallError::Cancelled));
        flow.finish(Ok(Bytes::new()));
        assert!(!flow.item(1, item(2)).unwrap(), "late");
        assert!(matches!(flow.next().await, Next::Item(got) if got == item(1)));
        assert!(matches!(flow.next().await, Next::Failed(CallError::Cancelled)));
        assert!(matches!(flow.next().await, Next::Over));
        assert_eq!(flow.outcome(), Some(Err(CallError::Cancelled)));
    }

    #[tokio::test]
    async fn who_sees_the_deadline_first_says_the_one_outcome() {
        let flow = Flow::default();
        let deadline = CallError::Deadline { at: crate::call::Where::Queue };
        assert!(flow.claim());
        assert!(!flow.claim(), "another task sees it as well");
        // The call is taken from the queue, and dropped.
        flow.finish(Err(CallError::Stopped));
        assert_eq!(flow.outcome(), None);
        let (next, ()) = tokio::join!(flow.next(), async { flow.expire(deadline.clone()) });
        assert!(matches!(next, Next::Failed(error) if error == deadline));
        flow.finish(Ok(Bytes::new()));
        assert_eq!(flow.outcome(), Some(Err(deadline)));

        let flow = Flow::default();
        flow.finish(Ok(Bytes::new()));
        assert!(!flow.claim(), "the result came first");
        assert_eq!(flow.outcome(), Some(Ok(Bytes::new())));
    }

    #[tokio::test]
    async fn a_deadline_at_the_moment_of_another_end_is_that_end() {
        let died = || Err(CallError::StreamOver);
        for came_before in [true, false] {
            let flow = Flow::default();
            assert!(flow.claim());
            if came_before {
                flow.finish(died());
                assert_eq!(flow.outcome(), None);
            }
            flow.unclaim();
            assert_eq!(flow.outcome().is_some(), came_before);
            // Said late, or for the second time.
            flow.finish(if came_before { Err(CallError::Stopped) } else { died() });
            assert_eq!(flow.outcome(), Some(died()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_breaker_hears_of_the_end_when_it_comes() {
        let breaker = || {
            let rules = BreakerConfig { trip: Trip::Consecutive(1), ..BreakerConfig::default() };
            Breaker::new("test", rules).unwrap()
        };
        let opened = |breaker: &Breaker| breaker.state() != BreakerState::Closed;
        let (worker, incarnation) = (WorkerId(0), Incarnation(1));
        let died = CallError::OutcomeUnknown { worker, incarnation, cause: Death::Unknown };
        let kept = breaker();
        let flow = Flow::new(Some(kept.try_admit().unwrap()));
        flow.finish(Err(died.clone()));
        assert!(opened(&kept), "though the handle is still there");
        let left = breaker();
        let flow = Flow::new(Some(left.try_admit().unwrap()));
        flow.abandon();
        flow.finish(Err(died));
        assert!(!opened(&left), "what its caller left says nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_waits_for_credit_or_the_end() {
        let flow = Arc::new(Flow::default());
        flow.attach(Arc::default());
        for byte in 0..64 {
            assert!(flow.send(item(byte)).await);
        }
        assert_eq!(fetched(&flow).len(), 64);
        let patience = std::time::Duration::from_secs(1);
        assert!(tokio::time::timeout(patience, flow.send(item(64))).await.is_err());
        let (sent_it, ()) = tokio::join!(flow.send(item(64)), async { flow.granted(1) });
        assert!(sent_it);
        let (sent_it, ()) =
            tokio::join!(flow.send(item(65)), async { flow.finish(Ok(Bytes::new())) });
        assert!(!sent_it);
    }

    #[tokio::test]
    async fn a_worker_that_gets_it_anew_gets_every_item_again() {
        let flow = Flow::default();
        assert!(flow.send(item(1)).await);
        flow.attach(Arc::default());
        assert_eq!(fetched(&flow), [sent(1)]);
        assert!(flow.send(item(2)).await);
        flow.end();
        assert_eq!(fetched(&flow), [sent(2), Message::End { stream: 1 }]);
        // It died before it started.
        assert!(!flow.send(item(3)).await);
        flow.attach(Arc::default());
        assert_eq!(fetched(&flow), [sent(1), sent(2), Message::End { stream: 1 }]);
        assert_eq!(fetched(&flow), []);
        // Started: nothing is kept any more.
        flow.granted(2);
        assert!(flow.lock().unproved.is_none());
    }

    #[tokio::test]
    async fn taking_gives_credits_and_holding_is_bounded() {
        let flow = Flow::default();
        flow.attach(Arc::default());
        for byte in 0..64 {
            flow.item(1, item(byte)).unwrap();
        }
        assert_eq!(flow.held(), 640);
        assert_eq!(flow.item(1, item(64)), Err(FrameError::OverSent { stream: 1 }));
        for _ in 0..32 {
            assert!(matches!(flow.next().await, Next::Item(_)));
        }
        assert_eq!(fetched(&flow), [Message::Credit { stream: 1, amount: 32 }]);
        flow.item(1, item(64)).unwrap();
        flow.abandon();
        assert_eq!(flow.held(), 0);
        flow.item(1, item(65)).unwrap();
        assert_eq!(flow.held(), 0, "what comes late is dropped");
    }
}
