//! Decide: read, judge, act.

mod delegate;
mod glass;
mod held;

use std::collections::BTreeSet;

use countersign_core::approval::{Approval, ApprovalState, Spender};
use countersign_core::capability::{Capability, Grant};
use countersign_core::ledger::Standing;
use countersign_core::pre_approval::Bounds;
use countersign_core::{
    Action, ApprovalId, Canonical, DecisionId, Digest, EntityRef, Holder, HolderKind, ReviewId, SessionId, Timestamp,
    TokenId,
};
use countersign_policy::{ApprovalFacts, AskingRule, DenyCause, Evaluated, View};
use countersign_store::repository::{CommitExt, KeyRow, Stored};
use countersign_store::{Commit, Kernel};
use countersign_token::{KeyId, Token};
use serde::{Deserialize, Serialize};

use crate::engine::{Acting, Call, Engine, Operation, Replayable, Revisions, Scene};
use crate::error::Error;
use crate::judge::{Facts, Judgement, Permit, Ruling, answer_query, answerers, judge};
use crate::keys::Keys;
use crate::ledger::{Ledgers, Taking, Turn};
use crate::lineage::{Lineage, RestingOn};
use crate::pre_approve;
use crate::record::{Event, UseRecord};

use held::Held;

pub use delegate::Delegate;
pub use glass::{BreakGlass, Broken};

/// One action to decide.
#[derive(Debug, Clone)]
pub struct Decide {
    /// The session.
    pub session: SessionId,
    /// What is to be done.
    pub operation: Operation,
    /// The enforcement point.
    pub audience: String,
    /// Who acts.
    pub acting: Acting,
    /// The approval to use.
    pub approval: Option<ApprovalId>,
    /// Whether to mint on ALLOW.
    pub mint: bool,
    /// Whom the capability is to be bound to.
    pub holder: Option<Holder>,
    /// Whether its holder is to narrow it without asking.
    pub open: bool,
    /// The change of an entity that the decision must know of already.
    pub entity_revision: Option<u64>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Its id.
    pub id: DecisionId,
    /// The answer.
    pub verdict: Verdict,
    /// The action's digest.
    pub digest: Digest,
    /// The policies that decided.
    pub determining: Vec<String>,
    /// The bundle.
    pub bundle: Digest,
    /// What was read.
    pub revisions: Revisions,
    /// The time that decided.
    pub decided_at: Timestamp,
    /// Where it stands in the log; absent in a stored answer.
    #[serde(skip)]
    pub log_index: Option<u64>,
    /// The token, reissued from the row of the capability each time.
    #[serde(skip)]
    pub token: Option<Token>,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No.
    Deny {
        /// Why, in a word that a person reads.
        because: String,
    },
    /// People must approve first.
    NeedsApproval {
        /// The rules that ask.
        rules: Vec<NeededRule>,
        /// Who could answer.
        persons: Vec<EntityRef>,
        /// Until when, were they asked now.
        would_expire_at: Timestamp,
    },
    /// Yes, once.
    Allow {
        /// The capability, if one was minted.
        capability: Option<(TokenId, Timestamp)>,
    },
}

/// A rule that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeededRule {
    /// Its id.
    pub id: String,
    /// How many persons it wants.
    pub quorum: u32,
    /// Why.
    pub reason: Option<String>,
    /// How long people have.
    pub ttl_millis: u64,
    /// How long nobody asks for the same again after a deny. Absent in answers of the first release.
    #[serde(default)]
    pub cool_down_millis: u64,
    /// Within which bounds it can be pre-approved. Absent if it cannot, and in answers of earlier releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_approval: Option<Bounds>,
    /// Whether only signed approvals count. Absent if not, and in answers of earlier releases.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub signed_votes: bool,
}

impl Decision {
    /// The word for the verdict, as the wire spells it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self.verdict {
            Verdict::Deny { .. } => "DENY",
            Verdict::NeedsApproval { .. } => "NEEDS_APPROVAL",
            Verdict::Allow { .. } => "ALLOW",
        }
    }
}

impl<K: Kernel> Engine<K> {
    /// Decides one action, and mints for it where asked.
    ///
    /// # Errors
    /// [`Error`]; a DENY is none.
    pub async fn decide(&self, call: &Call, ask: &Decide) -> Result<Replayable<Decision>, Error> {
        if (ask.mint || ask.approval.is_some()) && call.request.is_none() {
            let missing = Error::field("request_id", "required with `mint` or `approval_id`; send a new UUID");
            return Err(self.refuse(call, None, missing).await);
        }
        self.require(call, ask.require_mint_for_holder()).await?;
        self.settle(call, Some(&ask.session.to_string()), |scene| async move { self.decide_once(&scene, ask).await })
            .await
    }

    async fn decide_once(&self, scene: &Scene, ask: &Decide) -> Result<Replayable<Decision>, Error> {
        if let Some(decision) = self.replay::<Decision>(scene).await? {
            return self.reissue(decision).await.map(Replayable::replayed);
        }
        if let Some(asked) = ask.entity_revision.filter(|asked| *asked > scene.active.entity_revision) {
            return Err(Error::EntityRevision { asked, newest: scene.active.entity_revision });
        }
        self.require_stay_open(scene, ask)?;
        let (weighed, ruling) = self.weigh(scene, ask, &BTreeSet::new(), None).await?;
        let facts = weighed.facts(scene)?;
        let context = facts.evaluated(weighed.counted.as_ref());
        let mut decision = weighed.decision(scene, Verdict::Deny { because: String::new() });
        let approved = weighed.approved.as_ref();
        let outcome = weighed.outcome(&context);
        let answered = match ruling {
            Ruling::Deny { cause, errors } => {
                decision.verdict = Verdict::Deny { because: because(cause).to_owned() };
                self.answer(scene, decision, &outcome, &errors, std::convert::identity).await
            }
            Ruling::NeedsApproval(rules) => {
                let query = answer_query(&weighed.action, &weighed.excluded, None, scene.now);
                let persons = answerers(scene.view(), rules.iter().map(|rule| rule.id.as_str()), &query);
                decision.verdict = Verdict::NeedsApproval {
                    would_expire_at: scene.now.plus(shortest_ttl(&rules)),
                    rules: rules.iter().map(needed).collect(),
                    persons,
                };
                self.answer(scene, decision, &outcome, &[], std::convert::identity).await
            }
            Ruling::Allow(permit) if ask.mint => {
                let held = Held { holder: ask.holder, open: ask.open };
                self.mint(scene, permit, decision, &outcome, approved, held).await
            }
            Ruling::Allow(permit) => self.allow(scene, permit, decision, &outcome, approved).await,
        }?;
        self.shadow.offer(scene, weighed.over(), &answered);
        Ok(Replayable::fresh(answered))
    }

    /// Reads what an action is judged by, and judges it. `also` can answer for it as little as those whom it involves; what the
    /// capability `given_up` has reserved is free.
    async fn weigh(
        &self,
        scene: &Scene,
        ask: &Decide,
        also: &BTreeSet<EntityRef>,
        given_up: Option<TokenId>,
    ) -> Result<(Weighed, Ruling), Error> {
        let session = self.session_of(scene, ask.session, &ask.acting, &ask.operation.name).await?;
        session.value.require_open(scene.now)?;
        let (action, canonical) = self.action(scene, &session.value, &ask.operation, &ask.audience)?;
        let rules = scene.active.bundle.kept();
        let turn = self.turn(scene.view(), &session.value, &ask.operation).await;
        let ledgers = self.ledgers(rules, &session.value, scene.now).await?;
        let standing = ledgers.standing(rules, &session.value, given_up, scene.now);
        let approval = match ask.approval {
            Some(id) => Some(self.usable_approval(scene, id, &action, canonical.digest()).await?),
            None => None,
        };
        let mut excluded = &self.excluded(scene, &session.value, &action)? | also;
        excluded.extend(approval.iter().flat_map(|approval| approval.value.excluded.iter().cloned()));
        let read = approval.as_ref().map(|approval| approval.revision);
        let approved = approval.filter(|a| a.value.state(scene.now) == ApprovalState::Approved);
        let mut weighed = Weighed {
            revisions: scene.revisions(&session, read),
            session,
            action,
            canonical,
            approved,
            excluded,
            ledgers,
            standing,
            turn,
            holder: ask.holder.map(|holder| holder.kind),
            determining: Vec::new(),
            counted: None,
        };
        let Judgement { ruling, determining, counted, .. } = judge(weighed.facts(scene)?)?;
        (weighed.determining, weighed.counted) = (determining, counted);
        Ok((weighed, ruling))
    }

    /// Decides an action that this service does itself: ALLOW, or nothing if people have to approve it.
    ///
    /// # Errors
    /// [`Error::PublishDenied`] for a DENY, and whatever [`Self::decide`] refuses.
    pub(crate) async fn decided(
        &self,
        scene: &Scene,
        ask: &Decide,
        also: &BTreeSet<EntityRef>,
    ) -> Result<Option<Decided>, Error> {
        let (weighed, ruling) = self.weigh(scene, ask, also, None).await?;
        match ruling {
            Ruling::Allow(permit) => {
                let decision = weighed.decision(scene, Verdict::Allow { capability: None });
                Ok(Some(Decided { permit, weighed, decision }))
            }
            Ruling::NeedsApproval(_) => Ok(None),
            Ruling::Deny { .. } => Err(Error::PublishDenied(weighed.determining)),
        }
    }

    /// Adds to a commit that the decision was made and its approval is spent, while what it rests on lasts.
    pub(crate) fn spending(&self, scene: &Scene, decided: &Decided, commit: Commit) -> Result<Commit, Error> {
        let Decided { permit: Permit { .. }, weighed, decision } = decided;
        let approval = weighed.approved.as_ref();
        let facts = weighed.facts(scene)?;
        let context = facts.evaluated(weighed.counted.as_ref());
        let outcome = weighed.outcome(&context);
        let mut commit = self.lasting_also(commit, outcome.lapses(scene, approval)).resting_on(&weighed.session);
        commit = outcome.taking(scene, &outcome.happening(scene), commit)?;
        let mut charged = None;
        if let Some(approval) = approval {
            let mut spent = approval.clone();
            spent.value.redeem(Spender::Decision(decision.id), scene.now)?;
            commit = commit.update(&spent);
            charged = UseRecord::charged(&spent.value);
        }
        let event = outcome.event(decision, &[], None).approved(approval.map(|a| a.value.id), charged);
        self.noting(scene, commit, event)
    }

    /// The approval that the caller wants to use: for this very action, or a pre-approval that covers it, and not over.
    async fn usable_approval(
        &self,
        scene: &Scene,
        id: ApprovalId,
        action: &Action,
        digest: Digest,
    ) -> Result<Stored<Approval>, Error> {
        let approval = self.approval_row(id).await?.ok_or(Error::ApprovalNotFound)?;
        if !pre_approve::is_for(scene.view(), &approval.value, action, digest) {
            return Err(Error::ApprovalMismatch);
        }
        let state = approval.value.state(scene.now);
        if state.is_terminal() {
            return Err(approval.value.over(&state).into());
        }
        Ok(approval)
    }

    /// Answers DENY or `NEEDS_APPROVAL`: nothing is authorized, so nothing needs to stand still, and under a flood the record
    /// is a count. `keep` says what the request id is answered with.
    async fn answer<T: Serialize + Send + Sync>(
        &self,
        scene: &Scene,
        mut decision: Decision,
        outcome: &Outcome<'_>,
        errors: &[String],
        keep: fn(Decision) -> T,
    ) -> Result<Decision, Error> {
        if self.refusals.singly(&scene.caller.entity, scene.now) {
            let commit = Commit::new(self.tenant().clone());
            let event = outcome.event(&decision, errors, None);
            let committed = self.commit(scene, commit, event, &keep(decision.clone())).await?;
            decision.log_index = Some(committed.first_log_index);
        }
        Ok(decision)
    }

    /// ALLOW without a capability: the answer is the authority, and spends the approval.
    async fn allow(
        &self,
        scene: &Scene,
        permit: Permit,
        mut decision: Decision,
        outcome: &Outcome<'_>,
        approval: Option<&Stored<Approval>>,
    ) -> Result<Decision, Error> {
        let Permit { .. } = permit;
        decision.verdict = Verdict::Allow { capability: None };
        let mut commit = self.guarded(scene, outcome.lapses(scene, approval)).resting_on(outcome.session);
        commit = outcome.taking(scene, &outcome.happening(scene), commit)?;
        let mut charged = None;
        if let Some(approval) = approval {
            let mut spent = approval.clone();
            spent.value.redeem(Spender::Decision(decision.id), scene.now)?;
            commit = commit.update(&spent);
            charged = UseRecord::charged(&spent.value);
        }
        let event = outcome.event(&decision, &[], None).approved(approval.map(|a| a.value.id), charged);
        let committed = self.commit(scene, commit, event, &decision).await?;
        decision.log_index = Some(committed.first_log_index);
        Ok(decision)
    }

    /// ALLOW with a capability. The approval is not spent yet: the redeem spends both.
    async fn mint(
        &self,
        scene: &Scene,
        permit: Permit,
        mut decision: Decision,
        outcome: &Outcome<'_>,
        approval: Option<&Stored<Approval>>,
        held: Held,
    ) -> Result<Decision, Error> {
        let Permit { .. } = permit;
        let (grant, token, key) = self.grant(scene, outcome, approval, None, held)?;
        decision.verdict = Verdict::Allow { capability: Some((grant.id, grant.expires_at)) };
        let capability = Capability::mint(grant, decision.id, decision.bundle).in_epoch(scene.epoch());
        let lapses = outcome.lapses(scene, approval);
        let commit = self.guarded(scene, lapses).unchanged(&key);
        let mut commit = commit.resting_on(outcome.session).insert(&capability);
        commit = outcome.taking(scene, &reserving(&capability.grant), commit)?;
        if let Some(approval) = approval {
            commit = commit.unchanged(approval);
        }
        let named = approval.and_then(|a| UseRecord::minted(&a.value));
        let event = outcome.event(&decision, &[], Some(&capability.grant)).approved(capability.grant.approval, named);
        let committed = self.commit(scene, commit, event, &decision).await?;
        decision.log_index = Some(committed.first_log_index);
        decision.token = Some(token);
        Ok(decision)
    }

    /// What a capability says, and its token.
    fn grant(
        &self,
        scene: &Scene,
        outcome: &Outcome<'_>,
        approval: Option<&Stored<Approval>>,
        review: Option<ReviewId>,
        held: Held,
    ) -> Result<(Grant, Token, Stored<KeyRow>), Error> {
        let keys = self.keys.load_full();
        let grant = self.granted(scene, outcome, approval, review, held, &keys)?;
        let token = keys.issue(&grant, self.tenant(), self.development)?;
        // Bound to it, nothing is minted with a key that is about to go.
        let key = keys.row(KeyId(grant.key))?.clone();
        Ok((grant, token, key))
    }

    /// What a capability says, that one of these keys is to sign.
    fn granted(
        &self,
        scene: &Scene,
        outcome: &Outcome<'_>,
        approval: Option<&Stored<Approval>>,
        review: Option<ReviewId>,
        Held { holder, open }: Held,
        keys: &Keys,
    ) -> Result<Grant, Error> {
        let session = &outcome.session.value;
        let expires_at = scene.now.plus(self.limits.token_ttl).min(session.deadline);
        let expires_at = approval.map_or(expires_at, |a| expires_at.min(a.value.expires_at()));
        Ok(Grant {
            id: TokenId::generate(),
            session: session.id,
            principal: session.principal.clone(),
            operator: session.operator.clone(),
            operation: outcome.action.operation.clone(),
            resource: outcome.action.resource.clone(),
            digest: outcome.canonical.digest(),
            audience: outcome.action.audience.clone(),
            approval: approval.map(|a| a.value.id),
            review,
            holder,
            open,
            issued_at: scene.now,
            expires_at,
            shard: 0,
            mint_epoch: scene.active.row.value.mint_epoch,
            key: keys.active()?.id().0,
            parent: None,
            chain: session.chain.clone(),
            grandparents: Vec::new(),
            sessions_above: outcome.session.ids().skip(1).collect(),
            votes: approval.map(|approval| approval.value.approving()).unwrap_or_default(),
        })
    }

    /// A stored answer again, with the identical token while it is worth something.
    async fn reissue(&self, mut decision: Decision) -> Result<Decision, Error> {
        if let Verdict::Allow { capability: Some((id, _)) } = &decision.verdict {
            let capability = self.repo.capability(*id).await?.ok_or(Error::CapabilityNotFound)?;
            decision.token = Some(self.keys.load().issue(&capability.value.grant, self.tenant(), self.development)?);
        }
        Ok(decision)
    }
}

/// What was read for one action.
#[derive(Debug)]
pub(crate) struct Weighed {
    pub(crate) session: Lineage,
    pub(crate) action: Action,
    pub(crate) canonical: Canonical,
    /// The approval that the caller wants to use, if people have given it.
    pub(crate) approved: Option<Stored<Approval>>,
    pub(crate) excluded: BTreeSet<EntityRef>,
    ledgers: Ledgers,
    standing: Standing,
    /// It is its turn to change the ledgers, until it is decided.
    turn: Turn,
    holder: Option<HolderKind>,
    determining: Vec<String>,
    counted: Option<ApprovalFacts>,
    revisions: Revisions,
}

/// An ALLOW that is yet to be spent.
#[derive(Debug)]
pub(crate) struct Decided {
    permit: Permit,
    weighed: Weighed,
    decision: Decision,
}

impl Decided {
    /// The decision.
    pub(crate) const fn id(&self) -> DecisionId {
        self.decision.id
    }
}

impl Weighed {
    /// It is decided, and nobody has to wait for it any more.
    fn over(mut self) -> Self {
        self.turn = Turn::default();
        self
    }

    fn facts<'a>(&'a self, scene: &'a Scene) -> Result<Facts<'a>, Error> {
        self.facts_in(scene.view(), scene.now)
    }

    /// What is judged, by the policies and entities of `view`.
    pub(crate) fn facts_in<'a>(&'a self, view: View<'a>, now: Timestamp) -> Result<Facts<'a>, Error> {
        Ok(Facts {
            view,
            session: self.session.value.require_open(now)?,
            action: &self.action,
            canonical: &self.canonical,
            approval: self.approved.as_ref().map(|approval| &approval.value),
            standing: &self.standing,
            excluded: &self.excluded,
            holder: self.holder,
            now,
        })
    }

    fn decision(&self, scene: &Scene, verdict: Verdict) -> Decision {
        Decision {
            id: DecisionId::generate(),
            verdict,
            digest: self.canonical.digest(),
            determining: self.determining.clone(),
            bundle: scene.active.bundle.digest(),
            revisions: self.revisions,
            decided_at: scene.now,
            log_index: None,
            token: None,
        }
    }

    const fn outcome<'a>(&'a self, context: &'a Evaluated<'a>) -> Outcome<'a> {
        let Self { session, action, canonical, ledgers, approved, .. } = self;
        Outcome { session, action, canonical, ledgers, approved: approved.is_some(), context }
    }
}

/// What a record tells of a decision.
struct Outcome<'a> {
    session: &'a Lineage,
    action: &'a Action,
    canonical: &'a Canonical,
    ledgers: &'a Ledgers,
    /// Whether it rests on an approval, and so on the labels that people were shown.
    approved: bool,
    context: &'a Evaluated<'a>,
}

impl Outcome<'_> {
    /// What it does if it is allowed without a capability.
    fn happening(&self, scene: &Scene) -> Taking {
        Taking::Act(scene.view().labels_of(&self.action.resource))
    }

    /// Adds to a commit what it does to the ledgers.
    fn taking(&self, scene: &Scene, taking: &Taking, commit: Commit) -> Result<Commit, Error> {
        let (bundle, Action { operation, input, .. }) = (&scene.active.bundle, self.action);
        let rests = self.approved || bundle.rests_on_kept(operation);
        let amounts = bundle.kept().amounts(operation, input);
        self.ledgers.settle(bundle.kept(), &amounts, taking, rests, scene.now, commit)
    }

    fn lapses(&self, scene: &Scene, approval: Option<&Stored<Approval>>) -> [Option<Timestamp>; 2] {
        [self.session.value.lapses_at(scene.now), approval.and_then(|approval| approval.value.lapses_at(scene.now))]
    }

    fn event<'a>(&'a self, decision: &'a Decision, errors: &'a [String], minted: Option<&'a Grant>) -> Event<'a> {
        Event::Decision {
            decision: decision.id,
            verdict: decision.word(),
            action: self.canonical.text(),
            digest: decision.digest,
            determining: &decision.determining,
            errors,
            bundle: decision.bundle,
            revisions: decision.revisions,
            context: self.context,
            approval: None,
            minted,
            pre_approval: None,
            sessions_above: self.session.ids().skip(1).collect(),
            glass_broken: None,
        }
    }
}

impl Event<'_> {
    fn approved(mut self, id: Option<ApprovalId>, used: Option<UseRecord>) -> Self {
        if let Self::Decision { approval, pre_approval, .. } = &mut self {
            (*approval, *pre_approval) = (id, used);
        }
        self
    }
}

const fn reserving(grant: &Grant) -> Taking {
    Taking::Reserve(grant.id, grant.expires_at)
}

/// The time that all the rules together leave.
pub(crate) fn shortest_ttl(rules: &[AskingRule]) -> std::time::Duration {
    rules.iter().map(|rule| rule.ttl).min().unwrap_or_default()
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn needed(rule: &AskingRule) -> NeededRule {
    NeededRule {
        id: rule.id.clone(),
        quorum: rule.quorum,
        reason: rule.reason.clone(),
        ttl_millis: millis(rule.ttl),
        cool_down_millis: millis(rule.cooldown),
        pre_approval: rule.pre_approval,
        signed_votes: rule.signed_votes,
    }
}

const fn because(cause: DenyCause) -> &'static str {
    match cause {
        DenyCause::NoPermit => "no policy permits it",
        DenyCause::Forbidden => "a policy forbids it, and no approval lifts that",
        DenyCause::EvaluationError => "a policy could not be evaluated",
    }
}
