//! Breaking the glass: a person who acts themselves does at once what people would have had to approve. It lifts what asks
//! people and nothing else, it is told to those who were not asked, and somebody else reviews it.

use std::collections::BTreeSet;

use countersign_core::capability::Capability;
use countersign_core::review::{BrokenGlass, GlassError, Opening, Review};
use countersign_core::{EntityRef, ReviewId, SessionId};
use countersign_policy::AskingRule;
use countersign_store::Kernel;
use countersign_store::repository::{CommitExt, encode};
use serde::{Deserialize, Serialize};

use super::held::Held;
use super::{Decide, Decision, Verdict, Weighed, because, reserving};
use crate::ask::{check_text, require_request_id};
use crate::engine::{Acting, Call, Engine, Operation, Replayable, Scene, tenant_entity};
use crate::error::Error;
use crate::judge::{Judgement, Permit, Ruling, answer_query, asked, judge_lifting};
use crate::lineage::RestingOn;
use crate::record::{Event, GlassRecord};

/// The longest reason, in characters.
pub const MAX_REASON: usize = 2_000;
/// How much a review may take as it is kept, in bytes: three quarters of what a row takes, so that there is room for its end.
const MAX_KEPT_BYTES: usize = 48 * 1024;
/// How many persons who could answer are looked for, for each rule.
const MAX_PASSED_OVER: usize = 1_000;

/// One action to do although people would have to approve it.
#[derive(Debug, Clone)]
pub struct BreakGlass {
    /// The session, whose principal is the caller.
    pub session: SessionId,
    /// What is to be done.
    pub operation: Operation,
    /// The enforcement point.
    pub audience: String,
    /// Why, in the person's words.
    pub reason: String,
    /// Whether to mint on ALLOW.
    pub mint: bool,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// The decision: ALLOW, or DENY.
    pub decision: Decision,
    /// The review that was opened; none if it is a DENY, because then no glass was broken.
    pub review: Option<ReviewId>,
}

impl<K: Kernel> Engine<K> {
    /// Breaks the glass for one action.
    ///
    /// # Errors
    /// [`Error::NotAPerson`] for agents, services and whoever acts for somebody; [`Error::NotAnswering`];
    /// [`Error::AdministrationDenied`] if the `breakGlass` policies do not permit it; [`Error::Glass`]. A DENY is none.
    pub async fn break_glass(&self, call: &Call, ask: &BreakGlass) -> Result<Replayable<Broken>, Error> {
        self.require(call, require_request_id(call)).await?;
        self.require(call, check_text("reason", &ask.reason, 1, MAX_REASON)).await?;
        let about = ask.session.to_string();
        self.settle(call, Some(&about), |scene| async move { self.break_once(&scene, ask).await }).await
    }

    async fn break_once(&self, scene: &Scene, ask: &BreakGlass) -> Result<Replayable<Broken>, Error> {
        if let Some(Broken { decision, review }) = self.replay(scene).await? {
            return Ok(Replayable::replayed(Broken { decision: self.reissue(decision).await?, review }));
        }
        let person = scene.person()?.clone();
        scene.require_answering()?;
        let (weighed, ruling) = self.weigh(scene, &ask.decide(), &BTreeSet::new(), None).await?;
        // A person who acts for another is none who acts themselves, whoever opened the session so.
        if weighed.session.value.operator.is_some() || !weighed.session.value.chain.is_empty() {
            return Err(Error::SessionMismatch("operator"));
        }
        let rules = match ruling {
            Ruling::Allow(_unused) => return Err(GlassError::Unneeded.into()),
            Ruling::Deny { cause, errors } => {
                let decision = weighed.decision(scene, Verdict::Deny { because: because(cause).to_owned() });
                let context = weighed.facts(scene)?.evaluated(None);
                let keep = |decision| Broken { decision, review: None };
                let decision = self.answer(scene, decision, &weighed.outcome(&context), &errors, keep).await?;
                return Ok(Replayable::fresh(Broken { decision, review: None }));
            }
            Ruling::NeedsApproval(rules) => rules,
        };
        let lifted = rules.iter().map(|rule| rule.id.clone()).collect();
        let judged = judge_lifting(weighed.facts(scene)?, &lifted, &tenant_entity(self.tenant())?)?;
        let Some((Judgement { ruling: Ruling::Allow(permit), .. }, permitted_by)) = judged else {
            return Err(Error::AdministrationDenied { caller: person.to_string(), action: "breakGlass" });
        };
        self.act(scene, permit, ask, &weighed, &rules, permitted_by).await.map(Replayable::fresh)
    }

    /// ALLOW, with everything that it costs, in one commit.
    async fn act(
        &self,
        scene: &Scene,
        permit: Permit,
        ask: &BreakGlass,
        weighed: &Weighed,
        rules: &[AskingRule],
        permitted_by: Vec<String>,
    ) -> Result<Broken, Error> {
        let Permit { .. } = permit;
        let person = &weighed.action.principal;
        let id = ReviewId::generate();
        let stored = self.repo.broken_glass(person).await?;
        let read = stored.as_ref().map(|stored| stored.revision);
        let mut broken = stored.map_or_else(|| BrokenGlass::new(person.clone()), |stored| stored.value);
        broken.break_it(id, self.limits.glass, scene.now)?;

        let context = weighed.facts(scene)?.evaluated(None);
        let outcome = weighed.outcome(&context);
        let mut decision = weighed.decision(scene, Verdict::Allow { capability: None });
        let mut commit = self.guarded(scene, outcome.lapses(scene, None)).resting_on(&weighed.session);
        let mut capability = None;
        if !ask.mint {
            commit = outcome.taking(scene, &outcome.happening(scene), commit)?;
        } else {
            let (grant, token, key) = self.grant(scene, &outcome, None, Some(id), Held::default())?;
            decision.verdict = Verdict::Allow { capability: Some((grant.id, grant.expires_at)) };
            decision.token = Some(token);
            let minted = Capability::mint(grant, decision.id, decision.bundle).in_epoch(scene.epoch());
            commit = outcome.taking(scene, &reserving(&minted.grant), commit.unchanged(&key).insert(&minted))?;
            capability = Some(minted);
        }
        let (passed_over, more_passed_over) = passed_over(scene, weighed, rules);
        let opening = Opening {
            person: person.clone(),
            reason: ask.reason.clone(),
            decision: decision.id,
            capability: capability.as_ref().map(|capability| capability.grant.id),
            session: weighed.session.value.id,
            action: weighed.canonical.text().to_owned(),
            digest: decision.digest,
            rules: rules.iter().map(asked).collect(),
            passed_over,
            more_passed_over,
            excluded: weighed.excluded.clone(),
            permitted_by,
            bundle: decision.bundle,
        };
        let review = Review::open(id, opening, scene.now);
        let kept = encode(&review).len();
        if kept > MAX_KEPT_BYTES {
            let reason = format!(
                "takes {kept} bytes as a review, at most {MAX_KEPT_BYTES} are allowed; send large content as its hash"
            );
            return Err(Error::field("operation", reason));
        }
        let glass = GlassRecord {
            review: id,
            person,
            reason: &review.reason,
            rules: review.rules.iter().map(|rule| rule.id.as_str()).collect(),
            determining: &review.permitted_by,
            passed_over: &review.passed_over,
            more_passed_over: review.more_passed_over,
        };
        let minted = capability.as_ref().map(|capability| &capability.grant);
        let answer = Broken { decision: decision.clone(), review: Some(id) };
        let event = outcome.event(&decision, &[], minted).broken(glass);
        let committed = self.commit(scene, commit.insert(&review).upsert(&broken, read), event, &answer).await?;
        decision.log_index = Some(committed.first_log_index);
        Ok(Broken { decision, review: Some(id) })
    }
}

impl BreakGlass {
    /// The same action as one to decide.
    fn decide(&self) -> Decide {
        Decide {
            session: self.session,
            operation: self.operation.clone(),
            audience: self.audience.clone(),
            acting: Acting::Caller,
            approval: None,
            mint: self.mint,
            holder: None,
            open: false,
            entity_revision: None,
        }
    }
}

impl<'a> Event<'a> {
    fn broken(mut self, glass: GlassRecord<'a>) -> Self {
        if let Self::Decision { glass_broken, .. } = &mut self {
            *glass_broken = Some(glass);
        }
        self
    }
}

/// Who could have answered the rules, and whether there are more. Nothing rests on it, so it binds the commit to no entity.
fn passed_over(scene: &Scene, weighed: &Weighed, rules: &[AskingRule]) -> (BTreeSet<EntityRef>, bool) {
    let query = answer_query(&weighed.action, &weighed.excluded, None, scene.now);
    let (mut persons, mut more) = (BTreeSet::new(), false);
    for rule in rules {
        let could = scene.active.view().answerers(&rule.id, &query, MAX_PASSED_OVER);
        more = more || could.truncated;
        persons.extend(could.persons);
    }
    (persons, more)
}
