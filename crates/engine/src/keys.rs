//! The tenant's signing keys: which of them are believed, and minting with the active one.

use std::collections::BTreeMap;

use countersign_core::capability::Grant;
use countersign_core::{TenantId, Timestamp};
use countersign_store::repository::{CommitExt, KeyRow, Repository};
use countersign_store::{Commit, Kernel};
use countersign_token::{Claims, KeyId, KeyRing, KeyState, PublicKey, SigningKey, Token};

use crate::error::Error;
use crate::record::{Event, record};

/// The keys, and the ring that verifies.
#[derive(Debug)]
pub struct Keys {
    ring: KeyRing,
    signing: BTreeMap<u32, SigningKey>,
}

impl Keys {
    /// Reads the rows of the keys and holds them against the private halves. In a new store, every key gets a row, and the
    /// one with the highest id is active.
    pub(crate) async fn load<K: Kernel>(
        repo: &Repository<K>,
        signing: Vec<SigningKey>,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let mut rows: Vec<KeyRow> = repo.keys().await?.into_iter().map(|stored| stored.value).collect();
        if rows.is_empty() {
            let newest = signing.iter().map(|key| key.id().0).max();
            // All or none: with some of them, a store would not be new and never come to have the others.
            let mut commit = Commit::new(repo.tenant().clone());
            for key in &signing {
                let (id, public) = (key.id().0, key.public().to_string());
                let state = if newest == Some(id) { "active" } else { "retired" };
                let row = KeyRow { id, public, state: state.to_owned(), created_at: now };
                let event = Event::Key { key: id, public: &row.public, state };
                commit = commit.insert(&row).record(record(repo.tenant(), now, None, None, event));
                rows.push(row);
            }
            repo.kernel().commit(commit).await?;
        }
        let ring = KeyRing::new(rows.iter().map(read).collect::<Result<Vec<_>, _>>()?).map_err(internal)?;
        let signing: BTreeMap<u32, SigningKey> = signing.into_iter().map(|key| (key.id().0, key)).collect();
        let keys = Self { ring, signing };
        keys.active()?;
        Ok(keys)
    }

    /// What verifies.
    pub const fn ring(&self) -> &KeyRing {
        &self.ring
    }

    /// The key that mints.
    pub(crate) fn active(&self) -> Result<&SigningKey, Error> {
        let key = self.ring.active().and_then(|id| self.signing.get(&id.0));
        key.filter(|key| self.ring.may_mint(key)).ok_or_else(|| {
            Error::Internal(
                "the private half of the active signing key is missing or another one; restore the key files"
                    .to_owned(),
            )
        })
    }

    /// The token of a grant: the same grant gives the same bytes.
    pub(crate) fn issue(&self, grant: &Grant, tenant: &TenantId, development: bool) -> Result<Token, Error> {
        let key = self
            .signing
            .get(&grant.key)
            .ok_or_else(|| Error::Internal(format!("the private half of signing key {} is missing", grant.key)))?;
        Ok(countersign_token::mint(key, &claims(grant, tenant, development))?)
    }
}

impl<K: Kernel> crate::Engine<K> {
    /// The public keys, in the order of their ids.
    pub fn public_keys(&self) -> Vec<(KeyId, PublicKey, KeyState)> {
        self.keys.load().ring().iter().collect()
    }
}

fn claims(grant: &Grant, tenant: &TenantId, development: bool) -> Claims {
    let Grant {
        id,
        session,
        principal,
        operator,
        operation,
        resource,
        digest,
        audience,
        approval,
        // The row says it, and every redeem reads the row.
        review: _,
        holder,
        open,
        issued_at,
        expires_at,
        shard,
        mint_epoch,
        key: _,
        // The row says it, and every redeem reads the rows of all before it.
        parent: _,
        // The digest is over the action, which names it.
        chain: _,
    } = grant.clone();
    Claims {
        token_id: id,
        tenant: tenant.clone(),
        session,
        principal,
        operator,
        operation,
        resource,
        digest,
        audience,
        approval,
        holder,
        open,
        issued_at,
        expires_at,
        shard,
        mint_epoch,
        development,
    }
}

fn read(row: &KeyRow) -> Result<(KeyId, PublicKey, KeyState), Error> {
    let state = match row.state.as_str() {
        "active" => KeyState::Active,
        "retired" => KeyState::Retired,
        "compromised" => KeyState::Compromised,
        other => return Err(Error::Internal(format!("signing key {} has the unknown state `{other}`", row.id))),
    };
    Ok((KeyId(row.id), PublicKey::parse(&row.public).map_err(internal)?, state))
}

fn internal(error: countersign_token::KeyError) -> Error {
    Error::Internal(error.to_string())
}
