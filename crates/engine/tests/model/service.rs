//! The service under test: an engine on a backend, and calls to it in its own words.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use countersign_audit::NoteSigner;
use countersign_core::approval::{ApprovalError, Verdict as Vote};
use countersign_core::capability::{CapabilityError, Outcome};
use countersign_core::pre_approval;
use countersign_core::restraint::AskingBudget;
use countersign_core::review::{GlassBudget, GlassError};
use countersign_core::session::SessionError;
use countersign_core::time::ManualClock;
use countersign_core::{
    ApprovalId, Axis, Digest, EntityRef, NotificationKind, ReviewId, SessionId, Timestamp, TokenId, Value,
};
use countersign_engine::{
    Acting as As, Ask, Authentication, BackOff, Ballot, BreakGlass, Broken, Call, Claims, Complete, Consent,
    Credential, Decide, Decision, Delegate, Engine, Error, Jitter, Limits, OpenSession, Operation, Parts, Redeem,
    RequestId, SinkSettings, Subject, Terms,
};
use countersign_policy::Source;
use countersign_store::Kernel;
use countersign_token::{HolderError, HolderKey, KeyId, SigningKey, TokenError, unverified_claims};
use zeroize::Zeroizing;

use crate::backend::acme;
use crate::reference::{GLASS_MILLIS, GLASS_TIMES};
use crate::request::{Acting, Action, Altered, Caller, Request, Sent, Shown, Wide};
use crate::world::{Deed, ISSUER, Party, VARIANTS, Variant};

/// When the model begins: any time will do.
pub const START: i64 = 1_800_000_000_000;

/// The name of the model's sink. Nothing is delivered to it, so that everything that was ever told is there to be looked at.
pub const SINK: &str = "everything";

/// The keys of the holder, and of somebody else.
const HOLDER: [u8; 32] = [8; 32];
const OTHER: [u8; 32] = [9; 32];

fn holder(seed: [u8; 32]) -> HolderKey {
    HolderKey::from_seed(&Zeroizing::new(seed))
}

fn everything() -> SinkSettings {
    let jitter: Jitter = Arc::new(|| 0);
    SinkSettings {
        name: SINK.to_owned(),
        events: NotificationKind::ALL.into(),
        timeout: Duration::from_secs(1),
        back_off: BackOff { first: Duration::from_secs(1), longest: Duration::from_secs(1), jitter },
        attempts: 1,
        max_age: Duration::from_secs(1),
        backlog: usize::MAX,
        dead_letters: usize::MAX,
        dead_letter_age: Duration::from_secs(1),
    }
}

pub fn parts() -> Parts {
    Parts {
        tenant: acme(),
        // Sequences ask as much as they like: budgets have tests of their own.
        limits: Limits {
            asking: AskingBudget { pending: u32::MAX, per_hour: u32::MAX },
            glass: GlassBudget {
                times: u32::try_from(GLASS_TIMES).unwrap(),
                within: Duration::from_millis(GLASS_MILLIS.unsigned_abs()),
            },
            // What goes by its age has tests of its own, too.
            kept: Duration::from_secs(10 * 365 * 86_400),
            ..Limits::default()
        },
        signing: vec![SigningKey::from_seed(KeyId(1), Zeroizing::new([3; 32])).unwrap()],
        commitment: Zeroizing::new([5; 32]),
        log: NoteSigner::from_seed("model.example/log", &[7; 32]).unwrap(),
        development: false,
        admission: Arc::new(countersign_engine::AdmitAll),
        sinks: vec![everything()],
    }
}

/// The files of a bundle, made once.
pub fn source(variant: Variant) -> Source {
    static SOURCES: OnceLock<BTreeMap<Variant, Source>> = OnceLock::new();
    SOURCES.get_or_init(|| VARIANTS.map(|variant| (variant, variant.source())).into_iter().collect())[&variant].clone()
}

pub fn variant_of(digest: Digest) -> Option<Variant> {
    static DIGESTS: OnceLock<BTreeMap<Digest, Variant>> = OnceLock::new();
    DIGESTS
        .get_or_init(|| VARIANTS.map(|variant| (source(variant).digest(), variant)).into_iter().collect())
        .get(&digest)
        .copied()
}

pub async fn open<K: Kernel>(kernel: Arc<K>, clock: &Arc<ManualClock>) -> Result<Arc<Engine<K>>, Error> {
    Ok(Arc::new(Engine::open(kernel, Box::new(Arc::clone(clock)), parts()).await?))
}

pub fn credential(caller: Caller) -> Arc<Credential> {
    let subject = |party: Party| match party.kind() {
        "Agent" => Subject::Agent(party.name().to_owned()),
        "Service" => Subject::Service(party.name().to_owned()),
        _ => Subject::Account(party.name().to_owned()),
    };
    let (subject, actors) = match caller {
        Caller::Is(party) | Caller::Member(party, _) => (subject(party), vec![]),
        Caller::For(party, operator) => (subject(operator), vec![subject(party)]),
        Caller::Stranger => (Subject::Account("mallory".to_owned()), vec![]),
    };
    let (claims, expires_at) = match caller {
        Caller::Member(_, minutes) => {
            let editors = EntityRef::new("Group", "editors").unwrap();
            (Claims { groups: [editors].into(), owner: None }, START + minutes * 60_000)
        }
        Caller::Is(_) | Caller::For(..) | Caller::Stranger => (Claims::default(), i64::MAX),
    };
    Arc::new(Credential {
        tenant: acme(),
        issuer: ISSUER.to_owned(),
        subject,
        actors,
        claims,
        expires_at: Timestamp::from_millis(expires_at),
        answers: Ok(Timestamp::from_millis(i64::MAX)),
        authentication: Authentication::default(),
        hash: Digest::of(format!("{caller:?}").as_bytes()),
    })
}

pub fn call(caller: Caller, rpc: &'static str, request: Option<(String, Digest)>) -> Call {
    let request = request.map(|(id, body)| RequestId { id, body });
    Call { credential: credential(caller), rpc, certificate: None, request }
}

impl Sent {
    pub fn call(&self) -> Call {
        let body = Digest::of(format!("{:?} {}", self.request, self.other_body).as_bytes());
        call(self.caller, self.request.rpc(), self.id.map(|id| (format!("request-{id}"), body)))
    }
}

fn acting(acting: Acting) -> As {
    match acting {
        Acting::Caller => As::Caller,
        Acting::Named(party) => As::Named(party.entity()),
        Acting::Credential(caller) => As::Credential(credential(caller)),
    }
}

pub fn operation(action: Action) -> Operation {
    let name = match action.deed {
        Deed::Read => "read",
        Deed::Write | Deed::Scribble => "write",
        Deed::Wipe => "wipe",
        Deed::Nuke => "nuke",
        Deed::Fly => "fly",
    };
    let number = || ("n".to_owned(), Value::Long(i64::from(action.n)));
    let input = match action.deed {
        Deed::Read if action.n == 0 => None,
        Deed::Scribble => Some(("n".to_owned(), Value::String("one".to_owned()))),
        Deed::Read | Deed::Write | Deed::Wipe | Deed::Nuke | Deed::Fly => Some(number()),
    };
    Operation {
        name: name.to_owned(),
        resource: EntityRef::new("Doc", format!("d{}", action.doc)).unwrap(),
        input: input.into_iter().collect(),
        environment: countersign_core::Record::new(),
    }
}

/// What the engine named the model's objects.
#[derive(Debug, Default, Clone)]
pub struct Names {
    pub sessions: Vec<Option<SessionId>>,
    pub questions: Vec<Option<Asked>>,
    pub capabilities: Vec<Option<Minted>>,
    pub reviews: Vec<Option<ReviewId>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minted {
    pub id: TokenId,
    pub token: String,
    pub action: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    pub id: ApprovalId,
    pub digest: Digest,
    pub view: Digest,
}

/// What the engine answered, in its own names.
#[derive(Debug)]
pub enum Told {
    Session(SessionId),
    Decision(Box<Decision>),
    Broken(Box<Broken>),
    Review(ReviewId),
    Asked(ApprovalId, bool),
    Question(ApprovalId),
    Redeemed(TokenId, Digest),
    Capability(TokenId),
    Revoked,
    Published(bool, Digest),
    Seen(&'static str),
}

/// Makes one call.
pub async fn send<K: Kernel>(engine: &Engine<K>, names: &Names, sent: &Sent) -> Result<(Told, bool), Error> {
    let call = &sent.call();
    let session = |number: usize| names.sessions[number].unwrap();
    let asked = |number: usize| names.questions[number].unwrap();
    let capability = |number: usize| names.capabilities[number].clone().unwrap();
    match sent.request {
        Request::Open { acting: who, operator, seconds } => {
            let opening = OpenSession {
                purpose: "to be tested".to_owned(),
                ttl: Some(Duration::from_secs(seconds)),
                acting: acting(who),
                operator: operator.map(Party::entity),
                ..OpenSession::default()
            };
            let done = engine.open_session(call, &opening).await?;
            Ok((Told::Session(done.answer.value.id), done.replayed))
        }
        Request::OpenIn { parent, acting: who, seconds } => {
            let opening = OpenSession {
                purpose: "to be tested further down".to_owned(),
                ttl: Some(Duration::from_secs(seconds)),
                acting: acting(who),
                operator: None,
                ..OpenSession::default()
            };
            let terms = Terms { parent: Some(session(parent)), heartbeat: None };
            let done = engine.open_session_on(call, &opening, terms).await?;
            Ok((Told::Session(done.answer.value.id), done.replayed))
        }
        Request::Delegate { capability: number, session: to, approval } => {
            let Minted { token, action, .. } = capability(number);
            let bound = unverified_claims(&token).unwrap().holder.is_some();
            let request_id = call.request.as_ref().map(|request| request.id.as_str()).unwrap_or_default();
            let now = engine.now().unwrap_or(Timestamp::from_millis(START));
            let proof = bound.then(|| holder(HOLDER).prove(&token, request_id, now).unwrap());
            let delegate = Delegate {
                token,
                operation: operation(action),
                audience: action.at.name().to_owned(),
                session: session(to),
                approval: approval.map(|number| asked(number).id),
                ttl: None,
                holder_proof: proof.unwrap_or_default(),
                // As what is minted for the gate otherwise.
                holder: (action.at == Party::Gate).then(|| holder(HOLDER).holder()),
            };
            let done = engine.delegate(call, &delegate).await?;
            Ok((Told::Decision(Box::new(done.answer)), done.replayed))
        }
        Request::Decide { action, acting: who, approval, mint } => {
            let decide = Decide {
                session: session(action.session),
                operation: operation(action),
                audience: action.at.name().to_owned(),
                acting: acting(who),
                approval: approval.map(|number| asked(number).id),
                mint,
                holder: (mint && action.at == Party::Gate).then(|| holder(HOLDER).holder()),
                open: false,
                entity_revision: None,
            };
            let done = engine.decide(call, &decide).await?;
            Ok((Told::Decision(Box::new(done.answer)), done.replayed))
        }
        Request::Break { action, mint } => {
            let ask = BreakGlass {
                session: session(action.session),
                operation: operation(action),
                audience: action.at.name().to_owned(),
                reason: "nobody answers".to_owned(),
                mint,
            };
            let done = engine.break_glass(call, &ask).await?;
            Ok((Told::Broken(Box::new(done.answer)), done.replayed))
        }
        Request::Review { review } => {
            let done = engine.close_review(call, names.reviews[review].unwrap(), "it was right").await?;
            Ok((Told::Review(done.answer.review.value.id), done.replayed))
        }
        Request::Ask { action, acting: who } => {
            let ask = Ask {
                session: session(action.session),
                operation: operation(action),
                audience: action.at.name().to_owned(),
                acting: acting(who),
                justification: "it must be done".to_owned(),
            };
            let done = engine.ask(call, &ask).await?;
            Ok((Told::Asked(done.answer.0, done.answer.1), done.replayed))
        }
        Request::PreAsk { action, acting: who, bounds } => {
            let ask = Ask {
                session: session(action.session),
                operation: operation(action),
                audience: action.at.name().to_owned(),
                acting: acting(who),
                justification: "it must be done more than once".to_owned(),
            };
            let bounds = pre_approval::Bounds { uses: bounds.uses, seconds: bounds.seconds };
            let done = engine.pre_approve(call, &ask, bounds).await?;
            Ok((Told::Asked(done.answer.0, done.answer.1), done.replayed))
        }
        Request::Vote { question, approve, shown } => {
            let Asked { id, digest, view } = asked(question);
            let other = Digest::of(b"something else");
            let ballot = Ballot {
                approval: id,
                verdict: if approve { Vote::Approve } else { Vote::Deny },
                digest: if shown == Shown::OtherDigest { other } else { digest },
                view: if shown == Shown::OtherView { other } else { view },
                comment: String::new(),
                signed: None,
            };
            let done = engine.vote(call, &ballot).await?;
            Ok((Told::Question(done.answer), done.replayed))
        }
        Request::Withdraw { question } => {
            let done = engine.withdraw(call, asked(question).id).await?;
            Ok((Told::Question(done.answer), done.replayed))
        }
        Request::Cancel { question } => {
            let done = engine.cancel(call, asked(question).id).await?;
            Ok((Told::Question(done.answer), done.replayed))
        }
        Request::Redeem { capability: number, altered } => {
            let Minted { token, action, .. } = capability(number);
            let action = altered.present(action);
            let bound = unverified_claims(&token).unwrap().holder.is_some();
            let signer = match altered {
                Altered::NoProof => None,
                Altered::OtherKey => Some(OTHER),
                _ => bound.then_some(HOLDER),
            };
            let request_id = call.request.as_ref().map(|request| request.id.as_str()).unwrap_or_default();
            let now = engine.now().unwrap_or(Timestamp::from_millis(START));
            let proof = signer.map(|seed| holder(seed).prove(&token, request_id, now).unwrap());
            let token = if altered == Altered::Token { spoil(&token) } else { token };
            let redeem = Redeem {
                token,
                operation: operation(action),
                audience: action.at.name().to_owned(),
                holder_proof: proof.unwrap_or_default(),
            };
            let done = engine.redeem(call, &redeem).await?;
            Ok((Told::Redeemed(done.answer.capability, done.answer.digest), done.replayed))
        }
        Request::Complete { capability: number, succeeded } => {
            let outcome = if succeeded { Outcome::Succeeded } else { Outcome::Failed };
            let report = Complete { capability: capability(number).id, outcome, result: None };
            let done = engine.complete(call, report).await?;
            Ok((Told::Capability(done.answer), done.replayed))
        }
        Request::Revoke { capability: number } => {
            let done = engine.revoke(call, capability(number).id, "no longer wanted").await?;
            Ok((Told::Capability(done.answer), done.replayed))
        }
        Request::RevokeAll { of } => {
            let axis = match of {
                Wide::Principal(party) => Axis::Principal(party.entity()),
                Wide::Operator(party) => Axis::Operator(party.entity()),
                Wide::Everything => Axis::Everything,
            };
            let done = engine.revoke_all(call, &axis, "no longer trusted").await?;
            Ok((Told::Revoked, done.replayed))
        }
        Request::End { session: number } => {
            let done = engine.end_session(call, session(number)).await?;
            Ok((Told::Session(done.answer.value.id), done.replayed))
        }
        Request::Publish { variant } => {
            let done = engine.publish(call, || async { Ok(source(variant)) }, Consent::default()).await?;
            Ok((Told::Published(done.answer.changed, done.answer.digest), done.replayed))
        }
        Request::View { question } => {
            let view = engine.approval(call, asked(question).id).await?;
            Ok((Told::Seen(view.state.word()), false))
        }
        Request::Look { capability: number } => {
            let found = engine.capability(call, capability(number).id).await?;
            Ok((Told::Seen(found.value.state(engine.now()?).word()), false))
        }
    }
}

/// Changes one character in the middle of a token.
fn spoil(token: &str) -> String {
    let mut bytes = token.as_bytes().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] = if bytes[middle] == b'A' { b'B' } else { b'A' };
    String::from_utf8(bytes).unwrap()
}

/// The kind of an error, in the model's words: what a caller can tell apart, without the names of persons and things.
pub fn class(error: &Error) -> String {
    match error {
        Error::Approval(why) => format!(
            "Approval {}",
            match why {
                ApprovalError::State(state) => state,
                ApprovalError::StaleDigest => "stale digest",
                ApprovalError::StaleView => "stale view",
                ApprovalError::Excluded(_) => "excluded",
                ApprovalError::NotEligible(_) => "not eligible",
                ApprovalError::AlreadyVoted(_) => "already voted",
                ApprovalError::NoVote(_) => "no vote",
                ApprovalError::Wavering(_) => "wavering",
                ApprovalError::UsedUp(_) => "used up",
                ApprovalError::Signature(_) => "signature",
                ApprovalError::Unsigned(_) => "unsigned",
            }
        ),
        Error::Capability(why) => format!(
            "Capability {}",
            match why {
                CapabilityError::AlreadyRedeemed => "already redeemed",
                CapabilityError::Revoked => "revoked",
                CapabilityError::Expired => "expired",
                CapabilityError::AlreadyCompleted => "already completed",
                CapabilityError::NotRedeemed => "not redeemed",
                CapabilityError::NotTheRedeemer(_) => "not the redeemer",
                CapabilityError::Delegated => "delegated",
                CapabilityError::ParentGone => "parent gone",
                CapabilityError::StillRunning => "still running",
                CapabilityError::AlreadyResolved(_) => "already resolved",
                CapabilityError::OwnOutcome(_) => "own outcome",
            }
        ),
        Error::Glass(why) => format!(
            "Glass {}",
            match why {
                GlassError::Unneeded => "unneeded",
                GlassError::ReviewOpen { .. } => "review open",
                GlassError::TooOften { .. } => "too often",
                GlassError::Closed(_) => "closed",
                GlassError::Own(_) => "own",
                GlassError::Excluded(_) => "excluded",
            }
        ),
        Error::Token(why) => format!(
            "Token {}",
            match why {
                TokenError::Expired(_) => "expired",
                TokenError::Audience => "audience",
                TokenError::DigestMismatch => "digest",
                TokenError::Malformed(_)
                | TokenError::TooLarge { .. }
                | TokenError::Signature
                | TokenError::UnknownKey(_)
                | TokenError::NotOurs(_) => "bad",
                TokenError::CompromisedKey(_)
                | TokenError::Tenant
                | TokenError::Session
                | TokenError::Holder
                | TokenError::Unevaluated => "otherwise refused",
            }
        ),
        Error::Holder(why) => format!(
            "Holder {}",
            match why {
                HolderError::Missing(_) => "missing",
                HolderError::OtherCertificate | HolderError::OtherKey | HolderError::Signature => "other",
                HolderError::OtherAction => "action",
                HolderError::Malformed(_)
                | HolderError::OtherToken
                | HolderError::OtherAudience
                | HolderError::OtherRequest
                | HolderError::Stale(_) => "otherwise refused",
            }
        ),
        Error::SessionOver(SessionError::Ended) => "SessionOver ended".to_owned(),
        Error::SessionOver(SessionError::Expired) => "SessionOver expired".to_owned(),
        Error::SessionOver(SessionError::ParentOver) => "SessionOver parent".to_owned(),
        Error::SessionMismatch(what) => format!("SessionMismatch {what}"),
        Error::AdministrationDenied { action, .. } => format!("AdministrationDenied {action}"),
        Error::InvalidField { field, .. } => format!("InvalidField {field}"),
        Error::ApprovalGone(state) => format!("ApprovalGone {state}"),
        Error::ActForDenied { .. } => "ActForDenied".to_owned(),
        other => {
            let debug = format!("{other:?}");
            debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
        }
    }
}
