//! What people are shown, in one digest.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{AlsoAsked, AskingRule, Together};
use crate::digest::Digest;
use crate::entity::EntityRef;
use crate::id::ApprovalId;
use crate::pre_approval::Bounds;
use crate::precedent::History;
use crate::time::Timestamp;

/// Everything that is shown to people beside what they say themselves. A vote binds it, so whoever shows a request can hold
/// what it was sent against the digest that the vote will name.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The request's id.
    pub id: ApprovalId,
    /// The canonical text of the action.
    pub action: &'a str,
    /// Who is answerable for the principal. Absent in the first version of views, as is the history.
    pub owner: Option<&'a EntityRef>,
    /// Who put the question.
    pub asked_by: &'a EntityRef,
    /// Why, in the asker's words.
    pub justification: &'a str,
    /// Who put the same question after, and why.
    pub also: &'a [AlsoAsked],
    /// The labels of the session.
    pub labels: &'a BTreeSet<String>,
    /// The purpose of the session.
    pub purpose: &'a str,
    /// The rules that ask.
    pub rules: &'a [AskingRule],
    /// How long people have to answer.
    pub ttl_millis: u64,
    /// What people answered before.
    pub history: &'a History,
    /// With which other questions it was put. Absent when it was put alone.
    pub batch: Option<Together>,
    /// The bounds of a pre-approval, and when it is over at the latest.
    pub pre_approval: Option<(Bounds, Timestamp)>,
}

impl View<'_> {
    /// The SHA-256 of its text.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.text().as_bytes())
    }

    /// Its RFC 8785 form (docs/design/canonical-form.md).
    #[must_use]
    pub fn text(&self) -> String {
        #[derive(Serialize)]
        struct Form<'a> {
            version: u32,
            id: ApprovalId,
            action: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            owner: Option<&'a EntityRef>,
            asked_by: &'a EntityRef,
            justification: &'a str,
            #[serde(skip_serializing_if = "<[AlsoAsked]>::is_empty")]
            also: &'a [AlsoAsked],
            #[serde(skip_serializing_if = "BTreeSet::is_empty")]
            labels: &'a BTreeSet<String>,
            purpose: &'a str,
            rules: &'a [AskingRule],
            ttl_millis: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            history: Option<&'a History>,
            #[serde(skip_serializing_if = "Option::is_none")]
            batch: Option<Together>,
            #[serde(skip_serializing_if = "Option::is_none")]
            pre_approval: Option<Bounded>,
        }
        #[derive(Serialize)]
        struct Bounded {
            uses: u32,
            seconds: u64,
            until_millis: i64,
        }
        let Self { id, action, owner, asked_by, justification, purpose, rules, ttl_millis, history, .. } = *self;
        let Self { batch, pre_approval, also, labels, .. } = *self;
        let version = if rules.iter().any(|rule| rule.signed_votes) {
            5
        } else {
            match (also.is_empty() && labels.is_empty(), batch.is_some() || pre_approval.is_some(), owner) {
                (false, _, _) => 4,
                (true, true, _) => 3,
                (true, false, Some(_)) => 2,
                (true, false, None) => 1,
            }
        };
        let history = owner.map(|_| history);
        let pre_approval = pre_approval.map(|(Bounds { uses, seconds }, until)| Bounded {
            uses,
            seconds,
            until_millis: until.millis(),
        });
        let form = Form {
            version,
            id,
            action,
            owner,
            asked_by,
            justification,
            also,
            labels,
            purpose,
            rules,
            ttl_millis,
            history,
            batch,
            pre_approval,
        };
        serde_json_canonicalizer::to_string(&form).unwrap_or_default()
    }
}
