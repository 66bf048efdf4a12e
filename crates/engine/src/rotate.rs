//! Signing keys change: a new one takes over, a retired one goes, a compromised one is worth nothing from then on.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::Timestamp;
use countersign_policy::AdminAction;
use countersign_store::Kernel;
use countersign_store::repository::{CommitExt, KeyRow, Stored};
use countersign_token::{KeyId, SigningKey};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::ask::{check_text, require_request_id};
use crate::engine::{Call, Engine, Replayable, Scene, tenant_entity};
use crate::error::Error;
use crate::keys::{ACTIVE, COMPROMISED, Keys, RETIRED, new_row, told};
use crate::revoke::MAX_REASON;

/// The longest that a token can live by any configuration: what was minted before the configuration changed is over then too.
const LONGEST_TOKEN: Duration = Duration::from_secs(3_600);
/// What was decided a little later may be committed a little earlier.
const LEEWAY: Duration = Duration::from_secs(60);

/// A change of the signing keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyChange {
    /// A new key becomes active. The old one is retired: it verifies what it minted until that is over.
    Rotate,
    /// A retired key whose tokens are over is taken out of service.
    Retire(KeyId),
    /// Nothing that the key signed is worth anything. If it is the active one, a new key takes over in the same commit.
    Compromised {
        /// The key.
        key: KeyId,
        /// Why.
        reason: String,
    },
}

/// Why a key does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// There is none with the id.
    #[error("there is no signing key {0}; `countersign keys list` shows those there are")]
    Unknown(KeyId),
    /// It mints.
    #[error("signing key {0} is the active one; rotate first, or call it compromised")]
    Active(KeyId),
    /// It is what it would become.
    #[error("signing key {0} is {1} already")]
    Already(KeyId, &'static str),
    /// It still verifies what people hold.
    #[error(
        "tokens that signing key {0} minted live for up to {1} s more; retire it then, or call it compromised if they must die now"
    )]
    TokensLive(KeyId, u64),
}

/// What a change led to. It is kept under the request id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysChanged {
    /// The key that was retired, taken out of service or called compromised.
    pub key: u32,
    /// The key that mints now.
    pub active: u32,
    /// Whether the private half of `key` is of no use any more.
    pub discard: bool,
}

/// A key as it is to be, and as it was.
struct Changed {
    row: KeyRow,
    read: Option<Stored<KeyRow>>,
    reason: Option<String>,
}

impl<K: Kernel> Engine<K> {
    /// Changes the signing keys, if the `manageKeys` policies permit it. Once this returns, no redeem commits of a token whose
    /// key was called compromised (I6): every redeem guards the row of its token's key, and so does every mint.
    ///
    /// `make` makes a private key, durably, with this id or a higher one. It is called once at most, and only for a caller
    /// who may change keys.
    ///
    /// # Errors
    /// [`Error::Key`], [`Error::AdministrationDenied`], and those of `make`.
    pub async fn change_keys<F>(
        &self,
        call: &Call,
        change: &KeyChange,
        make: impl Fn(KeyId) -> F + Send + Sync,
    ) -> Result<Replayable<KeysChanged>, Error>
    where
        F: Future<Output = Result<SigningKey, Error>> + Send,
    {
        self.require(call, require_request_id(call)).await?;
        if let KeyChange::Compromised { reason, .. } = change {
            self.require(call, check_text("reason", reason, 1, MAX_REASON)).await?;
        }
        let (make, made) = (&make, &OnceCell::new());
        let attempt =
            |scene: Scene| async move { self.change_keys_once(&scene, change, |id| made_once(made, id, make)).await };
        // One after the other: a key that was made has the next id until it is committed.
        let turn = self.changing_keys.lock().await;
        let changed = self.settle(call, None, attempt).await;
        drop(turn);
        changed
    }

    async fn change_keys_once<F>(
        &self,
        scene: &Scene,
        change: &KeyChange,
        make: impl Fn(KeyId) -> F + Send + Sync,
    ) -> Result<Replayable<KeysChanged>, Error>
    where
        F: Future<Output = Result<Arc<SigningKey>, Error>> + Send,
    {
        if let Some(changed) = self.replay::<KeysChanged>(scene).await? {
            return Ok(Replayable::replayed(changed));
        }
        let tenant = tenant_entity(self.tenant())?;
        let permitted = self.administer(scene, AdminAction::ManageKeys { tenant: &tenant }, "manageKeys")?;
        let keys = self.keys.load_full();
        let active = keys.active()?.id();
        let changed = match change {
            KeyChange::Rotate => Some(retired(keys.row(active)?, scene.now, self.limits.token_ttl)),
            KeyChange::Retire(id) => Some(removed(known(&keys, *id)?, scene.now)?),
            KeyChange::Compromised { key, reason } => Some(compromised(known(&keys, *key)?, reason)?),
        };
        let changed = changed.into_iter();
        let affected = match change {
            KeyChange::Rotate => active,
            KeyChange::Retire(id) | KeyChange::Compromised { key: id, .. } => *id,
        };
        let next = if affected == active {
            let newest = keys.rows().keys().next_back().copied().unwrap_or(0);
            Some(make(KeyId(newest.saturating_add(1))).await?)
        } else {
            None
        };
        let row = next.as_ref().map(|key| new_row(key.id().0, key.public().to_string(), ACTIVE, scene.now));
        let all: Vec<Changed> = changed.chain(row.map(|row| Changed { row, read: None, reason: None })).collect();
        let answer = KeysChanged {
            key: affected.0,
            active: next.as_ref().map_or(active, |key| key.id()).0,
            discard: matches!(change, KeyChange::Retire(_)),
        };

        let mut commit = self.guarded(scene, []);
        for Changed { row, read, .. } in &all {
            commit = commit.upsert(row, read.as_ref().map(|read| read.revision));
        }
        // The commit's own record is the last one.
        let (last, others) = all.split_last().ok_or_else(|| Error::Internal("a change of no key".to_owned()))?;
        for Changed { row, reason, .. } in others {
            commit = commit.record(self.record(scene, told(row, reason.as_deref(), &permitted.policies)));
        }
        let event = told(&last.row, last.reason.as_deref(), &permitted.policies);
        let committed = self.commit(scene, commit, event, &answer).await?;

        let mut rows = keys.rows().clone();
        for Changed { row, .. } in all {
            rows.insert(row.id, Stored { revision: committed.revision, value: row });
        }
        let signing = keys.signing().chain(next);
        self.keys.store(Arc::new(Keys::of(rows.into_values().collect(), signing)?));
        Ok(Replayable::fresh(answer))
    }
}

async fn made_once<F>(
    made: &OnceCell<Arc<SigningKey>>,
    id: KeyId,
    make: impl Fn(KeyId) -> F + Send + Sync,
) -> Result<Arc<SigningKey>, Error>
where
    F: Future<Output = Result<SigningKey, Error>> + Send,
{
    made.get_or_try_init(|| async { make(id).await.map(Arc::new) }).await.map(Arc::clone)
}

fn known(keys: &Keys, id: KeyId) -> Result<&Stored<KeyRow>, Error> {
    keys.rows().get(&id.0).ok_or_else(|| KeyFault::Unknown(id).into())
}

/// Until when a key verifies that mints nothing more from `now` on.
pub(crate) fn outlived(now: Timestamp, token_ttl: Duration) -> Timestamp {
    now.plus(token_ttl.max(LONGEST_TOKEN)).plus(LEEWAY)
}

fn retired(read: &Stored<KeyRow>, now: Timestamp, token_ttl: Duration) -> Changed {
    let verifies_until = Some(outlived(now, token_ttl));
    let row = KeyRow { state: RETIRED.to_owned(), verifies_until, ..read.value.clone() };
    Changed { row, read: Some(read.clone()), reason: None }
}

fn removed(read: &Stored<KeyRow>, now: Timestamp) -> Result<Changed, Error> {
    let (row, id) = (&read.value, KeyId(read.value.id));
    if row.removed_at.is_some() {
        return Err(KeyFault::Already(id, "out of service").into());
    }
    match row.verifies_until {
        _ if row.state == ACTIVE => return Err(KeyFault::Active(id).into()),
        Some(until) if row.state == RETIRED && !now.reached(until) => {
            let left = until.millis().saturating_sub(now.millis()) / 1_000;
            return Err(KeyFault::TokensLive(id, u64::try_from(left).unwrap_or(0).saturating_add(1)).into());
        }
        Some(_) | None => {}
    }
    let row = KeyRow { removed_at: Some(now), ..row.clone() };
    Ok(Changed { row, read: Some(read.clone()), reason: None })
}

fn compromised(read: &Stored<KeyRow>, reason: &str) -> Result<Changed, Error> {
    if read.value.state == COMPROMISED {
        return Err(KeyFault::Already(KeyId(read.value.id), "compromised").into());
    }
    let row = KeyRow { state: COMPROMISED.to_owned(), ..read.value.clone() };
    Ok(Changed { row, read: Some(read.clone()), reason: Some(reason.to_owned()) })
}
