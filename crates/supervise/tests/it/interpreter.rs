//! Whole lives of groups, compared with an interpreter of the rules as they read.

use std::time::Duration;

use proptest::prelude::{Just, ProptestConfig, Strategy as _, any, prop, prop_oneof, proptest};
use snakehouse_base::{Backoff, Jitter};
use snakehouse_supervise::{ChildSpec, GroupSpec, Restart, Root, Strategy};
use snakehouse_testkit::virtual_time;
use tokio::sync::broadcast;
use tokio::time::sleep;

use crate::journal::Journal;

const SECOND: Duration = Duration::from_secs(1);
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// An exit that somebody is told to make: who, and whether it is a failure.
type Exit = (usize, bool);

/// What a group does, one rule after the other, without time.
struct Interpreter {
    strategy: Strategy,
    policies: [Restart; 4],
    running: [bool; 4],
    lines: Vec<String>,
}

impl Interpreter {
    fn new(strategy: Strategy, policies: [Restart; 4]) -> Self {
        let mut new = Self { strategy, policies, running: [false; 4], lines: Vec::new() };
        (0..4).for_each(|who| new.start(who));
        new
    }

    fn start(&mut self, who: usize) {
        self.running[who] = true;
        self.lines.extend([format!("+{}", NAMES[who]), format!("^{}", NAMES[who])]);
    }

    fn exit(&mut self, (who, failure): Exit) {
        if !self.running[who] {
            return;
        }
        self.lines.push(format!("{}{}", if failure { "!" } else { "." }, NAMES[who]));
        let again = match self.policies[who] {
            Restart::Permanent => true,
            Restart::Transient => failure,
            Restart::Temporary => false,
        };
        if !again {
            self.running[who] = false;
            return;
        }
        let concerned = match self.strategy {
            Strategy::OneForOne => who..who + 1,
            Strategy::OneForAll => 0..4,
            Strategy::RestForOne => who..4,
        };
        let concerned: Vec<_> = concerned.filter(|n| self.running[*n]).collect();
        for n in concerned.iter().rev().filter(|n| **n != who) {
            self.lines.push(format!("-{}", NAMES[*n]));
        }
        concerned.into_iter().for_each(|n| self.start(n));
    }

    fn stop(mut self) -> Vec<String> {
        let running = (0..4).rev().filter(|n| self.running[*n]);
        self.lines.extend(running.map(|n| format!("-{}", NAMES[n])));
        self.lines
    }
}

/// A member that is ready a second after its start and exits when it is told.
fn member(own: usize, journal: &Journal, exits: &broadcast::Sender<Exit>) -> ChildSpec {
    let (journal, exits, name) = (journal.clone(), exits.clone(), NAMES[own]);
    ChildSpec::new(name, move |ctx| {
        let (journal, mut exits) = (journal.clone(), exits.subscribe());
        async move {
            journal.note(format!("+{name}"));
            sleep(SECOND).await;
            journal.note(format!("^{name}"));
            ctx.ready();
            let told = async {
                loop {
                    match exits.recv().await.unwrap() {
                        (who, failure) if who == own => return failure,
                        _ => {}
                    }
                }
            };
            match ctx.cancelled().run_until_cancelled(told).await {
                Some(true) => {
                    journal.note(format!("!{name}"));
                    Err("broken".into())
                }
                told => {
                    journal.note(format!("{}{name}", if told.is_some() { "." } else { "-" }));
                    Ok(())
                }
            }
        }
    })
    .backoff(Backoff::new(SECOND, SECOND, Jitter::None).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Strategy, restart policies and exits are any; what happens, in which order, is what the
    /// interpreter says.
    #[test]
    fn a_group_lives_as_the_interpreter_says(
        strategy in prop_oneof![
            Just(Strategy::OneForOne), Just(Strategy::OneForAll), Just(Strategy::RestForOne),
        ],
        policies in prop::array::uniform4(prop_oneof![
            3 => Just(Restart::Permanent),
            2 => Just(Restart::Transient),
            1 => Just(Restart::Temporary),
        ]),
        exits in prop::collection::vec((0usize..4, any::<bool>()).boxed(), 0..15),
    ) {
        let mut rules = Interpreter::new(strategy, policies);
        exits.iter().for_each(|exit| rules.exit(*exit));
        let expected = rules.stop();
        let lived = virtual_time(async {
            let (root, journal) = (Root::new("root"), Journal::new());
            let (tell, _keep) = broadcast::channel(8);
            let spec = GroupSpec::new("group", strategy).intensity(1000, SECOND);
            let spec = (0..4).fold(spec, |spec, n| {
                spec.child(member(n, &journal, &tell).restart(policies[n]))
            });
            let _group = root.scope().group(spec);
            sleep(60 * SECOND).await;
            for exit in exits {
                tell.send(exit).unwrap();
                sleep(60 * SECOND).await;
            }
            assert!(root.stop().await.is_clean());
            journal.lines()
        });
        assert_eq!(lived, expected, "{strategy:?} {policies:?}");
    }
}
