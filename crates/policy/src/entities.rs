//! The static entities of a bundle, and what is looked up in them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::OnceLock;

use cedar_policy::{Entities, Entity, EntityId, EntityTypeName, EntityUid, EvalResult, Schema};
use countersign_core::EntityRef;

use crate::alike::likeness;
use crate::finding::Finding;
use crate::lint::at_text;
use crate::source::{ENTITIES, MANIFEST};
use crate::stored::Held;

/// Stands for the people who have not approved yet when the effect of their approval is previewed. No bundle may contain
/// it, so it is never excluded and never answers.
pub(crate) const STAND_IN: &str = "countersign:anybody";

/// Entities, with indexes.
#[derive(Debug)]
pub(crate) struct Directory {
    /// As Cedar reads them, the schema's action entities included.
    pub entities: Entities,
    types: HashMap<String, EntityTypeName>,
    accounts: HashMap<String, EntityRef>,
    owners: HashMap<EntityRef, EntityRef>,
    members: BTreeMap<EntityRef, BTreeSet<EntityRef>>,
    groups: BTreeMap<EntityRef, BTreeSet<EntityRef>>,
    /// The types whose entities lie in the store.
    stored: HashSet<EntityTypeName>,
    /// The entities one by one, where a question gets its own few: if some lie in the store, or somebody claims to be in a group.
    held: OnceLock<HashMap<EntityUid, Held>>,
}

impl Directory {
    /// Reads and indexes entities; whatever is wrong with them is a finding.
    pub(crate) fn read(text: &str, schema: &Schema, stored: &[String], findings: &mut Vec<Finding>) -> Option<Self> {
        let entities = match Entities::from_json_str(text, Some(schema)) {
            Ok(entities) => entities,
            Err(error) => {
                findings.push(unreadable(text, &error));
                return None;
            }
        };
        // Without them a policy that is scoped by `action in` would silently apply to nothing.
        for action in schema.actions().filter(|action| entities.get(action).is_none()) {
            findings.push(Finding::error(ENTITIES, format!("the action {action} is missing among the entities")));
        }
        let types: HashMap<String, EntityTypeName> =
            schema.entity_types().map(|name| (name.to_string(), name.clone())).collect();
        let mut of_store = HashSet::new();
        for name in stored {
            match types.get(name) {
                Some(kind) => drop(of_store.insert(kind.clone())),
                None => {
                    let hint = "list types that the schema declares, or that come with every bundle";
                    let message = format!("`{}` in `stored` is no entity type", name.escape_debug());
                    findings.push(Finding::error(MANIFEST, message).hint(hint));
                }
            }
        }
        let mut directory = Self {
            stored: of_store,
            held: OnceLock::new(),
            groups: BTreeMap::new(),
            entities: Entities::empty(),
            types,
            accounts: HashMap::new(),
            owners: HashMap::new(),
            members: BTreeMap::new(),
        };
        // In order, so that the same files are told the same.
        let mut alike = Alike::new();
        let mut in_order: Vec<_> = entities.iter().collect();
        in_order.sort_by_cached_key(|entity| entity.uid().to_string());
        for entity in in_order {
            let uid = entity.uid();
            if uid.type_name().basename() == "Action" {
                continue;
            }
            if directory.is_stored(uid.type_name()) {
                let message = format!("`{uid}` is of a type that the store holds");
                let hint =
                    "store it with `countersign entity upsert`, or take its type out of `stored` in `bundle.toml`";
                findings.push(Finding::error(ENTITIES, message).at(at_text(text, uid.id().unescaped())).hint(hint));
            }
            match to_ref(&uid) {
                Ok(at) => directory.index(text, &entities, &at, &uid, &mut alike, findings),
                Err(reason) => findings.push(Finding::error(ENTITIES, reason).at(at_text(text, uid.id().unescaped()))),
            }
        }
        directory.entities = entities;
        if directory.stores_any() {
            directory.one_by_one();
        }
        Some(directory)
    }

    fn index(
        &mut self,
        text: &str,
        entities: &Entities,
        at: &EntityRef,
        uid: &EntityUid,
        alike: &mut Alike,
        findings: &mut Vec<Finding>,
    ) {
        let attribute = |name: &str| entities.get(uid).and_then(|entity| entity.attr(name)).and_then(Result::ok);
        if let Some(EvalResult::EntityUid(owner)) = attribute("owner")
            && matches!(at.kind(), "Agent" | "Service" | "EnforcementPoint")
            && let Ok(owner) = to_ref(&owner)
        {
            self.owners.insert(at.clone(), owner);
        }
        if matches!(at.kind(), "Person" | "Group") {
            let index = if at.kind() == "Person" { &mut self.members } else { &mut self.groups };
            for ancestor in entities.ancestors(uid).into_iter().flatten() {
                if let Ok(group) = to_ref(ancestor)
                    && group.kind() == "Group"
                {
                    index.entry(group).or_default().insert(at.clone());
                }
            }
        }
        if at.kind() != "Person" {
            return;
        }
        let mut refuse = |word: &str, message: String, hint: &str| {
            findings.push(Finding::error(ENTITIES, message).at(at_text(text, &format!("\"{word}\""))).hint(hint));
        };
        if at.id() == STAND_IN {
            refuse(STAND_IN, format!("`{at}` is reserved"), "choose another id");
        }
        // An account has a `#` after something else, so that no person's id is looked up as one.
        let id = format!("#{}", at.id());
        if let Some((_, other)) = alike.insert(likeness(&id), (id, at.clone())) {
            let message = format!("`{other}` and `{at}` {ALIKE}");
            refuse(at.id(), message, "make them one person with both accounts, or give one another id");
        }
        if let Some(EvalResult::Set(accounts)) = attribute("accounts") {
            for account in accounts.iter() {
                let EvalResult::String(account) = account else { continue };
                if !is_account(account) {
                    let hint = "write `issuer#subject`, as in `https://login.example.com#alice`";
                    refuse(account, format!("`{}` is not an account", account.escape_debug()), hint);
                }
                // Two persons behind one account could vote twice as one, or once as either.
                let other = self.accounts.insert(account.clone(), at.clone());
                if let Some(other) = other.filter(|other| other != at) {
                    let message =
                        format!("the account `{}` belongs to `{other}` and to `{at}`", account.escape_debug());
                    refuse(account, message, "leave it with one of them, or make the two persons one");
                }
                let other = alike.insert(likeness(account), (account.clone(), at.clone()));
                if let Some((spelled, other)) = other.filter(|(spelled, other)| other != at && spelled != account) {
                    let (shown, spelled) = (account.escape_debug(), spelled.escape_debug());
                    let message = format!("the accounts `{spelled}` of `{other}` and `{shown}` of `{at}` {ALIKE}");
                    refuse(account, message, "make the two persons one, with both accounts");
                }
            }
        }
    }

    /// Whether entities of a type lie in the store.
    pub(crate) fn is_stored(&self, kind: &EntityTypeName) -> bool {
        self.stored.contains(kind)
    }

    /// As [`Self::is_stored`], by the type's name.
    pub(crate) fn stores(&self, kind: &str) -> bool {
        self.types.get(kind).is_some_and(|kind| self.stored.contains(kind))
    }

    /// Whether any entities lie in the store.
    pub(crate) fn stores_any(&self) -> bool {
        !self.stored.is_empty()
    }

    /// One of the bundle's own entities.
    pub(crate) fn held(&self, uid: &EntityUid) -> Option<&Held> {
        self.one_by_one().get(uid)
    }

    fn one_by_one(&self) -> &HashMap<EntityUid, Held> {
        let held = |entity: &Entity| {
            let uid = entity.uid();
            let above = self.entities.ancestors(&uid).into_iter().flatten().cloned().collect();
            (uid, Held::new(entity.clone(), above, 0))
        };
        self.held.get_or_init(|| self.entities.iter().map(held).collect())
    }

    /// An action's entity, and those of the actions that it is in: without them `action in` would match nothing.
    pub(crate) fn actions(&self, action: &EntityUid) -> Vec<Entity> {
        let above = self.entities.ancestors(action).into_iter().flatten();
        std::iter::once(action).chain(above).filter_map(|uid| self.entities.get(uid).cloned()).collect()
    }

    /// The bundle's own groups in a group, directly or through other groups.
    pub(crate) fn groups_below(&self, group: &EntityRef) -> impl Iterator<Item = &EntityRef> {
        self.groups.get(group).into_iter().flatten()
    }

    /// The entity as Cedar names it; nothing if the schema has no such type.
    pub(crate) fn uid(&self, entity: &EntityRef) -> Option<EntityUid> {
        let kind = self.types.get(entity.kind())?;
        Some(EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(entity.id())))
    }

    pub(crate) fn contains(&self, entity: &EntityRef) -> bool {
        self.uid(entity).is_some_and(|uid| self.entities.get(&uid).is_some())
    }

    pub(crate) fn person_of(&self, account: &str) -> Option<&EntityRef> {
        self.accounts.get(account)
    }

    pub(crate) fn owner_of(&self, entity: &EntityRef) -> Option<&EntityRef> {
        self.owners.get(entity)
    }

    /// The persons in a group, directly or through other groups.
    pub(crate) fn members(&self, group: &EntityRef) -> impl Iterator<Item = &EntityRef> {
        self.members.get(group).into_iter().flatten()
    }
}

/// The entity as the rest of the service names it.
pub(crate) fn to_ref(uid: &EntityUid) -> Result<EntityRef, String> {
    EntityRef::new(uid.type_name().to_string(), uid.id().unescaped()).map_err(|error| error.to_string())
}

/// Persons and accounts by what their spellings have in common. To find two that are one; nobody is recognized by it.
type Alike = HashMap<String, (String, EntityRef)>;

/// What two spellings of one name are told.
pub(crate) const ALIKE: &str =
    "differ only in case, space, compatibility forms or what nobody sees, and one human could be both";

/// Whether a text is `issuer#subject`.
pub(crate) fn is_account(text: &str) -> bool {
    text.split_once('#').is_some_and(|(issuer, subject)| !issuer.is_empty() && !subject.is_empty())
}

/// What Cedar says of entities, with the causes.
pub(crate) fn in_words(error: &cedar_policy::entities_errors::EntitiesError) -> String {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    message
}

fn unreadable(text: &str, error: &cedar_policy::entities_errors::EntitiesError) -> Finding {
    let message = in_words(error);
    // Cedar names the entity and not its place.
    let id = message.split_once("::\"").and_then(|(_, rest)| rest.split_once('"')).map(|(id, _)| format!("\"{id}\""));
    let at = id.map_or((1, 1), |id| at_text(text, &id));
    Finding::error(ENTITIES, message).at(at)
}
