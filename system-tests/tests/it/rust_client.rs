//! The Rust client against the real service, which dies on the way.

use std::path::Path;

use snakehouse_base::Secret;
use snakehouse_supervise::{Root, Scope};
use snakehouse_system_tests::Up;
use snakehouse_tinker::{
    AdamParams, ClientConfig, ClientError, Datum, FinishStatus, LoraConfig, LossFn, SamplingParams,
    ServiceClient, TrainingClient,
};

const STEPS: usize = 8;
const TEXT: &str = "a service that restarts is invisible";

fn tokens() -> Vec<i32> {
    TEXT.bytes().map(i32::from).collect()
}

fn datum() -> Datum {
    let tokens = tokens();
    let targets: Vec<i64> = tokens[1..].iter().copied().map(i64::from).collect();
    let weights = vec![1.0; targets.len()];
    Datum::supervised(tokens[..targets.len()].to_vec(), targets, weights)
}

/// Both operations are under way when `between` runs.
async fn step(
    scope: &Scope,
    model: &TrainingClient,
    between: impl FnOnce(),
) -> Result<f64, ClientError> {
    let gradients = model.forward_backward(vec![datum(); 3], LossFn::CrossEntropy).await?;
    let adam = AdamParams { learning_rate: 1e-2, ..AdamParams::default() };
    let applied = model.optim_step(adam).await?;
    // Polls while the service dies.
    let polling = scope.task("polling", async move {
        let loss = gradients.await?.metrics["loss:sum"];
        applied.await?;
        Ok(loss)
    });
    between();
    polling.await.expect("the task ends by itself")
}

/// Everything that a training run comes to: losses, and what it says in the end.
type Outcome = (Vec<u64>, Vec<i32>);

/// Trains, saves, goes on from the saved state; the service is killed and started again in the
/// steps that `deaths` names.
async fn train(scope: &Scope, home: &Path, deaths: &[usize]) -> Result<Outcome, ClientError> {
    let mut up = Some(Up::start(home, 0, &[]));
    let (url, port) = up.as_ref().map(|up| (up.url.clone(), up.port)).expect("it runs");
    let config = ClientConfig::new(url, Secret::new("tml-test"));
    let service = ServiceClient::connect(scope, config).await?;
    let lora = LoraConfig { rank: 4, seed: Some(5), ..LoraConfig::default() };
    let mut model = service.create_lora_training_client("tiny", lora).await?;
    let mut losses = Vec::new();
    for number in 0..STEPS {
        if number == STEPS / 2 {
            let path = model.save_state("half").await?.await?.to_string();
            model = service.create_training_client_from_state_with_optimizer(&path).await?;
        }
        let loss = step(scope, &model, || {
            if deaths.contains(&number) {
                up.take().expect("it runs").kill();
                up = Some(Up::start(home, port, &[]));
            }
        });
        losses.push(loss.await?.to_bits());
    }
    let sampler = model.save_weights_and_get_sampling_client().await?;
    let greedy =
        SamplingParams { temperature: 0.0, max_tokens: Some(12), ..SamplingParams::default() };
    let sampled = sampler.sample(&tokens()[..9], greedy, 1).await?.await?;
    service.close(FinishStatus::Success).await?;
    Ok((losses, sampled.sequences[0].tokens.clone()))
}

#[test]
fn a_training_loop_does_not_see_the_service_die_and_ends_with_the_same_bits() {
    let (quiet, deadly) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    snakehouse_supervise::run(async {
        let root = Root::new("test");
        let undisturbed = train(root.scope(), quiet.path(), &[]).await.unwrap();
        let killed = train(root.scope(), deadly.path(), &[1, 5]).await.unwrap();
        root.stop().await;
        let first = f64::from_bits(undisturbed.0[0]);
        let last = f64::from_bits(*undisturbed.0.last().unwrap());
        assert!(last < first, "{first} -> {last}");
        assert_eq!(killed, undisturbed);
    });
}

#[test]
fn what_the_service_refuses_is_told_with_a_hint_and_blocks_nothing() {
    use snakehouse_base::{Coded, Kind};
    let home = tempfile::tempdir().unwrap();
    let up = Up::start(home.path(), 0, &[]);
    snakehouse_supervise::run(async {
        let root = Root::new("test");
        let config = ClientConfig::new(up.url.clone(), Secret::new("tml-test"));
        let service = ServiceClient::connect(root.scope(), config).await.unwrap();

        let unknown = service.create_lora_training_client("huge", LoraConfig::default()).await;
        let unknown = unknown.unwrap_err();
        assert!(unknown.to_string().contains("huge"), "{unknown}");

        let lora = LoraConfig { rank: 2, ..LoraConfig::default() };
        let model = service.create_lora_training_client("tiny", lora).await.unwrap();
        let outside = Datum::supervised(vec![1, 100_000], vec![2, 3], vec![1.0, 1.0]);
        let refused = match model.forward_backward(vec![outside], LossFn::CrossEntropy).await {
            Ok(accepted) => accepted.await.map(drop),
            Err(refused) => Err(refused),
        };
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), Kind::InvalidInput, "{refused}");
        assert!(refused.to_string().contains("100000"), "{refused}");

        // The refused operation has used its place: the next one runs.
        let next = model.forward_backward(vec![datum()], LossFn::CrossEntropy).await.unwrap();
        assert!(next.await.unwrap().metrics["loss:sum"] > 0.0);
        root.stop().await;
    });
}
