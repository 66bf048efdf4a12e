//! Where the rows of revocations lie, and of what was redeemed and is not completed.

use countersign_core::{RevocationId, TenantId, Timestamp, TokenId};

use super::{Key, Kind, Prefix, join, ordered, unordered};

/// What a row of revocations is: the first byte of its parts. The values are part of the data format, as those of [`Kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Revoked {
    Wide = 1,
    Told = 2,
}

impl Key {
    /// The key of a revocation by a wider axis, by its epoch.
    #[must_use]
    pub fn revoked(tenant: &TenantId, epoch: u64) -> Self {
        Self::new(tenant, Kind::Revocation, &[&[Revoked::Wide as u8], &epoch.to_be_bytes()])
    }

    /// The key of what is told of a revocation. Their ids lie about in the order of time.
    #[must_use]
    pub fn told_revocation(tenant: &TenantId, id: &RevocationId) -> Self {
        Self::new(tenant, Kind::Revocation, &[&[Revoked::Told as u8], id.as_bytes()])
    }

    /// The key of what was redeemed and whose outcome nobody has told.
    #[must_use]
    pub fn running(tenant: &TenantId, complete_by: Timestamp, id: &TokenId) -> Self {
        Self::new(tenant, Kind::Running, &[&ordered(complete_by), id.as_bytes()])
    }

    /// The time and the capability that a key of [`Key::running`] names; `None` for any other key.
    #[must_use]
    pub fn running_parts(&self) -> Option<(Timestamp, TokenId)> {
        if self.kind()? != Kind::Running {
            return None;
        }
        let (due, id) = self.parts().split_first_chunk::<8>()?;
        Some((unordered(*due), TokenId::from_bytes(id.try_into().ok()?)))
    }
}

impl Prefix {
    /// Every revocation by a wider axis, in the order of their epochs.
    #[must_use]
    pub fn revoked(tenant: &TenantId) -> Self {
        Self(join(tenant, Some(Kind::Revocation), &[&[Revoked::Wide as u8]]))
    }

    /// What is told of revocations.
    #[must_use]
    pub fn told_revocations(tenant: &TenantId) -> Self {
        Self(join(tenant, Some(Kind::Revocation), &[&[Revoked::Told as u8]]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_revocations_are_the_bytes_that_were_released() {
        let acme = TenantId::new("acme").unwrap();
        let shown = |key: &Key| hex::encode(key.as_bytes());
        assert_eq!(shown(&Key::revoked(&acme, 258)), "61636d65001c010000000000000102");
        let id = TokenId::from_bytes([7; 16]);
        let running = Key::running(&acme, Timestamp::from_millis(2), &id);
        assert_eq!(shown(&running), "61636d65001d800000000000000207070707070707070707070707070707");
        assert_eq!(running.running_parts(), Some((Timestamp::from_millis(2), id)));
        assert_eq!(Key::revoked(&acme, 1).running_parts(), None);
        let told = Key::told_revocation(&acme, &RevocationId::generate());
        assert!(Prefix::told_revocations(&acme).matches(&told) && !Prefix::revoked(&acme).matches(&told));
        assert!(Prefix::revoked(&acme).matches(&Key::revoked(&acme, 1)));
    }
}
