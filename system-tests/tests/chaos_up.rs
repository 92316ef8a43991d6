//! SIGKILL of `up` under load: nothing is left after 0.2 s and the next start is clean.
//!
//! A program of its own, because it measures how fast processes die.

use snakehouse_system_tests::chaos::{BOUND, Dice, ROUNDS, load, tools};
use snakehouse_system_tests::{Up, descendants, get, wait_gone, wait_no_survivors};

#[test]
fn killing_up_leaves_nothing_and_the_next_start_is_clean() {
    let home = tempfile::tempdir().unwrap();
    let mut dice = Dice::new();
    for round in 0..ROUNDS {
        let up = Up::start(home.path(), 0, &["--tools", &tools()]);
        let (escaped, _flying) = load(&up, &mut dice);
        let mut below = descendants(up.pid());
        below.push(escaped);
        let token = up.run_token.clone();
        up.kill();
        let left = wait_gone(&below, BOUND);
        assert!(left.is_empty(), "round {round}: left after {BOUND:?}: {left:?}");
        let left = wait_no_survivors(&token, BOUND);
        assert!(left.is_empty(), "round {round}: by token: {left:?}");
    }
    let up = Up::start(home.path(), 0, &[]);
    assert_eq!(get(up.port, "/api/v1/healthz").unwrap().status, 200);
    assert_eq!(up.stop(), Some(0));
}
