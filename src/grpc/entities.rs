//! `EntityService`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_core::{EntityRef, Record, Value};
use countersign_engine::{EntityChange, EntityView, Error, Replayable};
use countersign_policy::EntityData;
use serde_json::{Map, Value as Json};
use tonic::{Request, Response, Status};

use super::call::{Backend, Verified, to_its_end};
use super::convert::{entity, page_size, required, timestamp};
use super::errors::Failure;
use crate::client::convert::{entity as wire, record_from_struct, struct_from_record};
use crate::proto::entity_change::Change;
use crate::proto::entity_service_server::EntityService;
use crate::proto::{
    ChangeEntitiesRequest, ChangeEntitiesResponse, EntityChange as ChangeMessage, GetEntityRequest, GetEntityResponse,
    ListEntitiesRequest, ListEntitiesResponse, StoredEntity,
};

/// Changes and reads stored entities.
#[derive(Clone)]
pub struct StoredEntities(pub Backend);

#[tonic::async_trait]
impl EntityService for StoredEntities {
    async fn change_entities(
        &self,
        request: Request<ChangeEntitiesRequest>,
    ) -> Result<Response<ChangeEntitiesResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let ChangeEntitiesRequest { changes, request_id: _ } = message;
            let changes = changes.into_iter().enumerate().map(|(number, change)| read(number, change));
            let changes = changes.collect::<Result<Vec<_>, _>>()?;
            let (engine, call, number) = (Arc::clone(&verified.engine), verified.call.clone(), changes.len());
            let changed = to_its_end(async move { engine.change_entities(&call, &changes).await }).await;
            let Replayable { answer, replayed } = changed?;
            tracing::info!(changes = number, revision = answer.revision, replayed, "entities changed");
            Ok(ChangeEntitiesResponse { revision: answer.revision, replayed })
        };
        self.0.handle("ChangeEntities", request, |m| &m.request_id, run).await
    }

    async fn get_entity(&self, request: Request<GetEntityRequest>) -> Result<Response<GetEntityResponse>, Status> {
        let run = |verified: Verified, GetEntityRequest { entity: named }: GetEntityRequest| async move {
            let verified = &verified;
            let named = entity("entity", required("entity", named)?)?;
            let found = verified.engine.entity(&verified.call, &named).await?;
            Ok(GetEntityResponse { entity: Some(told(found)?) })
        };
        self.0.handle("GetEntity", request, |_| "", run).await
    }

    async fn list_entities(
        &self,
        request: Request<ListEntitiesRequest>,
    ) -> Result<Response<ListEntitiesResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let verified = &verified;
            let ListEntitiesRequest { r#type: kind, page_size: size, page_token } = message;
            let after = if page_token.is_empty() { None } else { Some(place(&page_token)?) };
            let kind = Some(kind.as_str()).filter(|kind| !kind.is_empty());
            let size = page_size(size, 100, 1_000)?;
            let (found, next) = verified.engine.entities(&verified.call, kind, after.as_ref(), size).await?;
            let entities = found.into_iter().map(told).collect::<Result<_, _>>()?;
            let next_page_token = next.as_ref().map(token).transpose()?.unwrap_or_default();
            Ok(ListEntitiesResponse { entities, next_page_token })
        };
        self.0.handle("ListEntities", request, |_| "", run).await
    }
}

fn read(number: usize, message: ChangeMessage) -> Result<EntityChange, Failure> {
    let ChangeMessage { change, read_revision } = message;
    let path = format!("changes[{number}]");
    let (named, data) = match change.ok_or_else(|| Failure::field(&path, "expected `upsert` or `delete`"))? {
        Change::Delete(named) => (entity(&format!("{path}.delete"), named)?, None),
        Change::Upsert(stored) => {
            let path = format!("{path}.upsert");
            let StoredEntity { entity: named, attributes, parents, tags, revision: _, changed_at: _, changed_by: _ } =
                stored;
            let path_of = |field: &str| format!("{path}.{field}");
            let named = entity(&path_of("entity"), required(&path_of("entity"), named)?)?;
            let parents = parents.into_iter().map(|parent| entity(&path_of("parents"), parent));
            let data = EntityData {
                attrs: values(attributes, &path_of("attributes"))?,
                parents: parents.collect::<Result<_, _>>()?,
                tags: values(tags, &path_of("tags"))?,
            };
            (named, Some(data))
        }
    };
    Ok(EntityChange { entity: named, data, read: read_revision })
}

fn values(fields: Option<prost_types::Struct>, path: &str) -> Result<Map<String, Json>, Failure> {
    let Some(fields) = fields else { return Ok(Map::new()) };
    let record = record_from_struct(&fields, path).map_err(|error| Failure::field(path, error.to_string()))?;
    match serde_json::to_value(record) {
        Ok(Json::Object(map)) => Ok(map),
        Ok(_) | Err(_) => Err(Failure::field(path, "expected an object")),
    }
}

fn told(view: EntityView) -> Result<StoredEntity, Failure> {
    let EntityView { entity, data: EntityData { attrs, parents, tags }, revision, changed_at, changed_by } = view;
    let fields = |map: Map<String, Json>, path: &str| {
        let record = serde_json::from_value::<Value>(Json::Object(map)).map_err(|error| error.to_string());
        let record = record.map(|value| if let Value::Record(record) = value { record } else { Record::new() });
        let fields = record.and_then(|record| struct_from_record(&record, path).map_err(|error| error.to_string()));
        fields.map_err(|error| Failure::from(Error::Internal(format!("a stored entity: {error}"))))
    };
    Ok(StoredEntity {
        entity: Some(wire(&entity)),
        attributes: Some(fields(attrs, "attributes")?),
        parents: parents.iter().map(wire).collect(),
        tags: Some(fields(tags, "tags")?),
        revision,
        changed_at: Some(timestamp(changed_at)),
        changed_by: Some(wire(&changed_by)),
    })
}

/// Where a page ended: the last entity. Any text can be an id, so it is packed.
fn token(last: &EntityRef) -> Result<String, Failure> {
    let packed = serde_json::to_vec(last).map_err(|error| Error::Internal(error.to_string()))?;
    Ok(URL_SAFE_NO_PAD.encode(packed))
}

fn place(token: &str) -> Result<EntityRef, Failure> {
    let packed = URL_SAFE_NO_PAD.decode(token).ok();
    let last = packed.and_then(|packed| serde_json::from_slice(&packed).ok());
    last.ok_or_else(|| Failure::field("page_token", "not one of this service's"))
}
