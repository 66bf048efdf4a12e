//! `countersign keys`, and key rings for checking tokens without a server.

use std::path::Path;

use clap::Subcommand;
use countersign::client::Client;
use countersign::proto::{
    self, ListPublicKeysRequest, MarkKeyCompromisedRequest, MarkKeyCompromisedResponse, RetireKeyRequest,
    RetireKeyResponse, RotateKeyRequest, RotateKeyResponse,
};
use countersign_token::{KeyId, KeyRing, KeyState, PublicKey};
use serde::Deserialize;

use super::args::{Connection, read_file};
use super::output::{FAINT, Output, paint};
use super::when::relative;
use super::{Exit, Failure, json};

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// List the public keys that capabilities are signed with
    #[command(after_help = "Examples:\n  countersign keys list\n  countersign keys list --json > keys.json")]
    List,
    /// Make a new key, which mints from now on; the one before verifies what it minted until that is over
    #[command(after_help = "Examples:\n  countersign keys rotate\n  countersign keys rotate --json")]
    Rotate,
    /// Take a retired key out of service whose tokens are over, and delete its private half
    #[command(after_help = "Examples:\n  countersign keys retire 1")]
    Retire {
        /// The key's id, as `countersign keys list` shows it
        key: u32,
    },
    /// Make everything dead at once that a key signed; if it is the active one, a new key takes over
    #[command(after_help = "Examples:\n  countersign keys compromised 1 --reason 'backup tape lost'")]
    Compromised {
        /// The key's id, as `countersign keys list` shows it
        key: u32,
        /// Why; it is recorded
        #[arg(long)]
        reason: String,
    },
}

/// Runs one of the commands.
pub async fn run(command: KeysCommand, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    match command {
        KeysCommand::List => {
            let (keys, max_age) = fetch(&connection.client().await?).await?;
            let human: Vec<String> = keys
                .iter()
                .map(|key| {
                    let state = json::key_state(key.state());
                    let until = match key.verifies_until.as_ref() {
                        Some(until) => format!("  until {}", relative(Some(until))),
                        None => String::new(),
                    };
                    format!("{:>4}  {state:<11}  {}{until}", key.key_id, paint(FAINT, json::hex(&key.public_key)))
                })
                .collect();
            let list: serde_json::Value = keys.iter().map(json::public_key).collect();
            let listed = serde_json::json!({ "keys": list, "max_age_seconds": max_age });
            output.document(&listed, &human.join("\n"))?;
            Ok(Exit::Done)
        }
        KeysCommand::Rotate => {
            let request = RotateKeyRequest { request_id: String::new() };
            let RotateKeyResponse { active_key_id: active, retired_key_id: retired, replayed: _ } =
                connection.client().await?.rotate_key(request).await?;
            let human =
                format!("key {active} mints from now on; key {retired} is retired, and verifies what it minted");
            output.document(&serde_json::json!({"active_key_id": active, "retired_key_id": retired}), &human)?;
            Ok(Exit::Done)
        }
        KeysCommand::Retire { key } => {
            let request = RetireKeyRequest { key_id: key, request_id: String::new() };
            let RetireKeyResponse { active_key_id: active, replayed: _ } =
                connection.client().await?.retire_key(request).await?;
            let human = format!("key {key} is out of service, and its private half is deleted; key {active} mints");
            output.document(&serde_json::json!({"key_id": key, "active_key_id": active}), &human)?;
            Ok(Exit::Done)
        }
        KeysCommand::Compromised { key, reason } => {
            let request = MarkKeyCompromisedRequest { key_id: key, reason, request_id: String::new() };
            let MarkKeyCompromisedResponse { active_key_id: active, replayed: _ } =
                connection.client().await?.mark_key_compromised(request).await?;
            let human = format!("nothing that key {key} signed is worth anything any more; key {active} mints");
            output.document(&serde_json::json!({"key_id": key, "active_key_id": active}), &human)?;
            Ok(Exit::Done)
        }
    }
}

/// The keys, and for how many seconds they may be gone on with.
async fn fetch(client: &Client) -> Result<(Vec<proto::PublicKey>, i64), Failure> {
    let proto::ListPublicKeysResponse { keys, max_age } = client.list_public_keys(ListPublicKeysRequest {}).await?;
    Ok((keys, max_age.map(|age| age.seconds).unwrap_or_default()))
}

/// The server's keys, to check tokens with.
pub async fn ring_of_server(client: &Client) -> Result<KeyRing, Failure> {
    ring(fetch(client).await?.0.into_iter().map(|key| {
        let state = match key.state() {
            proto::KeyState::Active => KeyState::Active,
            proto::KeyState::Retired => KeyState::Retired,
            // A state that this program does not know is no reason to believe anything.
            proto::KeyState::Compromised | proto::KeyState::Unspecified => KeyState::Compromised,
        };
        (key.key_id, json::hex(&key.public_key), state)
    }))
}

/// What `keys list --json` prints.
#[derive(Deserialize)]
struct File {
    keys: Vec<FileKey>,
}

#[derive(Deserialize)]
struct FileKey {
    key_id: u32,
    public_key: String,
    state: FileState,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum FileState {
    Active,
    Retired,
    Compromised,
}

/// The keys in a file that `keys list --json` wrote.
pub fn ring_of_file(path: &Path) -> Result<KeyRing, Failure> {
    let file: File = serde_json::from_slice(&read_file(path)?).map_err(|error| {
        Failure::new(format!("`{}` is not a list of keys: {error}", path.display()))
            .hint("write it with `countersign keys list --json`")
    })?;
    ring(file.keys.into_iter().map(|key| {
        let state = match key.state {
            FileState::Active => KeyState::Active,
            FileState::Retired => KeyState::Retired,
            FileState::Compromised => KeyState::Compromised,
        };
        (key.key_id, key.public_key, state)
    }))
}

fn ring(keys: impl Iterator<Item = (u32, String, KeyState)>) -> Result<KeyRing, Failure> {
    let keys = keys.map(|(id, key, state)| Ok((KeyId(id), PublicKey::parse(&key)?, state)));
    let keys: Result<Vec<_>, countersign_token::KeyError> = keys.collect();
    keys.and_then(KeyRing::new).map_err(|error| Failure::new(format!("the keys cannot be used: {error}")))
}

#[cfg(test)]
mod tests {
    use countersign_token::SigningKey;

    use super::*;

    #[test]
    fn the_listed_keys_are_read_back() {
        let key = SigningKey::generate(KeyId(7)).unwrap();
        let listed = proto::PublicKey {
            key_id: 7,
            algorithm: "Ed25519".into(),
            public_key: key.public().as_bytes().to_vec(),
            state: proto::KeyState::Retired.into(),
            created_at: None,
            verifies_until: None,
        };
        let text = serde_json::json!({"keys": [json::public_key(&listed)]}).to_string();
        let path = std::env::temp_dir().join(format!("countersign-keys-{}.json", std::process::id()));
        std::fs::write(&path, text).unwrap();
        let ring = ring_of_file(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(ring.unwrap().get(KeyId(7)), Some((key.public(), KeyState::Retired)));
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        assert!(ring([(1, "00".to_owned(), KeyState::Active)].into_iter()).is_err());
    }
}
