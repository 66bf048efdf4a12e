//! Where rows lie.
//!
//! A key is the tenant's name, a zero byte, one byte for the kind of record, and the parts that the kind asks for. A
//! tenant's name holds no zero byte, so no tenant's keys begin like another's. Numbers are big-endian: the order of
//! the keys is the order of the numbers.

mod asked;
mod outbox;
mod questions;
mod revoked;

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use countersign_core::ledger::Subject;
use countersign_core::{ApprovalId, Digest, EntityRef, ReviewId, SessionId, TenantId, Timestamp, TokenId};

pub use outbox::Place;
pub use questions::ValueHash;

/// What a row holds. The values are part of the data format: they never change, and the byte of a kind that is retired
/// stays reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// The tenant itself: current bundle, revocation and mint epochs. One row.
    Tenant = 1,
    /// A session, by id.
    Session = 2,
    /// An approval request, by id.
    Approval = 3,
    /// The pending approval request of a digest, by digest: an identical pending digest is one request.
    PendingDigest = 4,
    /// A capability, by token id. Single use rests on this row (I1).
    Capability = 5,
    /// The outcome of a request id, by caller, RPC and id.
    Request = 6,
    /// A bundle's description, by its digest.
    Bundle = 7,
    /// A part of a bundle's content, by digest and number.
    BundleChunk = 8,
    /// A signing key's public description, by the key id that tokens carry.
    SigningKey = 9,
    /// A signed head of the tenant's log, by log size.
    Checkpoint = 10,
    /// What is to be tidied, by the time from which it may be.
    Sweep = 11,
    /// A stored entity, by type and id.
    Entity = 12,
    /// Written with every change of an entity. One row.
    EntityHead = 13,
    /// What a principal has asked of late, by the principal's hash.
    AskedOfLate = 14,
    /// What is to be told of approval requests: waiting, given up, and requests whose end is yet to be told.
    Outbox = 15,
    /// A cool-down after a deny, by the hash of what it is about.
    CoolDown = 16,
    /// What people answered before, by the hash of operation and resource.
    Precedents = 17,
    /// The review of broken glass, by id.
    Review = 18,
    /// When a person broke the glass of late, by the person's hash.
    BrokenGlass = 19,
    /// What stays of what was done in a session, or by an entity, by its hash.
    Ledger = 20,
    /// A request that was put together with others, by batch and place.
    Batch = 22,
    /// The figures of a rule or a person, by its name.
    Figures = 23,
    /// How far the log is counted into figures. One row.
    FiguresHead = 24,
    /// When a session with a heartbeat gave the last sign of life, by the session's id.
    Heartbeat = 26,
    /// What was revoked: by a wider axis, by its epoch; and what is told of every revocation, in the order of ids.
    Revocation = 28,
    /// What was redeemed and whose outcome nobody has told, by when that is due.
    Running = 29,
    /// Which records of a segment of the log have a value in a field, by the hash of the value.
    Posting = 36,
    /// How far the log is indexed. One row.
    QuestionsHead = 37,
    /// The earliest and the latest time of a segment of the log.
    SegmentTimes = 38,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 29] = [
        Self::Tenant,
        Self::Session,
        Self::Approval,
        Self::PendingDigest,
        Self::Capability,
        Self::Request,
        Self::Bundle,
        Self::BundleChunk,
        Self::SigningKey,
        Self::Checkpoint,
        Self::Sweep,
        Self::Entity,
        Self::EntityHead,
        Self::AskedOfLate,
        Self::Outbox,
        Self::CoolDown,
        Self::Precedents,
        Self::Review,
        Self::BrokenGlass,
        Self::Ledger,
        Self::Batch,
        Self::Figures,
        Self::FiguresHead,
        Self::Heartbeat,
        Self::Revocation,
        Self::Running,
        Self::Posting,
        Self::QuestionsHead,
        Self::SegmentTimes,
    ];

    /// The byte that stands for the kind in a key.
    #[must_use]
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// The kind of a byte; `None` for one that no kind has.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.byte() == byte)
    }
}

/// Ends the tenant's name.
const END: u8 = 0;

/// The name of a row. Ordered by its bytes, as the store orders rows.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Bytes);

impl Key {
    /// A key of this kind with these parts, one after the other. The parts must have a fixed length, or be the last.
    #[must_use]
    pub(crate) fn new(tenant: &TenantId, kind: Kind, parts: &[&[u8]]) -> Self {
        Self(join(tenant, Some(kind), parts))
    }

    /// The key of the tenant's own row.
    #[must_use]
    pub fn tenant(tenant: &TenantId) -> Self {
        Self::new(tenant, Kind::Tenant, &[])
    }

    /// The key of a session.
    #[must_use]
    pub fn session(tenant: &TenantId, id: &SessionId) -> Self {
        Self::new(tenant, Kind::Session, &[id.as_bytes()])
    }

    /// The key of when a session with a heartbeat gave the last sign of life.
    #[must_use]
    pub fn heartbeat(tenant: &TenantId, id: &SessionId) -> Self {
        Self::new(tenant, Kind::Heartbeat, &[id.as_bytes()])
    }

    /// The key of a stored entity. A type has no zero byte, so the types are apart, and in order.
    #[must_use]
    pub fn entity(tenant: &TenantId, entity: &EntityRef) -> Self {
        Self::new(tenant, Kind::Entity, &[entity.kind().as_bytes(), &[END], entity.id().as_bytes()])
    }

    /// The key of the row that is written with every change of an entity.
    #[must_use]
    pub fn entity_head(tenant: &TenantId) -> Self {
        Self::new(tenant, Kind::EntityHead, &[])
    }

    /// The key of an approval request.
    #[must_use]
    pub fn approval(tenant: &TenantId, id: &ApprovalId) -> Self {
        Self::new(tenant, Kind::Approval, &[id.as_bytes()])
    }

    /// The key of what a principal has asked of late for one person, or for nobody but itself.
    #[must_use]
    pub fn asked_of_late(tenant: &TenantId, principal: &EntityRef, operator: Option<&EntityRef>) -> Self {
        let names = [Some(principal), operator].into_iter().flatten().flat_map(|who| [who.kind(), who.id()]);
        let who = Digest::of_parts(&names.map(str::as_bytes).collect::<Vec<_>>());
        Self::new(tenant, Kind::AskedOfLate, &[who.as_bytes()])
    }

    /// The key of what people answered before, by what it is about.
    #[must_use]
    pub fn precedents(tenant: &TenantId, subject: &Digest) -> Self {
        Self::new(tenant, Kind::Precedents, &[subject.as_bytes()])
    }

    /// The key of the review of broken glass.
    #[must_use]
    pub fn review(tenant: &TenantId, id: &ReviewId) -> Self {
        Self::new(tenant, Kind::Review, &[id.as_bytes()])
    }

    /// The key of when a person broke the glass of late.
    #[must_use]
    pub fn broken_glass(tenant: &TenantId, person: &EntityRef) -> Self {
        let who = Digest::of_parts(&[person.kind().as_bytes(), person.id().as_bytes()]);
        Self::new(tenant, Kind::BrokenGlass, &[who.as_bytes()])
    }

    /// The key of what stays of what a subject did.
    #[must_use]
    pub fn ledger(tenant: &TenantId, subject: &Subject) -> Self {
        Self::new(tenant, Kind::Ledger, &[subject.digest().as_bytes()])
    }

    /// The key of a cool-down, by what it is about.
    #[must_use]
    pub fn cool_down(tenant: &TenantId, subject: &Digest) -> Self {
        Self::new(tenant, Kind::CoolDown, &[subject.as_bytes()])
    }

    /// The key under which the pending approval request of a digest is found.
    #[must_use]
    pub fn pending_digest(tenant: &TenantId, digest: &Digest) -> Self {
        Self::new(tenant, Kind::PendingDigest, &[digest.as_bytes()])
    }

    /// The key of a capability.
    #[must_use]
    pub fn capability(tenant: &TenantId, id: &TokenId) -> Self {
        Self::new(tenant, Kind::Capability, &[id.as_bytes()])
    }

    /// The key of what a caller's request was answered with.
    ///
    /// RPC and request id are hashed: the key has one length whatever the caller chose, and no text of the caller's
    /// can reach into another key.
    #[must_use]
    pub fn request(tenant: &TenantId, caller: &Digest, rpc: &str, request_id: &str) -> Self {
        let request = Digest::of_parts(&[rpc.as_bytes(), request_id.as_bytes()]);
        Self::new(tenant, Kind::Request, &[caller.as_bytes(), request.as_bytes()])
    }

    /// The key of a bundle's description.
    #[must_use]
    pub fn bundle(tenant: &TenantId, digest: &Digest) -> Self {
        Self::new(tenant, Kind::Bundle, &[digest.as_bytes()])
    }

    /// The key of a part of a bundle's content, from 0.
    #[must_use]
    pub fn bundle_chunk(tenant: &TenantId, digest: &Digest, number: u32) -> Self {
        Self::new(tenant, Kind::BundleChunk, &[digest.as_bytes(), &number.to_be_bytes()])
    }

    /// The key of a signing key's description.
    #[must_use]
    pub fn signing_key(tenant: &TenantId, key_id: u32) -> Self {
        Self::new(tenant, Kind::SigningKey, &[&key_id.to_be_bytes()])
    }

    /// The key of the signed head of the tenant's log at this size, in records.
    #[must_use]
    pub fn checkpoint(tenant: &TenantId, log_size: u64) -> Self {
        Self::new(tenant, Kind::Checkpoint, &[&log_size.to_be_bytes()])
    }

    /// The key that says from when on another row of the tenant may be tidied.
    ///
    /// The target must be the same tenant's, and not an entry of this index itself; what is read back is the same row
    /// under `tenant`.
    #[must_use]
    pub fn sweep(tenant: &TenantId, due: Timestamp, target: &Self) -> Self {
        Self::new(tenant, Kind::Sweep, &[&ordered(due), target.after_tenant()])
    }

    /// The time and the row that a key of [`Key::sweep`] names; `None` for any other key.
    #[must_use]
    pub fn sweep_target(&self) -> Option<(Timestamp, Self)> {
        if self.kind()? != Kind::Sweep {
            return None;
        }
        let (due, target) = self.parts().split_first_chunk::<8>()?;
        Kind::from_byte(*target.first()?)?;
        let tenant = self.0.len().checked_sub(self.after_tenant().len())?;
        let mut key = BytesMut::with_capacity(self.0.len());
        key.put_slice(self.0.get(..tenant)?);
        key.put_slice(target);
        Some((unordered(*due), Self(key.freeze())))
    }

    /// The kind of the row; `None` if the key was written by a release that knows more kinds.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        self.after_tenant().first().copied().and_then(Kind::from_byte)
    }

    /// What follows the kind: the bytes that the constructor of the kind was given.
    #[must_use]
    pub fn parts(&self) -> &[u8] {
        self.after_tenant().get(1..).unwrap_or_default()
    }

    /// The key as the store orders it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether the row is this tenant's.
    #[must_use]
    pub fn belongs_to(&self, tenant: &TenantId) -> bool {
        self.0.strip_prefix(tenant.as_str().as_bytes()).is_some_and(|rest| rest.first() == Some(&END))
    }

    /// A key as it was read from the store.
    pub(crate) fn stored(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// The kind byte and the parts.
    fn after_tenant(&self) -> &[u8] {
        let end = self.0.iter().position(|byte| *byte == END);
        end.and_then(|end| self.0.get(end.saturating_add(1)..)).unwrap_or_default()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(&self.0, f)
    }
}

/// The beginning that the keys of some rows share.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(Bytes);

impl Prefix {
    /// Every row of a tenant.
    #[must_use]
    pub fn tenant(tenant: &TenantId) -> Self {
        Self(join(tenant, None, &[]))
    }

    /// Every row of a kind.
    #[must_use]
    pub fn kind(tenant: &TenantId, kind: Kind) -> Self {
        Self(join(tenant, Some(kind), &[]))
    }

    /// The stored entities of a type.
    #[must_use]
    pub fn entities(tenant: &TenantId, kind: &str) -> Self {
        Self(join(tenant, Some(Kind::Entity), &[kind.as_bytes(), &[END]]))
    }

    /// The parts of a bundle's content, in order.
    #[must_use]
    pub fn bundle_chunks(tenant: &TenantId, digest: &Digest) -> Self {
        Self(join(tenant, Some(Kind::BundleChunk), &[digest.as_bytes()]))
    }

    /// What a caller's requests were answered with, in no particular order.
    #[must_use]
    pub fn requests(tenant: &TenantId, caller: &Digest) -> Self {
        Self(join(tenant, Some(Kind::Request), &[caller.as_bytes()]))
    }

    /// Only this row: to watch it.
    #[must_use]
    pub fn row(key: &Key) -> Self {
        Self(key.0.clone())
    }

    /// Whether the prefix begins this key.
    #[must_use]
    pub fn matches(&self, key: &Key) -> bool {
        key.0.starts_with(&self.0)
    }

    /// The prefix itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The first bytes that come after every key with this prefix.
    pub(crate) fn end(&self) -> Bytes {
        let mut end = self.0.to_vec();
        while let Some(last) = end.pop() {
            if let Some(next) = last.checked_add(1) {
                end.push(next);
                break;
            }
        }
        // A prefix begins with a tenant's name, which is ASCII: the loop always finds a byte to raise.
        end.into()
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(&self.0, f)
    }
}

fn join(tenant: &TenantId, kind: Option<Kind>, parts: &[&[u8]]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(80);
    bytes.put_slice(tenant.as_str().as_bytes());
    bytes.put_u8(END);
    if let Some(kind) = kind {
        bytes.put_u8(kind.byte());
    }
    for part in parts {
        bytes.put_slice(part);
    }
    bytes.freeze()
}

/// Flips the sign, so that times before 1970 come before those after it.
const SIGN: i64 = i64::MIN;

fn ordered(time: Timestamp) -> [u8; 8] {
    (time.millis() ^ SIGN).to_be_bytes()
}

fn unordered(bytes: [u8; 8]) -> Timestamp {
    Timestamp::from_millis(i64::from_be_bytes(bytes) ^ SIGN)
}

/// `acme/Session/0198…`: the tenant, the kind, the parts in hex; anything else in hex as a whole.
fn show(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut halves = bytes.splitn(2, |byte| *byte == END);
    let tenant = halves.next().and_then(|name| std::str::from_utf8(name).ok());
    let (Some(tenant), Some(rest)) = (tenant, halves.next()) else {
        return f.write_str(&hex::encode(bytes));
    };
    write!(f, "{}/", tenant.escape_debug())?;
    let Some((kind, parts)) = rest.split_first() else {
        return Ok(());
    };
    match Kind::from_byte(*kind) {
        Some(kind) => write!(f, "{kind:?}")?,
        None => write!(f, "{kind:#04x}")?,
    }
    if parts.is_empty() { Ok(()) } else { write!(f, "/{}", hex::encode(parts)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    #[test]
    fn no_tenant_reaches_into_another_whose_name_begins_alike() {
        let (short, long) = (tenant("a"), tenant("a-b"));
        let id = SessionId::generate();
        assert!(!Prefix::tenant(&short).matches(&Key::session(&long, &id)));
        assert!(!Key::session(&long, &id).belongs_to(&short));
        assert!(Key::session(&long, &id).belongs_to(&long));
        assert!(!Key::tenant(&short).belongs_to(&long));
    }

    #[test]
    fn kind_bytes_are_the_ones_that_were_released() {
        let bytes: Vec<u8> = Kind::ALL.iter().map(|kind| kind.byte()).collect();
        assert_eq!(
            bytes,
            [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 23, 24, 26, 28, 29, 36, 37, 38]
        );
        for kind in Kind::ALL {
            assert_eq!(Kind::from_byte(kind.byte()), Some(kind));
        }
        assert_eq!(Kind::from_byte(0), None);
        assert_eq!(Kind::from_byte(21), None);
    }

    #[test]
    fn keys_are_the_bytes_that_were_released() {
        let acme = tenant("acme");
        let shown = |key: &Key| hex::encode(key.as_bytes());
        assert_eq!(shown(&Key::tenant(&acme)), "61636d650001");
        assert_eq!(shown(&Key::checkpoint(&acme, 258)), "61636d65000a0000000000000102");
        assert_eq!(
            shown(&Key::session(&acme, &SessionId::from_bytes([7; 16]))),
            "61636d65000207070707070707070707070707070707"
        );
        assert_eq!(
            shown(&Key::sweep(&acme, Timestamp::from_millis(1), &Key::tenant(&acme))),
            "61636d65000b800000000000000101"
        );
    }

    #[test]
    fn sweep_keys_lie_in_order_of_time_and_name_their_row() {
        let acme = tenant("acme");
        let row = Key::capability(&acme, &TokenId::generate());
        let times = [i64::MIN, -1, 0, 1, 1_700_000_000_000, i64::MAX];
        let keys: Vec<Key> = times.iter().map(|time| Key::sweep(&acme, Timestamp::from_millis(*time), &row)).collect();
        assert!(keys.is_sorted());
        for (key, time) in keys.iter().zip(times) {
            assert_eq!(key.sweep_target(), Some((Timestamp::from_millis(time), row.clone())));
        }
        assert_eq!(row.sweep_target(), None);
    }

    #[test]
    fn a_request_key_has_one_length_and_keeps_its_parts_apart() {
        let acme = tenant("acme");
        let caller = Digest::of(b"caller");
        let long = Key::request(&acme, &caller, "Decide", &"x".repeat(10_000));
        assert_eq!(long.as_bytes().len(), Key::request(&acme, &caller, "", "").as_bytes().len());
        assert_ne!(Key::request(&acme, &caller, "a", "bc"), Key::request(&acme, &caller, "ab", "c"));
        assert!(Prefix::requests(&acme, &caller).matches(&long));
    }

    #[test]
    fn a_prefix_ends_before_the_next_kind() {
        let acme = tenant("acme");
        let prefix = Prefix::kind(&acme, Kind::Session);
        let last = Key::session(&acme, &SessionId::from_bytes([0xff; 16]));
        assert!(prefix.matches(&last));
        assert!(last.as_bytes() < prefix.end().as_ref());
        assert_eq!(prefix.end().as_ref(), Prefix::kind(&acme, Kind::Approval).as_bytes());
        let full = Prefix::row(&last);
        assert!(last.as_bytes() < full.end().as_ref());
        assert!(full.end() <= prefix.end());
    }

    #[test]
    fn a_key_is_shown_so_that_a_person_can_read_it() {
        let acme = tenant("acme");
        let key = Key::session(&acme, &SessionId::from_bytes([1; 16]));
        assert_eq!(format!("{key:?}"), "acme/Session/01010101010101010101010101010101");
        assert_eq!(format!("{:?}", Key::tenant(&acme)), "acme/Tenant");
        assert_eq!(format!("{:?}", Key::stored(vec![0xff])), "ff");
    }
}
