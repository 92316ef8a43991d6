//! Equal bits: whatever the threads, the cut of the data, the neighbours, the restarts.

use crate::common::*;
use snakehouse_engine::{Engine, EngineConfig, bench_config, make_random};
use snakehouse_engine_api::{LoadModel, Restore, Save, SaveKind, Snapshot, Unload};

#[test]
fn one_thread_and_two_give_the_same_bytes() {
    let home = Home::new();
    let (mut one, mut two, mut five) = (home.trainer(1), home.trainer(2), home.trainer(5));
    let losses = train(&mut one, "m", 0..4);
    assert_eq!(train(&mut two, "m", 0..4), losses);
    assert_eq!(train(&mut five, "m", 0..4), losses);
    let bytes = digest(&mut one, "m");
    assert_eq!(digest(&mut two, "m"), bytes);
    assert_eq!(digest(&mut five, "m"), bytes);
}

/// The shape that speeds are stated for.
#[test]
fn the_525_thousand_weight_shape_is_repeatable() {
    let home = Home::new();
    let dir = home.path("bench");
    make_random(&dir, &bench_config(), 2).unwrap();
    let run = |threads| {
        let mut engine = Engine::new(EngineConfig { threads, fault: None });
        assert_eq!(load(&mut engine, "tiny", &dir).unwrap().parameters, 525_056);
        create(&mut engine, "m", LORA).unwrap();
        for step in 0..2 {
            let data = (0..8).map(|i| datum(128, step * 8 + i)).collect();
            forward_backward(&mut engine, "m", data);
            optimize(&mut engine, "m");
        }
        digest(&mut engine, "m")
    };
    assert_eq!(run(1), run(2));
}

#[test]
fn how_a_batch_is_cut_does_not_matter() {
    let home = Home::new();
    let data: Vec<_> = (0..21).map(|i| datum(10 + i, i)).collect();
    let mut whole = home.trainer(2);
    let all = forward_backward(&mut whole, "m", data.clone());
    let mut parts = home.trainer(2);
    let mut outputs = Vec::new();
    for part in data.chunks(4) {
        outputs.extend(forward_backward(&mut parts, "m", part.to_vec()).outputs);
    }
    assert_eq!(outputs, all.outputs);
    assert_eq!(digest(&mut whole, "m"), digest(&mut parts, "m"));
}

#[test]
fn a_datum_does_not_see_its_batch_mates() {
    let home = Home::new();
    let mut engine = home.trainer(2);
    let alone = forward_backward(&mut engine, "m", vec![datum(40, 3)]);
    let among = forward_backward(&mut engine, "m", vec![datum(90, 1), datum(40, 3), datum(2, 2)]);
    assert_eq!(alone.outputs[0], among.outputs[1]);
}

#[test]
fn models_over_one_base_do_not_see_each_other() {
    let home = Home::new();
    let mut alone = home.trainer(2);
    train(&mut alone, "m", 0..3);
    let mut engine = home.trainer(2);
    create(&mut engine, "n", LORA).unwrap();
    for step in 0..3 {
        train(&mut engine, "n", 50 + step..51 + step);
        train(&mut engine, "m", step..step + 1);
    }
    assert_eq!(digest(&mut alone, "m"), digest(&mut engine, "m"));
    assert_ne!(digest(&mut engine, "n"), digest(&mut engine, "m"));
}

#[test]
fn a_snapshot_goes_on_as_if_nothing_had_happened() {
    let home = Home::new();
    let mut engine = home.trainer(2);
    train(&mut engine, "m", 0..2);
    // In the middle of a step: a gradient is waiting.
    forward_backward(&mut engine, "m", vec![datum(30, 9)]);
    let snapshot = Snapshot { model: model("m"), dir: text(&home.path("snap")) };
    let saved = engine.snapshot(&snapshot).unwrap();
    let before = digest(&mut engine, "m");
    optimize(&mut engine, "m");
    train(&mut engine, "m", 2..4);

    let mut other = home.engine(1);
    let ask = Restore { model: model("m"), base: "tiny".to_owned(), dir: text(&home.path("snap")) };
    assert_eq!(other.restore(&ask).unwrap().step, 2);
    assert_eq!(digest(&mut other, "m"), before);
    // Writing it again changes nothing and says the same.
    assert_eq!(other.snapshot(&snapshot).unwrap(), saved);
    optimize(&mut other, "m");
    train(&mut other, "m", 2..4);
    assert_eq!(digest(&mut other, "m"), digest(&mut engine, "m"));
}

#[test]
fn a_checkpoint_with_optimizer_trains_on_and_without_starts_anew() {
    let home = Home::new();
    let mut engine = home.trainer(2);
    train(&mut engine, "m", 0..2);
    let dir = text(&home.path("save"));
    let save = Save { model: model("m"), dir: dir.clone(), what: SaveKind::Training };
    let saved = engine.save(&save).unwrap();
    assert!(saved.bytes > 0);
    let at_save = digest(&mut engine, "m");

    let mut other = home.engine(2);
    let mut ask =
        LoadModel { model: model("m"), base: "tiny".to_owned(), dir: dir.clone(), optimizer: true };
    assert_eq!(other.load_model(&ask).unwrap().lora, LORA);
    assert_eq!(digest(&mut other, "m"), at_save);
    train(&mut other, "m", 2..4);
    train(&mut engine, "m", 2..4);
    assert_eq!(digest(&mut other, "m"), digest(&mut engine, "m"));

    ask.optimizer = false;
    other.load_model(&ask).unwrap();
    let anew = digest(&mut other, "m");
    assert_eq!(anew.adapter, at_save.adapter);
    assert_eq!(anew.step, 0);
    assert_ne!(anew.moments, at_save.moments);
    // The directory was complete: a second save leaves it alone, whatever the model is by now.
    assert_eq!(engine.save(&save).unwrap(), saved);
}

#[test]
fn the_seed_decides_the_start() {
    let home = Home::new();
    let mut engine = home.trainer(1);
    create(&mut engine, "same", LORA).unwrap();
    create(&mut engine, "other", snakehouse_engine_api::LoraSpec { seed: 12, ..LORA }).unwrap();
    let start = digest(&mut engine, "m");
    assert_eq!(digest(&mut engine, "same"), start);
    assert_ne!(digest(&mut engine, "other").adapter, start.adapter);
    engine.unload(&Unload { model: model("m") });
    engine.unload(&Unload { model: model("m") });
    assert!(engine.digest(&snakehouse_engine_api::Digest { model: model("m") }).is_err());
}

#[test]
fn training_lowers_the_loss() {
    let home = Home::new();
    let mut engine = home.trainer(2);
    let data: Vec<_> = (0..4).map(|i| datum(48, i)).collect();
    let adam = snakehouse_engine_api::Adam { learning_rate: 5e-3, ..ADAM };
    let mut losses = Vec::new();
    for _ in 0..40 {
        losses.push(forward_backward(&mut engine, "m", data.clone()).loss_sum);
        let ask = snakehouse_engine_api::Optimize { model: model("m"), adam };
        let step = engine.optimize(&ask).unwrap();
        assert!(step.grad_norm > 0.0);
    }
    assert!(losses[39] < 0.5 * losses[0], "{} to {}", losses[0], losses[39]);
}
