//! What rows mean: the domain's types, written once above the kernel.
//!
//! A value is one version byte and JSON. A version that is read stays readable; a row of an unknown version is refused and
//! not guessed at.

use std::sync::Arc;

use bytes::Bytes;
use countersign_core::approval::Approval;
use countersign_core::capability::Capability;
use countersign_core::precedent::Precedents;
use countersign_core::restraint::{AskedOfLate, CoolDown};
use countersign_core::session::Session;
use countersign_core::{ApprovalId, Digest, EntityRef, SessionId, TenantId, Timestamp, TokenId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::kernel::{Commit, Guard, Kernel, Revision, Row};
use crate::layout::{Key, Kind, Prefix};

/// The version of every row that is written now.
const ROW_VERSION: u8 = 1;

/// A value with the revision that it was read at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<T> {
    /// The commit that wrote it.
    pub revision: Revision,
    /// The value.
    pub value: T,
}

/// The tenant's own row: what every decision depends on. Spending guards it, so that a bundle or an epoch that changed
/// makes the decision be made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantRow {
    /// The active bundle.
    pub bundle: Digest,
    /// Its revision, as its author numbers it.
    pub bundle_revision: u64,
    /// When it became active.
    pub activated_at: Timestamp,
    /// Tokens of an older mint epoch are dead (I11).
    pub mint_epoch: u64,
    /// The highest revision that a rollback left. The files that it came from may still lie where they were: nothing of this
    /// revision or a lower one is taken from there again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rolled_back: Option<u64>,
    /// How often something was revoked by a wider axis than one session: what carries a lower epoch may be cut off.
    #[serde(skip_serializing_if = "is_first", default)]
    pub revocation_epoch: u64,
}

/// Whether nothing was: rows of earlier releases say nothing of it.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
const fn is_first(epoch: &u64) -> bool {
    *epoch == 0
}

/// What a request id was answered with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestRow {
    /// The digest of the request's body: another body under the same id is refused.
    pub body: Digest,
    /// The answer, in the engine's own form. Never a token.
    pub answer: serde_json::Value,
    /// From when on the row may be tidied away.
    pub expires_at: Timestamp,
}

/// A bundle that was active once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleRow {
    /// Its name.
    pub name: String,
    /// Its revision.
    pub revision: u64,
    /// In how many chunks its files are kept.
    pub chunks: u32,
    /// The file with its authors' signatures, as it was last published.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub signatures: Option<String>,
    /// When it last became active. Absent in rows of the first release.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub activated_at: Option<Timestamp>,
}

/// A key that signs capabilities: its public half and what it may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRow {
    /// Its id, as tokens carry it.
    pub id: u32,
    /// The Ed25519 public key, 64 hexadecimal digits.
    pub public: String,
    /// `active`, `retired` or `compromised`.
    pub state: String,
    /// When it came to be.
    pub created_at: Timestamp,
    /// From when on it verifies nothing, once it is retired: everything that it signed is over then. Absent as long as it is
    /// active, and in rows of earlier releases.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub verifies_until: Option<Timestamp>,
    /// When its private half was taken out of service for good.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub removed_at: Option<Timestamp>,
}

/// A stored entity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntityRow {
    /// Its name.
    pub entity: EntityRef,
    /// What it is, in the policy crate's own form.
    pub data: serde_json::Value,
    /// When it was changed last.
    pub changed_at: Timestamp,
    /// By whom.
    pub changed_by: EntityRef,
}

/// Some entities, and where the next ones begin.
pub type EntityRows = (Vec<Stored<EntityRow>>, Option<Key>);

/// A type that lies in a row of its own.
pub trait Value: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The kind of its rows.
    const KIND: Kind;
    /// Its key.
    fn key(&self, tenant: &TenantId) -> Key;
}

impl Value for Session {
    const KIND: Kind = Kind::Session;
    fn key(&self, tenant: &TenantId) -> Key {
        Key::session(tenant, &self.id)
    }
}

impl Value for Approval {
    const KIND: Kind = Kind::Approval;
    fn key(&self, tenant: &TenantId) -> Key {
        Key::approval(tenant, &self.id)
    }
}

impl Value for AskedOfLate {
    const KIND: Kind = Kind::AskedOfLate;
    fn key(&self, tenant: &TenantId) -> Key {
        Key::asked_of_late(tenant, &self.principal, self.operator.as_ref())
    }
}

impl Value for CoolDown {
    const KIND: Kind = Kind::CoolDown;
    fn key(&self, tenant: &TenantId) -> Key {
        Key::cool_down(tenant, &Self::subject(&self.owner, &self.operation, &self.resource))
    }
}

impl Value for Precedents {
    const KIND: Kind = Kind::Precedents;
    fn key(&self, tenant: &TenantId) -> Key {
        Key::precedents(tenant, &Self::subject(&self.operation, &self.resource))
    }
}

impl Value for Capability {
    const KIND: Kind = Kind::Capability;
    fn key(&self, tenant: &TenantId) -> Key {
        Key::capability(tenant, &self.grant.id)
    }
}

impl Value for TenantRow {
    const KIND: Kind = Kind::Tenant;
    fn key(&self, tenant: &TenantId) -> Key {
        Key::tenant(tenant)
    }
}

impl Value for KeyRow {
    const KIND: Kind = Kind::SigningKey;
    fn key(&self, tenant: &TenantId) -> Key {
        Key::signing_key(tenant, self.id)
    }
}

/// A page of values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values<T> {
    /// The values, in the order asked for.
    pub values: Vec<Stored<T>>,
    /// Where the next page begins.
    pub next: Option<Key>,
}

/// The rows of one tenant. There is no way from here to another tenant's.
#[derive(Debug)]
pub struct Repository<K> {
    kernel: Arc<K>,
    tenant: TenantId,
}

impl<K> Clone for Repository<K> {
    fn clone(&self) -> Self {
        Self { kernel: Arc::clone(&self.kernel), tenant: self.tenant.clone() }
    }
}

impl<K: Kernel> Repository<K> {
    /// The rows of `tenant`.
    #[must_use]
    pub const fn new(kernel: Arc<K>, tenant: TenantId) -> Self {
        Self { kernel, tenant }
    }

    /// The tenant.
    #[must_use]
    pub const fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The kernel below.
    #[must_use]
    pub fn kernel(&self) -> &K {
        &self.kernel
    }

    /// A session.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn session(&self, id: SessionId) -> Result<Option<Stored<Session>>, StoreError> {
        self.read(&Key::session(&self.tenant, &id)).await
    }

    /// An approval request.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn approval(&self, id: ApprovalId) -> Result<Option<Stored<Approval>>, StoreError> {
        self.read(&Key::approval(&self.tenant, &id)).await
    }

    /// What a principal has asked of late for one person, or for nobody but itself.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn asked_of_late(
        &self,
        principal: &EntityRef,
        operator: Option<&EntityRef>,
    ) -> Result<Option<Stored<AskedOfLate>>, StoreError> {
        self.read(&Key::asked_of_late(&self.tenant, principal, operator)).await
    }

    /// What people answered before about an operation on a resource.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn precedents(
        &self,
        operation: &str,
        resource: &EntityRef,
    ) -> Result<Option<Stored<Precedents>>, StoreError> {
        self.read(&Key::precedents(&self.tenant, &Precedents::subject(operation, resource))).await
    }

    /// The cool-down about a subject, as [`CoolDown::subject`] names it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn cool_down(&self, subject: &Digest) -> Result<Option<Stored<CoolDown>>, StoreError> {
        self.read(&self.cool_down_key(subject)).await
    }

    /// The key of [`Self::cool_down`].
    #[must_use]
    pub fn cool_down_key(&self, subject: &Digest) -> Key {
        Key::cool_down(&self.tenant, subject)
    }

    /// A capability.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn capability(&self, id: TokenId) -> Result<Option<Stored<Capability>>, StoreError> {
        self.read(&Key::capability(&self.tenant, &id)).await
    }

    /// The tenant's own row.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn tenant_row(&self) -> Result<Option<Stored<TenantRow>>, StoreError> {
        self.read(&Key::tenant(&self.tenant)).await
    }

    /// The approval request that was last put about a digest.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn asked(&self, digest: Digest) -> Result<Option<Stored<ApprovalId>>, StoreError> {
        self.read(&Key::pending_digest(&self.tenant, &digest)).await
    }

    /// The key of [`Self::asked`].
    #[must_use]
    pub fn asked_key(&self, digest: Digest) -> Key {
        Key::pending_digest(&self.tenant, &digest)
    }

    /// What a request id was answered with. `caller` scopes it: another caller's id is another row.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn request(
        &self,
        caller: &Digest,
        rpc: &str,
        id: &str,
    ) -> Result<Option<Stored<RequestRow>>, StoreError> {
        self.read(&self.request_key(caller, rpc, id)).await
    }

    /// The key of [`Self::request`].
    #[must_use]
    pub fn request_key(&self, caller: &Digest, rpc: &str, id: &str) -> Key {
        Key::request(&self.tenant, caller, rpc, id)
    }

    /// A stored entity.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn entity(&self, entity: &EntityRef) -> Result<Option<Stored<EntityRow>>, StoreError> {
        self.read(&self.entity_key(entity)).await
    }

    /// The key of [`Self::entity`].
    #[must_use]
    pub fn entity_key(&self, entity: &EntityRef) -> Key {
        Key::entity(&self.tenant, entity)
    }

    /// Stored entities in the order of their names, of one type or of all.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn entities(
        &self,
        kind: Option<&str>,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<EntityRows, StoreError> {
        let prefix = match kind {
            Some(kind) => Prefix::entities(&self.tenant, kind),
            None => Prefix::kind(&self.tenant, Kind::Entity),
        };
        let page = self.kernel.scan(&prefix, after, limit).await?;
        let rows = page.rows.iter().map(|(key, row)| stored(key, row)).collect::<Result<_, _>>()?;
        Ok((rows, page.next))
    }

    /// Every signing key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keys(&self) -> Result<Vec<Stored<KeyRow>>, StoreError> {
        let page = self.kernel.scan(&Prefix::kind(&self.tenant, Kind::SigningKey), None, usize::MAX).await?;
        page.rows.iter().map(|(key, row)| stored(key, row)).collect()
    }

    /// What is kept of a bundle that was active once.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn bundle(&self, digest: Digest) -> Result<Option<Stored<BundleRow>>, StoreError> {
        self.read(&Key::bundle(&self.tenant, &digest)).await
    }

    /// Every bundle that was active once, by its digest.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn bundles(&self) -> Result<Vec<(Digest, BundleRow)>, StoreError> {
        let prefix = Prefix::kind(&self.tenant, Kind::Bundle);
        let (mut bundles, mut after) = (Vec::new(), None);
        loop {
            let page = self.kernel.scan(&prefix, after.as_ref(), usize::MAX).await?;
            for (key, row) in &page.rows {
                let digest = <[u8; 32]>::try_from(key.parts()).map_err(|_| damaged(key))?;
                bundles.push((Digest::from_bytes(digest), stored::<BundleRow>(key, row)?.value));
            }
            after = page.next;
            if after.is_none() {
                return Ok(bundles);
            }
        }
    }

    /// The files of a bundle that was active once, as their bytes.
    ///
    /// # Errors
    /// [`StoreError`], also when a chunk is missing.
    pub async fn bundle_files(&self, digest: Digest, chunks: u32) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        for number in 0..chunks {
            let key = Key::bundle_chunk(&self.tenant, &digest, number);
            let row = self.kernel.get(&key).await?.ok_or_else(|| damaged(&key))?;
            bytes.extend_from_slice(&row.value);
        }
        Ok(bytes)
    }

    /// The newest values of a kind, the newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn newest<T: Value>(&self, before: Option<&Key>, limit: usize) -> Result<Values<T>, StoreError> {
        let page = self.kernel.scan_newest(&Prefix::kind(&self.tenant, T::KIND), before, limit).await?;
        let values = page.rows.iter().map(|(key, row)| stored(key, row)).collect::<Result<_, _>>()?;
        Ok(Values { values, next: page.next })
    }

    pub(crate) async fn read<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<Stored<T>>, StoreError> {
        match self.kernel.get(key).await? {
            Some(row) => stored(key, &row).map(Some),
            None => Ok(None),
        }
    }
}

/// Reads the value of a row.
///
/// # Errors
/// [`StoreError::Damaged`] if the row has another version or form.
pub fn stored<T: DeserializeOwned>(key: &Key, row: &Row) -> Result<Stored<T>, StoreError> {
    let json = match row.value.split_first() {
        Some((&ROW_VERSION, json)) => json,
        _ => return Err(damaged(key)),
    };
    let value = serde_json::from_slice(json).map_err(|_| damaged(key))?;
    Ok(Stored { revision: row.revision, value })
}

/// Writes the value of a row.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Bytes {
    let mut bytes = vec![ROW_VERSION];
    // The row types have string keys only, so this cannot fail; an empty row would be refused on reading.
    if serde_json::to_writer(&mut bytes, value).is_err() {
        bytes.clear();
    }
    bytes.into()
}

fn damaged(key: &Key) -> StoreError {
    StoreError::Damaged { reason: format!("the row {key:?} is not of a version that this release reads") }
}

/// Commits in the words of the domain.
pub trait CommitExt: Sized {
    /// Creates the row of a value that must not be there.
    #[must_use]
    fn insert<T: Value>(self, value: &T) -> Self;
    /// Writes a value whose row was read: at this revision, or not there.
    #[must_use]
    fn upsert<T: Value>(self, value: &T, read: Option<Revision>) -> Self;
    /// Replaces a value that was read.
    #[must_use]
    fn update<T: Value>(self, value: &Stored<T>) -> Self;
    /// Requires that a value is still the one that was read.
    #[must_use]
    fn unchanged<T: Value>(self, value: &Stored<T>) -> Self;
}

impl CommitExt for Commit {
    fn insert<T: Value>(self, value: &T) -> Self {
        let key = value.key(&self.log);
        self.create(key, encode(value))
    }
    fn upsert<T: Value>(self, value: &T, read: Option<Revision>) -> Self {
        let key = value.key(&self.log);
        self.put(key, read, encode(value))
    }
    fn update<T: Value>(self, stored: &Stored<T>) -> Self {
        let key = stored.value.key(&self.log);
        self.replace(key, stored.revision, encode(&stored.value))
    }
    fn unchanged<T: Value>(self, stored: &Stored<T>) -> Self {
        let key = stored.value.key(&self.log);
        self.guard(Guard::Revision(key, stored.revision))
    }
}
