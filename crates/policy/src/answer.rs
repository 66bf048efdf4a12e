//! Who may answer for a rule.

use std::collections::BTreeSet;

use countersign_core::{EntityRef, Timestamp};

use crate::bundle::Bundle;

/// What a person is asked to answer for.
#[derive(Debug, Clone)]
pub struct AnswerQuery<'a> {
    /// The operation of the action.
    pub operation: &'a str,
    /// What it acts upon.
    pub resource: &'a EntityRef,
    /// The principal of the action.
    pub requester: &'a EntityRef,
    /// The person the principal acts for.
    pub operator: Option<&'a EntityRef>,
    /// The persons who may not answer, whatever the policies say. Persons only.
    pub excluded: &'a BTreeSet<EntityRef>,
    /// The time that decides.
    pub now: Timestamp,
}

/// A yes or no of the `approve` or the `admin` set. The default is no.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Whether it is permitted. Any evaluation error makes it false.
    pub permitted: bool,
    /// The ids of the policies that determined it, sorted.
    pub policies: Vec<String>,
    /// What could not be evaluated.
    pub errors: Vec<String>,
}

/// Who could answer for a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answerers {
    /// The groups that the rule's `approve` policies name.
    pub groups: Vec<EntityRef>,
    /// Their members who may answer, and persons whom the policies name, sorted.
    pub persons: Vec<EntityRef>,
    /// Whether there are more persons than the limit.
    pub truncated: bool,
}
