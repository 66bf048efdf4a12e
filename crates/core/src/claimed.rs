//! Groups that a credential says its bearer is in. They count until it expires, and for nobody else.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::entity::EntityRef;
use crate::time::Timestamp;

/// The groups that somebody is in by what their credential says, beside those of the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claimed {
    groups: BTreeSet<EntityRef>,
    until: Timestamp,
}

static NONE: BTreeSet<EntityRef> = BTreeSet::new();

impl Claimed {
    /// What a credential that expires at `until` says; nothing, if that is no group.
    #[must_use]
    pub fn new(groups: BTreeSet<EntityRef>, until: Timestamp) -> Option<Self> {
        (!groups.is_empty()).then_some(Self { groups, until })
    }

    /// The groups as long as they count, and none from then on.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> &BTreeSet<EntityRef> {
        if now.reached(self.until) { &NONE } else { &self.groups }
    }

    /// From when on they count no more.
    #[must_use]
    pub const fn until(&self) -> Timestamp {
        self.until
    }

    /// From when on they count no more, if they do at `now`.
    #[must_use]
    pub fn lapses_at(&self, now: Timestamp) -> Option<Timestamp> {
        (!now.reached(self.until)).then_some(self.until)
    }
}

/// The groups that were claimed, as long as they count.
#[must_use]
pub fn groups_at(claimed: Option<&Claimed>, now: Timestamp) -> &BTreeSet<EntityRef> {
    claimed.map_or(&NONE, |claimed| claimed.at(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_count_until_the_credential_expires_and_not_at_it() {
        let groups = BTreeSet::from([EntityRef::new("Group", "g").unwrap()]);
        let claimed = Claimed::new(groups.clone(), Timestamp::from_millis(10)).unwrap();
        assert_eq!(claimed.at(Timestamp::from_millis(9)), &groups);
        assert!(claimed.at(Timestamp::from_millis(10)).is_empty());
        assert_eq!(claimed.lapses_at(Timestamp::from_millis(10)), None);
        assert!(groups_at(None, Timestamp::from_millis(0)).is_empty());
        assert_eq!(Claimed::new(BTreeSet::new(), Timestamp::from_millis(10)), None);
    }
}
