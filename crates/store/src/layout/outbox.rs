//! Where the rows of the outbox lie: what waits for a sink, what a sink did not take, and whose end is yet to be told.

use countersign_core::{ApprovalId, Line, NotificationId, TenantId};
use serde::{Deserialize, Serialize};

use super::{END, Key, Kind, Prefix, join};

/// What a row of the outbox is: the first byte of its parts. The values are part of the data format, as those of [`Kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Shelf {
    /// A notification that waits for delivery to a sink.
    Queued = 1,
    /// A notification that a sink did not take.
    Dead = 2,
    /// A request that may end though nobody does anything.
    Ending = 3,
}

/// Where a notification stands among those of its line, a request or a review, for one sink. Those of one line are told in this
/// order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The revision of the row of the request or review that the change was made on; 0 for the first. Each change is made on the one before,
    /// so this is the order of the changes, whatever the clocks say.
    pub read: u64,
    /// Its number among the notifications of that change.
    pub number: u8,
}

impl Key {
    /// The key of a notification that waits for a sink. A sink's name has no zero byte, so the sinks are apart.
    #[must_use]
    pub fn queued(tenant: &TenantId, sink: &str, line: Line, place: Place) -> Self {
        let parts: [&[u8]; 6] = [
            &[Shelf::Queued as u8],
            sink.as_bytes(),
            &[END],
            line.as_bytes(),
            &place.read.to_be_bytes(),
            &[place.number],
        ];
        Self::new(tenant, Kind::Outbox, &parts)
    }

    /// The line and the place that a key of [`Key::queued`] names; `None` for any other key.
    #[must_use]
    pub fn queued_place(&self) -> Option<(Line, Place)> {
        if self.kind()? != Kind::Outbox {
            return None;
        }
        let (&[number], rest) = self.parts().split_last_chunk::<1>().map(|(rest, last)| (last, rest))?;
        let (rest, read) = rest.split_last_chunk::<8>()?;
        let (rest, line) = rest.split_last_chunk::<16>()?;
        let queued = rest.first() == Some(&(Shelf::Queued as u8)) && rest.last() == Some(&END);
        let place = Place { read: u64::from_be_bytes(*read), number };
        queued.then_some((Line::from_bytes(*line), place))
    }

    /// The sink that a key of [`Key::queued`] or [`Key::dead_letter`] names; `None` for any other key.
    #[must_use]
    pub fn sink(&self) -> Option<&str> {
        if self.kind()? != Kind::Outbox {
            return None;
        }
        let (shelf, rest) = self.parts().split_first()?;
        let named = *shelf == Shelf::Queued as u8 || *shelf == Shelf::Dead as u8;
        let name = rest.split(|byte| *byte == END).next().filter(|_| named)?;
        std::str::from_utf8(name).ok()
    }

    /// The key of a notification that a sink did not take.
    #[must_use]
    pub fn dead_letter(tenant: &TenantId, sink: &str, id: &NotificationId) -> Self {
        Self::new(tenant, Kind::Outbox, &[&[Shelf::Dead as u8], sink.as_bytes(), &[END], id.as_bytes()])
    }

    /// The key of the row that says that the end of a request is yet to be told.
    #[must_use]
    pub fn ending(tenant: &TenantId, approval: &ApprovalId) -> Self {
        Self::new(tenant, Kind::Outbox, &[&[Shelf::Ending as u8], approval.as_bytes()])
    }
}

impl Prefix {
    /// What waits for a sink, in the order of the requests, and of the changes of each.
    #[must_use]
    pub fn queue(tenant: &TenantId, sink: &str) -> Self {
        Self(join(tenant, Some(Kind::Outbox), &[&[Shelf::Queued as u8], sink.as_bytes(), &[END]]))
    }

    /// What waits for any sink.
    #[must_use]
    pub fn queues(tenant: &TenantId) -> Self {
        Self(join(tenant, Some(Kind::Outbox), &[&[Shelf::Queued as u8]]))
    }

    /// What a sink did not take, the oldest first; or what none of them took, by their names.
    #[must_use]
    pub fn dead_letters(tenant: &TenantId, sink: Option<&str>) -> Self {
        let dead = [Shelf::Dead as u8];
        match sink {
            Some(sink) => Self(join(tenant, Some(Kind::Outbox), &[&dead, sink.as_bytes(), &[END]])),
            None => Self(join(tenant, Some(Kind::Outbox), &[&dead])),
        }
    }

    /// The requests whose end is yet to be told.
    #[must_use]
    pub fn endings(tenant: &TenantId) -> Self {
        Self(join(tenant, Some(Kind::Outbox), &[&[Shelf::Ending as u8]]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    #[test]
    fn keys_of_the_outbox_are_the_bytes_that_were_released() {
        let acme = tenant("acme");
        let shown = |key: &Key| hex::encode(key.as_bytes());
        let (approval, place) = (ApprovalId::from_bytes([7; 16]), Place { read: 258, number: 1 });
        assert_eq!(
            shown(&Key::queued(&acme, "pager", approval.into(), place)),
            "61636d65000f0170616765720007070707070707070707070707070707000000000000010201"
        );
        assert_eq!(
            shown(&Key::dead_letter(&acme, "pager", &NotificationId::from_bytes([7; 16]))),
            "61636d65000f0270616765720007070707070707070707070707070707"
        );
        assert_eq!(shown(&Key::ending(&acme, &approval)), "61636d65000f0307070707070707070707070707070707");
    }

    #[test]
    fn what_waits_for_a_sink_lies_by_request_and_then_by_change() {
        let acme = tenant("acme");
        let (first, second) = (Line::from_bytes([1; 16]), Line::from_bytes([2; 16]));
        let places = [(first, 0, 0), (first, 9, 0), (first, 9, 1), (first, 300, 0), (second, 0, 0), (second, 8, 0)];
        let place = |read, number| Place { read, number };
        let keys: Vec<Key> =
            places.iter().map(|(id, read, number)| Key::queued(&acme, "pager", *id, place(*read, *number))).collect();
        assert!(keys.is_sorted());
        for (key, (id, read, number)) in keys.iter().zip(places) {
            assert_eq!((key.queued_place(), key.sink()), (Some((id, place(read, number))), Some("pager")));
            assert!(Prefix::queue(&acme, "pager").matches(key) && Prefix::queues(&acme).matches(key));
            assert!(!Prefix::queue(&acme, "page").matches(key));
        }
        let dead = Key::dead_letter(&acme, "pager", &NotificationId::from_bytes([0; 16]));
        assert!(Prefix::dead_letters(&acme, Some("pager")).matches(&dead) && dead.queued_place().is_none());
        assert!(Prefix::dead_letters(&acme, None).matches(&dead) && !Prefix::queues(&acme).matches(&dead));
        let ending = Key::ending(&acme, &ApprovalId::from_bytes([1; 16]));
        assert_eq!((dead.sink(), ending.sink(), ending.queued_place()), (Some("pager"), None, None));
    }
}
