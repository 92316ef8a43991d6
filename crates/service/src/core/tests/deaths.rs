//! The engine dies; nobody notices.

use snakehouse_testkit::real_time;

use super::bench::{Bench, assert_same, create, forward_backward, optim_step, play, script};
use super::fake_engine::World;
use crate::core::{Category, NewSession, Outcome};

/// Compares everything about two runs that does not name its session.
fn without_session(ends: &[Outcome], session: &str) -> String {
    format!("{ends:?}").replace(session, "SESSION")
}

#[test]
fn a_death_at_any_call_changes_no_result_and_no_state() {
    let undisturbed = real_time(run_with_deaths(&[]));
    // Every call of the run is hit once, before and after it took effect.
    for call in (1..undisturbed.2).step_by(3) {
        for after in [false, true] {
            let disturbed = real_time(run_with_deaths(&[(call, after)]));
            let what = format!("death at call {call}, after effect: {after}");
            assert_same(&what, &disturbed.0, &undisturbed.0);
            assert_same(&what, &disturbed.1, &undisturbed.1);
        }
    }
    // Far enough apart that no operation is hit twice.
    let many: Vec<_> = (0..3).map(|n| (4 + n * 19, n % 2 == 0)).collect();
    let disturbed = real_time(run_with_deaths(&many));
    assert_same("many deaths", &disturbed.0, &undisturbed.0);
    assert_same("many deaths", &disturbed.1, &undisturbed.1);
}

async fn run_with_deaths(deaths: &[(u64, bool)]) -> (String, String, u64) {
    let home = tempfile::tempdir().unwrap();
    let world = World::new();
    world.rules().deaths.extend(deaths.iter().copied());
    let bench =
        Bench::with(home.path(), world.clone(), |config| config.limits.snapshot_ops = 7).await;
    let (session, model) = bench.model().await;
    let ends = play(&bench, script(&model)).await;
    let digest = bench.digest(&model).await;
    let status = bench.core.status();
    assert_eq!(status.engine_deaths, deaths.len() as u64);
    bench.stop().await;
    let calls = world.rules().calls;
    (without_session(&ends, session.as_str()), format!("{digest:?}"), calls)
}

#[test]
fn an_operation_that_kills_two_engines_is_given_up() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let world = World::new();
        let bench = Bench::with(home.path(), world.clone(), |_| ()).await;
        let (_, model) = bench.model().await;
        bench.run(forward_backward(&model, 1, 1)).await;
        let before = bench.digest(&model).await;
        use snakehouse_engine_api::Request as _;
        let poison = snakehouse_engine_api::ForwardBackward {
            model: model.clone(),
            data: vec![super::bench::datum(66)],
            loss: snakehouse_engine_api::Loss::CrossEntropy,
            forward_only: false,
        };
        world.rules().poison = Some(poison.encode().unwrap());
        let end = bench.run(forward_backward(&model, 2, 66)).await;
        assert!(
            matches!(&end, Outcome::Failed { category: Category::Server, error } if error.contains("twice")),
            "{end:?}"
        );
        assert_eq!(bench.digest(&model).await, before);
        assert!(matches!(bench.run(optim_step(&model, 3)).await, Outcome::Done(_)));
        assert_eq!(bench.core.status().engine_deaths, 2);
        bench.stop().await;
    });
}

#[test]
fn a_replay_with_another_result_stops_the_model_and_only_that() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let world = World::new();
        let bench = Bench::with(home.path(), world.clone(), |_| ()).await;
        let (session, model) = bench.model().await;
        bench.run(forward_backward(&model, 1, 1)).await;
        {
            let mut rules = world.rules();
            rules.salt = 1;
            let next = rules.calls + 1;
            rules.deaths.insert(next, false);
        }
        let end = bench.run(optim_step(&model, 2)).await;
        let Outcome::Failed { error, category } = end else { panic!("{end:?}") };
        assert_eq!(category, Category::Server);
        assert!(error.contains("replay_diverged"), "{error}");
        let promise = bench.core.submit(create(&session, 1)).await.unwrap();
        bench.done(&promise).await;
        let other = promise.model_id.unwrap();
        assert!(matches!(bench.run(optim_step(&other, 1)).await, Outcome::Done(_)));
        bench.stop().await;
        // It is still stopped after a restart.
        let bench = Bench::with(home.path(), world, |_| ()).await;
        let end = bench.run(optim_step(&model, 3)).await;
        assert!(matches!(&end, Outcome::Failed { error, .. } if error.contains("replay_diverged")));
        bench.stop().await;
    });
}

#[test]
fn an_engine_that_dies_idle_is_replaced_at_once() {
    real_time(async {
        let home = tempfile::tempdir().unwrap();
        let world = World::new();
        let bench = Bench::with(home.path(), world.clone(), |_| ()).await;
        bench.core.wait_ready().await.unwrap();
        let session = bench.core.create_session(NewSession::default()).await.unwrap();
        let promise = bench.core.submit(create(&session, 0)).await.unwrap();
        bench.done(&promise).await;
        let model = promise.model_id.unwrap();
        play(&bench, vec![forward_backward(&model, 1, 1), optim_step(&model, 2)]).await;
        let before = bench.digest(&model).await;
        let next = world.rules().calls + 1;
        world.rules().deaths.insert(next, true);
        // The digest itself is hit, and asked again.
        assert_eq!(bench.digest(&model).await, before);
        let status = bench.core.status();
        assert_eq!((status.engine_deaths, status.replayed_ops), (1, 3));
        bench.stop().await;
    });
}
