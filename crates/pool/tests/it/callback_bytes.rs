//! What large arguments and answers of host tools cost the host: where they are converted, and how many
//! bytes of them it keeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde::de::Deserializer;
use serde::ser::{SerializeTuple, Serializer};
use serde::{Deserialize, Serialize};
use snakehouse_pool::{Args, HostCall, HostTool, Mode, Pool, Value, WorkerSpec};
use tokio::sync::Semaphore;

use crate::support::{Rig, Watched, call, call_pid, python, run, wait_until, workers};

fn spec(module: &str) -> WorkerSpec {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(module);
    WorkerSpec::python("bytes", python()).module(path.to_str().unwrap())
}

fn here() -> String {
    thread::current().name().unwrap_or("?").to_owned()
}

/// A text, and the thread that read it.
struct Read {
    text: String,
    thread: String,
}

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self { text: String::deserialize(from)?, thread: here() })
    }
}

/// Says which thread read it, which writes it, and so many letters.
struct Written(Read, usize);

impl Serialize for Written {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut tuple = to.serialize_tuple(3)?;
        tuple.serialize_element(&self.0.thread)?;
        tuple.serialize_element(&here())?;
        tuple.serialize_element(&self.0.text[..self.1])?;
        tuple.end()
    }
}

#[test]
fn what_is_large_is_converted_in_the_lane_for_that() {
    run(async {
        let rig = Rig::new().await;
        let where_ =
            HostTool::new("where", |_: HostCall, (read, letters): (Read, usize)| async move {
                Ok(Written(read, letters))
            });
        let pool = rig.pool_of(spec("callback_tools.py").host_tool(where_), workers(1)).await;
        let is_lane = |thread: &Value| thread.as_str().unwrap().starts_with("buffers");
        for (sent, back) in [(10, 10), (1 << 20, 10), (1 << 20, 1 << 20)] {
            let text = "x".repeat(sent);
            let args = Args::none().arg("where").arg(&*text).arg(back as u64);
            let Value::Tuple(said) = call(&pool, "uncaught", args).await.unwrap() else { panic!() };
            assert_eq!(said[2].as_str().map(str::len), Some(back));
            let large = (is_lane(&said[0]), is_lane(&said[1]));
            assert_eq!(large, (sent > 32 << 10, back > 32 << 10), "{sent} and {back}: {said:.60?}");
        }
        rig.end().await;
    });
}

const LENGTH: usize = 4 << 20;

/// Bytes that count how often all of them were serialized.
struct Counted(Arc<AtomicUsize>);

impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let made = to.serialize_bytes(&[7; LENGTH])?;
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(made)
    }
}

/// Answers wait unencoded for a worker that does not read.
#[test]
fn what_a_worker_does_not_read_is_bounded_in_bytes() {
    run(async {
        let rig = Rig::new().await;
        let (began, encoded) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let go = Arc::new(Semaphore::new(0));
        let (count, made, gate) = (began.clone(), encoded.clone(), go.clone());
        let large = HostTool::new("large", move |_: HostCall, (): ()| {
            count.fetch_add(1, Ordering::SeqCst);
            let (made, gate) = (made.clone(), gate.clone());
            async move {
                let _open = gate.acquire().await;
                Ok(Counted(made))
            }
        });
        let module = spec("async_callback_tools.py").capacity(4, Mode::Asyncio);
        let pool = rig.pool_of(module.host_tool(large), workers(1)).await;
        let other: Pool = rig.pool(workers(1)).await;
        let worker = Watched::new(pool.workers()[0].pid.unwrap());
        let asking = call(&pool, "gathered", Args::none().arg("large").arg(40));
        let watching = async {
            wait_until(&pool, |_| began.load(Ordering::SeqCst) == 40).await;
            worker.pause();
            go.add_permits(40);
            // 64 MiB are 15 of these, and one waits.
            wait_until(&pool, |_| encoded.load(Ordering::SeqCst) >= 16).await;
            for _ in 0..200 {
                // Nobody else waits for that worker.
                call_pid(&other).await;
                assert!(encoded.load(Ordering::SeqCst) <= 17);
            }
            worker.go_on();
        };
        let (length, ()) = futures_util::future::join(asking, watching).await;
        assert_eq!(length, Ok((40 * LENGTH as u64).into()));
        assert_eq!(encoded.load(Ordering::SeqCst), 40);
        // What was held is free again.
        let again = call(&pool, "gathered", Args::none().arg("large").arg(20)).await;
        assert_eq!(again, Ok((20 * LENGTH as u64).into()));
        rig.end().await;
    });
}
