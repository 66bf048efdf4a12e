//! A pre-approval: people approve the same operation on the same resource for the rest of a session, at most so often, until
//! some time, whatever its input. What they approve has a canonical text of its own (docs/design/canonical-form.md), which
//! says `"kind":"pre_approval"` and has no input, so that no action's digest is ever one of a pre-approval.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::action::{Action, ActionError, Canonical, MAX_CANONICAL_BYTES, NotCanonical};
use crate::digest::Digest;
use crate::entity::EntityRef;
use crate::id::{SessionId, TenantId};
use crate::time::Timestamp;
use crate::value::Record;

/// The version of the canonical form of pre-approvals.
pub const PRE_APPROVAL_VERSION: u32 = 1;
/// The most uses that anybody can pre-approve.
pub const MAX_USES: u32 = 100;
/// The longest time that anybody can pre-approve for.
pub const MAX_SECONDS: u64 = 24 * 60 * 60;

const KIND: &str = "pre_approval";

/// How often, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// How many uses.
    pub uses: u32,
    /// For how many seconds, from the moment on at which it is approved.
    pub seconds: u64,
}

impl Bounds {
    /// Whether they say something: at least one use and one second, and no more than anybody can pre-approve.
    #[must_use]
    pub fn are_sound(&self) -> bool {
        (1..=MAX_USES).contains(&self.uses) && (1..=MAX_SECONDS).contains(&self.seconds)
    }

    /// Whether they reach no further than others.
    #[must_use]
    pub const fn within(&self, most: &Self) -> bool {
        self.uses <= most.uses && self.seconds <= most.seconds
    }

    /// For how long.
    #[must_use]
    pub const fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// What people pre-approve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreApproval {
    /// The tenant it happens in.
    pub tenant: TenantId,
    /// The enforcement point that capabilities are for.
    pub audience: String,
    /// The session it is for, and dies with.
    pub session: SessionId,
    /// Who acts.
    pub principal: EntityRef,
    /// The person the principal acts for.
    pub operator: Option<EntityRef>,
    /// The links between operator and principal.
    pub chain: Vec<EntityRef>,
    /// The operation.
    pub operation: String,
    /// What is acted upon.
    pub resource: EntityRef,
    /// The rules that it lifts, and no other.
    pub rules: BTreeSet<String>,
    /// How often, and for how long.
    pub bounds: Bounds,
    /// However late it is approved, it is over then: the deadline of its session.
    pub until: Timestamp,
}

/// What the canonical form is written from and read back into.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    kind: String,
    version: u32,
    tenant: TenantId,
    audience: String,
    session: SessionId,
    principal: EntityRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operator: Option<EntityRef>,
    chain: Vec<EntityRef>,
    operation: String,
    resource: EntityRef,
    rules: BTreeSet<String>,
    uses: u32,
    seconds: u64,
    until_millis: i64,
}

impl PreApproval {
    /// What pre-approving all actions like this one is: its input and environment are left out.
    #[must_use]
    pub fn like(action: &Action, rules: BTreeSet<String>, bounds: Bounds, until: Timestamp) -> Self {
        let Action { tenant, audience, session, principal, operator, chain, operation, resource, .. } = action.clone();
        Self { tenant, audience, session, principal, operator, chain, operation, resource, rules, bounds, until }
    }

    /// The frame of every action that it covers: one without input and environment.
    #[must_use]
    pub fn frame(&self) -> Action {
        let Self { tenant, audience, session, principal, operator, chain, operation, resource, .. } = self.clone();
        let (input, environment) = (Record::new(), Record::new());
        Action { tenant, audience, session, principal, operator, chain, operation, resource, input, environment }
    }

    /// Whether an action is one of those that people were asked about. Whether uses are left is another question.
    #[must_use]
    pub fn covers(&self, action: &Action) -> bool {
        let Action {
            tenant,
            audience,
            session,
            principal,
            operator,
            chain,
            operation,
            resource,
            input: _,
            environment: _,
        } = action;
        self.tenant == *tenant
            && self.audience == *audience
            && self.session == *session
            && self.principal == *principal
            && self.operator == *operator
            && self.chain == *chain
            && self.operation == *operation
            && self.resource == *resource
    }

    /// Checks every part and writes the canonical form.
    ///
    /// # Errors
    /// [`ActionError`] names the part that does not fit, as of an action.
    pub fn canonical(&self) -> Result<Canonical, ActionError> {
        // Whatever must hold of the names in an action holds of them here.
        self.frame().canonical()?;
        let text = self.text();
        if text.is_empty() || text.len() > MAX_CANONICAL_BYTES {
            return Err(ActionError::TooLarge(text.len()));
        }
        Ok(Canonical::of(text))
    }

    /// Reads it back from its canonical text, as it was stored.
    ///
    /// # Errors
    /// [`NotCanonical`] unless the text is byte for byte what [`Self::canonical`] writes.
    pub fn from_canonical(text: &str) -> Result<Self, NotCanonical> {
        let form: Form = serde_json::from_str(text).map_err(|_| NotCanonical)?;
        let Form {
            kind,
            version,
            tenant,
            audience,
            session,
            principal,
            operator,
            chain,
            operation,
            resource,
            rules,
            uses,
            seconds,
            until_millis,
        } = form;
        let bounds = Bounds { uses, seconds };
        let until = Timestamp::from_millis(until_millis);
        let read =
            Self { tenant, audience, session, principal, operator, chain, operation, resource, rules, bounds, until };
        let same = read.canonical().is_ok_and(|canonical| canonical.text() == text);
        if kind == KIND && version == PRE_APPROVAL_VERSION && bounds.are_sound() && same {
            Ok(read)
        } else {
            Err(NotCanonical)
        }
    }

    /// The digest of pre-approving actions like this one within the bounds and rules of `self`: equal to that of `self` exactly
    /// if it covers the action.
    #[must_use]
    pub fn digest_for(&self, action: &Action) -> Digest {
        Digest::of(Self::like(action, self.rules.clone(), self.bounds, self.until).text().as_bytes())
    }

    fn text(&self) -> String {
        let Self { tenant, audience, session, principal, operator, chain, operation, resource, rules, bounds, until } =
            self.clone();
        let form = Form {
            kind: KIND.to_owned(),
            version: PRE_APPROVAL_VERSION,
            tenant,
            audience,
            session,
            principal,
            operator,
            chain,
            operation,
            resource,
            rules,
            uses: bounds.uses,
            seconds: bounds.seconds,
            until_millis: until.millis(),
        };
        // Cannot fail: the types hold JSON values only.
        serde_json_canonicalizer::to_string(&form).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::value::Value;

    fn entity(kind: &str, id: &str) -> EntityRef {
        EntityRef::new(kind, id).unwrap()
    }

    fn action() -> Action {
        Action {
            tenant: TenantId::new("acme").unwrap(),
            audience: "warehouse".into(),
            session: SessionId::from_bytes([1; 16]),
            principal: entity("Agent", "etl-bot"),
            operator: Some(entity("Person", "alice")),
            chain: vec![],
            operation: "export".into(),
            resource: entity("Dataset", "customers"),
            input: Record::from([("password".into(), Value::String("hunter2".into()))]),
            environment: Record::new(),
        }
    }

    fn pre_approval() -> PreApproval {
        let rules = BTreeSet::from(["export-needs-two".to_owned()]);
        let bounds = Bounds { uses: 5, seconds: 3_600 };
        PreApproval::like(&action(), rules, bounds, Timestamp::from_millis(1_794_996_000_000))
    }

    #[test]
    fn it_says_what_it_is_and_nothing_of_the_input() {
        let text = pre_approval().canonical().unwrap().text().to_owned();
        assert!(text.contains("\"kind\":\"pre_approval\"") && !text.contains("hunter2"), "{text}");
        assert_eq!(PreApproval::from_canonical(&text), Ok(pre_approval()));
        assert_eq!(Action::from_canonical(&text), Err(NotCanonical));
        let own = action().canonical().unwrap();
        assert_eq!(PreApproval::from_canonical(own.text()), Err(NotCanonical));
        for other in [
            format!(" {text}"),
            text.replace("\"version\":1", "\"version\":2"),
            text.replace("\"pre_approval\"", "\"action\""),
            text.replace("\"uses\":5", "\"uses\":0"),
            text.replace("\"uses\":5", "\"uses\":101"),
            text.replace("\"uses\":5", "\"input\":{},\"uses\":5"),
        ] {
            assert_eq!(PreApproval::from_canonical(&other), Err(NotCanonical), "{other}");
        }
    }

    #[test]
    fn every_part_is_in_the_digest() {
        let base = pre_approval().canonical().unwrap().digest();
        let changes: [fn(&mut PreApproval); 12] = [
            |p| p.tenant = TenantId::new("other").unwrap(),
            |p| p.audience.push('2'),
            |p| p.session = SessionId::from_bytes([2; 16]),
            |p| p.principal = entity("Agent", "etl-bo"),
            |p| p.operator = None,
            |p| p.chain.push(entity("Agent", "planner")),
            |p| p.operation.push('s'),
            |p| p.resource = entity("Dataset", "customer"),
            |p| p.rules = BTreeSet::from(["another".to_owned()]),
            |p| p.bounds.uses += 1,
            |p| p.bounds.seconds += 1,
            |p| p.until = Timestamp::from_millis(1_794_996_000_001),
        ];
        for change in changes {
            let mut other = pre_approval();
            change(&mut other);
            assert_ne!(other.canonical().unwrap().digest(), base, "{other:?}");
        }
    }

    #[test]
    fn it_covers_every_input_and_nothing_else_that_differs() {
        let pre = pre_approval();
        let own = pre.canonical().unwrap().digest();
        let inputs: [fn(&mut Action); 2] =
            [|a| a.input.clear(), |a| drop(a.environment.insert("network".into(), Value::String("vpn".into())))];
        let others: [fn(&mut Action); 8] = [
            |a| a.tenant = TenantId::new("other").unwrap(),
            |a| a.audience.push('2'),
            |a| a.session = SessionId::from_bytes([2; 16]),
            |a| a.principal = entity("Agent", "other"),
            |a| a.operator = None,
            |a| a.chain.push(entity("Agent", "planner")),
            |a| a.operation.push('s'),
            |a| a.resource = entity("Dataset", "payroll"),
        ];
        let changes = inputs.iter().map(|change| (true, change)).chain(others.iter().map(|change| (false, change)));
        for (covered, change) in changes {
            let mut other = action();
            change(&mut other);
            assert_eq!((pre.covers(&other), pre.digest_for(&other) == own), (covered, covered), "{other:?}");
        }
    }

    #[test]
    fn what_cannot_be_an_action_cannot_be_pre_approved() {
        let mut bad = pre_approval();
        bad.operation = "rm -rf".into();
        assert!(matches!(bad.canonical(), Err(ActionError::Operation(_))));
        let mut looped = pre_approval();
        looped.chain = vec![entity("Agent", "etl-bot")];
        assert!(matches!(looped.canonical(), Err(ActionError::ChainLoop(_))));
    }

    proptest! {
        #[test]
        fn no_action_has_the_digest_of_a_pre_approval(uses in 1..=MAX_USES, seconds in 1..=MAX_SECONDS, name in "[a-z][a-z_]{0,11}") {
            let mut action = action();
            for (field, value) in [("kind", "pre_approval"), (name.as_str(), "x")] {
                action.input.insert(field.to_owned(), Value::String(value.to_owned()));
            }
            let pre = PreApproval { bounds: Bounds { uses, seconds }, ..pre_approval() };
            let text = pre.canonical().unwrap();
            prop_assert_ne!(action.canonical().unwrap().digest(), text.digest());
            prop_assert_eq!(PreApproval::from_canonical(text.text()), Ok(pre));
        }
    }
}
