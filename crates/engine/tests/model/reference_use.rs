//! The second half of the model: votes, and what becomes of a capability.

use std::collections::BTreeSet;

use super::{
    Action, Altered, Answer, COMPLETION_MILLIS, Capability, Model, Party, Question, Refusable, Rule, Ruling, Session,
    Use, Variant, Vote, Who, Written, admin, refused,
};
use crate::request::{Shown, Wide};
use crate::world::Deed;

impl Model {
    /// Who is excluded from answering now: it only grows.
    pub(super) fn voting_excluded(&self, question: &Question) -> BTreeSet<Party> {
        let session = &self.sessions[question.action.session];
        let parties = [session.principal, question.action.at, question.asked_by].into_iter().chain(session.operator);
        let mut excluded = self.variant.excluded(parties.chain(session.chain.iter().copied()));
        excluded.extend(question.excluded.iter().copied());
        excluded.extend(session.excluded.iter().copied());
        excluded
    }

    /// Whether a person's yes would count. Not used by any answer: operations look for promising voters with it.
    pub fn could_vote(&self, number: usize, person: Party) -> bool {
        let question = &self.questions[number];
        let who = Who { party: person, operator: None, until: None };
        !self.voting_excluded(question).contains(&person)
            && self.may_answer(who, question)
            && !question.votes.iter().any(|vote| vote.person == person)
    }

    /// Whoever acts for one person is no part of what is done for another.
    fn is_foreign(who: Who, operator: Option<Party>) -> bool {
        who.operator.is_some() && who.operator != operator
    }

    fn is_party(&self, who: Who, question: &Question) -> bool {
        let session = &self.sessions[question.action.session];
        let own =
            who.party == question.asked_by || who.party == session.principal || Some(who.party) == session.operator;
        own && !Self::is_foreign(who, session.operator)
    }

    fn may_revoke(who: Who, question: &Question) -> bool {
        question.pre.is_some() && admin::stop(who.party)
    }

    fn may_answer(&self, who: Who, question: &Question) -> bool {
        let as_person = who.party.is_person() && who.operator.is_none();
        as_person
            && !question.excluded.contains(&who.party)
            && question.rules.iter().any(|(rule, _)| self.answers(who, *rule))
    }

    fn answers(&self, who: Who, rule: Rule) -> bool {
        self.variant.answers_as(rule, who.party, who.until.is_some_and(|until| self.now < until))
    }

    fn visible(&self, who: Who, question: &Question) -> bool {
        let voted = who.operator.is_none() && question.votes.iter().any(|vote| vote.person == who.party);
        self.is_party(who, question)
            || voted
            || self.may_answer(who, question)
            || admin::administer(who.party)
            || Self::may_revoke(who, question)
    }

    pub(super) fn vote(&mut self, who: Who, number: usize, approve: bool, shown: Shown) -> Refusable<Answer> {
        if !who.party.is_person() || who.operator.is_some() {
            return refused("NotAPerson");
        }
        let mut question = self.questions[number].clone();
        question.excluded = self.voting_excluded(&question);
        if !self.visible(who, &question) && !question.excluded.contains(&who.party) {
            return refused("Approval not eligible");
        }
        if !self.session_open(question.action.session) {
            return refused("Approval void: its session is over");
        }
        match (question.state(self.now), approve) {
            ("pending", _) | ("approved", false) => {}
            ("approved", true) if question.has_voted(who.party, true, self.now) => {
                return refused("Approval already voted");
            }
            (state, _) => return Err(format!("Approval {state}")),
        }
        match shown {
            Shown::Right => {}
            Shown::OtherDigest => return refused("Approval stale digest"),
            Shown::OtherView => return refused("Approval stale view"),
        }
        if question.excluded.contains(&who.party) {
            return refused("Approval excluded");
        }
        let answers = |rule| self.answers(who, rule);
        let rules = question.rules.iter().map(|(rule, _)| *rule).filter(|rule| answers(*rule)).collect();
        let rules: BTreeSet<_> = rules;
        if rules.is_empty() {
            return refused("Approval not eligible");
        }
        if question.has_voted(who.party, approve, self.now) {
            return refused("Approval already voted");
        }
        if approve && question.withdrawals.iter().filter(|person| **person == who.party).count() >= 3 {
            return refused("Approval wavering");
        }
        let approved = question.written == Written::Approved;
        question.votes.retain(|vote| vote.person != who.party);
        // Whom the bundle has among the editors does not rest on a credential, and a no rests on nothing.
        let until = who.until.filter(|_| approve && !self.variant.answers(Rule::WipeTwo, who.party));
        question.votes.push(Vote { person: who.party, approve, rules, until });
        if !approve {
            question.written = if approved { Written::Void } else { Written::Denied };
        } else if question.rules.iter().all(|(rule, quorum)| {
            question.count(self.variant, *rule, &question.excluded, self.now) >= usize::try_from(*quorum).unwrap()
        }) {
            question.written = Written::Approved;
            let deadline = self.sessions[question.action.session].deadline;
            question.expires = question.approved_until(self.now, deadline);
        }
        if question.excluded.len() > self.questions[number].excluded.len() {
            self.record("approval_excluded", Some(who.party));
        }
        self.questions[number] = question;
        self.record("vote", Some(who.party));
        Ok(Answer::Question(number))
    }

    pub(super) fn withdraw(&mut self, who: Who, number: usize) -> Refusable<Answer> {
        if !who.party.is_person() || who.operator.is_some() {
            return refused("NotAPerson");
        }
        self.require_live(number)?;
        if !self.visible(who, &self.questions[number]) {
            return refused("ApprovalNotFound");
        }
        let question = &mut self.questions[number];
        if !question.votes.iter().any(|vote| vote.person == who.party) {
            return refused("Approval no vote");
        }
        question.votes.retain(|vote| vote.person != who.party);
        question.withdrawals.push(who.party);
        if question.written == Written::Approved {
            question.written = Written::Void;
        }
        self.record("vote_withdrawn", Some(who.party));
        Ok(Answer::Question(number))
    }

    pub(super) fn cancel(&mut self, who: Who, number: usize) -> Refusable<Answer> {
        let question = &self.questions[number];
        if !self.is_party(who, question) && !Self::may_revoke(who, question) {
            return refused("ApprovalNotFound");
        }
        let pre = question.pre.is_some();
        self.require_live(number)?;
        match self.state(number) {
            "approved" if pre => self.questions[number].written = Written::Cancelled,
            "pending" => self.questions[number].written = Written::Cancelled,
            state => return Err(format!("Approval {state}")),
        }
        self.record("approval_cancelled", Some(who.party));
        Ok(Answer::Question(number))
    }

    pub(super) fn redeem(&mut self, who: Who, number: usize, altered: Altered) -> Refusable<Answer> {
        let capability = self.capabilities[number].clone();
        let presented = altered.present(capability.action);
        if altered == Altered::Token {
            return refused("Token bad");
        }
        if self.now >= capability.expires {
            return refused("Token expired");
        }
        if !admin::redeem(who.party, presented.at) {
            return refused("AdministrationDenied redeem");
        }
        self.require_descent(number)?;
        self.require_open(capability.action.session)?;
        // What is minted for the gate is bound to a key, but for broken glass.
        match (capability.action.at == Party::Gate && capability.review.is_none(), altered) {
            (true, Altered::NoProof) => return refused("Holder missing"),
            (true, Altered::OtherKey) => return refused("Holder other"),
            (true, _) if presented != capability.action => return refused("Holder action"),
            (false, Altered::OtherKey) => return refused("InvalidField holder_proof"),
            (true | false, _) => {}
        }
        if presented.at != capability.action.at {
            return refused("Token audience");
        }
        if presented != capability.action {
            return refused("Token digest");
        }
        capability.require_minted()?;
        let excluded = self.spendable(who, &capability)?;
        let ruling = self.judge(presented, capability.approval, &excluded)?;
        let good = match (ruling, capability.review) {
            (Ruling::Deny, _) | (Ruling::Needs(_), None) => false,
            (Ruling::Allow, None) => true,
            (Ruling::Allow, Some(review)) => self.lifted(review, &[]),
            (Ruling::Needs(rules), Some(review)) => self.lifted(review, &rules),
        };
        if !good {
            return refused("PolicyDenied");
        }
        if let Some(question) = capability.approval {
            self.questions[question].spend();
        }
        let complete_by = self.now + COMPLETION_MILLIS;
        self.capabilities[number].used = Use::Redeemed { by: who.party, complete_by };
        self.record("redeem", Some(who.party));
        Ok(Answer::Redeemed(number))
    }

    /// That the approval of a capability is still good, and who is excluded with it.
    pub(super) fn spendable(&self, who: Who, capability: &Capability) -> Refusable<BTreeSet<Party>> {
        let mut excluded = self.excluded(who, capability.action);
        if let Some(question) = capability.approval {
            let question = &self.questions[question];
            match question.state(self.now) {
                "approved" => excluded.extend(question.excluded.iter().copied()),
                "redeemed" if question.pre.is_some() => return Err(question.over("redeemed")),
                "redeemed" => return refused("Capability already redeemed"),
                state => return Err(format!("ApprovalGone {state}")),
            }
        }
        Ok(excluded)
    }

    pub(super) fn complete(&mut self, who: Who, number: usize, succeeded: bool) -> Refusable<Answer> {
        match self.capabilities[number].used {
            Use::Redeemed { by, .. } if by != who.party => return refused("Capability not the redeemer"),
            Use::Redeemed { .. } => {}
            Use::Completed { .. } => return refused("Capability already completed"),
            Use::Minted => return refused("Capability not redeemed"),
            Use::Revoked => return refused("Capability revoked"),
            Use::Delegated { .. } => return refused("Capability delegated"),
        }
        self.capabilities[number].used = Use::Completed { by: who.party, succeeded };
        self.record("complete", Some(who.party));
        Ok(Answer::Capability(number))
    }

    pub(super) fn revoke(&mut self, who: Who, number: usize) -> Refusable<Answer> {
        let capability = &self.capabilities[number];
        let session = &self.sessions[capability.action.session];
        let own = who.party == session.principal || Some(who.party) == session.operator;
        if (!own || Self::is_foreign(who, session.operator)) && !admin::stop(who.party) {
            return refused("AdministrationDenied revoke");
        }
        match capability.state(self.now) {
            "minted" => {}
            "delegated" if self.now >= capability.expires => return refused("Capability expired"),
            "delegated" => {}
            "expired" => return refused("Capability expired"),
            "revoked" => return refused("Capability revoked"),
            _ => return refused("Capability already redeemed"),
        }
        self.capabilities[number].used = Use::Revoked;
        self.record("revoke", Some(who.party));
        Ok(Answer::Capability(number))
    }

    /// What was before is over; what comes is not.
    pub(super) fn revoke_all(&mut self, who: Who, of: Wide) -> Refusable<Answer> {
        let direct = who.operator.is_none();
        let own = match of {
            Wide::Principal(party) => direct && who.party == party,
            Wide::Operator(party) => direct && who.party == party,
            Wide::Everything => false,
        };
        let permitted = admin::stop(who.party) && (direct || of != Wide::Everything);
        if !own && !permitted {
            let action = if of == Wide::Everything { "revokeAll" } else { "revoke" };
            return Err(format!("AdministrationDenied {action}"));
        }
        self.own_revoked += usize::from(!permitted);
        let concerns = |session: &Session| match of {
            Wide::Principal(party) => session.principal == party,
            Wide::Operator(party) => session.operator == Some(party),
            Wide::Everything => true,
        };
        for number in 0..self.capabilities.len() {
            let of_it = concerns(&self.sessions[self.capabilities[number].action.session]);
            let Capability { used, expires, .. } = &mut self.capabilities[number];
            if of_it && matches!(used, Use::Minted | Use::Delegated { .. }) && self.now < *expires {
                *used = Use::Revoked;
            }
        }
        for number in 0..self.sessions.len() {
            let session = &self.sessions[number];
            // Whoever acts through somebody is over with them.
            let through = session.parent.is_some_and(|parent| {
                let link = self.sessions[parent].principal;
                of == Wide::Principal(link) && session.operator != Some(link)
            });
            if session.ended.is_none() && self.now < session.deadline && (concerns(session) || through) {
                self.sessions[number].ended = Some(self.now);
            }
        }
        self.record("revocation", Some(who.party));
        Ok(Answer::Revoked)
    }

    pub(super) fn end(&mut self, who: Who, number: usize) -> Refusable<Answer> {
        let session = &self.sessions[number];
        let own = [Some(session.principal), session.operator, Some(session.opened_by)].contains(&Some(who.party));
        if (!own || Self::is_foreign(who, session.operator)) && !admin::stop(who.party) {
            return refused("AdministrationDenied endSession");
        }
        self.require_open(number)?;
        self.sessions[number].ended = Some(self.now);
        self.record("session_ended", Some(who.party));
        Ok(Answer::Session(number))
    }

    pub(super) fn publish(&mut self, who: Who, variant: Variant, preparing: &mut u64) -> Refusable<Answer> {
        if !admin::administer(who.party) {
            return refused("AdministrationDenied publish");
        }
        if variant == Variant::Broken {
            return refused("BundleRefused");
        }
        if variant == self.variant {
            return Ok(Answer::Published { changed: false });
        }
        if variant == Variant::Older {
            return refused("BundleOlder");
        }
        *preparing = self.prepare_publish(variant, u64::MAX);
        self.variant = variant;
        self.record("bundle_activated", Some(who.party));
        Ok(Answer::Published { changed: true })
    }

    pub(super) fn view(&self, who: Who, number: usize) -> Refusable<Answer> {
        let question = &self.questions[number];
        if !self.visible(who, question) {
            return refused("ApprovalNotFound");
        }
        Ok(Answer::Seen(self.state(number)))
    }

    /// What a question is: one whose session was over before its own time was is void.
    fn state(&self, number: usize) -> &'static str {
        let question = &self.questions[number];
        let over_at = self.over_at(question.action.session);
        match question.state(self.now) {
            "pending" | "approved" | "expired" if over_at <= self.now && over_at < question.expires => "void",
            state => state,
        }
    }

    fn require_live(&self, number: usize) -> Refusable<()> {
        match self.state(number) {
            "pending" | "approved" => Ok(()),
            over => Err(self.questions[number].over(over)),
        }
    }

    pub(super) fn look(&self, who: Who, number: usize) -> Refusable<Answer> {
        let capability = &self.capabilities[number];
        let session = &self.sessions[capability.action.session];
        let redeemer = match capability.used {
            Use::Redeemed { by, .. } | Use::Completed { by, .. } => Some(by),
            Use::Minted | Use::Revoked | Use::Delegated { .. } => None,
        };
        let own = [Some(session.principal), session.operator].contains(&Some(who.party));
        let own = own && !Self::is_foreign(who, session.operator);
        if own || redeemer == Some(who.party) || admin::administer(who.party) {
            Ok(Answer::Seen(capability.state(self.now)))
        } else {
            refused("CapabilityNotFound")
        }
    }
}

impl Altered {
    /// The action that is presented instead of the one decided.
    pub fn present(self, action: Action) -> Action {
        match self {
            Self::Nothing | Self::Token | Self::NoProof | Self::OtherKey => action,
            Self::Deed => Action { deed: if action.deed == Deed::Write { Deed::Wipe } else { Deed::Write }, ..action },
            Self::Doc => Action { doc: 1 - action.doc, ..action },
            Self::Input => Action { n: action.n + 2, ..action },
            Self::Audience => {
                let at = if action.at == Party::Door { Party::Gate } else { Party::Door };
                Action { at, ..action }
            }
        }
    }
}
