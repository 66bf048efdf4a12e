//! A store that was restored from a copy: everything that was handed out before is dead (I11).

use std::sync::Arc;

use countersign_core::session::Session;
use countersign_core::{Axis, Revocation, TenantId, Timestamp};
use countersign_store::repository::{CommitExt, KeyRow, Repository, Stored, stored};
use countersign_store::revoked::RevokedExt;
use countersign_store::{Commit, Kernel, Kind, Prefix};
use countersign_token::SigningKey;

use crate::engine::tenant_entity;
use crate::error::Error;
use crate::keys::{ACTIVE, COMPROMISED, RETIRED, new_row, told};
use crate::record::{Event, record};

/// How many sessions are ended with one sync.
const AT_ONCE: usize = 100;

/// What a restored store is, and what it rests on.
#[derive(Debug, Clone, Copy)]
pub struct Restoring {
    /// The epoch from now on.
    pub epoch: u64,
    /// The revision that the copy had.
    pub revision: u64,
    /// The newest revision that is known to have been acknowledged.
    pub acknowledged: Option<u64>,
}

/// Makes everything dead that a tenant was handed out: it is cut off by the revocation epoch; its sessions end, and with them every
/// approval request and capability in them; tokens of the mint epochs so far are refused; every signing key so far verifies
/// nothing any more, and `key` is active. The log goes on, and says so. Answers how many sessions were ended. For a store that
/// nobody serves.
///
/// # Errors
/// [`Error::Store`], [`Error::Internal`]. Some of it may be done then; it can be repeated from the beginning.
pub async fn renounce<K: Kernel>(
    kernel: Arc<K>,
    tenant: &TenantId,
    key: &SigningKey,
    restoring: Restoring,
    wall: Timestamp,
) -> Result<u64, Error> {
    let repo = Repository::new(kernel, tenant.clone());
    let newest = crate::log::newest_time(&repo).await?;
    let now = newest.map_or(wall, |newest| newest.max(wall));
    let sessions = end_sessions(&repo, now).await?;

    let mut commit = Commit::new(tenant.clone());
    let mut mint_epoch = 1;
    if let Some(mut row) = repo.tenant_row().await? {
        row.value.mint_epoch = row.value.mint_epoch.saturating_add(1);
        mint_epoch = row.value.mint_epoch;
        let epoch = row.value.revocation_epoch.saturating_add(1);
        row.value.revocation_epoch = epoch;
        let reason = Some("the store was restored from a copy".to_owned());
        let by = Some(tenant_entity(tenant)?);
        let everything = Revocation { axis: Axis::Everything, at: now, by, reason, epoch: Some(epoch) };
        commit = commit.update(&row).revoke(epoch, &everything);
    }
    let mut changed = Vec::new();
    let verifies = |row: &KeyRow| {
        row.removed_at.is_none()
            && row.state != COMPROMISED
            && row.verifies_until.is_none_or(|until| !now.reached(until))
    };
    for Stored { revision, value } in repo.keys().await?.into_iter().filter(|row| verifies(&row.value)) {
        let value = KeyRow { state: RETIRED.to_owned(), verifies_until: Some(now), ..value };
        commit = commit.update(&Stored { revision, value: value.clone() });
        changed.push(value);
    }
    let new = new_row(key.id().0, key.public().to_string(), ACTIVE, now);
    commit = commit.insert(&new);
    changed.push(new);
    let Restoring { epoch, revision, acknowledged } = restoring;
    let event = Event::Restored { epoch, revision, acknowledged, mint_epoch, sessions };
    commit = commit.record(record(tenant, now, None, None, event));
    for row in &changed {
        commit = commit.record(record(tenant, now, None, None, told(row, None, &[])));
    }
    repo.kernel().commit(commit).await?;
    Ok(sessions)
}

async fn end_sessions<K: Kernel>(repo: &Repository<K>, now: Timestamp) -> Result<u64, Error> {
    let (tenant, by) = (repo.tenant(), tenant_entity(repo.tenant())?);
    let prefix = Prefix::kind(tenant, Kind::Session);
    let (mut ended, mut after) = (0_u64, None);
    loop {
        let page = repo.kernel().scan(&prefix, after.as_ref(), AT_ONCE).await?;
        let mut commits = Vec::new();
        for (key, row) in &page.rows {
            let mut session: Stored<Session> = stored(key, row)?;
            // What keeps it alive, or is above it, may have been lost with the time since the copy.
            if !session.value.cut_off(by.clone(), now) {
                continue;
            }
            let id = session.value.id;
            let event = Event::SessionEnded { session: id };
            commits.push(Commit::new(tenant.clone()).update(&session).record(record(tenant, now, None, None, event)));
        }
        ended = ended.saturating_add(u64::try_from(commits.len()).unwrap_or(u64::MAX));
        for outcome in repo.kernel().commit_many(commits).await {
            outcome?;
        }
        after = page.next;
        if after.is_none() {
            return Ok(ended);
        }
    }
}

/// The highest id of a signing key that the store knows, or 0.
///
/// # Errors
/// [`Error::Store`].
pub async fn newest_key<K: Kernel>(kernel: Arc<K>, tenant: &TenantId) -> Result<u32, Error> {
    let keys = Repository::new(kernel, tenant.clone()).keys().await?;
    Ok(keys.iter().map(|key| key.value.id).max().unwrap_or(0))
}
