//! Operations: what a random sequence is made of, and what each means where it is played.
//!
//! Numbers are taken modulo what there is, and the small ones mean the usual thing, so that a sequence stays meaningful
//! when some of it is left out, and shrinks towards what is ordinary.

use countersign_store::fail::Fault;
use proptest::prelude::*;

use crate::pre::Bounds;
use crate::reference::{Model, Question, Use};
use crate::request::{Acting, Action, Altered, Caller, Request, Sent, Shown, Wide};
use crate::world::{DEEDS, PERSONS, Party, VARIANTS};

#[derive(Debug, Clone, Copy)]
pub enum Op {
    OpenIn {
        parent: u8,
        who: u8,
        seconds: u8,
    },
    Delegate {
        capability: u8,
        by: u8,
        approval: Option<u8>,
    },
    Open {
        who: u8,
        seconds: u8,
    },
    Decide {
        session: u8,
        what: u8,
        by: u8,
        mint: bool,
        approval: Option<u8>,
    },
    /// Breaks the glass.
    Break {
        session: u8,
        what: u8,
        by: u8,
        mint: bool,
    },
    /// Closes a review of that.
    Review {
        review: u8,
        by: u8,
    },
    Ask {
        session: u8,
        what: u8,
        by: u8,
    },
    PreAsk {
        session: u8,
        what: u8,
        by: u8,
        bounds: u8,
    },
    /// Decides with an approval for exactly what it is for, or, of a pre-approval, for something that it covers.
    Use {
        question: u8,
        by: u8,
        mint: bool,
    },
    Vote {
        question: u8,
        who: u8,
        deny: u8,
        shown: u8,
    },
    Withdraw {
        question: u8,
        who: u8,
    },
    Cancel {
        question: u8,
        by: u8,
    },
    Redeem {
        capability: u8,
        by: u8,
        altered: u8,
    },
    Complete {
        capability: u8,
        by: u8,
        succeeded: bool,
    },
    Revoke {
        capability: u8,
        by: u8,
    },
    RevokeAll {
        of: u8,
        by: u8,
    },
    End {
        session: u8,
        by: u8,
    },
    Publish {
        variant: u8,
        by: u8,
    },
    View {
        question: u8,
        who: u8,
    },
    Look {
        capability: u8,
        by: u8,
    },
    Pass {
        how: u8,
        which: u8,
    },
    /// An earlier request once more.
    Retry {
        which: u8,
        how: u8,
    },
    /// The process dies between two calls.
    Crash,
    /// The `nth` commit from now meets a fault, if the next call makes that many.
    Arm {
        fault: u8,
        nth: u8,
    },
    ReadBack,
    Tidy,
    /// Conditions changed, or may have: a request is judged again.
    Reconsider {
        question: u8,
    },
}

pub fn operations(steps: usize) -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => (any::<u8>(), any::<u8>()).prop_map(|(who, seconds)| Op::Open { who, seconds }),
        3 => (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(parent, who, seconds)| Op::OpenIn { parent, who, seconds }),
        6 => (any::<u8>(), any::<u8>(), proptest::option::weighted(0.5, any::<u8>()))
            .prop_map(|(capability, by, approval)| Op::Delegate { capability, by, approval }),
        12 => (any::<u8>(), any::<u8>(), any::<u8>(), any::<bool>(), proptest::option::weighted(0.2, any::<u8>()))
            .prop_map(|(session, what, by, mint, approval)| Op::Decide { session, what, by, mint, approval }),
        5 => (any::<u8>(), any::<u8>(), any::<u8>(), any::<bool>())
            .prop_map(|(session, what, by, mint)| Op::Break { session, what, by, mint }),
        4 => (any::<u8>(), any::<u8>()).prop_map(|(review, by)| Op::Review { review, by }),
        8 => (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(session, what, by)| Op::Ask { session, what, by }),
        5 => (any::<u8>(), any::<u8>(), any::<u8>(), any::<u8>())
            .prop_map(|(session, what, by, bounds)| Op::PreAsk { session, what, by, bounds }),
        16 => (any::<u8>(), any::<u8>(), proptest::bool::weighted(0.8)).prop_map(|(question, by, mint)| Op::Use { question, by, mint }),
        24 => (any::<u8>(), any::<u8>(), any::<u8>(), any::<u8>())
            .prop_map(|(question, who, deny, shown)| Op::Vote { question, who, deny, shown }),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(question, who)| Op::Withdraw { question, who }),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(question, by)| Op::Cancel { question, by }),
        14 => (any::<u8>(), any::<u8>(), any::<u8>())
            .prop_map(|(capability, by, altered)| Op::Redeem { capability, by, altered }),
        5 => (any::<u8>(), any::<u8>(), any::<bool>())
            .prop_map(|(capability, by, succeeded)| Op::Complete { capability, by, succeeded }),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(capability, by)| Op::Revoke { capability, by }),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(of, by)| Op::RevokeAll { of, by }),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(session, by)| Op::End { session, by }),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(variant, by)| Op::Publish { variant, by }),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(question, who)| Op::View { question, who }),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(capability, by)| Op::Look { capability, by }),
        5 => (any::<u8>(), any::<u8>()).prop_map(|(how, which)| Op::Pass { how, which }),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(which, how)| Op::Retry { which, how }),
        1 => Just(Op::Crash),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(fault, nth)| Op::Arm { fault, nth }),
        1 => Just(Op::ReadBack),
        1 => Just(Op::Tidy),
        3 => any::<u8>().prop_map(|question| Op::Reconsider { question }),
    ];
    proptest::collection::vec(op, 1..=steps)
}

impl Op {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::OpenIn { .. } => "open in",
            Self::Delegate { .. } => "delegate",
            Self::Decide { .. } => "decide",
            Self::Break { .. } => "break",
            Self::Review { .. } => "review",
            Self::Ask { .. } => "ask",
            Self::PreAsk { .. } => "pre-ask",
            Self::Use { .. } => "use",
            Self::Vote { .. } => "vote",
            Self::Withdraw { .. } => "withdraw",
            Self::Cancel { .. } => "cancel",
            Self::Redeem { .. } => "redeem",
            Self::Complete { .. } => "complete",
            Self::Revoke { .. } => "revoke",
            Self::RevokeAll { .. } => "revoke all",
            Self::End { .. } => "end",
            Self::Publish { .. } => "publish",
            Self::View { .. } => "view",
            Self::Look { .. } => "look",
            Self::Pass { .. } => "pass",
            Self::Retry { .. } => "retry",
            Self::Crash => "crash",
            Self::Arm { .. } => "arm",
            Self::ReadBack => "read back",
            Self::Tidy => "tidy",
            Self::Reconsider { .. } => "reconsider",
        }
    }

    pub fn fault(fault: u8) -> Fault {
        [Fault::CrashAfter, Fault::CrashBefore, Fault::SyncFails, Fault::SyncFailsButKept][usize::from(fault) % 4]
    }
}

/// The question that is judged again.
pub fn reconsidered(model: &Model, question: u8) -> Option<usize> {
    let now = model.now;
    promising(question, model.questions.len(), |number| model.questions[number].live(now))
}

/// One of the last few, the newest most often: what happened long ago is over anyway.
fn recent(pick: u8, len: usize) -> Option<usize> {
    let near = [0, 0, 0, 1, 1, 2, 3, 5][usize::from(pick) % 8];
    len.checked_sub(1).map(|newest| newest - near.min(newest))
}

/// The newest for which something is left to do, mostly; otherwise one of the last few.
fn promising(pick: u8, len: usize, good: impl Fn(usize) -> bool) -> Option<usize> {
    let newest = (0..len).rev().find(|number| good(*number));
    newest.filter(|_| pick % 4 != 3).or_else(|| recent(pick / 4, len))
}

fn pick<T: Copy>(number: u8, from: &[T]) -> T {
    from[usize::from(number) % from.len()]
}

/// The credential of a session's principal, or sometimes somebody else's; and how they say who acts.
fn actor(model: &Model, session: usize, by: u8) -> (Caller, Acting) {
    let found = &model.sessions[session];
    let own = Caller::Is(found.principal);
    match by % 16 {
        0..=7 => (own, Acting::Caller),
        8..=10 => match found.operator {
            Some(operator) => (Caller::For(found.principal, operator), Acting::Caller),
            None => (own, Acting::Named(found.principal)),
        },
        11 | 12 => (Caller::Is(Party::Gateway), Acting::Named(found.principal)),
        13 => (Caller::Is(Party::Gateway), Acting::Credential(Caller::For(Party::Bot, Party::Pat))),
        14 => (Caller::For(found.principal, Party::Eve), Acting::Caller),
        _ => (pick(by / 16, &[Caller::Is(Party::Bug), Caller::Is(Party::Erin), Caller::Stranger]), Acting::Caller),
    }
}

fn action(session: usize, what: u8) -> Action {
    let deed = DEEDS[[0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 0, 1, 4, 5, 0, 1][usize::from(what) % 16]];
    let at = if what & 0x10 == 0 { Party::Door } else { Party::Gate };
    let (doc, n) = ((what >> 5) & 1, (what >> 6) & 1);
    Action { session, deed, doc, n: if deed == crate::world::Deed::Read { 0 } else { n }, at }
}

fn stopper(model: &Model, session: usize, by: u8) -> Caller {
    let found = &model.sessions[session];
    let own = Caller::Is(found.principal);
    match by % 8 {
        0..=2 => own,
        3 => Caller::Is(Party::Sam),
        4 => found.operator.map_or(own, Caller::Is),
        5 => Caller::Is(found.opened_by),
        6 => Caller::Is(Party::Eve),
        _ => Caller::Is(Party::Bug),
    }
}

/// The call that an operation is here and now; `None` if it is no call. Where there is nothing yet to call about, it is the
/// call that brings such a thing about.
pub fn request(op: Op, model: &Model, id: usize, history: &[Sent]) -> Option<Sent> {
    let now = model.now;
    let session = |pick| promising(pick, model.sessions.len(), |number| model.session_open(number));
    let on_open = |number: usize| model.session_open(model.questions[number].action.session);
    let asked = |pick, state: &'static str| {
        promising(pick, model.questions.len(), |number| model.questions[number].state(now) == state && on_open(number))
    };
    let capability = |pick, state: &'static str| {
        promising(pick, model.capabilities.len(), |number| model.capabilities[number].state(now) == state)
    };
    let of_person = |number: usize| model.sessions[number].principal.is_person() && model.session_open(number);
    let persons = (0..model.sessions.len()).any(of_person);
    let op = match op {
        Op::Open { .. } | Op::Publish { .. } | Op::Retry { .. } => op,
        // Erin's, and now and then Alice's.
        Op::Break { by, .. } if !persons => Op::Open { who: if by % 4 == 3 { 47 } else { 11 }, seconds: 0 },
        Op::Review { by, .. } if model.reviews.is_empty() => Op::Break { session: 0, what: by, by: 0, mint: true },
        _ if model.sessions.is_empty() => Op::Open { who: 0, seconds: 0 },
        Op::Use { question, by, .. }
        | Op::Vote { question, who: by, .. }
        | Op::Withdraw { question, who: by }
        | Op::Cancel { question, by }
        | Op::View { question, who: by }
            if model.questions.is_empty() =>
        {
            Op::Ask { session: 0, what: question, by }
        }
        Op::Redeem { capability, by, .. }
        | Op::Complete { capability, by, .. }
        | Op::Delegate { capability, by, .. }
        | Op::Revoke { capability, by }
        | Op::Look { capability, by }
            if model.capabilities.is_empty() =>
        {
            Op::Decide { session: 0, what: capability & 0xf0 | 6, by, mint: true, approval: None }
        }
        _ => op,
    };
    let mut wanted = Some(id);
    let (caller, request) = match op {
        Op::Open { who, seconds } => open(who, seconds),
        Op::OpenIn { parent, who, seconds } => {
            let bots = |number: usize| model.sessions[number].principal == Party::Bot && model.session_open(number);
            let parent = promising(parent, model.sessions.len(), bots)?;
            let above = &model.sessions[parent];
            let own = above.operator.map_or(Caller::Is(above.principal), |op| Caller::For(above.principal, op));
            let (caller, acting) = match who % 16 {
                11 => (own, Acting::Caller),
                12 => (Caller::Is(Party::Gateway), Acting::Named(Party::Bug)),
                13 => (own, Acting::Named(Party::Gateway)),
                14 => (own, Acting::Credential(Caller::For(Party::Bug, Party::Eve))),
                15 => (own, Acting::Credential(Caller::Is(Party::Bug))),
                _ => (own, Acting::Named(Party::Bug)),
            };
            let seconds = pick(seconds, &[3_600, 600, 86_400, 60]);
            (caller, Request::OpenIn { parent, acting, seconds })
        }
        Op::Delegate { capability, by, approval } => child::handing_on(model, capability, by, approval)?,
        Op::Decide { session: at, what, by, mint, approval } => {
            let at = session(at)?;
            let (caller, acting) = actor(model, at, by);
            let approval = approval.and_then(|number| recent(number, model.questions.len()));
            // Without a request id now and then: a preview needs none.
            if by % 3 == 1 {
                wanted = None;
            }
            (caller, Request::Decide { action: action(at, what), acting, approval, mint })
        }
        Op::Break { session: at, what, by, mint } => {
            let at = promising(at, model.sessions.len(), of_person)?;
            let own = Caller::Is(model.sessions[at].principal);
            let other = [Caller::Is(Party::Bot), Caller::For(Party::Bot, Party::Erin), Caller::Is(Party::Sam), own];
            let caller = if by % 8 == 7 { pick(by / 8, &other) } else { own };
            (caller, Request::Break { action: action(at, what), mint })
        }
        Op::Review { review, by } => {
            let review = promising(review, model.reviews.len(), |number| !model.reviews[number].closed)?;
            let caller = match by % 16 {
                15 => {
                    pick(by / 16, &[Caller::For(Party::Bot, Party::Sam), Caller::Is(Party::Keeper), Caller::Stranger])
                }
                10..=14 => Caller::Is(pick(by, &PERSONS)),
                _ => Caller::Is(pick(by, &[Party::Sam, Party::Erin])),
            };
            (caller, Request::Review { review })
        }
        Op::Ask { session: at, what, by } => {
            let at = session(at)?;
            let (caller, acting) = actor(model, at, by);
            (caller, Request::Ask { action: action(at, what), acting })
        }
        Op::PreAsk { session: at, what, by, bounds } => {
            // Now and then what is asked already, with another example.
            let lives = |asked: &&Question| asked.pre.is_some() && asked.live(now);
            let again = model.questions.iter().rev().find(lives).filter(|_| bounds % 3 == 2);
            let at = match again {
                Some(asked) => asked.action.session,
                None => session(at)?,
            };
            let (caller, acting) = actor(model, at, by);
            let seconds = pick(bounds / 8, &[1_800, 600, 60, 1_800, 1_801, 1_800]);
            let bounds = Bounds { uses: pick(bounds, &[2, 1, 3, 2, 1, 1, 3, 4]), seconds };
            let (action, bounds) = match again.and_then(|asked| Some((asked.action, asked.pre?.bounds))) {
                Some((asked, same)) => (Action { n: (what >> 6) & 1, ..asked }, same),
                None => (action(at, what), bounds),
            };
            (caller, Request::PreAsk { action, acting, bounds })
        }
        Op::Use { question: number, by, mint } => {
            let varied = u8::from(number % 3 == 1);
            let number = asked(number, "approved")?;
            let asked = &model.questions[number];
            let action = if asked.pre.is_some() { Action { n: varied, ..asked.action } } else { asked.action };
            let (caller, acting) = actor(model, action.session, by);
            (caller, Request::Decide { action, acting, approval: Some(number), mint })
        }
        Op::Vote { question: number, who, deny, shown } => {
            let shown = match shown % 16 {
                14 => Shown::OtherDigest,
                15 => Shown::OtherView,
                _ => Shown::Right,
            };
            let question = asked(number, "pending")?;
            let could: Vec<Party> = PERSONS.into_iter().filter(|person| model.could_vote(question, *person)).collect();
            let caller = match who % 16 {
                14 => Caller::For(Party::Bot, Party::Erin),
                15 => pick(who / 16, &[Caller::Is(Party::Bot), Caller::Stranger, Caller::Is(Party::Keeper)]),
                // Over within two minutes: some votes outlive the credential that they rest on.
                11..=13 => {
                    let minutes = (now - crate::service::START) / 60_000 + 1 + i64::from(deny % 2);
                    Caller::Member(pick(who / 16, &[Party::Sam, Party::Eve, Party::Alice, Party::Erin]), minutes)
                }
                0..=8 if !could.is_empty() => Caller::Is(pick(who / 16, &could)),
                other => Caller::Is(pick(other, &PERSONS)),
            };
            (caller, Request::Vote { question, approve: deny % 16 != 15, shown })
        }
        Op::Withdraw { question: number, who } => {
            let number = asked(number, if who % 2 == 0 { "approved" } else { "pending" })?;
            let voters: Vec<Party> = model.questions[number].votes.iter().map(|vote| vote.person).collect();
            let who = if voters.is_empty() || who % 4 == 3 { pick(who / 4, &PERSONS) } else { pick(who / 4, &voters) };
            (Caller::Is(who), Request::Withdraw { question: number })
        }
        Op::Cancel { question: number, by } => {
            let ends = |at: &Question| at.state(now) == "pending" || (at.pre.is_some() && at.state(now) == "approved");
            let number =
                promising(number, model.questions.len(), |number| ends(&model.questions[number]) && on_open(number))?;
            let asker = Caller::Is(model.questions[number].asked_by);
            let others = [Party::Pat, Party::Bug, Party::Sam, Party::Eve].map(Caller::Is);
            let caller = if by % 2 == 0 { asker } else { pick(by / 2, &others) };
            (caller, Request::Cancel { question: number })
        }
        Op::Redeem { capability: number, by, altered } => {
            let number = capability(number, "minted")?;
            let at = model.capabilities[number].action.at;
            let right = if at == Party::Door { Party::Keeper } else { Party::Gateway };
            let principal = model.sessions[model.capabilities[number].action.session].principal;
            let by = pick(by, &[right, right, right, principal, Party::Gateway, right, Party::Keeper, Party::Erin]);
            let altered = match altered % 16 {
                9 => Altered::NoProof,
                10 => Altered::OtherKey,
                11 => Altered::Deed,
                12 => Altered::Doc,
                13 => Altered::Input,
                14 => Altered::Audience,
                15 => Altered::Token,
                _ => Altered::Nothing,
            };
            (Caller::Is(by), Request::Redeem { capability: number, altered })
        }
        Op::Complete { capability: number, by, succeeded } => {
            let number = capability(number, if by % 4 == 0 { "redeemed, outcome unknown" } else { "redeemed" })?;
            let redeemer = match model.capabilities[number].used {
                Use::Redeemed { by, .. } | Use::Completed { by, .. } => by,
                Use::Minted | Use::Revoked | Use::Delegated { .. } => Party::Keeper,
            };
            let by = pick(by, &[redeemer, redeemer, redeemer, Party::Bot]);
            (Caller::Is(by), Request::Complete { capability: number, succeeded })
        }
        Op::Revoke { capability: number, by } => {
            let number = capability(number, if by % 3 == 0 { "delegated" } else { "minted" })?;
            let session = model.capabilities[number].action.session;
            (stopper(model, session, by), Request::Revoke { capability: number })
        }
        Op::RevokeAll { of, by } => {
            let session = &model.sessions[recent(of / 8, model.sessions.len())?];
            let of = match of % 8 {
                0..=4 => Wide::Principal(session.principal),
                5 | 6 => Wide::Operator(session.operator.unwrap_or(Party::Pat)),
                _ => Wide::Everything,
            };
            let own = match of {
                Wide::Principal(party) | Wide::Operator(party) => party,
                Wide::Everything => Party::Alice,
            };
            // Not so often that they need a permission for it.
            let own = if model.own_revoked < 6 { own } else { Party::Sam };
            let for_another = Caller::For(Party::Bot, Party::Pat);
            let others = [Caller::Is(Party::Eve), for_another, Caller::Stranger, Caller::Is(Party::Keeper)];
            let caller = match by % 4 {
                0 => Caller::Is(own),
                1 | 2 => Caller::Is(Party::Sam),
                _ => pick(by / 4, &others),
            };
            (caller, Request::RevokeAll { of })
        }
        Op::End { session: number, by } => {
            let number = session(number)?;
            (stopper(model, number, by), Request::End { session: number })
        }
        Op::Publish { variant, by } => {
            let caller = Caller::Is(pick(by, &[Party::Alice, Party::Alice, Party::Alice, Party::Sam]));
            (caller, Request::Publish { variant: pick(variant, &VARIANTS) })
        }
        Op::View { question: number, who } => {
            wanted = None;
            (Caller::Is(pick(who, &PERSONS)), Request::View { question: recent(number, model.questions.len())? })
        }
        Op::Look { capability: number, by } => {
            wanted = None;
            let number = capability(number, "expired")?;
            let principal = model.sessions[model.capabilities[number].action.session].principal;
            let by = pick(by, &[principal, Party::Alice, Party::Keeper, Party::Eve]);
            (Caller::Is(by), Request::Look { capability: number })
        }
        Op::Retry { which, how } => {
            let back = history.len().checked_sub(1)?.min(usize::from(which) % 24);
            let mut earlier = history[history.len() - 1 - back];
            match how % 8 {
                6 => earlier.other_body = !earlier.other_body,
                7 => {
                    earlier.caller = pick(
                        how / 8,
                        &[
                            Caller::Is(Party::Gateway),
                            Caller::For(Party::Bot, Party::Pat),
                            Caller::Is(Party::Bot),
                            Caller::Is(Party::Sam),
                        ],
                    )
                }
                _ => {}
            }
            return Some(earlier);
        }
        Op::Pass { .. } | Op::Crash | Op::Arm { .. } | Op::ReadBack | Op::Tidy | Op::Reconsider { .. } => return None,
    };
    Some(Sent { caller, id: wanted, other_body: false, request })
}

fn open(who: u8, seconds: u8) -> (Caller, Request) {
    use Party::{Alice, Bot, Bug, Erin, Gateway, Pat};
    let seconds = pick(seconds, &[3_600, 86_400, 3_600, 600, 86_400, 100, 3_600, 1]);
    let gateway = Caller::Is(Gateway);
    let (caller, acting, operator) = match who % 16 {
        0..=3 => (Caller::Is(Bot), Acting::Caller, None),
        4 | 5 => (Caller::Is(Bug), Acting::Caller, None),
        6 | 7 => (Caller::For(Bot, Pat), Acting::Caller, None),
        8 => (gateway, Acting::Named(Bot), None),
        9 => (gateway, Acting::Named(Bot), Some(Pat)),
        10 => (gateway, Acting::Credential(Caller::For(Bug, Pat)), None),
        11 => (Caller::Is(Erin), Acting::Caller, None),
        12 => (gateway, Acting::Credential(Caller::For(Bot, Pat)), Some(Erin)),
        13 => (Caller::Is(Bug), Acting::Named(Bot), None),
        14 => (Caller::Is(Bot), Acting::Caller, Some(Pat)),
        _ => pick(
            who / 16,
            &[
                (gateway, Acting::Caller, None),
                (Caller::Stranger, Acting::Caller, None),
                (Caller::Is(Alice), Acting::Caller, None),
            ],
        ),
    };
    (caller, Request::Open { acting, operator, seconds })
}

/// How much time passes: a little, or to the brink of something.
pub fn passing(model: &Model, how: u8, which: u8) -> i64 {
    let brink = [-1, 0, 1][usize::from(how / 16) % 3];
    let to = match how % 16 {
        0..=5 => return i64::from(which) + 1,
        6..=8 => return i64::from(which) * 200,
        9 => model.sessions.get(recent(which, model.sessions.len()).unwrap_or(0)).map(|session| session.deadline),
        10 | 11 => model.questions.get(recent(which, model.questions.len()).unwrap_or(0)).map(|asked| asked.expires),
        12 | 13 => {
            model.capabilities.get(recent(which, model.capabilities.len()).unwrap_or(0)).map(|minted| minted.expires)
        }
        14 => model.capabilities.iter().rev().find_map(|capability| match capability.used {
            Use::Redeemed { complete_by, .. } => Some(complete_by),
            Use::Minted | Use::Completed { .. } | Use::Revoked | Use::Delegated { .. } => None,
        }),
        // Long: everything of today is over, and answers may be tidied away.
        _ => Some(model.now + if which.is_multiple_of(4) { 90_000_000 } else { 20_000 }),
    };
    to.map_or(1, |to| (to + brink - model.now).max(0))
}

#[path = "operation_child.rs"]
mod child;
