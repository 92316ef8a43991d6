use proptest::prelude::*;
use snakehouse_base::id::{OpId, SamplerId};

use super::*;
use crate::core::op::OpKind;

const IDLE: Duration = Duration::from_secs(60);

fn model(name: &str) -> ModelId {
    ModelId::new(name)
}

fn session() -> SessionId {
    SessionId::new("s")
}

fn job(model_name: &str, seq: u64) -> Job {
    Job {
        op: OpId(seq),
        kind: OpKind::OptimStep,
        place: Place::Model(model(model_name), seq),
        size: 1,
    }
}

fn queue_of(models: &[&str]) -> (Queue, Instant) {
    let now = Instant::now();
    let mut queue = Queue::new(IDLE);
    queue.touch(&session(), now);
    for name in models {
        queue.open(model(name), session(), 1);
    }
    (queue, now)
}

fn drain(queue: &mut Queue) -> Vec<u64> {
    std::iter::from_fn(|| queue.pop()).map(|job| job.op.0).collect()
}

#[test]
fn arrivals_out_of_order_run_in_order() {
    let (mut queue, _) = queue_of(&["m"]);
    for seq in [2, 3] {
        assert_eq!(queue.push(job("m", seq)), Admitted::Queued);
        assert_eq!(queue.pop(), None);
    }
    assert_eq!(queue.held_back(), 2);
    queue.push(job("m", 1));
    assert_eq!(drain(&mut queue), [1, 2, 3]);
    assert_eq!(queue.next_gap(), None);
}

#[test]
fn a_used_up_number_closes_its_gap() {
    let (mut queue, _) = queue_of(&["m"]);
    queue.push(job("m", 2));
    queue.use_up(&model("m"), 1);
    assert_eq!(drain(&mut queue), [2]);
    queue.use_up(&model("m"), 4);
    queue.push(job("m", 5));
    assert_eq!(queue.pop(), None, "3 is still missing");
    queue.push(job("m", 3));
    assert_eq!(drain(&mut queue), [3, 5]);
}

#[test]
fn a_gap_closes_when_its_session_has_been_idle() {
    let (mut queue, start) = queue_of(&["m"]);
    queue.push(job("m", 3));
    queue.push(job("m", 5));
    let later = start + Duration::from_secs(30);
    queue.touch(&session(), later);
    assert_eq!(queue.next_gap(), Some(later + IDLE));
    queue.close_gaps(later + IDLE - Duration::from_nanos(1));
    assert_eq!(queue.pop(), None);
    queue.close_gaps(later + IDLE);
    assert_eq!(drain(&mut queue), [3], "each gap closes on its own");
    queue.close_gaps(later + IDLE);
    assert_eq!(drain(&mut queue), [5]);
    assert_eq!(queue.push(job("m", 4)), Admitted::PassedOver);
    assert_eq!(queue.push(job("m", 6)), Admitted::Queued);
}

#[test]
fn a_finished_session_holds_nothing_back() {
    let (mut queue, now) = queue_of(&["m"]);
    queue.push(job("m", 2));
    queue.close_gaps(now);
    assert_eq!(queue.pop(), None);
    queue.finish_session(&session());
    queue.close_gaps(now);
    assert_eq!(drain(&mut queue), [2]);
}

#[test]
fn a_gap_of_one_model_does_not_hold_back_another() {
    let (mut queue, _) = queue_of(&["a", "b"]);
    queue.push(job("a", 2));
    queue.push(job("b", 1));
    let sample = Job {
        op: OpId(9),
        kind: OpKind::Sample,
        place: Place::Sampler(SamplerId::new("x")),
        size: 1,
    };
    queue.push(sample);
    assert_eq!(drain(&mut queue), [1, 9]);
    assert!(queue.is_busy(&model("a")));
    assert!(!queue.is_busy(&model("b")));
}

proptest! {
    /// Against the naive model: sort, run while contiguous.
    #[test]
    fn any_arrival_order_gives_the_contiguous_prefix(
        order in Just((1u64..=12).collect::<Vec<_>>()).prop_shuffle(),
        missing in proptest::collection::btree_set(1u64..=12, 0..4),
    ) {
        let (mut queue, _) = queue_of(&["m"]);
        let mut ran = Vec::new();
        for seq in order.iter().filter(|seq| !missing.contains(seq)) {
            queue.push(job("m", *seq));
            ran.extend(drain(&mut queue));
        }
        let first_missing = missing.first().copied().unwrap_or(13);
        prop_assert_eq!(&ran, &(1..first_missing).collect::<Vec<_>>());
        for seq in &missing {
            queue.use_up(&model("m"), *seq);
            ran.extend(drain(&mut queue));
        }
        let rest: Vec<u64> = (1..=12).filter(|seq| !missing.contains(seq)).collect();
        prop_assert_eq!(ran, rest);
        prop_assert_eq!(queue.held_back(), 0);
    }
}
