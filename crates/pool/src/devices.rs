//! Devices that workers are bound to, and which of them are left alone for a while.
//!
//! A fault of a device outlives the process that met it: the next worker on the same device fails as
//! well, and one on another device does not. So what is benched is the device, never a worker's
//! name, and a replacement gets another device at once. A device is benched when a worker says that
//! it failed ([`Death::DeviceFault`], by exit status), or after three workers in a row that a signal
//! such as SIGSEGV or SIGABRT ended on it: native code that meets a broken device often ends so. The
//! state of a broken device goes with the process: its sessions are lost with it.
//!
//! The decisions are one value without a clock; the pool holds it behind a lock. Tested below, and
//! with workers in `tests/it/devices.rs`.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use snakehouse_base::{Backoff, Jitter};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::death::Death;

/// Workers in a row that a signal may end on one device.
const CRASHES: u32 = 3;

/// How long a device is benched: 60 s, doubling with each fault that follows without a worker of use
/// between, to an hour.
const BENCH: Backoff =
    match Backoff::new(Duration::from_secs(60), Duration::from_secs(3600), Jitter::None) {
        Ok(law) => law,
        Err(_) => unreachable!(),
    };

/// Devices for the workers of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Devices {
    /// The variable that tells a worker which one is its own.
    pub(crate) variable: String,
    pub(crate) names: Vec<String>,
}

/// A device of a pool at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Its name, as the workers get it.
    pub name: String,
    /// Workers that are bound to it now.
    pub workers: u64,
    /// How long it gets no worker from now on, in milliseconds; `None` if it does.
    pub benched_ms: Option<u64>,
    /// Times that it was benched.
    pub benches: u64,
}

#[derive(Debug)]
struct Device {
    workers: usize,
    until: Option<Instant>,
    /// Workers in a row that a signal ended.
    crashes: u32,
    /// Benches in a row, without a worker of use between.
    row: u32,
    benches: u64,
}

/// The decisions.
#[derive(Debug)]
struct Bench(Vec<Device>);

impl Bench {
    fn new(count: usize) -> Self {
        let device = || Device { workers: 0, until: None, crashes: 0, row: 0, benches: 0 };
        Self(std::iter::repeat_with(device).take(count).collect())
    }

    /// The free device with the fewest workers; `Err` is when the first one comes back.
    fn take(&mut self, now: Instant) -> Result<usize, Instant> {
        let free = |device: &Device| device.until.is_none_or(|until| until <= now);
        let devices = self.0.iter_mut().enumerate().filter(|(_, device)| free(device));
        match devices.min_by_key(|(_, device)| device.workers) {
            Some((place, device)) => {
                device.workers += 1;
                Ok(place)
            }
            None => Err(self.0.iter().filter_map(|device| device.until).min().unwrap_or(now)),
        }
    }

    /// A worker is gone from it. `death` is `None` if that says nothing, `useful` whether it ever
    /// started a call.
    fn give_back(&mut self, place: usize, death: Option<&Death>, useful: bool, now: Instant) {
        let device = &mut self.0[place];
        device.workers -= 1;
        let Some(death) = death else { return };
        let crashed = matches!(death, Death::Signalled { .. }) && death.is_own_fault();
        device.crashes = if crashed { device.crashes + 1 } else { 0 };
        let failed = *death == Death::DeviceFault || device.crashes >= CRASHES;
        if useful && !failed && !crashed {
            device.row = 0;
        }
        // Several workers of one device meet the same fault.
        if failed && device.until.is_none_or(|until| until <= now) {
            device.until = Some(now + BENCH.delay(device.row, 0.0));
            device.row += 1;
            device.benches += 1;
            device.crashes = 0;
        }
    }
}

/// The devices of a pool, and who has them.
#[derive(Debug)]
pub(crate) struct DevicePool {
    devices: Devices,
    bench: Mutex<Bench>,
    /// A worker's device was given back: there may be one that is free.
    changed: Notify,
}

impl DevicePool {
    pub(crate) fn new(devices: Devices) -> Self {
        let bench = Mutex::new(Bench::new(devices.names.len()));
        Self { devices, bench, changed: Notify::new() }
    }

    /// Waits for a device that is not benched. Cancel safe.
    pub(crate) async fn lease(&self) -> Lease<'_> {
        loop {
            let taken = self.with(|bench| bench.take(Instant::now()));
            match taken {
                Ok(place) => return Lease { pool: self, place, over: false },
                Err(until) => tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    () = self.changed.notified() => {}
                },
            }
        }
    }

    pub(crate) fn all(&self) -> Vec<DeviceInfo> {
        let now = Instant::now();
        let info = |(name, device): (&String, &Device)| DeviceInfo {
            name: name.clone(),
            workers: device.workers as u64,
            benched_ms: device
                .until
                .filter(|until| *until > now)
                .map(|until| u64::try_from((until - now).as_millis()).unwrap_or(u64::MAX)),
            benches: device.benches,
        };
        self.with(|bench| self.devices.names.iter().zip(&bench.0).map(info).collect())
    }

    fn with<T>(&self, work: impl FnOnce(&mut Bench) -> T) -> T {
        work(&mut self.bench.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A worker's device. Dropping it gives it back without a word about it.
#[derive(Debug)]
pub(crate) struct Lease<'a> {
    pool: &'a DevicePool,
    place: usize,
    over: bool,
}

impl Lease<'_> {
    /// What the worker's environment has to say.
    pub(crate) fn variable(&self) -> (String, String) {
        let Devices { variable, names } = &self.pool.devices;
        (variable.clone(), names[self.place].clone())
    }

    /// How the worker ended.
    pub(crate) fn end(mut self, death: &Death, useful: bool) {
        self.over = true;
        self.give_back(Some(death), useful);
    }

    fn give_back(&self, death: Option<&Death>, useful: bool) {
        let now = Instant::now();
        let benched = self.pool.with(|bench| {
            bench.give_back(self.place, death, useful, now);
            bench.0[self.place].until.filter(|until| *until > now)
        });
        if let (Some(until), Some(death)) = (benched, death) {
            let (_, device) = self.variable();
            let seconds = (until - now).as_secs();
            tracing::warn!(device, seconds, %death, "device gets no worker for a while");
        }
        self.pool.changed.notify_one();
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.give_back(None, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAULT: Death = Death::DeviceFault;
    const CRASH: Death = Death::Signalled { signal: 6 };
    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn workers_are_spread_and_a_failed_device_gets_none() {
        let mut bench = Bench::new(2);
        let now = Instant::now();
        assert_eq!([bench.take(now), bench.take(now), bench.take(now)], [Ok(0), Ok(1), Ok(0)]);
        bench.give_back(0, Some(&FAULT), true, now);
        // Whatever the worker's place, the next ones go to the other device.
        assert_eq!([bench.take(now), bench.take(now)], [Ok(1), Ok(1)]);
        // The second worker of the failed device meets the same fault: it is one.
        bench.give_back(0, Some(&FAULT), true, now);
        assert_eq!(bench.0[0].benches, 1);
        assert_eq!(bench.take(now + 59 * SECOND), Ok(1));
        assert_eq!(bench.take(now + 60 * SECOND), Ok(0), "it is tried again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_keeps_failing_is_benched_for_longer_until_it_is_of_use() {
        let mut bench = Bench::new(1);
        let mut now = Instant::now();
        let mut fail = |bench: &mut Bench, useful: bool| {
            assert_eq!(bench.take(now), Ok(0));
            bench.give_back(0, Some(&FAULT), useful, now);
            let until = bench.take(now).unwrap_err();
            let benched = until - now;
            now = until;
            benched.as_secs()
        };
        let row: Vec<_> = (0..8).map(|_| fail(&mut bench, true)).collect();
        assert_eq!(row, [60, 120, 240, 480, 960, 1920, 3600, 3600]);
        assert_eq!(bench.take(now), Ok(0));
        bench.give_back(0, Some(&Death::Exited { code: 0 }), true, now);
        assert_eq!(bench.take(now), Ok(0));
        bench.give_back(0, Some(&FAULT), true, now);
        assert_eq!(bench.take(now), Err(now + 60 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn three_crashes_in_a_row_are_a_fault_and_no_other_death_is() {
        let mut bench = Bench::new(1);
        let now = Instant::now();
        let mut end = |death: &Death| {
            assert_eq!(bench.take(now), Ok(0), "{death}");
            bench.give_back(0, Some(death), true, now);
        };
        let harmless =
            [Death::Exited { code: 1 }, Death::Signalled { signal: 9 }, Death::OutOfMemory];
        for death in &harmless {
            (0..5).for_each(|_| end(death));
            end(&CRASH);
            end(&CRASH);
        }
        end(&harmless[0]);
        (0..3).for_each(|_| end(&CRASH));
        assert_eq!(bench.take(now), Err(now + 60 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn who_needs_a_device_waits_for_the_first_that_comes_back() {
        let pool =
            DevicePool::new(Devices { variable: "D".to_owned(), names: vec!["7".to_owned()] });
        let lease = pool.lease().await;
        assert_eq!(lease.variable(), ("D".to_owned(), "7".to_owned()));
        lease.end(&FAULT, false);
        assert_eq!(pool.all()[0].benched_ms, Some(60_000));
        let began = Instant::now();
        let lease = pool.lease().await;
        assert_eq!(began.elapsed(), 60 * SECOND);
        assert_eq!((pool.all()[0].benched_ms, pool.all()[0].workers), (None, 1));
        drop(lease);
        assert_eq!((pool.all()[0].benches, pool.all()[0].workers), (1, 0));
    }
}
