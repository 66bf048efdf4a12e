//! The model: what the service must answer, in plain Rust and without a line of the service.
//!
//! It is deliberately dull. Where it and the service differ, one of them is wrong, and it should not take long to see which.

use std::collections::{BTreeMap, BTreeSet};

use crate::pre::{Bounds, Pre};
use crate::request::{Acting, Action, Altered, Caller, Request, Sent};
use crate::world::{Deed, Party, Rule, Stance, Variant, admin};

pub const TOKEN_MILLIS: i64 = 300_000;
pub const COMPLETION_MILLIS: i64 = 900_000;
pub const REQUEST_MILLIS: i64 = 86_400_000;
/// How often one person breaks the glass, within how long.
pub const GLASS_TIMES: usize = 2;
pub const GLASS_MILLIS: i64 = 3_600_000;

#[derive(Debug, Clone)]
pub struct Session {
    pub principal: Party,
    pub operator: Option<Party>,
    pub opened_by: Party,
    pub excluded: BTreeSet<Party>,
    pub deadline: i64,
    pub ended: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Pending,
    Approved,
    Denied,
    Cancelled,
    Void,
    Redeemed,
}

#[derive(Debug, Clone)]
pub struct Vote {
    pub person: Party,
    pub approve: bool,
    pub rules: BTreeSet<Rule>,
    /// Until when the voter was an editor by the credential alone.
    pub until: Option<i64>,
}

#[derive(Debug, Clone)]
pub struct Question {
    pub action: Action,
    pub asked_by: Party,
    pub rules: Vec<(Rule, u32)>,
    pub excluded: BTreeSet<Party>,
    pub ttl: i64,
    pub expires: i64,
    pub votes: Vec<Vote>,
    pub withdrawals: Vec<Party>,
    pub written: Written,
    pub pre: Option<Pre>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Minted,
    Redeemed { by: Party, complete_by: i64 },
    Completed { by: Party, succeeded: bool },
    Revoked,
}

#[derive(Debug, Clone)]
pub struct Capability {
    pub action: Action,
    pub approval: Option<usize>,
    pub review: Option<usize>,
    pub expires: i64,
    pub used: Use,
}

/// The review of broken glass.
#[derive(Debug, Clone)]
pub struct Review {
    pub person: Party,
    pub action: Action,
    pub rules: BTreeSet<Rule>,
    pub passed_over: BTreeSet<Party>,
    pub excluded: BTreeSet<Party>,
    pub closed: bool,
}

/// When a person broke the glass of late, and which review of that is open.
#[derive(Debug, Clone, Default)]
pub struct Glass {
    pub times: Vec<i64>,
    pub open: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Session(usize),
    Deny,
    NeedsApproval(BTreeSet<(Rule, u32)>, BTreeSet<Party>),
    Allow(Option<usize>),
    Broken { capability: Option<usize>, review: usize },
    Review(usize),
    Asked { question: usize, shared: bool },
    Question(usize),
    Redeemed(usize),
    Capability(usize),
    Published { changed: bool },
    Seen(&'static str),
}

/// What a request id was answered with.
#[derive(Debug, Clone)]
struct Remembered {
    other_body: bool,
    request: Request,
    answer: Answer,
    expires: i64,
}

/// A record of the log: what happened and who called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    pub kind: &'static str,
    pub caller: Option<Party>,
    pub at: i64,
}

/// What the service must do with a call.
#[derive(Debug, Clone)]
pub struct Expected {
    pub result: Result<(Answer, bool), String>,
    /// How many writes it takes: where a fault can strike. Commits that are made at once are one.
    pub writes: u64,
}

#[derive(Debug, Clone)]
pub struct Model {
    pub now: i64,
    pub variant: Variant,
    pub sessions: Vec<Session>,
    pub questions: Vec<Question>,
    pub capabilities: Vec<Capability>,
    pub reviews: Vec<Review>,
    glass: BTreeMap<Party, Glass>,
    pub log: Vec<Recorded>,
    /// By caller, RPC and request id.
    requests: BTreeMap<(Caller, &'static str, usize), Remembered>,
    asked: BTreeMap<(Action, Option<Bounds>), usize>,
    /// By principal and operator, until when the last question counts.
    asking: BTreeMap<(Party, Option<Party>), i64>,
    /// How many commits of a bundle's archive are done, of one.
    archived: BTreeMap<Variant, u64>,
}

/// Who calls, in the terms of the bundle.
#[derive(Debug, Clone, Copy)]
struct Who {
    party: Party,
    operator: Option<Party>,
    /// Until when the credential has them among the editors, if it does.
    until: Option<i64>,
}

enum Ruling {
    Allow,
    Needs(Vec<Rule>),
    Deny,
}

type Refusable<T> = Result<T, String>;

fn refused<T>(why: &str) -> Refusable<T> {
    Err(why.to_owned())
}

impl Question {
    pub fn state(&self, now: i64) -> &'static str {
        match self.written {
            Written::Pending | Written::Approved if now >= self.expires => "expired",
            Written::Pending => "pending",
            Written::Approved => "approved",
            Written::Denied => "denied",
            Written::Cancelled => "cancelled",
            Written::Void => "void",
            Written::Redeemed => "redeemed",
        }
    }

    pub fn live(&self, now: i64) -> bool {
        matches!(self.state(now), "pending" | "approved")
    }

    fn has_voted(&self, person: Party, approve: bool, now: i64) -> bool {
        let same = |vote: &&Vote| vote.person == person && vote.approve == approve;
        self.votes.iter().any(|vote| same(&vote) && vote.until.is_none_or(|until| now < until))
    }

    /// Who counts for a rule.
    pub fn count(&self, variant: Variant, rule: Rule, excluded: &BTreeSet<Party>, now: i64) -> usize {
        let counts = |vote: &&Vote| {
            vote.approve
                && vote.rules.contains(&rule)
                && !self.excluded.contains(&vote.person)
                && !excluded.contains(&vote.person)
                && variant.answers_as(rule, vote.person, vote.until.is_some_and(|until| now < until))
        };
        self.votes.iter().filter(counts).map(|vote| vote.person).collect::<BTreeSet<_>>().len()
    }
}

impl Capability {
    pub fn state(&self, now: i64) -> &'static str {
        match self.used {
            Use::Minted if now >= self.expires => "expired",
            Use::Minted => "minted",
            Use::Redeemed { complete_by, .. } if now >= complete_by => "redeemed, outcome unknown",
            Use::Redeemed { .. } => "redeemed",
            Use::Completed { .. } => "completed",
            Use::Revoked => "revoked",
        }
    }
}

impl Model {
    /// The model of a service that was started with [`Variant::Base`] at `now`.
    pub fn new(now: i64) -> Self {
        let started = |kind| Recorded { kind, caller: None, at: now };
        Self {
            now,
            variant: Variant::Base,
            sessions: Vec::new(),
            questions: Vec::new(),
            capabilities: Vec::new(),
            reviews: Vec::new(),
            glass: BTreeMap::new(),
            log: vec![started("key"), started("bundle_activated")],
            requests: BTreeMap::new(),
            asked: BTreeMap::new(),
            asking: BTreeMap::new(),
            archived: BTreeMap::from([(Variant::Base, 1)]),
        }
    }

    pub fn session_open(&self, session: usize) -> bool {
        let session = &self.sessions[session];
        session.ended.is_none() && self.now < session.deadline
    }

    /// Answers kept for a day, what was asked an hour ago, and glass that was broken long ago, may be tidied away; how many
    /// there are.
    pub fn tidy(&mut self) -> usize {
        let before = self.requests.len();
        let now = self.now;
        self.requests.retain(|_, row| now < row.expires);
        let asking = self.asking.len();
        self.asking.retain(|_, counts_until| now < *counts_until);
        let glass = self.glass.len();
        self.glass.retain(|_, glass| glass.open.is_some() || glass.times.iter().any(|at| now < at + GLASS_MILLIS));
        before - self.requests.len() + asking - self.asking.len() + glass - self.glass.len()
    }

    /// Judges a question by what holds now; answers whether it can still lead somewhere. Otherwise it is over.
    pub fn reconsider(&mut self, number: usize) -> Refusable<bool> {
        let question = self.questions[number].clone();
        if !question.live(self.now) || !self.session_open(question.action.session) {
            return Ok(false);
        }
        let excluded = self.voting_excluded(&question);
        let asked: BTreeSet<_> = question.rules.iter().copied().collect();
        let offered = question.rules.iter().all(|(rule, _)| question.offered(self.variant, *rule));
        let good = match self.judge(question.action, None, &excluded)? {
            Ruling::Allow | Ruling::Deny => false,
            Ruling::Needs(rules) => {
                let now = rules.iter().map(|rule| (*rule, self.variant.quorum(*rule).unwrap())).collect();
                let approved = question.written == Written::Approved;
                asked == now
                    && offered
                    && (!approved || matches!(self.judge(question.action, Some(number), &excluded)?, Ruling::Allow))
            }
        };
        if !good {
            self.questions[number].written = Written::Void;
            self.record("approval_void", None);
        }
        Ok(good)
    }

    /// What must come of a call, and the model after it.
    pub fn expect(&mut self, sent: &Sent) -> Expected {
        let log_size = self.log.len();
        let (result, mut writes) = match (Self::malformed(sent), self.who(sent.caller)) {
            (Some(wrong), _) => (Err(wrong), 0),
            (None, Err(why)) => (Err(why), 0),
            (None, Ok(who)) => self.answer(who, sent),
        };
        if result.is_err() {
            let caller = self.who(sent.caller).ok().map(|who| who.party);
            self.record("refusal", caller);
        }
        if self.log.len() > log_size {
            writes += 1;
        }
        Expected { result, writes }
    }

    /// What a publish does before the bundle is active: its archive, then the live questions that must remember whom the
    /// outgoing bundle excludes, the newest first. The questions are one write, however many they are. Does the first `limit`
    /// of these writes, and returns how many.
    pub fn prepare_publish(&mut self, variant: Variant, limit: u64) -> u64 {
        let done = self.archived.entry(variant).or_default();
        let mut writes = (1 - *done).min(limit);
        *done += writes;
        if writes == limit {
            return writes;
        }
        let before = self.log.len();
        for number in (0..self.questions.len()).rev() {
            let question = &self.questions[number];
            let live = question.live(self.now) && self.session_open(question.action.session);
            let excluded = self.voting_excluded(question);
            if live && excluded.len() > question.excluded.len() {
                self.questions[number].excluded = excluded;
                self.record("approval_excluded", None);
            }
        }
        writes += u64::from(self.log.len() > before);
        writes
    }

    fn malformed(sent: &Sent) -> Option<String> {
        let needs_id = match &sent.request {
            Request::Decide { approval, mint, .. } => *mint || approval.is_some(),
            Request::View { .. } | Request::Look { .. } => false,
            _ => true,
        };
        (needs_id && sent.id.is_none()).then(|| "InvalidField request_id".to_owned())
    }

    fn who(&self, caller: Caller) -> Refusable<Who> {
        match caller {
            Caller::Is(party) => Ok(Who { party, operator: None, until: None }),
            Caller::For(party, operator) => Ok(Who { party, operator: Some(operator), until: None }),
            Caller::Member(party, minutes) => {
                Ok(Who { party, operator: None, until: Some(crate::service::START + minutes * 60_000) })
            }
            Caller::Stranger => refused("PrincipalUnknown"),
        }
    }

    fn record(&mut self, kind: &'static str, caller: Option<Party>) {
        self.log.push(Recorded { kind, caller, at: self.now });
    }

    fn answer(&mut self, who: Who, sent: &Sent) -> (Refusable<(Answer, bool)>, u64) {
        if let Some(id) = sent.id
            && let Some(row) = self.requests.get(&(sent.caller.account(), sent.request.rpc(), id))
        {
            let same = (row.other_body, row.request) == (sent.other_body, sent.request);
            return (if same { Ok((row.answer.clone(), true)) } else { refused("RequestIdReused") }, 0);
        }
        let before = self.log.len();
        let mut preparing = 0;
        let answer = match sent.request {
            Request::Open { acting, operator, seconds } => self.open(who, acting, operator, seconds),
            Request::Decide { action, acting, approval, mint } => self.decide(who, action, acting, approval, mint),
            Request::Break { action, mint } => self.break_glass(who, action, mint),
            Request::Review { review } => self.close_review(who, review),
            Request::Ask { action, acting } => self.ask(who, action, acting, None),
            Request::PreAsk { action, acting, bounds } => self.ask(who, action, acting, Some(bounds)),
            Request::Vote { question, approve, shown } => self.vote(who, question, approve, shown),
            Request::Withdraw { question } => self.withdraw(who, question),
            Request::Cancel { question } => self.cancel(who, question),
            Request::Redeem { capability, altered } => self.redeem(who, capability, altered),
            Request::Complete { capability, succeeded } => self.complete(who, capability, succeeded),
            Request::Revoke { capability } => self.revoke(who, capability),
            Request::End { session } => self.end(who, session),
            Request::Publish { variant } => self.publish(who, variant, &mut preparing),
            Request::View { question } => self.view(who, question),
            Request::Look { capability } => self.look(who, capability),
        };
        let remembered = self.log.len() > before || matches!(answer, Ok(Answer::Published { changed: false }));
        if let (Ok(answer), Some(id), true) = (&answer, sent.id, remembered) {
            let expires = self.now + REQUEST_MILLIS;
            let row =
                Remembered { other_body: sent.other_body, request: sent.request, answer: answer.clone(), expires };
            self.requests.insert((sent.caller.account(), sent.request.rpc(), id), row);
        }
        (answer.map(|answer| (answer, false)), preparing)
    }

    fn identity(&self, who: Who, acting: Acting) -> Refusable<Who> {
        let named = match acting {
            Acting::Caller => return Ok(who),
            Acting::Named(party) if party == who.party => return Ok(who),
            Acting::Named(party) => Who { party, operator: None, until: None },
            Acting::Credential(caller) => self.who(caller)?,
        };
        if admin::act_for(who.party, named.party) { Ok(named) } else { refused("ActForDenied") }
    }

    fn open(&mut self, who: Who, acting: Acting, operator: Option<Party>, seconds: u64) -> Refusable<Answer> {
        let identity = self.identity(who, acting)?;
        let operator = match (identity.operator, operator) {
            (Some(own), Some(named)) if own != named => return refused("SessionMismatch operator"),
            (Some(own), _) => Some(own),
            (None, None) => None,
            (None, Some(named)) => match acting {
                Acting::Named(party) if party != who.party && named.is_person() => Some(named),
                Acting::Named(_) | Acting::Caller | Acting::Credential(_) => return refused("InvalidField operator"),
            },
        };
        if !admin::open_session(who.party, identity.party) {
            return refused("AdministrationDenied openSession");
        }
        let deadline = self.now + i64::try_from(seconds).unwrap() * 1_000;
        self.sessions.push(Session {
            principal: identity.party,
            operator,
            opened_by: who.party,
            excluded: self.variant.excluded(std::iter::once(who.party).chain(who.operator)),
            deadline,
            ended: None,
        });
        self.record("session_opened", Some(who.party));
        Ok(Answer::Session(self.sessions.len() - 1))
    }

    /// Checks that whoever acts is the session's principal, and that it is open.
    fn in_session(&self, who: Who, session: usize, acting: Acting) -> Refusable<()> {
        let identity = self.identity(who, acting)?;
        let found = &self.sessions[session];
        if identity.party != found.principal {
            return refused("SessionMismatch principal");
        }
        if identity.operator.is_some() && identity.operator != found.operator {
            return refused("SessionMismatch operator");
        }
        self.require_open(session)
    }

    fn require_open(&self, session: usize) -> Refusable<()> {
        let found = &self.sessions[session];
        match (found.ended.is_some(), self.now >= found.deadline) {
            (true, _) => refused("SessionOver ended"),
            (false, true) => refused("SessionOver expired"),
            (false, false) => Ok(()),
        }
    }

    fn excluded(&self, who: Who, action: Action) -> BTreeSet<Party> {
        let session = &self.sessions[action.session];
        let parties = [session.principal, action.at, who.party];
        &self.variant.excluded(parties.into_iter().chain(session.operator).chain(who.operator)) | &session.excluded
    }

    /// What the policies say, given what counts of an approved question.
    fn judge(&self, action: Action, approved: Option<usize>, excluded: &BTreeSet<Party>) -> Refusable<Ruling> {
        if action.deed == Deed::Fly {
            return refused("InvalidField operation.name");
        }
        if self.sessions[action.session].principal.kind() == "Service" {
            return refused("InvalidField principal");
        }
        if action.deed == Deed::Scribble {
            return refused("InvalidField operation.input.n");
        }
        Ok(match self.variant.stance(action.deed) {
            Stance::Free => Ruling::Allow,
            Stance::Never => Ruling::Deny,
            Stance::Asks(mut rules) => {
                if let Some(question) = approved {
                    let question = &self.questions[question];
                    rules.retain(|rule| {
                        let asked = question.rules.iter().any(|(asked, _)| asked == rule);
                        let quorum = self.variant.quorum(*rule).unwrap();
                        let met =
                            question.count(self.variant, *rule, excluded, self.now) >= usize::try_from(quorum).unwrap();
                        !(asked && met && question.offered(self.variant, *rule))
                    });
                }
                if rules.is_empty() { Ruling::Allow } else { Ruling::Needs(rules) }
            }
        })
    }

    fn decide(
        &mut self,
        who: Who,
        action: Action,
        acting: Acting,
        approval: Option<usize>,
        mint: bool,
    ) -> Refusable<Answer> {
        self.in_session(who, action.session, acting)?;
        let mut excluded = self.excluded(who, action);
        if let Some(number) = approval {
            let question = &self.questions[number];
            if !question.covers(action) {
                return refused("ApprovalMismatch");
            }
            if !question.live(self.now) {
                return Err(question.over(question.state(self.now)));
            }
            excluded.extend(question.excluded.iter().copied());
        }
        let approved = approval.filter(|number| self.questions[*number].written == Written::Approved);
        let answer = match self.judge(action, approved, &excluded)? {
            Ruling::Deny => Answer::Deny,
            Ruling::Needs(rules) => {
                let could = |person: &Party| {
                    !excluded.contains(person) && rules.iter().any(|rule| self.variant.answers(*rule, *person))
                };
                let persons = crate::world::PERSONS.into_iter().filter(could).collect();
                let rules = rules.iter().map(|rule| (*rule, self.variant.quorum(*rule).unwrap())).collect();
                Answer::NeedsApproval(rules, persons)
            }
            Ruling::Allow if mint => {
                let mut expires = (self.now + TOKEN_MILLIS).min(self.sessions[action.session].deadline);
                if let Some(number) = approved {
                    expires = expires.min(self.questions[number].expires);
                }
                self.capabilities.push(Capability {
                    action,
                    approval: approved,
                    review: None,
                    expires,
                    used: Use::Minted,
                });
                Answer::Allow(Some(self.capabilities.len() - 1))
            }
            Ruling::Allow => {
                if let Some(number) = approved {
                    self.questions[number].spend();
                }
                Answer::Allow(None)
            }
        };
        self.record("decision", Some(who.party));
        Ok(answer)
    }

    fn ask(&mut self, who: Who, action: Action, acting: Acting, bounds: Option<Bounds>) -> Refusable<Answer> {
        self.in_session(who, action.session, acting)?;
        let mut excluded = self.excluded(who, action);
        if let Some(bounds) = bounds {
            match self.judge(action, None, &excluded)? {
                Ruling::Allow | Ruling::Deny => return refused("NothingToAsk"),
                Ruling::Needs(rules) => self.require_offered(action, &rules, bounds)?,
            }
        }
        let about = if bounds.is_some() { action.frame() } else { action };
        let subject = (about, bounds);
        if let Some(number) = self.asked.get(&subject) {
            excluded.extend(self.questions[*number].excluded.iter().copied());
        }
        let rules = match self.judge(action, None, &excluded)? {
            Ruling::Allow | Ruling::Deny => return refused("NothingToAsk"),
            Ruling::Needs(rules) => rules,
        };
        let ttl = rules.iter().map(|rule| rule.ttl_millis()).min().unwrap();
        let rules: Vec<_> = rules.iter().map(|rule| (*rule, self.variant.quorum(*rule).unwrap())).collect();
        if let Some(number) = self.asked.get(&subject).copied()
            && self.questions[number].live(self.now)
        {
            let joined = &self.questions[number].excluded | &excluded;
            let asks_the_same = self.questions[number].rules == rules;
            let good = self.questions[number].written != Written::Approved
                || matches!(self.judge(action, Some(number), &joined)?, Ruling::Allow);
            let earlier = &mut self.questions[number];
            if asks_the_same && good {
                earlier.excluded = joined;
                self.record("approval_requested", Some(who.party));
                return Ok(Answer::Asked { question: number, shared: true });
            }
            earlier.written = Written::Void;
            self.record("approval_void", Some(who.party));
        }
        self.questions.push(Question {
            action: about,
            asked_by: who.party,
            rules,
            excluded,
            ttl,
            expires: self.now + ttl,
            votes: Vec::new(),
            withdrawals: Vec::new(),
            written: Written::Pending,
            pre: bounds.map(|bounds| Pre { bounds, charged: 0, asked_under: self.variant }),
        });
        let question = self.questions.len() - 1;
        self.asked.insert(subject, question);
        // In whole minutes. No question is pending for as long.
        let counts_until = self.now.div_euclid(60_000) * 60_000 + 3_600_000;
        let session = &self.sessions[action.session];
        self.asking.insert((session.principal, session.operator), counts_until);
        self.record("approval_requested", Some(who.party));
        Ok(Answer::Asked { question, shared: false })
    }
}

#[path = "reference_glass.rs"]
mod glass;
#[path = "reference_use.rs"]
mod uses;
