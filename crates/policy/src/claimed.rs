//! Groups that somebody is in by what their credential says, and not by the directory. One question is answered with those of
//! one claimant, and they are parents of that one entity: nobody else is in a group because of them.

use std::collections::BTreeSet;

use cedar_policy::{Entity, EntityUid};
use countersign_core::EntityRef;
use serde_json::{Value as Json, json};

use crate::decide::QueryError;
use crate::stored::Held;
use crate::view::View;

/// Whoever claims to be in some groups.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claimant<'a> {
    entity: &'a EntityRef,
    groups: &'a BTreeSet<EntityRef>,
}

impl<'a> View<'a> {
    /// The same, with `entity` in `groups` too, as far as there are such groups.
    #[must_use]
    pub fn claiming(mut self, entity: &'a EntityRef, groups: &'a BTreeSet<EntityRef>) -> Self {
        self.claimant = (!groups.is_empty()).then_some(Claimant { entity, groups });
        self
    }

    /// The groups that an entity is in by its claim. One that the directory does not know is nobody's: a policy may name it, and
    /// whoever deleted it counts on it.
    pub(crate) fn claimed_by(&self, uid: &EntityUid) -> Vec<EntityUid> {
        let directory = &self.bundle.directory;
        let Some(Claimant { entity, groups }) = self.claimant else { return Vec::new() };
        if directory.uid(entity).as_ref() != Some(uid) {
            return Vec::new();
        }
        let groups = groups.iter().filter(|group| group.kind() == "Group" && self.contains(group));
        groups.filter_map(|group| directory.uid(group)).collect()
    }

    /// Whoever claims, with the groups among its parents; nothing if there is no such entity.
    pub(crate) fn claimant_entity(&self) -> Result<Option<Entity>, QueryError> {
        let uid = self.claimant.and_then(|claimant| self.bundle.directory.uid(claimant.entity));
        let Some((uid, held)) = uid.and_then(|uid| self.held(&uid).map(|held| (uid, held))) else { return Ok(None) };
        let groups = self.claimed_by(&uid);
        let unreadable = |error: &dyn std::fmt::Display| QueryError::Invalid {
            field: "entities".to_owned(),
            reason: format!("cannot be put together: {error}"),
        };
        // Cedar has no way to add a parent to an entity that may have tags.
        let mut entity = held.entity.to_json_value().map_err(|error| unreadable(&error))?;
        if let Some(parents) = entity.get_mut("parents").and_then(Json::as_array_mut) {
            let json =
                |group: &EntityUid| json!({ "type": group.type_name().to_string(), "id": group.id().unescaped() });
            parents.extend(groups.iter().map(json));
        }
        Entity::from_json_value(entity, None).map(Some).map_err(|error| unreadable(&error))
    }
}

/// An entity as a question sees it.
pub(crate) fn as_seen(held: &Held, claimant: Option<&Entity>) -> Entity {
    claimant.filter(|claimant| claimant.uid() == held.entity.uid()).unwrap_or(&held.entity).clone()
}
