//! The rows of broken glass: reviews, and when each person broke it of late.

use countersign_core::review::{BrokenGlass, Review};
use countersign_core::{EntityRef, ReviewId, TenantId};

use crate::error::StoreError;
use crate::kernel::Kernel;
use crate::layout::{Key, Kind};
use crate::repository::{Repository, Stored, Value};

impl Value for Review {
    const KIND: Kind = Kind::Review;
    fn key(&self, tenant: &TenantId) -> Key {
        Key::review(tenant, &self.id)
    }
}

impl Value for BrokenGlass {
    const KIND: Kind = Kind::BrokenGlass;
    fn key(&self, tenant: &TenantId) -> Key {
        Key::broken_glass(tenant, &self.person)
    }
}

impl<K: Kernel> Repository<K> {
    /// The review of broken glass.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn review(&self, id: ReviewId) -> Result<Option<Stored<Review>>, StoreError> {
        self.read(&Key::review(self.tenant(), &id)).await
    }

    /// When a person broke the glass of late.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn broken_glass(&self, person: &EntityRef) -> Result<Option<Stored<BrokenGlass>>, StoreError> {
        self.read(&Key::broken_glass(self.tenant(), person)).await
    }
}
