//! A request and an answer in memory, through the weather of a timeline.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::timeline::{Timeline, Weather};

/// How long an undisturbed exchange takes.
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// A service in memory. Cheap to clone; clones are the same service.
///
/// The service is a function from a request to an answer, called once for each request that gets
/// through; everything else is the weather's doing. Every request is in the [`Ledger`].
pub struct Transport<Q, A> {
    start: Instant,
    timeline: Arc<Timeline>,
    serve: Arc<dyn Fn(&Q) -> A + Send + Sync>,
    ledger: Ledger,
}

/// Why there is no whole answer. A status is an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportError {
    /// No connection came about: the service has not seen the request.
    Refused,
    /// The connection broke: the service may have executed the request.
    Reset,
    /// Something in front of the service answered with this status.
    Status(u16),
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransportError::Refused => f.write_str("connection refused"),
            TransportError::Reset => f.write_str("connection reset"),
            TransportError::Status(status) => write!(f, "status {status}"),
        }
    }
}

impl std::error::Error for TransportError {}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is on its way; for ever, if it hangs.
    Pending,
    /// Its answer arrived.
    Answered,
    /// It failed.
    Failed(TransportError),
    /// The caller dropped it.
    Dropped,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it was sent, since the transport was made.
    pub at: Duration,
    /// Which logical call it belongs to.
    pub key: String,
    /// Whether the service executed it.
    pub executed: bool,
    /// What became of it.
    pub fate: Fate,
}

/// Every request, in the order of sending.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    entries: Arc<Mutex<Vec<Entry>>>,
}

impl<Q, A> Transport<Q, A> {
    /// A service that answers as `serve` says; its timeline begins now.
    pub fn new(timeline: Timeline, serve: impl Fn(&Q) -> A + Send + Sync + 'static) -> Self {
        Self {
            start: Instant::now(),
            timeline: Arc::new(timeline),
            serve: Arc::new(serve),
            ledger: Ledger::default(),
        }
    }

    /// Sends one request of the logical call `key`. Dropping the future gives up on the answer; the
    /// service may have executed the request.
    ///
    /// # Errors
    /// [`TransportError`], as the weather has it.
    pub async fn send(&self, key: &str, request: Q) -> Result<A, TransportError> {
        let at = self.start.elapsed();
        let mut record = self.ledger.sent(at, key);
        let weather = self.timeline.at(at);
        let outcome = match weather {
            Weather::Refuse => Err(TransportError::Refused),
            Weather::Hang => std::future::pending().await,
            Weather::Status(status) => {
                sleep(ROUND_TRIP).await;
                Err(TransportError::Status(status))
            }
            Weather::Up | Weather::Reset | Weather::HalfBody | Weather::Slow(_) => {
                sleep(ROUND_TRIP / 2).await;
                let answer = (self.serve)(&request);
                record.executed();
                match weather {
                    Weather::Reset => Err(TransportError::Reset),
                    Weather::HalfBody => {
                        sleep(ROUND_TRIP / 2).await;
                        Err(TransportError::Reset)
                    }
                    Weather::Slow(longer) => {
                        sleep(ROUND_TRIP / 2 + longer).await;
                        Ok(answer)
                    }
                    _ => {
                        sleep(ROUND_TRIP / 2).await;
                        Ok(answer)
                    }
                }
            }
        };
        record
            .ended(outcome.as_ref().map_or_else(|error| Fate::Failed(*error), |_| Fate::Answered));
        outcome
    }

    /// What has been sent so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

impl<Q, A> Clone for Transport<Q, A> {
    fn clone(&self) -> Self {
        Self {
            start: self.start,
            timeline: self.timeline.clone(),
            serve: self.serve.clone(),
            ledger: self.ledger.clone(),
        }
    }
}

impl<Q, A> fmt::Debug for Transport<Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("timeline", &self.timeline).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Every request, in the order of sending.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().clone()
    }

    /// How many requests each logical call made.
    pub fn requests(&self) -> BTreeMap<String, usize> {
        let mut requests = BTreeMap::new();
        for entry in &*self.lock() {
            *requests.entry(entry.key.clone()).or_default() += 1;
        }
        requests
    }

    /// Requests that nobody waits for any more and nobody answered.
    pub fn dropped(&self) -> usize {
        self.lock().iter().filter(|entry| entry.fate == Fate::Dropped).count()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent(&self, at: Duration, key: &str) -> Record {
        let mut entries = self.lock();
        let entry = Entry { at, key: key.to_owned(), executed: false, fate: Fate::Pending };
        entries.push(entry);
        Record { ledger: self.clone(), place: entries.len() - 1, fate: Fate::Dropped }
    }
}

/// Writes the fate of a request when it is known, or when the caller leaves.
struct Record {
    ledger: Ledger,
    place: usize,
    fate: Fate,
}

impl Record {
    fn executed(&mut self) {
        self.ledger.lock()[self.place].executed = true;
    }

    fn ended(&mut self, fate: Fate) {
        self.fate = fate;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.ledger.lock()[self.place].fate = self.fate;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_weather_does_what_it_says_and_the_ledger_knows() {
        crate::virtual_time(async {
            let weathers = [
                Weather::Up,
                Weather::Refuse,
                Weather::Status(503),
                Weather::Reset,
                Weather::HalfBody,
                Weather::Slow(SECOND),
                Weather::Hang,
            ];
            let line = (0u32..).zip(weathers).fold(Timeline::up(), |line, (n, weather)| {
                line.spell(n * 10 * SECOND, 10 * SECOND, weather)
            });
            let service = Transport::new(line, |n: &u32| n + 1);
            let mut outcomes = Vec::new();
            for n in 0..7 {
                let call = service.send("call", n);
                outcomes.push(tokio::time::timeout(5 * SECOND, call).await.ok());
                let next = service.start + (n + 1) * 10 * SECOND;
                tokio::time::sleep_until(next).await;
            }
            use TransportError::{Refused, Reset, Status};
            assert_eq!(
                outcomes,
                [
                    Some(Ok(1)),
                    Some(Err(Refused)),
                    Some(Err(Status(503))),
                    Some(Err(Reset)),
                    Some(Err(Reset)),
                    Some(Ok(6)),
                    None,
                ]
            );
            let entries = service.ledger().entries();
            let executed: Vec<_> = entries.iter().map(|entry| entry.executed).collect();
            assert_eq!(executed, [true, false, false, true, true, true, false]);
            assert_eq!((entries[6].fate, service.ledger().dropped()), (Fate::Dropped, 1));
            assert_eq!(service.ledger().requests(), [("call".to_owned(), 7)].into());
        });
    }
}
