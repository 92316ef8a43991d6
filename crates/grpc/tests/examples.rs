//! The examples that the guide points at do what they say.

#[path = "../examples/front_door.rs"]
mod front_door;
#[path = "../examples/remote_workers.rs"]
mod remote_workers;

#[test]
fn a_pool_is_called_over_grpc() {
    front_door::main().unwrap();
}

#[test]
fn a_worker_of_another_host_serves() {
    remote_workers::main().unwrap();
}
