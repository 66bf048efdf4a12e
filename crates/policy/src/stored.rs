//! Entities that lie in the store and not in the bundle.

use std::collections::BTreeMap;
use std::fmt;

use cedar_policy::{Entities as CedarEntities, Entity, EntityTypeName, EntityUid, EvalResult};
use countersign_core::EntityRef;
use countersign_core::visible::Visible;
use rpds::{HashTrieMapSync, HashTrieSetSync};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use crate::alike::likeness;
use crate::bundle::Bundle;
use crate::entities::{ALIKE, STAND_IN, in_words, is_account, to_ref};
use crate::kept::labels;

/// The longest reason that is passed on from Cedar, in characters.
const MAX_REASON: usize = 512;

/// What an entity is, beside its name: as in Cedar's JSON for entities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntityData {
    /// Its attributes, in Cedar's JSON for values.
    #[serde(default)]
    pub attrs: Map<String, Json>,
    /// What it is directly below.
    #[serde(default)]
    pub parents: Vec<EntityRef>,
    /// Its tags, in Cedar's JSON for values.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub tags: Map<String, Json>,
}

impl EntityData {
    /// The person that its `owner` attribute names, in any of the forms that Cedar's JSON has for it.
    #[must_use]
    pub fn owner(&self) -> Option<EntityRef> {
        let owner = self.attrs.get("owner")?;
        EntityRef::deserialize(owner.get("__entity").unwrap_or(owner)).ok()
    }
}

/// Why an entity cannot be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntityMisfit {
    /// Its type is not one that the store holds.
    #[error("entities of type `{0}` are not stored; list the type in `stored` of `bundle.toml`, or change the bundle")]
    NotStored(String),
    /// It does not fit the schema.
    #[error("`{entity}` does not fit the schema: {reason}")]
    Schema {
        /// The entity.
        entity: EntityRef,
        /// What Cedar says.
        reason: String,
    },
    /// It would be below itself.
    #[error("`{0}` would be below itself; remove one of its parents")]
    Circle(EntityRef),
    /// Its id is another spelling of another person's.
    #[error("`{entity}` and `{other}` {ALIKE}; make them one person with both accounts, or give one another id")]
    Person {
        /// The person.
        entity: EntityRef,
        /// The person that is stored.
        other: Box<EntityRef>,
    },
    /// One of its accounts is not one, or is somebody else's.
    #[error("the account `{account}` of `{entity}` {reason}")]
    Account {
        /// The entity.
        entity: EntityRef,
        /// The account, visibly escaped.
        account: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// An entity that fits the schema of a bundle, ready to be held.
#[derive(Debug, Clone)]
pub struct CheckedEntity {
    pub(crate) entity: Entity,
    pub(crate) parents: Vec<EntityUid>,
    pub(crate) accounts: Vec<String>,
}

impl Bundle {
    /// Checks an entity against the schema, as if nothing else were stored. [`crate::View::admit`] looks at the others.
    ///
    /// # Errors
    /// [`EntityMisfit`].
    pub fn check_entity(&self, entity: &EntityRef, data: &EntityData) -> Result<CheckedEntity, EntityMisfit> {
        if !self.directory.stores(entity.kind()) {
            return Err(EntityMisfit::NotStored(entity.kind().to_owned()));
        }
        let misfit = |reason: String| EntityMisfit::Schema {
            entity: entity.clone(),
            reason: Visible::cut(&reason, MAX_REASON).to_string(),
        };
        let EntityData { attrs, parents, tags } = data;
        let json = json!({ "uid": entity, "attrs": attrs, "parents": parents, "tags": tags });
        let read = Entity::from_json_value(json, Some(&self.schema)).map_err(|error| misfit(in_words(&error)))?;
        // Reading looks at each value; this looks at the entity as a whole, as it is done for those of a bundle.
        CedarEntities::from_entities([read.clone()], Some(&self.schema)).map_err(|error| misfit(in_words(&error)))?;
        let parents = parents.iter().map(|parent| {
            self.directory
                .uid(parent)
                .ok_or_else(|| misfit(format!("the schema has no type for its parent `{parent}`")))
        });
        let parents = parents.collect::<Result<_, _>>()?;
        if entity.kind() == "Person" && entity.id() == STAND_IN {
            return Err(misfit("the id is reserved; choose another".to_owned()));
        }
        let accounts = accounts_of(&read);
        if let Some(account) = accounts.iter().find(|account| !is_account(account)) {
            return Err(EntityMisfit::Account {
                entity: entity.clone(),
                account: Visible::cut(account, 128).to_string(),
                reason: "is not written `issuer#subject`, as in `https://login.example.com#alice`".to_owned(),
            });
        }
        let declared = &self.kept().labels;
        let unknown = |label: &String| !declared.contains_key(label);
        if !declared.is_empty()
            && let Some(label) = labels(&read).into_iter().flatten().find(unknown)
        {
            let label = Visible::cut(&label, 64).to_string();
            return Err(misfit(format!("the label `{label}` is not declared in `[labels]` of `bundle.toml`")));
        }
        Ok(CheckedEntity { entity: read, parents, accounts })
    }

    /// Takes an entity out.
    pub fn forget_entity(&self, entities: &mut Entities, entity: &EntityRef) {
        if let Some(uid) = self.directory.uid(entity) {
            entities.remove(&uid);
        }
    }
}

/// One entity, with what leads on from it.
#[derive(Debug)]
pub(crate) struct Held {
    pub entity: Entity,
    /// What it is directly below; of a bundle's own entities, all that they are below.
    pub parents: Box<[EntityUid]>,
    /// The entities that its attributes and tags name. Those in sets are left out: Cedar compares them and goes no further.
    pub refers: Box<[EntityUid]>,
    /// The commit that wrote it.
    pub revision: u64,
}

impl Held {
    pub(crate) fn new(entity: Entity, parents: Vec<EntityUid>, revision: u64) -> Self {
        let mut refers = Vec::new();
        for value in entity.attrs().chain(entity.tags()).filter_map(|(_, value)| value.ok()) {
            named_in(&value, &mut refers);
        }
        Self { entity, parents: parents.into(), refers: refers.into(), revision }
    }
}

fn named_in(value: &EvalResult, named: &mut Vec<EntityUid>) {
    match value {
        EvalResult::EntityUid(uid) => named.push(uid.clone()),
        EvalResult::Record(record) => record.iter().for_each(|(_, value)| named_in(value, named)),
        EvalResult::Set(_)
        | EvalResult::Bool(_)
        | EvalResult::Long(_)
        | EvalResult::String(_)
        | EvalResult::ExtensionValue(_) => {}
    }
}

/// The stored entities at one moment. Clones are the same moment and cost nothing; a change to one is not seen by the others.
#[derive(Clone, Default)]
pub struct Entities {
    /// By type and id: a whole name for each of a million keys takes five times as much, and is in the entity already.
    held: BTreeMap<EntityTypeName, HashTrieMapSync<Box<str>, Held>>,
    children: HashTrieMapSync<EntityUid, HashTrieSetSync<EntityUid>>,
    /// By what all spellings of an account have in common, of which only one can belong to somebody.
    accounts: HashTrieMapSync<String, EntityUid>,
    /// The persons, by what all spellings of an id have in common.
    persons: HashTrieMapSync<String, EntityUid>,
}

impl Entities {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.values().map(HashTrieMapSync::size).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.values().all(HashTrieMapSync::is_empty)
    }

    /// Adds an entity, in place of the one of that name.
    pub fn insert(&mut self, checked: CheckedEntity, revision: u64) {
        let CheckedEntity { entity, parents, accounts } = checked;
        let uid = entity.uid();
        self.take(&uid);
        for parent in &parents {
            let below = self.children.get(parent).cloned().unwrap_or_default();
            self.children.insert_mut(parent.clone(), below.insert(uid.clone()));
        }
        for account in accounts {
            self.accounts.insert_mut(likeness(&account), uid.clone());
        }
        if is_person(&uid) {
            self.persons.insert_mut(likeness(uid.id().unescaped()), uid.clone());
        }
        let of_type = self.held.entry(uid.type_name().clone()).or_default();
        of_type.insert_mut(uid.id().unescaped().into(), Held::new(entity, parents, revision));
    }

    /// Removes an entity; whether it was there.
    pub fn remove(&mut self, uid: &EntityUid) -> bool {
        self.take(uid)
    }

    fn take(&mut self, uid: &EntityUid) -> bool {
        let Some(held) = self.get(uid) else { return false };
        let (parents, accounts) = (held.parents.clone(), accounts_of(&held.entity));
        for parent in &parents {
            let below = self.children.get(parent).map(|below| below.remove(uid)).unwrap_or_default();
            if below.is_empty() {
                self.children.remove_mut(parent);
            } else {
                self.children.insert_mut(parent.clone(), below);
            }
        }
        for account in accounts.iter().map(|account| likeness(account)) {
            if self.accounts.get(&account) == Some(uid) {
                self.accounts.remove_mut(&account);
            }
        }
        if is_person(uid) {
            let id = likeness(uid.id().unescaped());
            if self.persons.get(&id) == Some(uid) {
                self.persons.remove_mut(&id);
            }
        }
        if let Some(of_type) = self.held.get_mut(uid.type_name()) {
            of_type.remove_mut(uid.id().unescaped());
        }
        true
    }

    pub(crate) fn get(&self, uid: &EntityUid) -> Option<&Held> {
        self.held.get(uid.type_name())?.get(uid.id().unescaped())
    }

    /// Every entity's name.
    pub(crate) fn uids(&self) -> impl Iterator<Item = EntityUid> {
        self.held.values().flat_map(HashTrieMapSync::values).map(|held| held.entity.uid())
    }

    /// What is directly below an entity.
    pub(crate) fn children(&self, uid: &EntityUid) -> impl Iterator<Item = &EntityUid> {
        self.children.get(uid).into_iter().flat_map(HashTrieSetSync::iter)
    }

    /// The person of this id, however it is spelled.
    pub(crate) fn person_alike(&self, id: &str) -> Option<EntityRef> {
        self.persons.get(&likeness(id)).and_then(|uid| to_ref(uid).ok())
    }

    /// Whose account this is, spelled exactly so.
    pub(crate) fn of_account(&self, account: &str) -> Option<EntityRef> {
        let uid = self.accounts.get(&likeness(account))?;
        let theirs = accounts_of(&self.get(uid)?.entity);
        theirs.iter().any(|one| one == account).then(|| to_ref(uid).ok()).flatten()
    }

    /// Who has this account, however it is spelled.
    pub(crate) fn of_account_alike(&self, account: &str) -> Option<EntityRef> {
        self.accounts.get(&likeness(account)).and_then(|uid| to_ref(uid).ok())
    }
}

impl fmt::Debug for Entities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entities").field("len", &self.len()).finish_non_exhaustive()
    }
}

fn is_person(uid: &EntityUid) -> bool {
    uid.type_name().basename() == "Person"
}

/// The accounts of a person; of everything else, none.
pub(crate) fn accounts_of(entity: &Entity) -> Vec<String> {
    if !is_person(&entity.uid()) {
        return Vec::new();
    }
    let Some(Ok(EvalResult::Set(accounts))) = entity.attr("accounts") else { return Vec::new() };
    let text = |account: &EvalResult| if let EvalResult::String(text) = account { Some(text.clone()) } else { None };
    accounts.iter().filter_map(text).collect()
}
