//! Where the rows lie that find records without reading the log.

use countersign_core::TenantId;

use super::{Key, Kind, Prefix, join};

/// The first half of the SHA-256 of a value: nobody finds two values of one hash to have them confused, and who looks reads the
/// records anyway.
pub type ValueHash = [u8; 16];

impl Key {
    /// The key of the records of a segment that have a value in a field.
    #[must_use]
    pub fn posting(tenant: &TenantId, field: u8, value: &ValueHash, segment: u64) -> Self {
        Self::new(tenant, Kind::Posting, &[&[field], value, &segment.to_be_bytes()])
    }

    /// The key of the times of a segment.
    #[must_use]
    pub fn segment_times(tenant: &TenantId, segment: u64) -> Self {
        Self::new(tenant, Kind::SegmentTimes, &[&segment.to_be_bytes()])
    }

    /// The key of the row that says how far the log is indexed.
    #[must_use]
    pub fn questions_head(tenant: &TenantId) -> Self {
        Self::new(tenant, Kind::QuestionsHead, &[])
    }

    /// The segment that a key of [`Key::posting`] or [`Key::segment_times`] ends with.
    pub(crate) fn segment(&self) -> Option<u64> {
        self.parts().last_chunk::<8>().map(|segment| u64::from_be_bytes(*segment))
    }
}

impl Prefix {
    /// The segments in which a value stands in a field, in order.
    #[must_use]
    pub fn postings(tenant: &TenantId, field: u8, value: &ValueHash) -> Self {
        Self(join(tenant, Some(Kind::Posting), &[&[field], value]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_postings_are_the_bytes_that_were_released() {
        let acme = TenantId::new("acme").unwrap();
        let shown = |key: &Key| hex::encode(key.as_bytes());
        let posting = Key::posting(&acme, 3, &[7; 16], 258);
        assert_eq!(shown(&posting), "61636d65002403070707070707070707070707070707070000000000000102");
        assert_eq!(shown(&Key::questions_head(&acme)), "61636d650025");
        assert_eq!(shown(&Key::segment_times(&acme, 258)), "61636d6500260000000000000102");
        assert!(Prefix::postings(&acme, 3, &[7; 16]).matches(&posting));
        assert!(!Prefix::postings(&acme, 4, &[7; 16]).matches(&posting));
        assert_eq!((posting.segment(), Key::questions_head(&acme).segment()), (Some(258), None));
    }
}
