//! What stays of what was done: the labels that it left, and what it used up. It is written down for the session, and for
//! everybody who acted in it: the principal, the operator, and the links between them. So it is there in the next session too,
//! and with whoever hands work to a sub-agent.
//!
//! Nothing here decides. What a ledger says reaches policies as `context.session`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::entity::EntityRef;
use crate::id::{SessionId, TokenId};
use crate::time::Timestamp;
use crate::value::{MAX_LONG, Record, Value};

mod used;

use used::Used;

/// The most labels on one ledger.
pub const MAX_LABELS: usize = 64;
/// The most capabilities that charge a counter and wait to be redeemed, for one principal or operator. Fewer, where each charges
/// several counters: together they take at most [`MAX_RESERVED_BYTES`].
pub const MAX_RESERVED: usize = 128;
/// What reservations take at most, so that a ledger always fits into a row (64 KiB), with all its labels and charges.
pub const MAX_RESERVED_BYTES: usize = 20 * 1024;
/// The most actions of one session whose outcome is yet to come.
pub const MAX_RUNNING: usize = 256;

/// The longest window of a counter. A charge is kept for as long, since another bundle may count it for longer.
pub const LONGEST_WINDOW: Duration = Duration::from_secs(31 * 86_400);

fn size(amounts: &Amounts) -> usize {
    // As JSON: an id, a time, and for each counter its name and a number.
    amounts.keys().map(|name| name.len().saturating_add(24)).fold(96, usize::saturating_add)
}

/// Which labels and counters a bundle keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// How long each label follows whoever took it on, after the last action that left it.
    pub labels: BTreeMap<String, Duration>,
    /// What is counted.
    pub counters: BTreeMap<String, Counter>,
    /// Whether it is kept which actions of a session run.
    pub running: bool,
}

/// One counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// The operations that charge it.
    pub operations: BTreeSet<String>,
    /// The input field whose value is charged; without one, each action is charged as one.
    pub sum: Option<String>,
    /// For how long a charge counts, whatever session it was made in. Without, it counts for its session alone.
    pub window: Option<Duration>,
}

/// What one action charges, by counter.
pub type Amounts = BTreeMap<String, u64>;

impl Rules {
    /// Whether there is nothing to keep.
    #[must_use]
    pub fn are_empty(&self) -> bool {
        self.labels.is_empty() && self.counters.is_empty() && !self.running
    }

    /// What an action charges. A negative value charges nothing: nobody earns a budget back.
    #[must_use]
    pub fn amounts(&self, operation: &str, input: &Record) -> Amounts {
        let charged = self.counters.iter().filter(|(_, counter)| counter.operations.contains(operation));
        let amount = |counter: &Counter| match counter.sum.as_ref().map(|field| input.get(field)) {
            None => 1,
            Some(Some(Value::Long(value))) => u64::try_from(*value).unwrap_or(0),
            Some(_absent) => 0,
        };
        charged.map(|(name, counter)| (name.clone(), amount(counter))).filter(|(_, amount)| *amount > 0).collect()
    }

    /// How long a label follows. One that the bundle does not know follows as long as any: it says that something is sensitive,
    /// and not how much.
    fn follows(&self, label: &str) -> Duration {
        let longest = || self.labels.values().max().copied().unwrap_or_default();
        self.labels.get(label).copied().unwrap_or_else(longest)
    }
}

/// Whose ledger it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A session's.
    Session(SessionId),
    /// A principal's, an operator's, or a link's.
    Entity(EntityRef),
}

impl Subject {
    /// In one value: rows are found by it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        match self {
            Self::Session(id) => Digest::of_parts(&[b"session", id.as_bytes()]),
            Self::Entity(entity) => Digest::of_parts(&[b"entity", entity.kind().as_bytes(), entity.id().as_bytes()]),
        }
    }
}

/// Why nothing more can be written into a ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Too many labels.
    #[error(
        "the principal or its operator has as many labels as one can have ({MAX_LABELS}); wait until some have followed long enough"
    )]
    Labels,
    /// Too many capabilities wait.
    #[error(
        "as many capabilities of the principal or its operator charge a counter and wait as can be kept; redeem or revoke some, or \
         wait until they expire"
    )]
    Reserved,
    /// Too many actions run.
    #[error("as many actions of the session as can run at once ({MAX_RUNNING}); complete some first")]
    Running,
}

/// The labels and charges of one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// Whose.
    pub subject: Subject,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    labels: BTreeMap<String, Label>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    used: BTreeMap<String, Used>,
    /// What capabilities will charge that were minted and not redeemed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    reserved: BTreeMap<TokenId, Reserved>,
    /// What was redeemed and whose outcome is yet to come.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", default)]
    running: BTreeSet<TokenId>,
    /// When a session was last opened that counts only the labels left since.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    clean_since: Option<Timestamp>,
    /// From when on it says nothing any more.
    over_at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Label {
    /// The last action that left it.
    last: Timestamp,
    until: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reserved {
    until: Timestamp,
    amounts: Amounts,
}

impl Ledger {
    /// An empty one. A session's says nothing any more when the session is over: `over_at`.
    #[must_use]
    pub const fn new(subject: Subject, over_at: Timestamp) -> Self {
        Self {
            subject,
            labels: BTreeMap::new(),
            used: BTreeMap::new(),
            reserved: BTreeMap::new(),
            running: BTreeSet::new(),
            clean_since: None,
            over_at,
        }
    }

    /// A session is opened that counts only the labels left from now on. Its own time is over at `until`.
    pub fn start_clean(&mut self, now: Timestamp, until: Timestamp) {
        self.clean_since = Some(now);
        self.lasts_until(until);
    }

    /// Whether it says nothing any more.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        now.reached(self.over_at)
    }

    /// Whether it is a session's, and counts for that alone.
    const fn is_session(&self) -> bool {
        matches!(self.subject, Subject::Session(_))
    }

    /// The counters that are kept here: a session's own, or those that follow whoever acted.
    fn own<'a>(&self, rules: &'a Rules) -> impl Iterator<Item = (&'a String, &'a Counter)> + use<'a> {
        let session = self.is_session();
        rules.counters.iter().filter(move |(_, counter)| counter.window.is_none() == session)
    }

    fn own_amounts(&self, rules: &Rules, amounts: &Amounts) -> Amounts {
        let own = self.own(rules).filter_map(|(name, _)| Some((name.clone(), *amounts.get(name)?)));
        own.collect()
    }

    /// How much of a counter is used up and reserved, but for what `except` has reserved.
    fn count(&self, name: &str, counter: &Counter, except: Option<TokenId>, now: Timestamp) -> u64 {
        let used = self.used.get(name).map_or(0, |used| used.within(counter.window, now));
        let waiting =
            self.reserved.iter().filter(|(id, reserved)| Some(**id) != except && !now.reached(reserved.until));
        let reserved = waiting.filter_map(|(_, reserved)| reserved.amounts.get(name));
        reserved.fold(used, |sum, amount| sum.saturating_add(*amount))
    }

    /// Forgets what says nothing any more, so that a ledger that is written has a bounded size.
    fn tidy(&mut self, now: Timestamp) {
        self.labels.retain(|_, label| !now.reached(label.until));
        self.reserved.retain(|_, reserved| !now.reached(reserved.until));
        // What another bundle counts, this one must not forget for it.
        let session = self.is_session();
        self.used.retain(|_, used| used.tidy((!session).then_some(LONGEST_WINDOW), now));
    }

    fn lasts_until(&mut self, until: Timestamp) {
        if !self.is_session() {
            self.over_at = self.over_at.max(until);
        }
    }

    /// Reserves what a capability will charge. Answers whether that is anything.
    ///
    /// # Errors
    /// [`LedgerError::Reserved`].
    pub fn reserve(
        &mut self,
        rules: &Rules,
        token: TokenId,
        amounts: &Amounts,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool, LedgerError> {
        let amounts = self.own_amounts(rules, amounts);
        if amounts.is_empty() {
            return Ok(false);
        }
        self.tidy(now);
        let taken =
            self.reserved.values().map(|reserved| size(&reserved.amounts)).fold(size(&amounts), usize::saturating_add);
        if self.reserved.len() >= MAX_RESERVED || taken > MAX_RESERVED_BYTES {
            return Err(LedgerError::Reserved);
        }
        self.reserved.insert(token, Reserved { until, amounts });
        self.lasts_until(until);
        Ok(true)
    }

    /// A capability will never be redeemed. Answers whether it had reserved anything.
    pub fn release(&mut self, token: TokenId) -> bool {
        self.reserved.remove(&token).is_some()
    }

    /// An action happens: what it charges is charged, once, and what it reserved is free; it leaves its labels. Answers whether
    /// anything changed.
    ///
    /// # Errors
    /// [`LedgerError::Labels`].
    pub fn charge(
        &mut self,
        rules: &Rules,
        token: Option<TokenId>,
        amounts: &Amounts,
        labels: &BTreeSet<String>,
        now: Timestamp,
    ) -> Result<bool, LedgerError> {
        self.tidy(now);
        let freed = token.is_some_and(|token| self.reserved.remove(&token).is_some());
        let amounts = self.own_amounts(rules, amounts);
        for (name, counter) in self.own(rules) {
            if let Some(amount) = amounts.get(name) {
                let counts_until = self.used.entry(name.clone()).or_default().add(*amount, counter.window, now);
                self.lasts_until(counts_until.max(now.plus(LONGEST_WINDOW)));
            }
        }
        let mut labelled = false;
        for label in labels {
            let follows = rules.follows(label);
            // At least that long. What more it is lets a label that is left again and again be written now and then.
            let (least, until) = if self.is_session() {
                (self.over_at, self.over_at)
            } else {
                (now.plus(follows), now.plus(follows.saturating_add(follows / 16)))
            };
            if now.reached(until) {
                continue;
            }
            let known = self.labels.get(label).copied();
            if known.is_none_or(|known| self.is_stale(known, least)) {
                self.labels.insert(label.clone(), Label { last: now, until });
                self.lasts_until(until);
                labelled = true;
            }
        }
        if self.labels.len() > MAX_LABELS {
            return Err(LedgerError::Labels);
        }
        Ok(freed || !amounts.is_empty() || labelled)
    }

    /// An action of the session runs. Answers whether that is kept here.
    ///
    /// # Errors
    /// [`LedgerError::Running`].
    pub fn start(&mut self, rules: &Rules, token: TokenId) -> Result<bool, LedgerError> {
        if !rules.running || !self.is_session() {
            return Ok(false);
        }
        if self.running.len() >= MAX_RUNNING {
            return Err(LedgerError::Running);
        }
        Ok(self.running.insert(token))
    }

    /// Whether a label is to be written again that is there already. A ledger that is written with every action is one that all
    /// of them wait for: it is when it would not last for as long as it must from now on, or somebody counts only what was left since it was.
    fn is_stale(&self, known: Label, least: Timestamp) -> bool {
        known.until < least || self.clean_since.is_some_and(|clean| known.last < clean)
    }

    /// Its outcome is known. Answers whether it was kept here that it ran.
    pub fn finish(&mut self, token: TokenId) -> bool {
        self.running.remove(&token)
    }
}

/// What policies see of the ledgers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// The labels of the session, and those that followed whoever acts in it.
    pub labels: BTreeSet<String>,
    /// Each counter: the most of what the session, its principal, its operator and the links between them have used up and
    /// reserved. At most [`MAX_LONG`].
    pub counters: BTreeMap<String, u64>,
    /// How many actions of the session were redeemed and not completed.
    pub unresolved: u64,
}

/// That of a session of which nothing is kept.
pub static NOTHING: Standing = Standing { labels: BTreeSet::new(), counters: BTreeMap::new(), unresolved: 0 };

impl Standing {
    /// What ledgers say together: the session's, and those of everybody in it. In a session that was started `clean`, labels
    /// count that were left since. `except` is the capability whose own reservation does not count.
    #[must_use]
    pub fn of<'a>(
        rules: &Rules,
        ledgers: impl IntoIterator<Item = &'a Ledger>,
        clean: Option<Timestamp>,
        except: Option<TokenId>,
        now: Timestamp,
    ) -> Self {
        let mut standing =
            Self { counters: rules.counters.keys().map(|name| (name.clone(), 0)).collect(), ..Self::default() };
        for ledger in ledgers {
            let counts = |label: &Label| {
                !now.reached(label.until) && (ledger.is_session() || clean.is_none_or(|clean| label.last >= clean))
            };
            standing
                .labels
                .extend(ledger.labels.iter().filter(|(_, label)| counts(label)).map(|(name, _)| name.clone()));
            for (name, counter) in ledger.own(rules) {
                let count = ledger.count(name, counter, except, now).min(MAX_LONG.unsigned_abs());
                let most = standing.counters.entry(name.clone()).or_default();
                *most = count.max(*most);
            }
            if ledger.is_session() && rules.running {
                standing.unresolved = u64::try_from(ledger.running.len()).unwrap_or(u64::MAX);
            }
        }
        standing
    }
}

#[cfg(test)]
mod tests;
