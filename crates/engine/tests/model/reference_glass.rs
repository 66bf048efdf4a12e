//! The third part of the model: broken glass, and its reviews.

use std::collections::BTreeSet;

use super::{
    Acting, Action, Answer, Capability, GLASS_MILLIS, GLASS_TIMES, Model, Refusable, Review, Rule, Ruling,
    TOKEN_MILLIS, Use, Who, admin, refused,
};
use crate::world::PERSONS;

impl Model {
    pub(super) fn break_glass(&mut self, who: Who, action: Action, mint: bool) -> Refusable<Answer> {
        if !who.party.is_person() || who.operator.is_some() {
            return refused("NotAPerson");
        }
        self.in_session(who, action.session, Acting::Caller)?;
        let excluded = self.excluded(who, action);
        let rules: BTreeSet<Rule> = match self.judge(action, None, &excluded)? {
            Ruling::Allow => return refused("Glass unneeded"),
            Ruling::Deny => {
                self.record("decision", Some(who.party));
                return Ok(Answer::Deny);
            }
            Ruling::Needs(rules) => rules.into_iter().collect(),
        };
        if !self.variant.breaks_glass(who.party, &rules) {
            return refused("AdministrationDenied breakGlass");
        }
        let (now, review) = (self.now, self.reviews.len());
        let glass = self.glass.entry(who.party).or_default();
        if glass.open.is_some() {
            return refused("Glass review open");
        }
        let counts = |at: &&i64| now < **at + GLASS_MILLIS;
        if glass.times.iter().filter(counts).count() >= GLASS_TIMES {
            return refused("Glass too often");
        }
        glass.times.push(now);
        glass.open = Some(review);
        let could = |person: &crate::world::Party| {
            !excluded.contains(person) && rules.iter().any(|rule| self.variant.answers(*rule, *person))
        };
        let passed_over = PERSONS.into_iter().filter(could).collect();
        self.reviews.push(Review { person: who.party, action, rules, passed_over, excluded, closed: false });
        let capability = mint.then(|| {
            let expires = (now + TOKEN_MILLIS).min(self.sessions[action.session].deadline);
            let review = Some(review);
            self.capabilities.push(Capability {
                action,
                approval: None,
                review,
                expires,
                used: Use::Minted,
                parent: None,
            });
            self.capabilities.len() - 1
        });
        self.record("decision", Some(who.party));
        Ok(Answer::Broken { capability, review })
    }

    pub(super) fn close_review(&mut self, who: Who, number: usize) -> Refusable<Answer> {
        if !who.party.is_person() || who.operator.is_some() {
            return refused("NotAPerson");
        }
        let review = &self.reviews[number];
        let session = &self.sessions[review.action.session];
        let excluded = &self.variant.excluded([session.principal, review.action.at]) | &review.excluded;
        let own = who.party == review.person;
        let may_review = admin::review(who.party) && !own && !excluded.contains(&who.party);
        let concerned = excluded.contains(&who.party) || review.passed_over.contains(&who.party);
        if !may_review && !concerned && !admin::administer(who.party) {
            return refused("ReviewNotFound");
        }
        if review.closed {
            return refused("Glass closed");
        }
        if own {
            return refused("Glass own");
        }
        if excluded.contains(&who.party) {
            return refused("Glass excluded");
        }
        if !may_review {
            return refused("AdministrationDenied reviewBreakGlass");
        }
        let person = review.person;
        self.reviews[number].closed = true;
        if let Some(glass) = self.glass.get_mut(&person) {
            glass.open = glass.open.filter(|open| *open != number);
        }
        self.record("review_closed", Some(who.party));
        Ok(Answer::Review(number))
    }

    /// Whether the glass of a review still counts, and for all that asks.
    pub(super) fn lifted(&self, review: usize, asking: &[Rule]) -> bool {
        let review = &self.reviews[review];
        self.variant.breaks_glass(review.person, &review.rules) && asking.iter().all(|rule| review.rules.contains(rule))
    }
}
