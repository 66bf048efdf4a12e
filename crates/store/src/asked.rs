//! Batches of questions, and figures of how asking goes.

use countersign_core::figures::{Figures, Subject};
use countersign_core::{ApprovalId, BatchId, TenantId};
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::kernel::{Commit, Kernel};
use crate::layout::{Key, Kind, Prefix};
use crate::repository::{Repository, Stored, Value, Values, encode, stored};

/// How far the log is counted into figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FiguresHead {
    /// The first record that is not counted as a whole.
    pub next: u64,
    /// How much of that one is counted: one record may count for more than fits into a commit.
    pub counted: u32,
}

impl Value for Figures {
    const KIND: Kind = Kind::Figures;
    fn key(&self, tenant: &TenantId) -> Key {
        Key::figures(tenant, &self.subject)
    }
}

impl Value for FiguresHead {
    const KIND: Kind = Kind::FiguresHead;
    fn key(&self, tenant: &TenantId) -> Key {
        Key::figures_head(tenant)
    }
}

/// The requests of a batch with their places, and whether more follow.
pub type Places = (Vec<(u32, ApprovalId)>, bool);

impl<K: Kernel> Repository<K> {
    /// The requests of a batch that come after a place.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn batch(&self, batch: &BatchId, after: Option<u32>, limit: usize) -> Result<Places, StoreError> {
        let after = after.map(|place| Key::batch(self.tenant(), batch, place));
        let page = self.kernel().scan(&Prefix::batch(self.tenant(), batch), after.as_ref(), limit).await?;
        let place = |key: &Key| key.parts().last_chunk::<4>().map_or(0, |place| u32::from_be_bytes(*place));
        let rows = page.rows.iter().map(|(key, row)| Ok((place(key), stored(key, row)?.value)));
        Ok((rows.collect::<Result<_, StoreError>>()?, page.next.is_some()))
    }

    /// The figures of a rule or a person.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn figures(&self, subject: &Subject) -> Result<Option<Stored<Figures>>, StoreError> {
        self.read(&Key::figures(self.tenant(), subject)).await
    }

    /// Figures in the order of what they are about: those of rules, or of rules and then of persons.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn all_figures(
        &self,
        rules_only: bool,
        after: Option<&Subject>,
        limit: usize,
    ) -> Result<Values<Figures>, StoreError> {
        let after = after.map(|subject| Key::figures(self.tenant(), subject));
        let prefix = if rules_only {
            Prefix::figures_of_rules(self.tenant())
        } else {
            Prefix::kind(self.tenant(), Kind::Figures)
        };
        let page = self.kernel().scan(&prefix, after.as_ref(), limit).await?;
        let values = page.rows.iter().map(|(key, row)| stored(key, row)).collect::<Result<_, _>>()?;
        Ok(Values { values, next: page.next })
    }

    /// How far the log is counted.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn figures_head(&self) -> Result<Option<Stored<FiguresHead>>, StoreError> {
        self.read(&Key::figures_head(self.tenant())).await
    }
}

impl Commit {
    /// Notes that a request is the one at this place of a batch.
    #[must_use]
    pub fn in_batch(self, batch: &BatchId, place: u32, approval: &ApprovalId) -> Self {
        let key = Key::batch(&self.log, batch, place);
        self.create(key, encode(approval))
    }
}
