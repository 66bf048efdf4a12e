//! Whatever is done, in whatever order and sessions: no budget is exceeded, and nothing is sent by whoever carries a label.

use countersign_core::Clock as _;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// Rows that one may export within a day.
const BUDGET: i64 = 100;
const DAY: i64 = 86_400_000;

#[derive(Debug, Clone)]
enum Step {
    Open { who: usize },
    Export { session: usize, rows: i64, mint: bool },
    Send { session: usize, mint: bool },
    Read { session: usize },
    Redeem { token: usize },
    Wait { seconds: u64 },
    Tidy,
}

fn step() -> impl Strategy<Value = Step> {
    let session = any::<usize>();
    prop_oneof![
        1 => (0..WHO.len()).prop_map(|who| Step::Open { who }),
        6 => (session, -5..60_i64, any::<bool>()).prop_map(|(session, rows, mint)| Step::Export { session, rows, mint }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(session, mint)| Step::Send { session, mint }),
        1 => any::<usize>().prop_map(|session| Step::Read { session }),
        5 => any::<usize>().prop_map(|token| Step::Redeem { token }),
        2 => prop_oneof![1_u64..400, 3_000_u64..90_000].prop_map(|seconds| Step::Wait { seconds }),
        1 => Just(Step::Tidy),
    ]
}

/// Who acts, and whom it follows besides.
const WHO: [(&str, &[&str]); 5] = [
    ("agent:bot", &[]),
    ("agent:aide", &[]),
    ("olivia", &["agent:bot"]),
    ("olivia", &["agent:aide"]),
    ("dana", &["agent:aide", "agent:bot"]),
];

fn followed((who, via): (&str, &[&str])) -> Vec<String> {
    std::iter::once(who).chain(via.iter().copied()).map(str::to_owned).collect()
}

/// What happened: when, whom it follows, and how many rows left.
#[derive(Default)]
struct Done {
    exported: Vec<(i64, Vec<String>, i64)>,
    read: Vec<(i64, Vec<String>)>,
}

impl Done {
    fn export(&mut self, at: i64, who: (&str, &[&str]), rows: i64) {
        let whom = followed(who);
        self.exported.push((at, whom.clone(), rows.max(0)));
        for one in &whom {
            let within = self.exported.iter().filter(|(then, whom, _)| whom.contains(one) && at - then < DAY);
            let sum: i64 = within.map(|(.., rows)| rows).sum();
            assert!(sum <= BUDGET, "{one} exported {sum} rows within a day");
        }
    }

    fn send(&self, at: i64, who: (&str, &[&str])) {
        let whom = followed(who);
        let carried = |(then, by): &(i64, Vec<String>)| at - then < 30 * DAY && by.iter().any(|one| whom.contains(one));
        assert!(!self.read.iter().any(carried), "{whom:?} sent something, and carried a label");
    }
}

type Minted = (Decision, usize, Option<i64>);

async fn play(steps: Vec<Step>) {
    let world = world().await;
    let mut done = Done::default();
    let mut sessions: Vec<(SessionId, usize)> = vec![(world.session, 0)];
    let mut tokens: Vec<Minted> = Vec::new();
    for step in steps {
        let now = world.clock.wall().millis();
        match step {
            Step::Open { who } => sessions.push((world.opens(WHO[who]).await, who)),
            Step::Export { session, rows, mint } => {
                let (session, who) = sessions[session % sessions.len()];
                let Ok(decision) = world.tries(WHO[who], session, &export(rows), mint).await else { continue };
                if allowed(&decision) && !mint {
                    done.export(now, WHO[who], rows);
                } else if allowed(&decision) {
                    tokens.push((decision, who, Some(rows)));
                }
            }
            Step::Send { session, mint } => {
                let (session, who) = sessions[session % sessions.len()];
                let Ok(decision) = world.tries(WHO[who], session, &operation("send", "docs"), mint).await else {
                    continue;
                };
                if allowed(&decision) && !mint {
                    done.send(now, WHO[who]);
                } else if allowed(&decision) {
                    tokens.push((decision, who, None));
                }
            }
            Step::Read { session } => {
                let (session, who) = sessions[session % sessions.len()];
                if world.tries(WHO[who], session, &operation("query", "people"), false).await.is_ok() {
                    done.read.push((now, followed(WHO[who])));
                }
            }
            Step::Redeem { .. } if tokens.is_empty() => {}
            Step::Redeem { token } => {
                let (decision, who, rows) = tokens[token % tokens.len()].clone();
                let operation = rows.map_or_else(|| operation("send", "docs"), export);
                let redeem = Redeem { operation, ..world.redeem(&decision) };
                if world.engine.redeem(&call_via(WHO[who].0, WHO[who].1, "Redeem"), &redeem).await.is_ok() {
                    match rows {
                        Some(rows) => done.export(now, WHO[who], rows),
                        None => done.send(now, WHO[who]),
                    }
                }
            }
            Step::Wait { seconds } => world.clock.advance(Duration::from_secs(seconds)),
            Step::Tidy => drop(world.engine.tidy().await.unwrap()),
        }
    }
}

fn export(rows: i64) -> Operation {
    let input = [("rows".to_owned(), countersign_core::Value::Long(rows))].into();
    Operation { input, ..operation("bulk", "docs") }
}

#[test]
fn no_chain_of_actions_exceeds_a_budget_or_sends_what_was_read() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut runner = TestRunner::new(Config { cases: 96, failure_persistence: None, ..Config::default() });
    let steps = proptest::collection::vec(step(), 1..60);
    let played = runner.run(&steps, |steps| {
        runtime.block_on(play(steps));
        Ok(())
    });
    played.unwrap_or_else(|failure| panic!("{failure}"));
}
