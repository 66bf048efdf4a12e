//! Stored entities: who is in which group, who owns what, how data is classified. They change between two bundles.

use std::collections::BTreeSet;
use std::sync::Arc;

use countersign_core::{EntityRef, Timestamp};
use countersign_policy::{AdminAction, Bundle, Entities, EntityData, EntityMisfit};
use countersign_store::repository::{EntityRow, Stored, encode};
use countersign_store::{Commit, Kernel, Key};
use serde::{Deserialize, Serialize};

use crate::ask::require_request_id;
use crate::engine::{Active, Call, Engine, Replayable, Scene, tenant_entity};
use crate::error::Error;
use crate::record::{EntityRecord, Event};

/// The most entities that change at once: all of them are one commit.
pub const MAX_CHANGES: usize = 25;

/// A change of one entity.
#[derive(Debug, Clone, PartialEq)]
pub struct EntityChange {
    /// Which.
    pub entity: EntityRef,
    /// What it is from now on; `None`: there is none any more.
    pub data: Option<EntityData>,
    /// The revision at which it was read, if it must still be that one. 0: it must not exist.
    pub read: Option<u64>,
}

/// What is kept under the request id of a change. Its revision is not: a commit cannot hold its own.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Done {}

/// What came of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntitiesChanged {
    /// The revision that the changed entities have from now on.
    pub revision: u64,
}

/// A stored entity, as it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct EntityView {
    /// Which.
    pub entity: EntityRef,
    /// What it is.
    pub data: EntityData,
    /// The commit that wrote it.
    pub revision: u64,
    /// When.
    pub changed_at: Timestamp,
    /// By whom.
    pub changed_by: EntityRef,
}

/// A page of entities, and the last one that was looked at, if there may be more.
pub type EntityPage = (Vec<EntityView>, Option<EntityRef>);

impl<K: Kernel> Engine<K> {
    /// Changes stored entities, all of them or none, if the `changeEntities` policies permit it. Nobody changes what binds
    /// themselves: their own person, a group that they are in, or what they own.
    ///
    /// # Errors
    /// [`Error::AdministrationDenied`], [`Error::InvalidField`], [`Error::EntityChanged`].
    pub async fn change_entities(
        &self,
        call: &Call,
        changes: &[EntityChange],
    ) -> Result<Replayable<EntitiesChanged>, Error> {
        self.require(call, require_request_id(call)).await?;
        self.require(call, check_changes(changes)).await?;
        // One after the other, and none while a bundle becomes active: what stands beside what is checked here.
        let attempt = |scene: Scene| async move { self.change_once(&scene, changes).await };
        let in_turn = || async {
            let turn = self.publishing.lock().await;
            let changed = self.settle(call, None, attempt).await;
            drop(turn);
            changed
        };
        match in_turn().await {
            // Whoever has the turn cannot catch up with a store that went on without it.
            Err(Error::Contention) => {
                self.catch_up().await?;
                in_turn().await
            }
            settled => settled,
        }
    }

    async fn change_once(&self, scene: &Scene, changes: &[EntityChange]) -> Result<Replayable<EntitiesChanged>, Error> {
        if let Some(Done {}) = self.replay(scene).await? {
            // Its own revision, or that of a later change: whoever waits for the one may wait for the other.
            return Ok(Replayable::replayed(EntitiesChanged { revision: scene.active.entity_revision }));
        }
        let tenant = tenant_entity(self.tenant())?;
        let types: BTreeSet<&str> = changes.iter().map(|change| change.entity.kind()).collect();
        let persons = bound_by(scene, changes);
        let change = AdminAction::ChangeEntities { tenant: &tenant, types: &types, persons: &persons };
        // Said twice, on purpose: by the kernel's policies, and here.
        if own(scene).any(|person| persons.contains(&person)) {
            return Err(Error::OwnEntity(scene.caller.entity.to_string()));
        }
        let permitted = self.administer(scene, change, "changeEntities")?;

        let bundle = &scene.active.bundle;
        let mut entities = scene.active.entities.clone();
        let mut commit = self.guarded(scene, []);
        for (number, EntityChange { entity, data, read }) in changes.iter().enumerate() {
            let field = |reason: String| Error::field(format!("changes[{number}].entity"), reason);
            let stored = self.repo.entity(entity).await?;
            let revision = stored.as_ref().map(|stored| stored.revision);
            if read.is_some_and(|read| read != revision.map_or(0, |revision| revision.get())) {
                return Err(Error::EntityChanged(entity.to_string()));
            }
            let key = self.repo.entity_key(entity);
            match (data, revision) {
                (Some(data), _) => {
                    admit(bundle, &mut entities, entity, data, 0).map_err(|misfit| field(misfit.to_string()))?;
                    let (changed_at, changed_by) = (scene.now, scene.caller.entity.clone());
                    let row = EntityRow { entity: entity.clone(), data: to_json(data)?, changed_at, changed_by };
                    commit = commit.put(key, revision, encode(&row));
                }
                (None, Some(revision)) => {
                    bundle.forget_entity(&mut entities, entity);
                    commit = commit.delete(key, revision);
                }
                (None, None) => return Err(field(format!("`{entity}` is not stored, so it cannot be deleted"))),
            }
        }
        if changes.iter().any(|change| matches!(change.entity.kind(), "Agent" | "Service" | "EnforcementPoint")) {
            // Whoever owned it when somebody was asked stays excluded.
            self.keep_excluded(scene.now).await?;
        }
        commit = self.head_of_entities(scene, commit);
        let event = Event::EntitiesChanged {
            entities: changes.iter().map(EntityRecord::from).collect(),
            determining: &permitted.policies,
            bundle: bundle.digest(),
        };
        let committed = self.commit(scene, commit, event, &Done {}).await?;
        let revision = committed.revision.get();
        let mut entities = scene.active.entities.clone();
        for EntityChange { entity, data, .. } in changes {
            match data {
                // Admitted above, beside the same others.
                Some(data) => admit(bundle, &mut entities, entity, data, revision)
                    .map_err(|misfit| Error::Internal(misfit.to_string()))?,
                None => bundle.forget_entity(&mut entities, entity),
            }
        }
        self.set_active(Active {
            bundle: bundle.clone(),
            row: scene.active.row.clone(),
            entities,
            entity_revision: revision,
            revoked: Arc::clone(&scene.active.revoked),
        });
        Ok(Replayable::fresh(EntitiesChanged { revision }))
    }

    /// Every change writes the one row that is newer than all entities, for whoever read too many of them to name each.
    fn head_of_entities(&self, scene: &Scene, commit: Commit) -> Commit {
        let key = Key::entity_head(self.tenant());
        let read = scene.active.entity_revision;
        let value = encode(&scene.now);
        if read == 0 {
            commit.create(key, value)
        } else {
            commit.replace(key, countersign_store::Revision::new(read), value)
        }
    }

    /// The stored entities that a bundle wants, checked against its schema, and the revision of the newest change.
    pub(crate) async fn stored_entities(&self, bundle: &Bundle) -> Result<(Entities, u64), Error> {
        let mut entities = Entities::default();
        let head = self.repo.kernel().get(&Key::entity_head(self.tenant())).await?;
        let head = head.map_or(0, |row| row.revision.get());
        if bundle.stored_types().is_empty() {
            return Ok((entities, head));
        }
        let mut after = None;
        loop {
            let (rows, next) = self.repo.entities(None, after.as_ref(), PAGE).await?;
            for Stored { revision, value: EntityRow { entity, data, .. } } in rows {
                if !bundle.stored_types().iter().any(|kind| kind == entity.kind()) {
                    continue;
                }
                let data = from_json(data)?;
                admit(bundle, &mut entities, &entity, &data, revision.get()).map_err(Error::EntityMisfit)?;
            }
            after = next;
            if after.is_none() {
                return Ok((entities, head));
            }
            tokio::task::yield_now().await;
        }
    }

    /// One stored entity, for whoever may read entities.
    ///
    /// # Errors
    /// [`Error::EntityNotFound`], [`Error::AdministrationDenied`].
    pub async fn entity(&self, call: &Call, entity: &EntityRef) -> Result<EntityView, Error> {
        let attempt = |scene: Scene| async move {
            self.require_read_entities(&scene)?;
            let stored = self.repo.entity(entity).await?;
            stored.ok_or_else(|| Error::EntityNotFound(entity.to_string())).and_then(view)
        };
        self.settle(call, None, attempt).await
    }

    /// Stored entities in the order of their names, of one type or of all, for whoever may read entities.
    ///
    /// # Errors
    /// [`Error::AdministrationDenied`], [`Error::Store`].
    pub async fn entities(
        &self,
        call: &Call,
        kind: Option<&str>,
        after: Option<&EntityRef>,
        limit: usize,
    ) -> Result<EntityPage, Error> {
        let attempt = |scene: Scene| async move {
            self.require_read_entities(&scene)?;
            let after = after.map(|entity| self.repo.entity_key(entity));
            let (rows, next) = self.repo.entities(kind, after.as_ref(), limit).await?;
            let next = next.and(rows.last()).map(|last| last.value.entity.clone());
            Ok((rows.into_iter().map(view).collect::<Result<_, _>>()?, next))
        };
        self.settle(call, None, attempt).await
    }

    fn require_read_entities(&self, scene: &Scene) -> Result<(), Error> {
        let tenant = tenant_entity(self.tenant())?;
        self.require_read(scene, AdminAction::ReadEntities { tenant: &tenant })
    }
}

/// How many rows are read, and checked, before others get a turn.
const PAGE: usize = 128;

/// The caller, and who is answerable for it: by the directory, and by the credential.
fn own(scene: &Scene) -> impl Iterator<Item = EntityRef> {
    let caller = &scene.caller;
    std::iter::once(caller.entity.clone()).chain(scene.view().owner_of(&caller.entity)).chain(caller.owner.clone())
}

/// The persons whom the changes bind: those who change, those who own or come to own what changes, and the caller, if a
/// group changes that they are in.
fn bound_by(scene: &Scene, changes: &[EntityChange]) -> BTreeSet<EntityRef> {
    let view = scene.own_view();
    let mut persons = BTreeSet::new();
    for EntityChange { entity, data, .. } in changes {
        match entity.kind() {
            "Person" => drop(persons.insert(entity.clone())),
            "Group" => {
                persons.extend(own(scene).filter(|person| person.kind() == "Person" && view.is_in(person, entity)));
            }
            "Agent" | "Service" | "EnforcementPoint" => {
                persons.extend(view.owner_of(entity));
                persons.extend(data.as_ref().and_then(EntityData::owner));
            }
            _other => {}
        }
    }
    persons
}

fn admit(
    bundle: &Bundle,
    entities: &mut Entities,
    entity: &EntityRef,
    data: &EntityData,
    revision: u64,
) -> Result<(), EntityMisfit> {
    let checked = bundle.check_entity(entity, data)?;
    bundle.with(entities, None).admit(&checked)?;
    entities.insert(checked, revision);
    Ok(())
}

fn check_changes(changes: &[EntityChange]) -> Result<(), Error> {
    if changes.is_empty() || changes.len() > MAX_CHANGES {
        return Err(Error::field(
            "changes",
            format!("expected 1 to {MAX_CHANGES} changes; send more in several calls"),
        ));
    }
    let mut seen = BTreeSet::new();
    match changes.iter().find(|change| !seen.insert(&change.entity)) {
        Some(twice) => Err(Error::field("changes", format!("`{}` stands twice", twice.entity))),
        None => Ok(()),
    }
}

fn view(stored: Stored<EntityRow>) -> Result<EntityView, Error> {
    let Stored { revision, value: EntityRow { entity, data, changed_at, changed_by } } = stored;
    Ok(EntityView { entity, data: from_json(data)?, revision: revision.get(), changed_at, changed_by })
}

fn to_json(data: &EntityData) -> Result<serde_json::Value, Error> {
    serde_json::to_value(data).map_err(|error| Error::Internal(error.to_string()))
}

fn from_json(data: serde_json::Value) -> Result<EntityData, Error> {
    serde_json::from_value(data).map_err(|error| Error::Internal(format!("a stored entity: {error}")))
}
