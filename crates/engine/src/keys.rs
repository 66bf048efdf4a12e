//! The tenant's signing keys: which of them are believed, and minting with the active one.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_core::capability::Grant;
use countersign_core::{TenantId, Timestamp};
use countersign_store::repository::{CommitExt, KeyRow, Repository, Stored};
use countersign_store::{Commit, Kernel};
use countersign_token::{Claims, KeyId, KeyRing, KeyState, PublicKey, SigningKey, Token};

use crate::error::Error;
use crate::record::{Event, record};

/// The keys as their rows say, the ring that verifies, and the private halves.
#[derive(Debug)]
pub struct Keys {
    ring: KeyRing,
    rows: BTreeMap<u32, Stored<KeyRow>>,
    signing: BTreeMap<u32, Arc<SigningKey>>,
}

/// A public key, as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its id, as tokens carry it.
    pub id: KeyId,
    /// The key.
    pub public: PublicKey,
    /// What it may do.
    pub state: KeyState,
    /// When it came to be.
    pub created_at: Timestamp,
    /// From when on it verifies nothing, if it is retired.
    pub verifies_until: Option<Timestamp>,
}

impl Keys {
    /// Reads the rows of the keys and holds them against the private halves. In a new store, every key gets a row, and the
    /// one with the highest id is active.
    pub(crate) async fn load<K: Kernel>(
        repo: &Repository<K>,
        signing: Vec<SigningKey>,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let mut rows = repo.keys().await?;
        if rows.is_empty() {
            let newest = signing.iter().map(|key| key.id().0).max();
            // All or none: with some of them, a store would not be new and never come to have the others.
            let mut commit = Commit::new(repo.tenant().clone());
            let mut made = Vec::new();
            for key in &signing {
                let (id, public) = (key.id().0, key.public().to_string());
                let state = if newest == Some(id) { ACTIVE } else { RETIRED };
                let row = new_row(id, public, state, now);
                commit = commit.insert(&row).record(record(repo.tenant(), now, None, None, told(&row, None, &[])));
                made.push(row);
            }
            let revision = repo.kernel().commit(commit).await?.revision;
            rows = made.into_iter().map(|value| Stored { revision, value }).collect();
        }
        let keys = Self::of(rows, signing.into_iter().map(Arc::new))?;
        keys.active()?;
        Ok(keys)
    }

    /// The keys of these rows, with those private halves of them that are there.
    pub(crate) fn of(
        rows: Vec<Stored<KeyRow>>,
        signing: impl IntoIterator<Item = Arc<SigningKey>>,
    ) -> Result<Self, Error> {
        // A key that was taken out of service verifies nothing. One that is compromised stays, so that the refusal says why.
        let believed = rows.iter().map(|row| &row.value).filter(|row| is_listed(row));
        let ring = KeyRing::new(believed.map(read).collect::<Result<Vec<_>, _>>()?).map_err(internal)?;
        let rows: BTreeMap<u32, _> = rows.into_iter().map(|row| (row.value.id, row)).collect();
        // What has no row never signed anything: it is left of a change that was not committed.
        let of_row = |key: &Arc<SigningKey>| rows.get(&key.id().0).is_some_and(|row| row.value.removed_at.is_none());
        let signing = signing.into_iter().filter(of_row).map(|key| (key.id().0, key)).collect();
        Ok(Self { ring, rows, signing })
    }

    /// What verifies.
    pub const fn ring(&self) -> &KeyRing {
        &self.ring
    }

    /// The row of a key. Whoever mints or redeems with the key binds the commit to it, so that nothing commits under a key
    /// whose change was acknowledged (I6).
    pub(crate) fn row(&self, id: KeyId) -> Result<&Stored<KeyRow>, Error> {
        self.rows.get(&id.0).ok_or_else(|| Error::Internal(format!("signing key {id} has no row")))
    }

    pub(crate) const fn rows(&self) -> &BTreeMap<u32, Stored<KeyRow>> {
        &self.rows
    }

    pub(crate) fn signing(&self) -> impl Iterator<Item = Arc<SigningKey>> + '_ {
        self.signing.values().map(Arc::clone)
    }

    /// The key that mints.
    pub(crate) fn active(&self) -> Result<&SigningKey, Error> {
        let key = self.ring.active().and_then(|id| self.signing.get(&id.0));
        key.map(|key| &**key).filter(|key| self.ring.may_mint(key)).ok_or_else(|| {
            Error::Internal(
                "the private half of the active signing key is missing or another one; restore the key files"
                    .to_owned(),
            )
        })
    }

    /// The token of a grant: the same grant gives the same bytes.
    pub(crate) fn issue(&self, grant: &Grant, tenant: &TenantId, development: bool) -> Result<Token, Error> {
        let gone = || match self.rows.get(&grant.key).map(|row| row.value.removed_at) {
            Some(Some(_)) => Error::TokenDead("its key was taken out of service; decide again"),
            Some(None) | None => Error::Internal(format!("the private half of signing key {} is missing", grant.key)),
        };
        let key = self.signing.get(&grant.key).ok_or_else(gone)?;
        Ok(countersign_token::mint(key, &claims(grant, tenant, development))?)
    }
}

impl<K: Kernel> crate::Engine<K> {
    /// The public keys, in the order of their ids. Those that were taken out of service are not among them, unless they are
    /// compromised.
    ///
    /// # Errors
    /// [`Error::Internal`] if a row cannot be read.
    pub fn public_keys(&self) -> Result<Vec<KeyInfo>, Error> {
        let keys = self.keys.load();
        let told = |row: &KeyRow| {
            let (id, public, state) = read(row)?;
            let KeyRow { created_at, verifies_until, .. } = *row;
            // One that was retired before it was found compromised verifies nothing already.
            let verifies_until = verifies_until.filter(|_| matches!(state, KeyState::Active | KeyState::Retired));
            Ok(KeyInfo { id, public, state, created_at, verifies_until })
        };
        keys.rows.values().map(|row| &row.value).filter(|row| is_listed(row)).map(told).collect()
    }
}

pub(crate) const ACTIVE: &str = "active";
pub(crate) const RETIRED: &str = "retired";
pub(crate) const COMPROMISED: &str = "compromised";

pub(crate) fn new_row(id: u32, public: String, state: &str, created_at: Timestamp) -> KeyRow {
    KeyRow { id, public, state: state.to_owned(), created_at, verifies_until: None, removed_at: None }
}

/// What the log says of a key as it is now.
pub(crate) fn told<'a>(row: &'a KeyRow, reason: Option<&'a str>, determining: &'a [String]) -> Event<'a> {
    let state = if row.state == RETIRED && row.removed_at.is_some() { "removed" } else { row.state.as_str() };
    Event::Key { key: row.id, public: &row.public, state, verifies_until: row.verifies_until, reason, determining }
}

fn is_listed(row: &KeyRow) -> bool {
    row.removed_at.is_none() || row.state == COMPROMISED
}

/// What the token of a capability says.
#[must_use]
pub fn claims(grant: &Grant, tenant: &TenantId, development: bool) -> Claims {
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
        parent,
        chain,
        grandparents,
        sessions_above,
        votes,
    } = grant.clone();
    Claims {
        token_id: id,
        tenant: tenant.clone(),
        exchanged: parent.into_iter().chain(grandparents).collect(),
        session,
        sessions_above,
        principal,
        operator,
        chain,
        operation,
        resource,
        digest,
        audience,
        approval,
        votes,
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
        ACTIVE => KeyState::Active,
        RETIRED => KeyState::Retired,
        COMPROMISED => KeyState::Compromised,
        other => return Err(Error::Internal(format!("signing key {} has the unknown state `{other}`", row.id))),
    };
    Ok((KeyId(row.id), PublicKey::parse(&row.public).map_err(internal)?, state))
}

fn internal(error: countersign_token::KeyError) -> Error {
    Error::Internal(error.to_string())
}
