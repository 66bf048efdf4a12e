use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_795_000_000_000 + seconds * 1_000)
}

fn rules() -> Rules {
    let counter = |sum: Option<&str>, window| Counter {
        operations: BTreeSet::from(["export".to_owned()]),
        sum: sum.map(str::to_owned),
        window,
    };
    Rules {
        labels: BTreeMap::from([("pii".to_owned(), 24 * HOUR), ("untrusted".to_owned(), HOUR)]),
        counters: BTreeMap::from([
            ("exports".to_owned(), counter(None, None)),
            ("rows".to_owned(), counter(Some("rows"), Some(24 * HOUR))),
        ]),
        running: true,
    }
}

fn token(n: u8) -> TokenId {
    TokenId::from_bytes([n; 16])
}

fn amounts(rows: i64) -> Amounts {
    rules().amounts("export", &Record::from([("rows".to_owned(), Value::Long(rows))]))
}

fn labels(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|label| (*label).to_owned()).collect()
}

/// The ledgers of a session that lasts an hour, and of its principal.
struct Both {
    session: Ledger,
    agent: Ledger,
}

impl Both {
    fn new() -> Self {
        let agent = Subject::Entity(EntityRef::new("Agent", "a").unwrap());
        let session = Subject::Session(SessionId::from_bytes([1; 16]));
        Self { session: Ledger::new(session, at(3_600)), agent: Ledger::new(agent, at(0)) }
    }

    fn reserve(&mut self, n: u8, rows: i64, now: Timestamp) {
        for ledger in [&mut self.session, &mut self.agent] {
            assert_eq!(ledger.reserve(&rules(), token(n), &amounts(rows), now.plus(HOUR / 12), now), Ok(true));
        }
    }

    fn charge(&mut self, n: Option<u8>, rows: i64, left: &[&str], now: Timestamp) {
        for ledger in [&mut self.session, &mut self.agent] {
            assert!(ledger.charge(&rules(), n.map(token), &amounts(rows), &labels(left), now).unwrap());
        }
    }

    fn standing(&self, except: Option<u8>, now: Timestamp) -> Standing {
        Standing::of(&rules(), [&self.session, &self.agent], None, except.map(token), now)
    }

    fn counts(&self, except: Option<u8>, now: Timestamp) -> (u64, u64) {
        let counters = self.standing(except, now).counters;
        (counters["exports"], counters["rows"])
    }

    /// Of the principal, in a session opened later.
    fn later(&self, clean: Option<Timestamp>, now: Timestamp) -> Standing {
        Standing::of(&rules(), [&self.agent], clean, None, now)
    }
}

#[test]
fn an_action_charges_what_its_counters_name_and_never_gives_back() {
    assert_eq!(amounts(5), Amounts::from([("exports".into(), 1), ("rows".into(), 5)]));
    assert_eq!(amounts(-5), Amounts::from([("exports".into(), 1)]));
    assert_eq!(rules().amounts("query", &Record::new()), Amounts::new());
    assert_eq!(rules().amounts("export", &Record::new()), Amounts::from([("exports".into(), 1)]));
}

#[test]
fn what_is_minted_is_reserved_and_charged_once_and_does_not_count_against_itself() {
    let mut both = Both::new();
    for n in 1..=5 {
        both.reserve(n, 10, at(0));
    }
    assert_eq!(both.counts(None, at(1)), (5, 50));
    assert_eq!(both.counts(Some(5), at(1)), (4, 40));
    both.charge(Some(5), 10, &[], at(1));
    assert_eq!(both.counts(None, at(2)), (5, 50));
}

#[test]
fn a_capability_that_nobody_redeemed_frees_what_it_reserved() {
    let mut both = Both::new();
    both.reserve(1, 10, at(0));
    assert_eq!(both.counts(None, at(299)), (1, 10));
    assert_eq!(both.counts(None, at(300)), (0, 0));
}

#[test]
fn a_charge_counts_for_its_window_in_whatever_session_and_not_much_longer() {
    let mut both = Both::new();
    both.charge(None, 10, &[], at(0));
    assert_eq!(both.later(None, at(86_399)).counters["rows"], 10);
    assert_eq!(both.later(None, at(86_400 + 86_400 / 16)).counters["rows"], 0);
    // A counter of the session is the session's.
    assert_eq!(both.later(None, at(1)).counters["exports"], 0);
    // Another bundle may count it for longer.
    assert!(!both.agent.is_over(at(30 * 86_400)));
    assert!(both.agent.is_over(at(32 * 86_400)));
}

#[test]
fn a_sum_does_not_overflow_into_a_budget() {
    let mut both = Both::new();
    for _ in 0..3 {
        let huge = Amounts::from([("rows".to_owned(), u64::MAX)]);
        assert_eq!(both.agent.charge(&rules(), None, &huge, &labels(&[]), at(0)), Ok(true));
    }
    assert_eq!(both.later(None, at(1)).counters["rows"], MAX_LONG.unsigned_abs());
}

#[test]
fn labels_colour_the_session_and_follow_its_principal_for_their_time() {
    let mut both = Both::new();
    both.charge(None, 1, &["pii", "untrusted"], at(0));
    assert_eq!(both.standing(None, at(3_599)).labels, labels(&["pii", "untrusted"]));
    assert_eq!(both.later(None, at(3_600 + 225)).labels, labels(&["pii"]));
    assert_eq!(both.later(None, at(86_399)).labels, labels(&["pii"]));
    assert_eq!(both.later(None, at(86_400 + 5_400)).labels, labels(&[]));
}

#[test]
fn a_clean_start_counts_what_was_left_since() {
    let mut both = Both::new();
    both.charge(None, 1, &["pii"], at(0));
    both.agent.start_clean(at(10), at(3_610));
    assert_eq!(both.later(Some(at(10)), at(10)).labels, labels(&[]));
    assert_eq!(both.later(None, at(10)).labels, labels(&["pii"]));
    // By another session, which is not clean.
    assert_eq!(both.agent.charge(&rules(), None, &Amounts::new(), &labels(&["pii"]), at(20)), Ok(true));
    assert_eq!(both.later(Some(at(10)), at(20)).labels, labels(&["pii"]));
}

#[test]
fn a_label_that_nobody_declared_follows_the_longest() {
    let mut both = Both::new();
    both.charge(None, 1, &["mystery"], at(0));
    assert_eq!(both.later(None, at(86_399)).labels, labels(&["mystery"]));
}

#[test]
fn a_label_that_was_just_left_is_not_written_again() {
    let mut both = Both::new();
    both.charge(None, 1, &["pii"], at(0));
    let again = |ledger: &mut Ledger, now| ledger.charge(&rules(), None, &Amounts::new(), &labels(&["pii"]), now);
    assert_eq!(again(&mut both.agent, at(5_400)), Ok(false));
    // It lasts for as long as it must from then on, all the same.
    assert_eq!(both.later(None, at(86_400 + 5_399)).labels, labels(&["pii"]));
    assert_eq!(again(&mut both.agent, at(5_401)), Ok(true));
    assert_eq!(both.later(None, at(86_400 + 5_401 + 5_399)).labels, labels(&["pii"]));
}

#[test]
fn an_action_is_unresolved_until_its_outcome_is_known() {
    let mut both = Both::new();
    assert_eq!(both.session.start(&rules(), token(1)), Ok(true));
    assert_eq!(both.agent.start(&rules(), token(1)), Ok(false));
    assert_eq!(both.standing(None, at(0)).unresolved, 1);
    assert!(both.session.finish(token(1)));
    assert!(!both.session.finish(token(1)));
    assert_eq!(both.standing(None, at(0)).unresolved, 0);
}

#[test]
fn a_ledger_has_a_bounded_size() {
    let mut both = Both::new();
    for n in 0..MAX_RESERVED {
        let id = TokenId::from_bytes(u128::try_from(n).unwrap().to_be_bytes());
        assert_eq!(both.agent.reserve(&rules(), id, &amounts(1), at(60), at(0)), Ok(true));
    }
    let more = |ledger: &mut Ledger, now| ledger.reserve(&rules(), token(255), &amounts(1), at(120), now);
    assert_eq!(more(&mut both.agent, at(59)), Err(LedgerError::Reserved));
    assert_eq!(more(&mut both.agent, at(60)), Ok(true));
    let many = (0..=MAX_LABELS).map(|n| n.to_string()).collect();
    assert_eq!(both.agent.charge(&rules(), None, &Amounts::new(), &many, at(61)), Err(LedgerError::Labels));
}

#[test]
fn the_largest_ledger_fits_into_a_row() {
    let name = |n: usize| format!("{n:0>64}");
    let operations = BTreeSet::from(["export".to_owned()]);
    let counter = Counter { operations, sum: None, window: Some(HOUR / 60) };
    let rules = Rules { counters: (0..32).map(|n| (name(n), counter.clone())).collect(), ..rules() };
    let mut ledger = Both::new().agent;
    let (all, labels) = (rules.amounts("export", &Record::new()), (0..MAX_LABELS).map(name).collect());
    for n in 0..200_u8 {
        ledger.charge(&rules, None, &all, &labels, at(i64::from(n) * 4)).unwrap();
        let _full = ledger.reserve(&rules, token(n), &all, at(10_000), at(i64::from(n) * 4));
    }
    let size = serde_json::to_vec(&ledger).unwrap().len();
    assert!(size < 64 * 1024, "{size} bytes");
}

#[test]
fn a_ledger_reads_back_as_it_was_written() {
    let mut both = Both::new();
    both.reserve(1, 10, at(0));
    both.charge(Some(2), 10, &["pii"], at(1));
    both.session.start(&rules(), token(2)).unwrap();
    for ledger in [both.session, both.agent] {
        let text = serde_json::to_string(&ledger).unwrap();
        assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
    }
}
