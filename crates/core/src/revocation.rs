//! Revocations: what is worthless from a moment on, by one of many axes.
//!
//! A capability, an approval and a session are revoked in their own rows. The wider axes cut off everything that came to be
//! before: each such revocation raises the tenant's *revocation epoch* by one, and what comes to be carries the epoch of that
//! moment. What carries a lower one than the revocation's is cut off. Epochs cannot tie, as times can, and a new session under
//! the policies of now is another matter: this is a revocation and no ban.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::approval::Approval;
use crate::capability::Capability;
use crate::digest::Digest;
use crate::entity::EntityRef;
use crate::id::{ApprovalId, SessionId, TokenId};
use crate::session::Session;
use crate::time::Timestamp;

/// What a revocation is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "axis", content = "of")]
pub enum Axis {
    /// One capability.
    Capability(TokenId),
    /// One approval request, with the capabilities that rest on it.
    Approval(ApprovalId),
    /// One session, with all that is in it.
    Session(SessionId),
    /// Every session in which somebody acts, or is a link of the chain.
    Principal(EntityRef),
    /// Every session in which somebody is acted for.
    Operator(EntityRef),
    /// Every capability that a bundle allowed, and every approval request that it asked.
    Bundle(Digest),
    /// Every session of the tenant.
    Everything,
}

impl Axis {
    /// The one word for it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Capability(_) => "capability",
            Self::Approval(_) => "approval",
            Self::Session(_) => "session",
            Self::Principal(_) => "principal",
            Self::Operator(_) => "operator",
            Self::Bundle(_) => "bundle",
            Self::Everything => "everything",
        }
    }
}

impl std::fmt::Display for Axis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Capability(id) => id.fmt(f),
            Self::Approval(id) => id.fmt(f),
            Self::Session(id) => id.fmt(f),
            Self::Principal(entity) => write!(f, "principal {entity}"),
            Self::Operator(entity) => write!(f, "operator {entity}"),
            Self::Bundle(digest) => write!(f, "bundle {digest}"),
            Self::Everything => f.write_str("everything"),
        }
    }
}

/// A revocation, as it is kept and told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// What is worthless.
    pub axis: Axis,
    /// When it was revoked, or ended.
    pub at: Timestamp,
    /// By whom. Nobody, when the service itself found that it leads nowhere.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub by: Option<EntityRef>,
    /// Why, in the words of whoever did it: a stranger's text.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Of the wider axes: what carries a lower epoch is cut off.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub epoch: Option<u64>,
}

/// The revocations of one subject, by their epochs. Several are kept, because the first one that concerns something is when it
/// was over.
type Cuts = BTreeMap<u64, Revocation>;

/// Every revocation by a wider axis that may still concern something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    principals: BTreeMap<EntityRef, Cuts>,
    operators: BTreeMap<EntityRef, Cuts>,
    bundles: BTreeMap<Digest, Cuts>,
    everything: Cuts,
}

impl Revocations {
    /// Adds one. Those of a single thing stand in its own row, and are none of these.
    pub fn insert(&mut self, revocation: Revocation) {
        let Some(epoch) = revocation.epoch else { return };
        let cuts = match &revocation.axis {
            Axis::Capability(_) | Axis::Approval(_) | Axis::Session(_) => return,
            Axis::Principal(entity) => self.principals.entry(entity.clone()).or_default(),
            Axis::Operator(entity) => self.operators.entry(entity.clone()).or_default(),
            Axis::Bundle(digest) => self.bundles.entry(*digest).or_default(),
            Axis::Everything => &mut self.everything,
        };
        cuts.insert(epoch, revocation);
    }

    /// Ends a session that is cut off: as it stands in its row it knows nothing of that.
    pub fn cut_session(&self, session: &mut Session) {
        let links = std::iter::once(&session.principal).chain(&session.chain);
        let principals = links.filter_map(|link| self.principals.get(link));
        let operators = session.operator.iter().filter_map(|operator| self.operators.get(operator));
        if let Some(cut) = first(self.common(principals.chain(operators)), session.epoch) {
            let by = cut.by.clone().unwrap_or_else(|| session.principal.clone());
            session.cut_off(by, cut.at);
        }
    }

    /// Revokes a capability that is cut off. Whoever is a link of the chain is known by its session only.
    pub fn cut_capability(&self, capability: &mut Capability) {
        let grant = &capability.grant;
        let principals = self.principals.get(&grant.principal);
        let operators = grant.operator.as_ref().and_then(|operator| self.operators.get(operator));
        let bundles = self.bundles.get(&capability.bundle);
        let cuts = self.common(principals.into_iter().chain(operators).chain(bundles));
        if let Some(cut) = first(cuts, capability.epoch) {
            let by = cut.by.clone().unwrap_or_else(|| grant.principal.clone());
            capability.cut_off(by, cut.reason.clone().unwrap_or_default(), cut.at);
        }
    }

    /// Makes a request void whose bundle is cut off. With its session it dies anyway.
    pub fn cut_approval(&self, approval: &mut Approval) {
        if let Some(cut) = first(self.bundles.get(&approval.bundle).into_iter(), approval.epoch) {
            let by = cut.by.clone().unwrap_or_else(|| approval.asked_by.clone());
            approval.cut_off(by, cut.at);
        }
    }

    fn common<'a>(&'a self, cuts: impl Iterator<Item = &'a Cuts>) -> impl Iterator<Item = &'a Cuts> {
        cuts.chain(std::iter::once(&self.everything))
    }
}

/// The first revocation that concerns what came to be in an epoch.
fn first<'a>(cuts: impl Iterator<Item = &'a Cuts>, epoch: u64) -> Option<&'a Revocation> {
    let after = (std::ops::Bound::Excluded(epoch), std::ops::Bound::Unbounded);
    cuts.filter_map(|cuts| cuts.range(after).next()).min_by_key(|(epoch, _)| **epoch).map(|(_, cut)| cut)
}

/// Whether nothing was ever revoked by a wider axis: rows of earlier releases say nothing of it.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
pub(crate) const fn is_first(epoch: &u64) -> bool {
    *epoch == 0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::session::{Opening, SessionState};

    fn entity(text: &str) -> EntityRef {
        EntityRef::parse(text).unwrap()
    }

    fn session(epoch: u64) -> Session {
        let opening = Opening {
            principal: entity("Agent::\"child\""),
            operator: Some(entity("Person::\"olivia\"")),
            chain: vec![entity("Agent::\"parent\"")],
            purpose: "x".into(),
            opened_by: entity("Service::\"gateway\""),
            excluded: BTreeSet::new(),
            owner: None,
            claimed: None,
            clean: false,
        };
        let id = SessionId::from_bytes([1; 16]);
        Session::open(id, opening, Timestamp::from_millis(0), Timestamp::from_millis(100)).in_epoch(epoch)
    }

    fn cut(axis: Axis, epoch: u64, at: i64) -> Revocation {
        let by = Some(entity("Person::\"sam\""));
        Revocation { axis, at: Timestamp::from_millis(at), by, reason: Some("stop".into()), epoch: Some(epoch) }
    }

    fn state(revocations: &Revocations, mut session: Session) -> SessionState {
        revocations.cut_session(&mut session);
        session.state(Timestamp::from_millis(50))
    }

    #[test]
    fn what_came_to_be_before_is_cut_off_and_what_came_after_is_not() {
        for axis in [
            Axis::Principal(entity("Agent::\"child\"")),
            Axis::Principal(entity("Agent::\"parent\"")),
            Axis::Operator(entity("Person::\"olivia\"")),
            Axis::Everything,
        ] {
            let mut revocations = Revocations::default();
            revocations.insert(cut(axis.clone(), 7, 50));
            assert_eq!(state(&revocations, session(6)), SessionState::Ended, "{axis}");
            assert_eq!(state(&revocations, session(0)), SessionState::Ended, "{axis}: of an earlier release");
            assert_eq!(state(&revocations, session(7)), SessionState::Open, "{axis}");
        }
        for axis in [
            Axis::Principal(entity("Service::\"gateway\"")),
            Axis::Principal(entity("Person::\"olivia\"")),
            Axis::Operator(entity("Agent::\"child\"")),
            Axis::Session(SessionId::from_bytes([1; 16])),
        ] {
            let mut revocations = Revocations::default();
            revocations.insert(cut(axis.clone(), 7, 50));
            assert_eq!(state(&revocations, session(6)), SessionState::Open, "{axis}");
        }
    }

    #[test]
    fn the_first_revocation_is_when_it_was_over_and_a_deadline_before_stays_one() {
        let mut revocations = Revocations::default();
        revocations.insert(cut(Axis::Everything, 9, 60));
        revocations.insert(cut(Axis::Principal(entity("Agent::\"child\"")), 8, 40));
        revocations.insert(cut(Axis::Principal(entity("Agent::\"child\"")), 10, 70));
        let mut found = session(7);
        revocations.cut_session(&mut found);
        assert_eq!(found.over_at(), Timestamp::from_millis(40));
        let mut late = Revocations::default();
        late.insert(cut(Axis::Everything, 9, 100));
        let mut found = session(7);
        late.cut_session(&mut found);
        assert_eq!(found.state(Timestamp::from_millis(200)), SessionState::Expired);
    }

    #[test]
    fn a_revocation_is_read_back_as_it_was_written() {
        for axis in [
            Axis::Capability(TokenId::from_bytes([1; 16])),
            Axis::Approval(ApprovalId::from_bytes([2; 16])),
            Axis::Principal(entity("Agent::\"a\"")),
            Axis::Bundle(Digest::of(b"b")),
            Axis::Everything,
        ] {
            let revocation = cut(axis, 3, 1);
            let text = serde_json::to_string(&revocation).unwrap();
            assert_eq!(serde_json::from_str::<Revocation>(&text).unwrap(), revocation);
        }
    }
}
