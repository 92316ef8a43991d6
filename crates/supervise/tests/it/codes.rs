//! What programs match on: kind and code of every error.

use snakehouse_base::{Coded, Kind};
use snakehouse_supervise::{ChildError, Exit, LaneError, ScopeFailure, TaskError};

#[test]
fn every_error_has_its_kind_and_its_code() {
    let gone = |exit| ChildError { name: "child".into(), exit };
    let lane = || "lane".to_owned();
    let failure = ScopeFailure {
        scope: "root".into(),
        member: "child".into(),
        restarts: 3,
        last: Exit::Failed("broken".into()),
    };
    let table: [(&dyn Coded, Kind, &str); 8] = [
        (&gone(Exit::Stopped), Kind::Unavailable, "child_gone"),
        (&gone(Exit::Panicked("p".into())), Kind::Internal, "child_gone"),
        (&LaneError::Saturated { lane: lane() }, Kind::Saturated, "lane_saturated"),
        (&LaneError::Closed { lane: lane() }, Kind::Unavailable, "lane_closed"),
        (
            &LaneError::Panicked { lane: lane(), payload: "p".into() },
            Kind::Internal,
            "lane_panicked",
        ),
        (&TaskError::Cancelled, Kind::Cancelled, "task_cancelled"),
        (&TaskError::Panicked("p".into()), Kind::Internal, "task_panicked"),
        (&failure, Kind::Internal, "restart_intensity"),
    ];
    for (error, kind, code) in table {
        assert_eq!((error.kind(), error.code()), (kind, code), "{error}");
    }
    assert!(failure.hint().is_some_and(|hint| hint.contains("last exit")));
}
