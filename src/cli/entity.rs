//! `countersign entity`.

use clap::{Args, Subcommand};
use countersign::client::{ClientError, entity as wire, struct_from_json};
use countersign::proto::entity_change::Change;
use countersign::proto::{ChangeEntitiesRequest, EntityChange, GetEntityRequest, ListEntitiesRequest, StoredEntity};
use countersign_core::EntityRef;
use countersign_core::visible::Visible;
use serde::Deserialize;
use serde_json::{Value, json};

use super::args::{Connection, parse_entity, read_text};
use super::output::Output;
use super::text::{self, Lines};
use super::when::relative;
use super::{Exit, Failure, json as as_json, pages};

/// How many changes one call takes.
const AT_ONCE: usize = 25;

#[derive(Debug, Subcommand)]
pub enum EntityCommand {
    /// Store entities, or replace those that are stored
    #[command(
        after_help = "Reads Cedar's JSON for entities, as in a bundle's `entities.json`: a list of objects with `uid`, \
                            `attrs`, `parents` and `tags`.\n\n\
                            Examples:\n  countersign entity upsert @datasets.json\n  \
                            countersign entity upsert - --json"
    )]
    Upsert(UpsertArgs),
    /// Delete stored entities
    #[command(after_help = "Examples:\n  countersign entity delete Dataset::old Dataset::older")]
    Delete {
        /// The entities
        #[arg(required = true, value_name = "ENTITY", value_parser = parse_entity)]
        entities: Vec<EntityRef>,
    },
    /// Show a stored entity
    #[command(after_help = "Examples:\n  countersign entity show Dataset::customers")]
    Show {
        /// The entity
        #[arg(value_name = "ENTITY", value_parser = parse_entity)]
        entity: EntityRef,
    },
    /// List stored entities, in the order of their types and ids
    #[command(after_help = "Examples:\n  countersign entity list --type Dataset\n  countersign entity list --json")]
    List {
        /// Of this type only
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
        limit: usize,
    },
}

/// Entities to store.
#[derive(Debug, Args)]
pub struct UpsertArgs {
    /// The entities, as a JSON list or one JSON object per line: `@FILE`, `-` for stdin, or in place
    #[arg(value_name = "JSON")]
    entities: String,
}

/// An entity in Cedar's JSON. What the service adds when it lists one is ignored.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    uid: EntityRef,
    #[serde(default)]
    attrs: Value,
    #[serde(default)]
    parents: Vec<EntityRef>,
    #[serde(default)]
    tags: Value,
    #[serde(default, rename = "revision")]
    _revision: Value,
    #[serde(default, rename = "changed_at")]
    _changed_at: Value,
    #[serde(default, rename = "changed_by")]
    _changed_by: Value,
}

/// Runs one of the commands.
pub async fn run(command: EntityCommand, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    match command {
        EntityCommand::Upsert(args) => {
            let written = written(&read_text(&args.entities, "JSON")?)?;
            let changes = written.into_iter().map(upsert).collect::<Result<Vec<_>, _>>()?;
            change(changes, connection, output).await
        }
        EntityCommand::Delete { entities } => {
            let delete =
                |entity: &EntityRef| EntityChange { change: Some(Change::Delete(wire(entity))), read_revision: None };
            change(entities.iter().map(delete).collect(), connection, output).await
        }
        EntityCommand::Show { entity } => {
            let request = GetEntityRequest { entity: Some(wire(&entity)) };
            let entity = connection.client().await?.get_entity(request).await?.entity;
            let entity = entity.ok_or(ClientError::Incomplete("entity"))?;
            output.document(&as_json::stored_entity(&entity), &human(&entity))?;
            Ok(Exit::Done)
        }
        EntityCommand::List { kind, limit } => {
            let client = connection.client().await?;
            let page = async |page_size, page_token| {
                let request = ListEntitiesRequest { r#type: kind.clone().unwrap_or_default(), page_size, page_token };
                let page = client.list_entities(request).await?;
                Ok((page.entities, page.next_page_token))
            };
            let tell = |entity: StoredEntity| {
                let line = format!("{}  revision {}", text::entity(entity.entity.as_ref()), entity.revision);
                output.item(&as_json::stored_entity(&entity), &line)
            };
            pages::each(limit, page, tell).await?;
            Ok(Exit::Done)
        }
    }
}

/// Sends changes, as many at once as one call takes. What is done is told even if a later call is refused.
async fn change(changes: Vec<EntityChange>, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    let client = connection.client().await?;
    let (all, mut done, mut revision) = (changes.len(), 0, 0);
    for part in changes.chunks(AT_ONCE) {
        let request = ChangeEntitiesRequest { changes: part.to_vec(), request_id: String::new() };
        match client.change_entities(request).await {
            Ok(answer) => revision = answer.revision,
            Err(error) if done > 0 => {
                output.remark(&format!("the first {done} of {all} entities are changed, up to revision {revision}"));
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        }
        done += part.len();
        if all > AT_ONCE {
            output.progress(&format!("{done} of {all} entities"));
        }
    }
    let json = json!({ "changed": done, "revision": revision });
    output
        .document(&json, &format!("{} changed, revision {revision}", text::count(done as u64, "entity", "entities")))?;
    Ok(Exit::Done)
}

/// A JSON list, or one object per line.
fn written(text: &str) -> Result<Vec<Written>, Failure> {
    let hint = "write it as in `entities.json`: [{\"uid\": {\"type\": \"Dataset\", \"id\": \"x\"}, \"attrs\": {…}, \"parents\": []}]";
    let wrong = |error: serde_json::Error| Failure::usage(format!("the entities cannot be read: {error}")).hint(hint);
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text).map_err(wrong);
    }
    serde_json::Deserializer::from_str(text).into_iter().collect::<Result<_, _>>().map_err(wrong)
}

fn upsert(written: Written) -> Result<EntityChange, Failure> {
    let Written { uid, attrs, parents, tags, .. } = written;
    let fields = |value: Value, name: &str| {
        if value.is_null() { Ok(None) } else { struct_from_json(value, &format!("{name} of {uid}")).map(Some) }
    };
    let stored = StoredEntity {
        entity: Some(wire(&uid)),
        attributes: fields(attrs, "attrs")?,
        parents: parents.iter().map(wire).collect(),
        tags: fields(tags, "tags")?,
        ..StoredEntity::default()
    };
    Ok(EntityChange { change: Some(Change::Upsert(stored)), read_revision: None })
}

fn human(entity: &StoredEntity) -> String {
    let StoredEntity { entity: name, attributes, parents, tags, revision, changed_at, changed_by } = entity;
    let mut text = Lines::default();
    text.line(text::entity(name.as_ref()));
    for (heading, fields) in [("attributes", attributes), ("tags", tags)] {
        let json = fields.as_ref().map(as_json::fields).unwrap_or_else(|| json!({}));
        text.field(heading, Visible::new(&json.to_string()));
    }
    text.field("in", if parents.is_empty() { "nothing".to_owned() } else { text::entities(parents) });
    text.field("revision", revision).field("changed", relative(changed_at.as_ref()));
    text.field("by", text::entity(changed_by.as_ref()));
    text.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_are_read_as_a_list_or_line_by_line() {
        let one = r#"{"uid": {"type": "Dataset", "id": "a"}, "attrs": {"rows": 5}, "parents": []}"#;
        let listed = r#"{"uid": {"type": "Dataset", "id": "b"}, "revision": 7, "changed_by": null}"#;
        for text in [format!("[{one}, {listed}]"), format!("{one}\n{listed}\n")] {
            let read = written(&text).unwrap();
            assert_eq!(read.iter().map(|w| w.uid.id()).collect::<Vec<_>>(), ["a", "b"]);
        }
        assert!(written("[{\"uid\": \"Dataset::a\"}]").unwrap_err().to_human().contains("entities.json"));
    }

    #[test]
    fn what_cannot_be_sent_exactly_is_refused() {
        let read = written(r#"[{"uid": {"type": "Dataset", "id": "a"}, "attrs": {"rows": 0.5}}]"#).unwrap();
        assert!(read.into_iter().map(upsert).any(|change| change.is_err()));
    }
}
