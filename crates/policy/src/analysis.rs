//! What proofs about a bundle work on: the very policies that decide, as they are looked up for a decision, and what the
//! author states about them. The only public items of this crate with types of Cedar, for `countersign-prove` and nobody else.

use std::collections::BTreeMap;
use std::sync::Arc;

use cedar_policy::{Effect, EntityUid, Policy, PolicyId, PolicySet, Schema};
use serde_json::Value;

use crate::bundle::Bundle;
use crate::closed_form;
use crate::compose::{APPROVE, compose};
use crate::finding::{Finding, Refused, Severity};
use crate::lint;
use crate::policies::{self, Authored, Kind};
use crate::source::SCHEMA;

/// The policies that are evaluated for one action, kernel policies included.
#[derive(Debug, Clone)]
pub struct Slice<'a> {
    /// The policy set that they are of.
    pub set: Kind,
    /// The action.
    pub action: &'a EntityUid,
    /// The policies whose scope can match the action: those that decisions about it are taken from.
    pub policies: Arc<PolicySet>,
}

/// What the author of a bundle states about its work set.
#[derive(Debug, Clone)]
pub struct Statement {
    /// Its id, unique among the statements.
    pub id: String,
    /// The file inside the bundle.
    pub file: String,
    /// The line it begins at, counted from 1.
    pub line: usize,
    /// Its `@reason`, in the words of its author.
    pub reason: Option<String>,
    /// A forbid: nothing that it matches is ever allowed. A permit: everything that it matches is.
    pub policy: Policy,
}

/// The statements of a bundle, and what somebody should look at in them.
#[derive(Debug, Clone, Default)]
pub struct Statements {
    /// The statements, by file and line.
    pub statements: Vec<Statement>,
    /// Findings that hinder nothing.
    pub warnings: Vec<Finding>,
}

/// Whether an approval of a rule is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approval {
    /// The rule is among those that are approved.
    Given,
    /// It is not, or there is no approval at all.
    Missing,
}

impl Bundle {
    /// The composed schema that decisions are made under.
    #[must_use]
    pub const fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The policies of every action, set by set.
    pub fn slices(&self) -> impl Iterator<Item = Slice<'_>> {
        let work = self.operations.values();
        let work = work.map(|of| Slice { set: Kind::Work, action: &of.uid, policies: of.policies.whole() });
        let reserved = self.reserved.iter().map(|(name, of)| {
            let set = if name == APPROVE { Kind::Approve } else { Kind::Admin };
            Slice { set, action: &of.uid, policies: of.policies.whole() }
        });
        work.chain(reserved)
    }

    /// A permit that matches what the rule `rule` is about: its scope and its conditions hold, and its approval is given or
    /// missing. Nothing if people can lift no such rule.
    #[must_use]
    pub fn asked_about(&self, rule: &str, approval: Approval) -> Option<Policy> {
        self.asking(rule)?;
        let id = PolicyId::new(rule);
        let json = Policy::parse(Some(id.clone()), &self.policy_text(rule)?.text).ok()?.to_json().ok()?;
        let mut json = match approval {
            Approval::Missing => json,
            Approval::Given => closed_form::approved(rule, json)?,
        };
        json.as_object_mut()?.insert("effect".into(), Value::from("permit"));
        Policy::from_json(Some(id), json).ok()
    }

    /// What the author states, in `properties/`. Read when it is asked for: statements are no part of a bundle, so a wrong
    /// one must not keep it from deciding.
    ///
    /// # Errors
    /// [`Refused`] with everything that is wrong with the statements.
    pub fn statements(&self) -> Result<Statements, Refused> {
        let mut findings = Vec::new();
        let read = policies::read_properties(self.source(), &mut findings);
        let text = self.source().text(SCHEMA).unwrap_or_default();
        let composed = compose(text, self.kept().counters.keys()).map_err(Refused::new)?;
        for statement in read.values() {
            lint::annotations(statement, false, &mut findings);
        }
        match policies::set(read.values()) {
            Ok(set) => lint::validate(&set, &composed.work, self.level(), &read, self.source().files(), &mut findings),
            Err(finding) => findings.push(finding),
        }
        let findings = Refused::new(findings);
        if findings.findings.iter().any(|finding| finding.severity == Severity::Error) {
            return Err(findings);
        }
        Ok(Statements { statements: in_order(read), warnings: findings.findings })
    }
}

impl Statement {
    /// Whether it is a forbid: what it matches is never allowed.
    #[must_use]
    pub fn forbids(&self) -> bool {
        self.policy.effect() == Effect::Forbid
    }
}

fn in_order(read: BTreeMap<String, Authored>) -> Vec<Statement> {
    let mut read: Vec<Authored> = read.into_values().collect();
    read.sort_by(|a, b| (&a.file, a.at).cmp(&(&b.file, b.at)));
    let statement = |authored: Authored| Statement {
        reason: authored.policy.annotation("reason").map(str::to_owned),
        id: authored.id,
        file: authored.file,
        line: authored.at.0,
        policy: authored.policy,
    };
    read.into_iter().map(statement).collect()
}
