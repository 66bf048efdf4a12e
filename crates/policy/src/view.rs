//! A bundle together with the stored entities: what every question is answered from.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};

use cedar_policy::{Entities as CedarEntities, EntityUid, EvalResult};
use countersign_core::EntityRef;

use crate::bundle::Bundle;
use crate::claimed::{Claimant, as_seen};
use crate::decide::QueryError;
use crate::entities::{ALIKE, to_ref};
use crate::stored::{CheckedEntity, Entities, EntityMisfit, Held};

/// The most entities that one question may need.
const MOST: usize = 4_096;

/// What was read of the store to answer questions: each entity with the commit that wrote it, or that there is none. While
/// all of it is still so, the answers are.
#[derive(Debug, Default)]
pub struct Reads(Mutex<BTreeMap<EntityRef, Option<u64>>>);

impl Reads {
    /// What was read so far.
    #[must_use]
    pub fn all(&self) -> BTreeMap<EntityRef, Option<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, uid: &EntityUid, revision: Option<u64>) {
        // An entity without a name of the service's form cannot be stored, so there is nothing to hold on to.
        if let Ok(entity) = to_ref(uid) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(entity, revision);
        }
    }
}

/// A bundle and the stored entities at one moment.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub(crate) bundle: &'a Bundle,
    stored: &'a Entities,
    reads: Option<&'a Reads>,
    /// Who claims to be in groups.
    pub(crate) claimant: Option<Claimant<'a>>,
}

impl Bundle {
    /// The bundle with stored entities. What is read of them is noted in `reads`.
    #[must_use]
    pub const fn with<'a>(&'a self, stored: &'a Entities, reads: Option<&'a Reads>) -> View<'a> {
        View { bundle: self, stored, reads, claimant: None }
    }
}

/// The entities that one question can reach, and how they were come by.
pub(crate) struct Slice<'a>(Cow<'a, CedarEntities>);

impl Slice<'_> {
    pub(crate) fn entities(&self) -> &CedarEntities {
        &self.0
    }
}

impl<'a> View<'a> {
    /// The bundle.
    #[must_use]
    pub const fn bundle(&self) -> &'a Bundle {
        self.bundle
    }

    /// What lies in the store.
    pub(crate) const fn stored(&self) -> &'a Entities {
        self.stored
    }

    /// Whether what was read of the store is still so.
    #[must_use]
    pub fn still(&self, reads: &BTreeMap<EntityRef, Option<u64>>) -> bool {
        reads.iter().all(|(entity, revision)| {
            let held = self.bundle.directory.uid(entity).and_then(|uid| self.stored.get(&uid));
            held.map(|held| held.revision) == *revision
        })
    }

    /// An entity, from wherever its type lies.
    pub(crate) fn held(&self, uid: &EntityUid) -> Option<&'a Held> {
        let directory = &self.bundle.directory;
        if !directory.is_stored(uid.type_name()) {
            return directory.held(uid);
        }
        let held = self.stored.get(uid);
        if let Some(reads) = self.reads {
            reads.note(uid, held.map(|held| held.revision));
        }
        held
    }

    /// The entities that a question about these can reach: themselves and those that their attributes lead to, as far as
    /// the bundle's policies go (each dereference is a level), and everything that any of them is below.
    pub(crate) fn slice(&self, roots: &[&EntityUid], action: &EntityUid) -> Result<Slice<'a>, QueryError> {
        let directory = &self.bundle.directory;
        if !directory.stores_any() && self.claimant.is_none() {
            return Ok(Slice(Cow::Borrowed(&directory.entities)));
        }
        let mut seen: HashSet<EntityUid> = HashSet::new();
        let mut found: Vec<&Held> = Vec::new();
        let mut next: Vec<EntityUid> = roots.iter().map(|uid| (*uid).clone()).collect();
        for _level in 0..self.bundle.level() {
            let mut refers = Vec::new();
            while let Some(uid) = next.pop() {
                if !seen.insert(uid.clone()) {
                    continue;
                }
                if seen.len() > MOST {
                    return Err(too_many());
                }
                let Some(held) = self.held(&uid) else { continue };
                found.push(held);
                // What it is below is needed at its own level, and is looked up like itself: it may be asked about too.
                next.extend(held.parents.iter().cloned());
                next.extend(self.claimed_by(&uid));
                refers.extend(held.refers.iter().cloned());
            }
            next = refers;
        }
        let claimant = self.claimant_entity()?;
        let entities = found.into_iter().map(|held| as_seen(held, claimant.as_ref())).chain(directory.actions(action));
        let entities = CedarEntities::from_entities(entities, None);
        entities.map(|entities| Slice(Cow::Owned(entities))).map_err(|error| QueryError::Invalid {
            field: "entities".to_owned(),
            reason: format!("cannot be put together: {error}"),
        })
    }

    /// Everything that an entity is below.
    pub(crate) fn above(&self, uid: &EntityUid) -> Vec<&'a EntityUid> {
        let mut seen: HashSet<&EntityUid> = HashSet::new();
        let mut all = Vec::new();
        let mut next: Vec<&'a EntityUid> = self.held(uid).map(|held| held.parents.iter().collect()).unwrap_or_default();
        while let Some(parent) = next.pop() {
            if seen.insert(parent) {
                all.push(parent);
                next.extend(self.held(parent).map(|held| held.parents.iter()).into_iter().flatten());
            }
        }
        all
    }

    /// Whether an entity is below another.
    #[must_use]
    pub fn is_in(&self, entity: &EntityRef, group: &EntityRef) -> bool {
        let directory = &self.bundle.directory;
        match (directory.uid(entity), directory.uid(group)) {
            (Some(entity), Some(group)) => {
                let below = |entity: &EntityUid| {
                    let own =
                        directory.entities.ancestors(entity).is_some_and(|mut above| above.any(|uid| *uid == group));
                    own || self.above(entity).contains(&&group)
                };
                below(&entity) || self.claimed_by(&entity).iter().any(|claimed| *claimed == group || below(claimed))
            }
            _unknown => false,
        }
    }

    /// Whether there is such an entity.
    #[must_use]
    pub fn contains(&self, entity: &EntityRef) -> bool {
        let Some(uid) = self.bundle.directory.uid(entity) else { return false };
        if self.bundle.directory.is_stored(uid.type_name()) {
            return self.held(&uid).is_some();
        }
        self.bundle.directory.contains(entity)
    }

    /// The person behind an account, written `issuer#subject`.
    #[must_use]
    pub fn person_of(&self, account: &str) -> Option<EntityRef> {
        let directory = &self.bundle.directory;
        if !directory.stores("Person") {
            return directory.person_of(account).cloned();
        }
        let person = self.stored.of_account(account)?;
        // Noted, so that whoever loses the account loses what was decided by it.
        self.contains(&person).then_some(person)
    }

    /// The person answerable for an agent, a service or an enforcement point.
    #[must_use]
    pub fn owner_of(&self, entity: &EntityRef) -> Option<EntityRef> {
        let directory = &self.bundle.directory;
        if !directory.stores(entity.kind()) {
            return directory.owner_of(entity).cloned();
        }
        if !matches!(entity.kind(), "Agent" | "Service" | "EnforcementPoint") {
            return None;
        }
        match self.held(&directory.uid(entity)?)?.entity.attr("owner") {
            Some(Ok(EvalResult::EntityUid(owner))) => to_ref(&owner).ok(),
            _none => None,
        }
    }

    /// What stands in a tag of an entity.
    #[must_use]
    pub fn tag_of(&self, entity: &EntityRef, tag: &str) -> Option<String> {
        match self.held(&self.bundle.directory.uid(entity)?)?.entity.tag(tag) {
            Some(Ok(EvalResult::String(text))) => Some(text),
            _none => None,
        }
    }

    /// The persons in a group, directly or through other groups, as far as `most` go.
    pub(crate) fn members(&self, group: &EntityRef, most: usize) -> BTreeSet<EntityRef> {
        let directory = &self.bundle.directory;
        let mut persons: BTreeSet<EntityRef> = BTreeSet::new();
        let mut seen: BTreeSet<EntityRef> = BTreeSet::new();
        let mut next = vec![group.clone()];
        while let Some(group) = next.pop() {
            if persons.len() >= most || !seen.insert(group.clone()) {
                continue;
            }
            persons.extend(directory.members(&group).take(most).cloned());
            next.extend(directory.groups_below(&group).cloned());
            let Some(uid) = directory.uid(&group) else { continue };
            for below in self.stored.children(&uid).take(most).filter_map(|uid| to_ref(uid).ok()) {
                match below.kind() {
                    "Person" => drop(persons.insert(below)),
                    "Group" => next.push(below),
                    _neither => {}
                }
            }
        }
        persons
    }

    /// Whether a checked entity can stand beside the others.
    ///
    /// # Errors
    /// [`EntityMisfit::Circle`], [`EntityMisfit::Person`], [`EntityMisfit::Account`].
    pub fn admit(&self, checked: &CheckedEntity) -> Result<(), EntityMisfit> {
        let uid = checked.entity.uid();
        let entity = to_ref(&uid).map_err(EntityMisfit::NotStored)?;
        let below_itself = |parent: &EntityUid| *parent == uid || self.above(parent).contains(&&uid);
        if checked.parents.iter().any(below_itself) {
            return Err(EntityMisfit::Circle(entity));
        }
        if entity.kind() == "Person"
            && let Some(other) = self.stored.person_alike(entity.id()).filter(|other| *other != entity)
        {
            return Err(EntityMisfit::Person { entity, other: Box::new(other) });
        }
        for account in &checked.accounts {
            let other = self.stored.of_account_alike(account).filter(|other| *other != entity);
            if let Some(other) = other {
                let reason = if self.stored.of_account(account).is_some() {
                    format!("is that of `{other}`; take it from there first, or make the two persons one")
                } else {
                    format!("and one of `{other}` {ALIKE}; make the two persons one")
                };
                return Err(EntityMisfit::Account { entity, account: account.escape_debug().to_string(), reason });
            }
        }
        Ok(())
    }
}

fn too_many() -> QueryError {
    QueryError::Invalid {
        field: "entities".to_owned(),
        reason: format!("the action reaches more than {MOST} entities; flatten the groups, or lower `level`"),
    }
}
