//! Refusals that clients match on by their code, each provoked as it comes about.

use std::sync::Arc;

use snakehouse_base::{Coded as _, Kind};
use snakehouse_supervise::{Root, Scope};
use snakehouse_testkit::real_time;

use super::bench::{Bench, optim_step};
use crate::core::engine::{Engine, EngineConnector, EngineError, EngineFuture, EngineSource};
use crate::core::{Core, CoreConfig, ModelSource, NewSession};

#[test]
fn a_name_of_the_wrong_form_is_refused_and_nothing_is_recorded() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::start(home.path()).await;
        let (_, model) = bench.model().await;
        let path = bench.core.weights_info("somewhere/else").await.unwrap_err();
        let number = bench.core.submit(optim_step(&model, 0)).await.unwrap_err();
        for error in [path, number] {
            assert_eq!((error.kind(), error.code()), (Kind::InvalidInput, "bad_name"), "{error}");
        }
        assert_eq!(bench.core.status().pending_ops, 0);
        bench.stop().await;
    });
}

#[test]
fn whoever_comes_after_the_stop_is_told_that_it_stops() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let Bench { root, core, .. } = Bench::start(home.path()).await;
        core.wait_ready().await.unwrap();
        assert!(root.stop().await.is_clean());
        let opened = core.create_session(NewSession::default()).await.unwrap_err();
        assert_eq!((opened.kind(), opened.code()), (Kind::Unavailable, "stopping"));
    });
}

#[test]
fn a_row_that_does_not_say_what_it_must_is_damage_by_name() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::start(home.path()).await;
        let (_, model) = bench.model().await;
        bench.core.model_info(&model).await.unwrap();
        let struck = bench.core.shared.db.write(|c| {
            Box::pin(async move { sqlx::query("UPDATE model SET lora = '{'").execute(c).await })
        });
        struck.await.unwrap();
        let error = bench.core.model_info(&model).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::Corrupt, "corrupt_state"));
        assert!(error.to_string().contains(model.as_str()), "{error}");
        bench.stop().await;
    });
}

/// Has no engine to give: at once, or only when one is asked for.
#[derive(Clone, Copy, Debug)]
struct NoEngine {
    opens: bool,
}

impl EngineSource for NoEngine {
    fn open(&self, _scope: &Scope) -> EngineFuture<'_, Box<dyn EngineConnector>> {
        let this = *self;
        Box::pin(async move {
            match this.opens {
                true => Ok(Box::new(this) as Box<dyn EngineConnector>),
                false => Err(EngineError::Unavailable("no program".into())),
            }
        })
    }
}

impl EngineConnector for NoEngine {
    fn connect(&mut self) -> EngineFuture<'_, Box<dyn Engine>> {
        Box::pin(async { Err(EngineError::Unavailable("no program".into())) })
    }
}

#[test]
fn a_core_without_an_engine_says_so_whenever_it_learns_of_it() {
    for opens in [false, true] {
        real_time(async move {
            let home = tempfile::tempdir().unwrap();
            let tiny = ModelSource { name: "tiny".into(), dir: "/models/tiny".into() };
            let config = CoreConfig::new(home.path(), Arc::new(NoEngine { opens }), vec![tiny]);
            let root = Root::new("test");
            let error = match Core::start(root.scope(), config).await {
                Ok(core) => core.wait_ready().await.unwrap_err(),
                Err(error) => error,
            };
            assert_eq!((error.kind(), error.code()), (Kind::Environment, "engine_unavailable"));
            assert!(error.to_string().contains("no program"), "{error}");
            root.stop().await;
        });
    }
}
