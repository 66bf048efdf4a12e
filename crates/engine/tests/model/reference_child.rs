//! Sessions in sessions, and capabilities that are handed on.

use super::{Action, Answer, Capability, Model, Refusable, Ruling, Session, Use, Who, admin, refused};
use crate::request::Acting;
use crate::world::Party;

impl Model {
    /// When a session is over, or will be: with the first of those above it at the latest.
    pub(super) fn over_at(&self, session: usize) -> i64 {
        let found = &self.sessions[session];
        let own = found.ended.unwrap_or(found.deadline);
        found.parent.map_or(own, |parent| own.min(self.over_at(parent)))
    }

    fn ended(&self, session: usize) -> bool {
        let found = &self.sessions[session];
        found.ended.is_some() || found.parent.is_some_and(|parent| self.ended(parent))
    }

    pub fn session_open(&self, session: usize) -> bool {
        !self.ended(session) && self.now < self.over_at(session)
    }

    pub(super) fn require_open(&self, session: usize) -> Refusable<()> {
        let found = &self.sessions[session];
        if self.session_open(session) {
            return Ok(());
        }
        if found.ended.is_some() {
            return refused("SessionOver ended");
        }
        let by_parent =
            |parent| self.over_at(parent) <= found.deadline && (self.ended(parent) || self.over_at(parent) <= self.now);
        refused(if found.parent.is_some_and(by_parent) { "SessionOver parent" } else { "SessionOver expired" })
    }

    pub(super) fn open_in(&mut self, who: Who, parent: usize, acting: Acting, seconds: u64) -> Refusable<Answer> {
        let above = self.sessions[parent].clone();
        self.is_own(who, &above)?;
        let named = match acting {
            Acting::Caller => None,
            Acting::Named(party) => Some(party),
            Acting::Credential(caller) => Some(self.who(caller)?.party),
        };
        if named.is_none_or(|named| named == above.principal || named.is_person()) {
            return refused("InvalidField principal");
        }
        self.require_open(parent)?;
        let identity = self.identity(who, acting)?;
        if identity.operator.is_some() && identity.operator != above.operator {
            return refused("SessionMismatch operator");
        }
        if !admin::open_session(who.party, identity.party) {
            return refused("AdministrationDenied openSession");
        }
        let chain: Vec<Party> = std::iter::once(above.principal).chain(above.chain).collect();
        if chain.contains(&identity.party) {
            return refused("InvalidField credential");
        }
        let behind = self.variant.excluded(std::iter::once(who.party).chain(who.operator));
        self.sessions.push(Session {
            principal: identity.party,
            operator: above.operator,
            opened_by: who.party,
            excluded: &behind | &above.excluded,
            deadline: (self.now + i64::try_from(seconds).unwrap() * 1_000).min(above.deadline),
            ended: None,
            parent: Some(parent),
            chain,
        });
        self.record("session_opened", Some(who.party));
        Ok(Answer::Session(self.sessions.len() - 1))
    }

    /// That whoever calls is the principal of a session themselves.
    fn is_own(&self, who: Who, session: &Session) -> Refusable<()> {
        if who.party != session.principal {
            return refused("SessionMismatch principal");
        }
        if who.operator.is_some() && who.operator != session.operator {
            return refused("SessionMismatch operator");
        }
        Ok(())
    }

    /// That all that a capability came from was exchanged for the next of it, and still is.
    pub(super) fn require_descent(&self, number: usize) -> Refusable<()> {
        let (mut child, mut next) = (number, self.capabilities[number].parent);
        while let Some(parent) = next {
            if self.capabilities[parent].used != (Use::Delegated { to: child }) {
                return refused("Capability parent gone");
            }
            (child, next) = (parent, self.capabilities[parent].parent);
        }
        Ok(())
    }

    pub(super) fn delegate(
        &mut self,
        who: Who,
        number: usize,
        session: usize,
        approval: Option<usize>,
    ) -> Refusable<Answer> {
        let given = self.capabilities[number].clone();
        if self.now >= given.expires {
            return refused("Token expired");
        }
        self.is_own(who, &self.sessions[given.action.session].clone())?;
        self.require_descent(number)?;
        self.require_open(given.action.session)?;
        given.require_minted()?;
        if given.review.is_some() {
            return refused("NotDelegable");
        }
        let also = self.spendable(who, &given)?;
        if !matches!(self.judge(given.action, given.approval, &also)?, Ruling::Allow) {
            return refused("PolicyDenied");
        }
        if self.sessions[session].parent != Some(given.action.session) {
            return refused("NotDelegable");
        }
        let action = Action { session, ..given.action };
        let acting = Acting::Named(self.sessions[session].principal);
        let (ruling, approved, excluded) = self.weigh(who, action, acting, approval, &also)?;
        let answer = match ruling {
            Ruling::Deny => Answer::Deny,
            Ruling::Needs(rules) => self.needs(&rules, &excluded),
            Ruling::Allow => {
                let expires = self.expires(action, approved).min(given.expires);
                let to = self.capabilities.len();
                let used = Use::Minted;
                let parent = Some(number);
                self.capabilities.push(Capability { action, approval: approved, review: None, expires, used, parent });
                self.capabilities[number].used = Use::Delegated { to };
                if let Some(question) = given.approval {
                    self.questions[question].spend();
                }
                if let Some(question) = approved
                    && excluded.len() > self.questions[question].excluded.len()
                {
                    self.questions[question].excluded = excluded;
                    self.record("approval_excluded", Some(who.party));
                }
                self.record("delegated", Some(who.party));
                Answer::Allow(Some(to))
            }
        };
        self.record("decision", Some(who.party));
        Ok(answer)
    }

    /// A session to hand on to from another, if there is one.
    pub fn child_of(&self, session: usize) -> Option<usize> {
        let below = |number: &usize| self.sessions[*number].parent == Some(session) && self.session_open(*number);
        (0..self.sessions.len()).rev().find(below)
    }
}

impl Capability {
    pub(super) fn require_minted(&self) -> Refusable<()> {
        match self.used {
            Use::Minted => Ok(()),
            Use::Redeemed { .. } | Use::Completed { .. } => refused("Capability already redeemed"),
            Use::Revoked => refused("Capability revoked"),
            Use::Delegated { .. } => refused("Capability delegated"),
        }
    }
}
