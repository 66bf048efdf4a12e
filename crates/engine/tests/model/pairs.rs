//! Every two calls that could get in each other's way, brought to the writer together: both have read everything before
//! either is written. What comes of them must be what comes of one after the other (I1, I5, I6), and the model says what
//! that is. Nothing here depends on how fast anything runs.

use std::pin::pin;

use countersign_store::repository::Repository;
use futures::poll;

use crate::audit::{self, Log};
use crate::backend::{Backend, OnDisk, acme};
use crate::driver::Checked;
use crate::hand::Hand;
use crate::reference::Model;
use crate::request::{Acting, Altered, Caller, Request, Sent, Shown};
use crate::service::{START, class, send};
use crate::world::{Deed, Party, Variant};

const BOT: Caller = Caller::Is(Party::Bot);
const KEEPER: Caller = Caller::Is(Party::Keeper);
const ALICE: Caller = Caller::Is(Party::Alice);
const ERIN: Caller = Caller::Is(Party::Erin);

const fn action(deed: Deed) -> crate::request::Action {
    Hand::<countersign_store::MemoryKernel>::action(0, deed)
}

const fn vote(approve: bool) -> Request {
    Request::Vote { question: 0, approve, shown: Shown::Right }
}

const fn decide(deed: Deed, approval: Option<usize>, mint: bool) -> Request {
    Request::Decide { action: action(deed), acting: Acting::Caller, approval, mint }
}

const fn redeem(capability: usize) -> Request {
    Request::Redeem { capability, altered: Altered::Nothing }
}

/// What happened before: two capabilities of one approval, and a free one that was redeemed, and one that was not. The
/// other bundles were published before, so that publishing them again is one commit.
fn before() -> Vec<(Caller, Request)> {
    let publish = |variant| (ALICE, Request::Publish { variant });
    vec![
        (BOT, Request::Open { acting: Acting::Caller, operator: None, seconds: 3_600 }),
        publish(Variant::Tight),
        publish(Variant::Owner),
        publish(Variant::Base),
        (BOT, Request::Ask { action: action(Deed::Write), acting: Acting::Caller }),
        (ERIN, vote(true)),
        (BOT, decide(Deed::Write, Some(0), true)),
        (BOT, decide(Deed::Write, Some(0), true)),
        (BOT, decide(Deed::Read, None, true)),
        (BOT, decide(Deed::Read, None, true)),
        (KEEPER, redeem(3)),
        (ERIN, Request::Open { acting: Acting::Caller, operator: None, seconds: 3_600 }),
    ]
}

/// What is then done at once, two at a time.
fn calls() -> Vec<(Caller, Request)> {
    vec![
        (KEEPER, redeem(0)),
        (Caller::Is(Party::Gateway), redeem(0)),
        (KEEPER, redeem(1)),
        (KEEPER, redeem(2)),
        (BOT, decide(Deed::Write, Some(0), false)),
        (BOT, Request::Revoke { capability: 0 }),
        (BOT, Request::Revoke { capability: 2 }),
        (BOT, Request::End { session: 0 }),
        (ALICE, Request::Publish { variant: Variant::Tight }),
        (ALICE, Request::Publish { variant: Variant::Owner }),
        (ERIN, Request::Withdraw { question: 0 }),
        (Caller::Is(Party::Eve), vote(false)),
        (ERIN, vote(false)),
        (KEEPER, Request::Complete { capability: 3, succeeded: true }),
        (BOT, Request::Ask { action: action(Deed::Write), acting: Acting::Caller }),
        (Caller::Is(Party::Gateway), Request::Ask { action: action(Deed::Write), acting: Acting::Named(Party::Bot) }),
        (BOT, Request::Ask { action: action(Deed::Wipe), acting: Acting::Caller }),
        (ERIN, Request::Break { action: crate::request::Action { session: 1, ..action(Deed::Write) }, mint: true }),
    ]
}

/// The model after some calls, and what it says of the last two.
fn in_order(sent: &[Sent]) -> (Model, Vec<Result<(), String>>) {
    let mut model = Model::new(START);
    let results: Vec<_> = sent.iter().map(|sent| model.expect(sent).result.map(drop)).collect();
    (model, results[results.len() - 2..].to_vec())
}

/// Brings two calls to the writer together, the first one first.
async fn together(first: (Caller, Request), second: (Caller, Request)) -> Checked<()> {
    let backend = OnDisk::create();
    let mut hand = Hand::bare(backend.kernel()).await;
    let mut sent = Vec::new();
    for (caller, request) in before() {
        sent.push(hand.play(caller, request).await);
    }
    let (one, two) = (hand.sent(first.0, first.1), hand.sent(second.0, second.1));
    let told = {
        let held = backend.fail().hold();
        let mut one = pin!(send(&hand.engine, &hand.names, &one));
        let mut two = pin!(send(&hand.engine, &hand.names, &two));
        // Polled once, each gets as far as its commit, and waits.
        for waits in [poll!(&mut one).is_pending(), poll!(&mut two).is_pending()] {
            if !waits {
                return Err("a call was answered while nothing could be written".to_owned());
            }
        }
        drop(held);
        let (one, two) = futures::join!(one, two);
        [one, two].map(|told| told.map(drop).map_err(|error| class(&error)))
    };

    sent.extend([one, two]);
    let straight = in_order(&sent);
    let len = sent.len();
    sent.swap(len - 1, len - 2);
    let (model, mut results) = in_order(&sent);
    results.reverse();
    let mut log = Log::default();
    log.follow(&*hand.kernel).await?;
    log.audit(true)?;
    let repo = Repository::new(hand.kernel.clone(), acme());
    let mut wrong = Vec::new();
    for (model, results) in [straight, (model, results)] {
        if results != told {
            wrong.push(format!("answered {told:?}, not {results:?}"));
        } else if let Err(why) = audit::rows(&repo, &hand.names, &model).await {
            wrong.push(why);
        } else {
            return Ok(());
        }
    }
    Err(wrong.join("; and "))
}

#[test]
fn two_calls_at_once_come_out_as_one_after_the_other() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for first in calls() {
        for second in calls() {
            let came = runtime.block_on(together(first, second));
            assert_eq!(came, Ok(()), "{first:?} and {second:?}");
        }
    }
}
