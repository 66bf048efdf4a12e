//! The use cases: decide, ask, vote, redeem, complete, revoke.
//!
//! An [`Engine`] is one tenant's. Every use case reads what it needs, judges it, and makes one guarded commit that holds the
//! change and its records; if anything that it read was changed meanwhile, it starts over. There is no other way to
//! authority: a [`judge::Permit`] comes from a judgement only, and is consumed by what it authorizes.

pub mod caller;
pub mod credential;
pub mod engine;
pub mod error;
pub mod judge;
pub mod record;
pub mod time;

mod access;
mod admission;
mod archive;
mod ask;
mod backup;
mod batch;
mod committing;
mod conditions;
mod consent;
mod decide;
mod entity;
mod figures;
mod heartbeat;
mod holder;
mod keys;
mod ledger;
mod lineage;
mod log;
mod outbox;
mod outcome;
mod outgoing;
mod pending;
mod pre_approve;
mod prune;
mod publish;
mod published;
mod questions;
mod read;
mod redeem;
mod refusal;
mod restore;
mod restraint;
mod review;
mod revocations;
mod revoke;
mod rotate;
mod session;
mod shadow;
mod sights;
mod signed;
mod tidings;
mod tidy;
mod vote;
mod watch;

pub use access::WhichCounts;
pub use admission::{Admission, AdmitAll, Admitted};
pub use archive::{ArchivePlace, ArchivedBundle};
pub use ask::Ask;
pub use backup::Backup;
pub use batch::Each;
pub use conditions::{Grounds, Reconsidered};
pub use consent::Consent;
pub use credential::{Authentication, Claims, Credential, NotAnswering, Subject};
pub use decide::{BreakGlass, Broken, Decide, Decision, Delegate, NeededRule, Verdict};
pub use engine::{Acting, Call, Engine, Limits, Operation, Parts, Replayable, RequestId, Revisions};
pub use entity::{EntitiesChanged, EntityChange, EntityPage, EntityView};
pub use error::{Error, PublishAction};
pub use keys::{KeyInfo, Keys, claims as token_claims};
pub use log::{Records, SignedHead};
pub use outbox::{
    BackOff, Courier, DeadLetter, Jitter, LetterPlace, MAX_SINKS, Sink, SinkReport, SinkSettings, SinkState,
    Undelivered,
};
pub use outcome::{Resolve, Unresolved};
pub use pending::Wanted;
pub use prune::{Prune, Pruned};
pub use publish::{BundleInfo, Published, RevisionRule};
pub use published::LogStanding;
pub use questions::{Answers, Field, Question, entity_value, is_mark};
pub use read::{ApprovalView, Paged};
pub use redeem::{Receipt, Redeem};
pub use restore::{Restoring, newest_key, renounce};
pub use review::ReviewView;
pub use revocations::Revoked;
pub use revoke::Complete;
pub use rotate::{KeyChange, KeyFault, KeysChanged};
pub use session::{OpenSession, Terms};
pub use shadow::{Difference, Example, ShadowReport};
pub use signed::{Signed, VOTE_KEY};
pub use tidings::{RevocationToken, Tiding, Told};
pub use vote::Ballot;
pub use watch::{ResumeToken, Seen};
