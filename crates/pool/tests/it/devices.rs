//! A device that fails gets no worker for a while, whatever the worker was called.

use snakehouse_pool::{Args, CallError, Death, Mode, Pool, WorkerSpec};

use crate::support::{Rig, call, python, run, soon, spec, workers};

async fn device(pool: &Pool) -> String {
    let environment = call(pool, "environment", Args::none()).await.unwrap();
    environment.get("MY_DEVICE").unwrap().as_str().unwrap().to_owned()
}

#[test]
fn a_device_that_fails_is_benched_and_the_replacement_gets_another() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec().devices("MY_DEVICE", ["first", "second"]), workers(1)).await;
        assert_eq!(device(&pool).await, "first");
        let session = pool.session(soon().deadline).await.unwrap();
        let error = session.call("device_fault", Args::none(), soon()).await.unwrap_err();
        match &error {
            CallError::WorkerDied { started: true, cause, .. } => {
                assert_eq!((cause, cause.code()), (&Death::DeviceFault, "device_fault"));
            }
            other => panic!("{other:?}"),
        }
        // What was set up on the device is gone with it, for the session too.
        assert_eq!(session.ended().await.death(), Some(&Death::DeviceFault));
        // The same worker, a new life, another device.
        assert_eq!(device(&pool).await, "second");
        assert_eq!(pool.workers()[0].restarts, 1);
        let devices = pool.stats().devices;
        assert_eq!((devices[0].workers, devices[0].benches), (0, 1));
        assert!(devices[0].benched_ms.is_some_and(|ms| ms > 30_000), "{devices:?}");
        assert_eq!((devices[1].workers, devices[1].benched_ms), (1, None));
        assert_eq!(pool.stats().deaths, [("device_fault", 1)].into());
        let said = pool.output(pool.workers()[0].id);
        assert!(said.iter().any(|line| line.text.contains("it fell off the bus")), "{said:?}");

        // Other deaths say nothing about the device.
        call(&pool, "leave", Args::none().arg(3)).await.unwrap_err();
        assert_eq!(device(&pool).await, "second");
        call(&pool, "segfault", Args::none()).await.unwrap_err();
        assert_eq!(device(&pool).await, "second");
        rig.end().await;
    });
}

#[test]
fn workers_are_spread_over_the_devices() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec().devices("MY_DEVICE", ["a", "b", "c"]), workers(3)).await;
        let devices = pool.stats().devices;
        assert_eq!(devices.iter().map(|d| d.workers).collect::<Vec<_>>(), [1, 1, 1]);
        rig.end().await;
    });
}

/// However a worker runs its calls, a device that fails ends it.
#[test]
fn a_device_fault_ends_workers_of_every_kind() {
    run(async {
        let rig = Rig::new().await;
        for (mode, kind) in
            [(Mode::Threads, ""), (Mode::Threads, "async "), (Mode::Asyncio, "async ")]
        {
            let module = rig.cache.path().join("faulty.py");
            std::fs::write(&module, FAULTY.replace("KIND ", kind)).unwrap();
            let spec = WorkerSpec::python("faulty", python())
                .module(module.to_str().unwrap())
                .capacity(2, mode);
            let pool = rig.pool_of(spec, workers(1)).await;
            let error = call(&pool, "fault", Args::none()).await.unwrap_err();
            match &error {
                CallError::WorkerDied { cause, .. } => {
                    assert_eq!(cause, &Death::DeviceFault, "{mode:?}");
                }
                other => panic!("{mode:?}: {other:?}"),
            }
        }
        rig.end().await;
    });
}

const FAULTY: &str = "
from snakehouse import DeviceFault, tool

@tool
KIND def fault():
    raise DeviceFault('gone')
";
