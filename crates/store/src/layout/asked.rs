//! Where the rows of batches and figures lie.

use countersign_core::figures::Subject;
use countersign_core::{BatchId, TenantId};

use super::{END, Key, Kind, Prefix, join};

/// What a row of figures is about: the first byte of its parts. The values are part of the data format, as those of [`Kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum About {
    Rule = 1,
    Person = 2,
}

impl Key {
    /// The key of a request that was put together with others, by its place.
    #[must_use]
    pub fn batch(tenant: &TenantId, batch: &BatchId, place: u32) -> Self {
        Self::new(tenant, Kind::Batch, &[batch.as_bytes(), &place.to_be_bytes()])
    }

    /// The key of the figures of a rule or a person. A type has no zero byte.
    #[must_use]
    pub fn figures(tenant: &TenantId, subject: &Subject) -> Self {
        match subject {
            Subject::Rule(rule) => Self::new(tenant, Kind::Figures, &[&[About::Rule as u8], rule.as_bytes()]),
            Subject::Person(person) => {
                let parts: [&[u8]; 4] =
                    [&[About::Person as u8], person.kind().as_bytes(), &[END], person.id().as_bytes()];
                Self::new(tenant, Kind::Figures, &parts)
            }
        }
    }

    /// The key of the row that says how far the log is counted.
    #[must_use]
    pub fn figures_head(tenant: &TenantId) -> Self {
        Self::new(tenant, Kind::FiguresHead, &[])
    }
}

impl Prefix {
    /// The requests of a batch, by their places.
    #[must_use]
    pub fn batch(tenant: &TenantId, batch: &BatchId) -> Self {
        Self(join(tenant, Some(Kind::Batch), &[batch.as_bytes()]))
    }

    /// The figures of all rules, by their names.
    #[must_use]
    pub fn figures_of_rules(tenant: &TenantId) -> Self {
        Self(join(tenant, Some(Kind::Figures), &[&[About::Rule as u8]]))
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::EntityRef;

    use super::*;

    #[test]
    fn keys_of_batches_and_figures_are_the_bytes_that_were_released() {
        let acme = TenantId::new("acme").unwrap();
        let shown = |key: &Key| hex::encode(key.as_bytes());
        let batch = BatchId::from_bytes([7; 16]);
        assert_eq!(shown(&Key::batch(&acme, &batch, 258)), "61636d6500160707070707070707070707070707070700000102");
        let (rule, person) = (Subject::Rule("r".into()), Subject::Person(EntityRef::new("P", "d").unwrap()));
        assert_eq!(shown(&Key::figures(&acme, &rule)), "61636d6500170172");
        assert_eq!(shown(&Key::figures(&acme, &person)), "61636d65001702500064");
        assert_eq!(shown(&Key::figures_head(&acme)), "61636d650018");
        assert!(Prefix::batch(&acme, &batch).matches(&Key::batch(&acme, &batch, 1)));
        assert!(Prefix::figures_of_rules(&acme).matches(&Key::figures(&acme, &rule)));
        assert!(!Prefix::figures_of_rules(&acme).matches(&Key::figures(&acme, &person)));
    }
}
