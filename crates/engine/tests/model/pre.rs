//! Pre-approvals in the model: what they cover, what they are asked within, and how their uses are charged.

use crate::reference::{Model, Question, Written};
use crate::request::Action;
use crate::world::{Deed, Rule, Variant};

/// The bounds that a question was asked within, and what is used of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pre {
    pub bounds: Bounds,
    pub charged: u32,
    /// The bundle under which it was asked, whose rules are what people were asked to lift.
    pub asked_under: Variant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bounds {
    pub uses: u32,
    pub seconds: u64,
}

impl Bounds {
    pub const fn within(self, most: Self) -> bool {
        self.uses <= most.uses && self.seconds <= most.seconds
    }
}

impl Action {
    /// An action without what a pre-approval leaves open.
    pub fn frame(self) -> Self {
        let deed = if self.deed == Deed::Scribble { Deed::Write } else { self.deed };
        Self { deed, n: 0, ..self }
    }
}

impl Variant {
    /// Within which bounds a rule can be pre-approved.
    pub fn offers(self, rule: Rule) -> Option<Bounds> {
        match (self, rule) {
            (_, Rule::WipeSec | Rule::WipeTwo) | (Self::Loose | Self::Member, Rule::WriteAsks) => None,
            (Self::Tight, Rule::WriteAsks) => Some(Bounds { uses: 2, seconds: 1_800 }),
            (_, Rule::WriteAsks) => Some(Bounds { uses: 3, seconds: 1_800 }),
        }
    }
}

impl Question {
    pub fn covers(&self, action: Action) -> bool {
        if self.pre.is_some() { self.action == action.frame() } else { self.action == action }
    }

    /// Whether a rule lets the question stand as it was put: it offers as much, and reads as it did.
    pub fn offered(&self, variant: Variant, rule: Rule) -> bool {
        self.pre.is_none_or(|pre| {
            let reads = |variant: Variant| (variant.quorum(rule), variant.offers(rule));
            variant.offers(rule).is_some_and(|most| pre.bounds.within(most)) && reads(variant) == reads(pre.asked_under)
        })
    }

    /// Something was done on it.
    pub fn spend(&mut self) {
        let left = self.pre.as_mut().map_or(0, |pre| {
            pre.charged += 1;
            pre.bounds.uses - pre.charged
        });
        if left == 0 {
            self.written = Written::Redeemed;
        }
    }

    /// Why nothing can be done on it in this state.
    pub fn over(&self, state: &str) -> String {
        if self.pre.is_some() && state == "redeemed" {
            "Approval used up".to_owned()
        } else {
            format!("Approval {state}")
        }
    }

    /// From when on it is over, when it is approved at `now` in a session with this deadline.
    pub fn approved_until(&self, now: i64, deadline: i64) -> i64 {
        match self.pre {
            Some(pre) => (now + i64::try_from(pre.bounds.seconds).unwrap() * 1_000).min(deadline),
            None => now + self.ttl,
        }
    }
}

impl Model {
    /// What a pre-approval may not be asked about.
    pub(crate) fn require_offered(&self, action: Action, rules: &[Rule], bounds: Bounds) -> Result<(), String> {
        for rule in rules {
            let Some(most) = self.variant.offers(*rule) else { return Err("NotPreApprovable".to_owned()) };
            if bounds.uses > most.uses {
                return Err("InvalidField pre_approval.uses".to_owned());
            }
            if bounds.seconds > most.seconds {
                return Err("InvalidField pre_approval.duration".to_owned());
            }
        }
        let left = (self.sessions[action.session].deadline - self.now).max(0) / 1_000;
        if i64::try_from(bounds.seconds).unwrap() > left {
            return Err("InvalidField pre_approval.duration".to_owned());
        }
        Ok(())
    }
}
