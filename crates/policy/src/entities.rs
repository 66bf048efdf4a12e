//! The static entities of a bundle, and what is looked up in them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cedar_policy::{Entities, EntityId, EntityTypeName, EntityUid, EvalResult, Schema};
use countersign_core::EntityRef;

use crate::finding::Finding;
use crate::lint::at_text;
use crate::source::ENTITIES;

/// Stands for the people who have not approved yet when the effect of their approval is previewed. No bundle may contain
/// it, so it is never excluded and never answers.
pub(crate) const STAND_IN: &str = "countersign:anybody";

/// Entities, with indexes.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    /// As Cedar reads them, the schema's action entities included.
    pub entities: Entities,
    types: HashMap<String, EntityTypeName>,
    accounts: HashMap<String, EntityRef>,
    owners: HashMap<EntityRef, EntityRef>,
    members: BTreeMap<EntityRef, BTreeSet<EntityRef>>,
}

impl Directory {
    /// Reads and indexes entities; whatever is wrong with them is a finding.
    pub(crate) fn read(text: &str, schema: &Schema, findings: &mut Vec<Finding>) -> Option<Self> {
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
        let types = schema.entity_types().map(|name| (name.to_string(), name.clone())).collect();
        let mut directory = Self {
            entities: Entities::empty(),
            types,
            accounts: HashMap::new(),
            owners: HashMap::new(),
            members: BTreeMap::new(),
        };
        for entity in entities.iter() {
            let uid = entity.uid();
            if uid.type_name().basename() == "Action" {
                continue;
            }
            match to_ref(&uid) {
                Ok(at) => directory.index(text, &entities, &at, &uid, findings),
                Err(reason) => findings.push(Finding::error(ENTITIES, reason).at(at_text(text, uid.id().unescaped()))),
            }
        }
        directory.entities = entities;
        Some(directory)
    }

    fn index(&mut self, text: &str, entities: &Entities, at: &EntityRef, uid: &EntityUid, findings: &mut Vec<Finding>) {
        let attribute = |name: &str| entities.get(uid).and_then(|entity| entity.attr(name)).and_then(Result::ok);
        if let Some(EvalResult::EntityUid(owner)) = attribute("owner")
            && matches!(at.kind(), "Agent" | "Service" | "EnforcementPoint")
            && let Ok(owner) = to_ref(&owner)
        {
            self.owners.insert(at.clone(), owner);
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
        if let Some(EvalResult::Set(accounts)) = attribute("accounts") {
            for account in accounts.iter() {
                let EvalResult::String(account) = account else { continue };
                if account.split_once('#').is_none_or(|(issuer, subject)| issuer.is_empty() || subject.is_empty()) {
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
            }
        }
        for ancestor in entities.ancestors(uid).into_iter().flatten() {
            if let Ok(group) = to_ref(ancestor)
                && group.kind() == "Group"
            {
                self.members.entry(group).or_default().insert(at.clone());
            }
        }
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

fn unreadable(text: &str, error: &cedar_policy::entities_errors::EntitiesError) -> Finding {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    // Cedar names the entity and not its place.
    let id = message.split_once("::\"").and_then(|(_, rest)| rest.split_once('"')).map(|(id, _)| format!("\"{id}\""));
    let at = id.map_or((1, 1), |id| at_text(text, &id));
    Finding::error(ENTITIES, message).at(at)
}
