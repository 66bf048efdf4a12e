//! Everything that can end a request, at once: one end state, and nothing minted or redeemed unless it was approved.

use std::time::{Duration, Instant};

use countersign::client::{Client, ClientError};
use countersign::proto::*;
use futures::future::join_all;
use tokio::join;
use tonic::Code;

use super::shared::{capabilities, join};
use crate::harness::flow::{ask, ballot, code, export, mint, redeem, show};
use crate::harness::{Bundle, Server, fresh_id};

/// How long the rounds go on, and how many run side by side.
const LENGTH: Duration = Duration::from_secs(10);
const LANES: i64 = 4;
/// So that a fast machine ends, too.
const MOST_ROUNDS: usize = 10_000;

#[derive(Clone)]
struct Cast {
    agent: Client,
    dana: Client,
    dave: Client,
    kurt: Client,
    warehouse: Client,
}

/// What came of one round, for the sums at the end.
#[derive(Default)]
struct Tally {
    rounds: usize,
    ends: std::collections::BTreeMap<String, usize>,
    minted: usize,
    redeemed: usize,
}

async fn session_of_a_second(agent: &Client) -> String {
    let request = OpenSessionRequest {
        purpose: "a race".to_owned(),
        ttl: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        request_id: fresh_id(),
        ..OpenSessionRequest::default()
    };
    agent.open_session(request).await.unwrap().session.unwrap().session_id
}

/// One round; `None` if the session was over before the question stood.
async fn round(cast: &Cast, session: &str, rows: i64, tally: &mut Tally) -> Option<()> {
    let Cast { agent, dana, dave, kurt, warehouse } = cast;
    let action = export(rows);
    let asked = ask(agent, session, &action).await.ok()?;
    let id = &asked.approval_id;
    dana.cast_vote(ballot(&asked, VoteVerdict::Approve)).await.ok()?;

    let cancel = || CancelApprovalRequest { approval_id: id.clone(), ..CancelApprovalRequest::default() };
    let use_it = async {
        // Whoever waits tries as soon as it may; a few times, so that it meets the moment between approve and deny.
        for _ in 0..4 {
            let answer = mint(agent, session, &action, id).await;
            let Ok(Some(minted)) = answer.map(|answer| answer.capability) else { continue };
            return Some((redeem(warehouse, &minted.token, &action).await, minted));
        }
        None
    };
    let (approve, deny, cancelled, used) = join!(
        dave.cast_vote(ballot(&asked, VoteVerdict::Approve)),
        kurt.cast_vote(ballot(&asked, VoteVerdict::Deny)),
        agent.cancel_approval(cancel()),
        use_it,
    );

    // One end, that nothing changes afterwards.
    let end = show(agent, id).await.unwrap();
    let state = end.state();
    let attempts = [
        code(&dave.cast_vote(ballot(&asked, VoteVerdict::Approve)).await),
        code(&kurt.cast_vote(ballot(&asked, VoteVerdict::Deny)).await),
        code(&agent.cancel_approval(cancel()).await),
    ];
    let again = show(agent, id).await.unwrap();
    if state != ApprovalState::Pending && state != ApprovalState::Approved {
        assert_eq!(again.state(), state, "a terminal state has no exit: {end:?}");
        assert!(attempts.iter().all(|code| *code != Code::Ok), "{attempts:?} on {state:?}");
    }
    let (approve, deny, cancelled): (bool, bool, bool) = (ok(&approve), ok(&deny), ok(&cancelled));
    assert!(!(deny && cancelled), "two ends of one request: {end:?}");
    if let Some((redeemed, minted)) = used {
        tally.minted += 1;
        assert!(approve, "minted {} without an approval: {end:?}", minted.capability_id);
        assert!(!cancelled, "minted from a request that was cancelled as pending: {end:?}");
        tally.redeemed += usize::from(ok(&redeemed));
        assert_eq!(ok(&redeemed), state == ApprovalState::Redeemed, "{redeemed:?} beside {end:?}");
        assert!(!(ok(&redeemed) && deny), "redeemed and denied");
    } else {
        assert_ne!(state, ApprovalState::Redeemed, "spent by nobody");
    }
    tally.rounds += 1;
    *tally.ends.entry(format!("{state:?}")).or_default() += 1;
    Some(())
}

fn ok<T>(result: &Result<T, ClientError>) -> bool {
    if let Err(error) = result {
        let code = error.refusal().map(|refusal| refusal.code());
        // Nothing here is a fault of the server, and nothing leaves the outcome open.
        let expected = [Code::FailedPrecondition, Code::PermissionDenied, Code::AlreadyExists];
        assert!(code.is_some_and(|code| expected.contains(&code)), "{error:?}");
    }
    result.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn approve_deny_cancel_expire_and_redeem_at_once_leave_one_end_state() {
    let bundle = Bundle::example();
    join(&bundle, "kurt", "data-owners");
    // Else the first deny would end the race.
    bundle.replace("policies/exports.cedar", "@quorum(\"2\")", "@quorum(\"2\") @cooldown(\"0m\")");
    let server = Server::with_bundle(bundle).await;
    let cast = Cast {
        agent: server.etl_bot().await,
        dana: server.person("dana").await,
        dave: server.person("dave").await,
        kurt: server.person("kurt").await,
        warehouse: server.warehouse().await,
    };
    let begun = Instant::now();
    let lane = async |lane: i64| {
        let (mut tally, mut sessions) = (Tally::default(), Vec::new());
        let mut rows = lane;
        while begun.elapsed() < LENGTH && tally.rounds < MOST_ROUNDS {
            // A session of a second, so that some rounds meet its end: what they asked is void then.
            let session = session_of_a_second(&cast.agent).await;
            sessions.push(session.clone());
            while round(&cast, &session, rows, &mut tally).await.is_some() {
                rows += LANES;
            }
        }
        (tally, sessions)
    };
    let lanes = join_all((0..LANES).map(lane)).await;

    let (mut rounds, mut minted, mut redeemed) = (0, 0, 0);
    for (tally, sessions) in lanes {
        eprintln!("{} rounds: {:?}, {} minted, {} redeemed", tally.rounds, tally.ends, tally.minted, tally.redeemed);
        rounds += tally.rounds;
        minted += tally.minted;
        redeemed += tally.redeemed;
        for session in sessions.iter().take(5) {
            let states = capabilities(&cast.agent, session).await;
            assert!(states.len() <= 200, "{states:?}");
        }
    }
    assert!(rounds >= 20, "{rounds} rounds are no race");
    let records = server.audit_records().await;
    let logged = |kind: &str| records.iter().filter(|record| record.kind == kind).count();
    assert_eq!(logged("redeem"), redeemed);
    let mints = records.iter().filter(|record| record.content.get("minted").is_some()).count();
    assert_eq!(mints, minted);
}
