//! SIGKILL of `up` while it starts: nothing is left after 0.2 s and the next start is clean.
//!
//! A program of its own, because it measures how fast processes die.

use snakehouse_system_tests::chaos::{BOUND, Dice, ROUNDS, tools};
use snakehouse_system_tests::{Up, wait_gone};

#[test]
fn killing_up_while_it_starts_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let mut dice = Dice::new();
    for round in 0..ROUNDS {
        // Reaper, tool worker, engine: the start is in another place for each number.
        let processes = usize::try_from(1 + dice.below(3)).unwrap();
        let below = Up::kill_while_starting(home.path(), &["--tools", &tools()], processes);
        let left = wait_gone(&below, BOUND);
        assert!(left.is_empty(), "round {round}: left after {BOUND:?}: {left:?}");
    }
    let up = Up::start(home.path(), 0, &[]);
    assert_eq!(up.stop(), Some(0));
    let records = std::fs::read_dir(home.path().join("runs")).unwrap().count();
    assert_eq!(records, 0, "every dead run was looked after");
}
