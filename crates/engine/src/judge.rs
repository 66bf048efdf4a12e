//! The decision about one action, on everything that was read for it. Pure: what is read and what is written stands in the
//! use cases.

use std::collections::BTreeSet;

use countersign_core::approval::{Approval, AskingRule as Asked, Tally, Vote};
use countersign_core::ledger::Standing;
use countersign_core::session::OpenSession;
use countersign_core::{Action, Canonical, EntityRef, HolderKind, Timestamp};
use countersign_policy::{
    AdminAction, AdminQuery, AnswerQuery, ApprovalFacts, AskingRule, DenyCause, Evaluated, Prospect, Query,
    SessionFacts, Verdict, View,
};

use crate::error::Error;
use crate::ledger::unseen;
use crate::pre_approve;

/// Proof that the active policies allow one action now. Only [`judge`] and [`judge_lifting`] make one, nothing copies one, and
/// whoever mints or spends consumes it: one decision, one authority.
#[derive(Debug)]
#[must_use = "a permit that nobody uses authorizes nothing"]
pub struct Permit(());

/// What a decision is made from.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The policies and the entities.
    pub view: View<'a>,
    /// The session, open.
    pub session: OpenSession<'a>,
    /// The action with its raw input.
    pub action: &'a Action,
    /// Its canonical form, sensitive inputs committed.
    pub canonical: &'a Canonical,
    /// The request whose votes may count; approved, and for this digest, or a pre-approval.
    pub approval: Option<&'a Approval>,
    /// The labels and counters of the session.
    pub standing: &'a Standing,
    /// Whose approval counts for nothing.
    pub excluded: &'a BTreeSet<EntityRef>,
    /// How whoever the capability is bound to proves it, if there is a capability that is bound.
    pub holder: Option<HolderKind>,
    /// The time that decides.
    pub now: Timestamp,
}

impl<'a> Facts<'a> {
    /// The context that was evaluated, for the record; `counted` is the judgement's.
    #[must_use]
    pub fn evaluated(&self, counted: Option<&'a ApprovalFacts>) -> Evaluated<'a> {
        self.view.bundle().evaluated(&self.query(counted)).claiming(self.session.session().groups_at(self.now))
    }

    fn query(&self, approval: Option<&'a ApprovalFacts>) -> Query<'a> {
        let Self { session, action, canonical, standing, excluded, holder, now, .. } = *self;
        Query {
            principal: &action.principal,
            operation: &action.operation,
            resource: &action.resource,
            input: &action.input,
            environment: &action.environment,
            session: SessionFacts {
                id: session.session().id,
                purpose: &session.session().purpose,
                opened_at: session.session().opened_at,
                deadline: session.session().deadline,
                standing,
            },
            operator: action.operator.as_ref(),
            digest: canonical.digest(),
            now,
            excluded,
            approval,
            holder,
        }
    }
}

/// What came out.
#[derive(Debug)]
pub struct Judgement {
    /// The answer.
    pub ruling: Ruling,
    /// The policies that decided.
    pub determining: Vec<String>,
    /// What was evaluated of an approval.
    pub counted: Option<ApprovalFacts>,
    /// Who counts for which rule.
    pub tally: Vec<Tally>,
}

/// The answer, with what makes it usable.
#[derive(Debug)]
pub enum Ruling {
    /// Yes, once.
    Allow(Permit),
    /// People must approve first.
    NeedsApproval(Vec<AskingRule>),
    /// No.
    Deny {
        /// Why.
        cause: DenyCause,
        /// The evaluation errors, if that is why.
        errors: Vec<String>,
    },
}

/// Decides: the votes that count, then Cedar, then the second lock.
///
/// # Errors
/// [`Error::InvalidField`] if the action does not fit the schema.
pub fn judge(facts: Facts<'_>) -> Result<Judgement, Error> {
    // What people answered, they answered about a session with fewer labels, if it has others now.
    let seen = |approval: &&Approval| !unseen(approval, facts.standing);
    let tally = facts
        .approval
        .filter(seen)
        .map(|approval| count(facts.view, facts.action, facts.excluded, facts.now, approval))
        .unwrap_or_default();
    let counted = facts.approval.and_then(|approval| approved(approval, &tally, &facts));
    let session = facts.session.session();
    let view = facts.view.claiming(&session.principal, session.groups_at(facts.now));
    let evaluation = view.decide(&facts.query(counted.as_ref()))?;
    let ruling = match evaluation.verdict {
        Verdict::Allow if counted.as_ref().is_none_or(|approval| holds(approval, &facts)) => Ruling::Allow(Permit(())),
        Verdict::Allow => Ruling::Deny { cause: DenyCause::Forbidden, errors: Vec::new() },
        Verdict::NeedsApproval { rules } => Ruling::NeedsApproval(rules),
        Verdict::Deny { cause, errors } => Ruling::Deny { cause, errors },
    };
    Ok(Judgement { ruling, determining: evaluation.determining, counted, tally })
}

/// Judges what people are asked about before anybody knows to whom the capability will be bound: as it stands, and if that is
/// denied, as it would be for a holder. Policies that demand one would otherwise keep people from being asked at all. What is
/// granted in the end is judged by [`judge`], with whoever holds it then.
///
/// # Errors
/// As [`judge`].
pub(crate) fn judge_for_any_holder(facts: Facts<'_>) -> Result<Judgement, Error> {
    let bearer = judge(facts)?;
    if matches!(bearer.ruling, Ruling::Deny { .. }) {
        for kind in HolderKind::ALL {
            let bound = judge(Facts { holder: Some(kind), ..facts })?;
            if !matches!(bound.ruling, Ruling::Deny { .. }) {
                return Ok(bound);
            }
        }
    }
    Ok(bearer)
}

/// Whether the policies deny an action whatever its input, whoever approves it, and whoever holds the capability.
///
/// # Errors
/// [`Error::InvalidField`] if it does not fit the schema.
pub(crate) fn ruled_out(facts: Facts<'_>) -> Result<bool, Error> {
    let session = facts.session.session();
    let view = facts.view.claiming(&session.principal, session.groups_at(facts.now));
    for holder in [None].into_iter().chain(HolderKind::ALL.map(Some)) {
        let outlook = view.outlook(&Facts { holder, ..facts }.query(None))?;
        if !matches!(outlook.prospect, Prospect::Never(_)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Decides as [`judge`], with the glass broken for `rules`: what only these keep from being allowed is allowed. That the policies
/// would allow it, were they met, is what `NEEDS_APPROVAL` says, and a final forbid or an evaluation error is neither.
///
/// Whatever the ruling, it is usable only while the `breakGlass` policies permit it to the principal, a person who acts for nobody:
/// `None` if they do not. Otherwise the policies that do are told too.
///
/// # Errors
/// As [`judge`].
pub fn judge_lifting(
    facts: Facts<'_>,
    rules: &BTreeSet<String>,
    tenant: &EntityRef,
) -> Result<Option<(Judgement, Vec<String>)>, Error> {
    let Action { principal, operator, chain, operation, .. } = facts.action;
    if principal.kind() != "Person" || operator.is_some() || !chain.is_empty() || rules.is_empty() {
        return Ok(None);
    }
    let action = AdminAction::BreakGlass { tenant, operation, rules };
    // With the groups that the session has, as whatever is spent in it: at the redeem there is no credential of the person.
    let session = facts.session.session();
    let view = facts.view.claiming(principal, session.groups_at(facts.now));
    let permitted = view.administer(&AdminQuery { caller: principal, action, now: facts.now });
    if !permitted.permitted {
        return Ok(None);
    }
    let mut judgement = judge(facts)?;
    let lifted = match &judgement.ruling {
        Ruling::NeedsApproval(asking) => asking.iter().all(|rule| rules.contains(&rule.id)),
        Ruling::Allow(_) | Ruling::Deny { .. } => false,
    };
    if lifted {
        judgement.ruling = Ruling::Allow(Permit(()));
    }
    Ok(Some((judgement, permitted.policies)))
}

/// Who counts for each rule that the request asked, under the policies of now: a rule that is gone counts for nothing, nor
/// does one that says something else now than people were shown, or no longer offers a pre-approval such as this; and a quorum
/// that was raised is the raised one (I2).
pub(crate) fn count(
    view: View<'_>,
    action: &Action,
    excluded: &BTreeSet<EntityRef>,
    now: Timestamp,
    approval: &Approval,
) -> Vec<Tally> {
    let stands = pre_approve::stands(view, approval);
    let rules = approval.rules.iter().filter_map(|then| {
        let now = asked(view.bundle().asking(&then.id)?);
        (stands && now.reason == then.reason).then_some(now)
    });
    let rules: Vec<Asked> = rules.collect();
    let query = answer_query(action, excluded, Some(approval.created_at), now);
    approval.tally(&rules, excluded, |rule, vote| answers(view, rule, vote, &query))
}

/// Whether a voter may answer a rule, with the groups that the credential of the vote adds to those of the directory.
pub(crate) fn answers(view: View<'_>, rule: &str, vote: &Vote, query: &AnswerQuery<'_>) -> bool {
    view.claiming(&vote.person, vote.groups_at(query.now)).may_answer(rule, &vote.person, query).permitted
}

/// What Cedar is told of the approval: nothing, unless some rule is met.
fn approved(approval: &Approval, tally: &[Tally], facts: &Facts<'_>) -> Option<ApprovalFacts> {
    let digest = pre_approve::presented(approval, facts)?;
    let met: Vec<&Tally> = tally.iter().filter(|rule| rule.met()).collect();
    (!met.is_empty()).then(|| ApprovalFacts {
        rules: met.iter().map(|rule| rule.rule.clone()).collect(),
        persons: met.iter().flat_map(|rule| rule.persons.iter().cloned()).collect(),
        digest,
        expires: approval.expires_at(),
    })
}

/// The second lock: what the kernel's policies say of an approval, said again without Cedar.
fn holds(approval: &ApprovalFacts, facts: &Facts<'_>) -> bool {
    approval.digest == facts.canonical.digest()
        && facts.approval.is_some_and(|given| pre_approve::holds(given, approval, facts))
        && !approval.persons.is_empty()
        && approval.persons.is_disjoint(facts.excluded)
        && !facts.now.reached(approval.expires)
}

/// The question whether somebody may answer for an action, which has been asked since some time if it has.
#[must_use]
pub fn answer_query<'a>(
    action: &'a Action,
    excluded: &'a BTreeSet<EntityRef>,
    asked_at: Option<Timestamp>,
    now: Timestamp,
) -> AnswerQuery<'a> {
    AnswerQuery {
        operation: &action.operation,
        resource: &action.resource,
        requester: &action.principal,
        operator: action.operator.as_ref(),
        excluded,
        waited: asked_at.map(|asked_at| now.since(asked_at)).unwrap_or_default(),
        now,
    }
}

/// At most this many persons are named.
const MAX_ANSWERERS: usize = 100;

/// Who could answer any of these rules, sorted.
#[must_use]
pub fn answerers<'a>(
    view: View<'_>,
    rules: impl IntoIterator<Item = &'a str>,
    query: &AnswerQuery<'_>,
) -> Vec<EntityRef> {
    let persons = rules.into_iter().flat_map(|rule| view.answerers(rule, query, MAX_ANSWERERS).persons);
    let distinct: BTreeSet<EntityRef> = persons.collect();
    distinct.into_iter().take(MAX_ANSWERERS).collect()
}

/// A rule as a request shows it.
#[must_use]
pub fn asked(rule: &AskingRule) -> Asked {
    Asked { id: rule.id.clone(), quorum: rule.quorum, reason: rule.reason.clone(), signed_votes: rule.signed_votes }
}
