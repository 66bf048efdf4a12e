//! Sessions in sessions, capabilities that are handed on to them, and sessions that somebody keeps alive, through the public API.

use std::time::Duration;

use countersign::client::{Client, ClientError};
use countersign::proto::{
    CapabilityState, DelegateRequest, Entity, GetSessionRequest, HeartbeatRequest, OpenSessionRequest, Session,
    SessionState, Verdict, VoteVerdict,
};
use tonic::Code;

use crate::approvals::shared::{denied, failed, query, within};

use crate::harness::flow::{
    AUDIENCE, ask, capability_state, end, export, must_mint, open, redeem, refused, revoke, vote,
};
use crate::harness::{Bundle, Options, Server, fresh_id};

/// The example, in which etl-bot may hand on to chat-bot, which may read too.
fn bundle() -> Bundle {
    Bundle::example().edit(|files| {
        files.get_mut("admin/service.cedar").unwrap().push_str(
            r#"
@id("etl-bot-hands-on")
permit (
  principal == Agent::"etl-bot",
  action in [Action::"openSession", Action::"actFor"],
  resource == Agent::"chat-bot"
);
"#,
        );
        let entities = files.get_mut("entities.json").unwrap();
        let chat_bot =
            r#""id": "chat-bot"}, "attrs": {"owner": {"__entity": {"type": "Person", "id": "olivia"}}}, "parents": ["#;
        assert!(entities.contains(chat_bot));
        *entities = entities.replace(chat_bot, &format!(r#"{chat_bot}{{"type": "Group", "id": "data-readers"}}"#));
    })
}

async fn server() -> Server {
    Server::with_bundle(bundle()).await
}

async fn open_child(client: &Client, parent: &str) -> Result<Session, ClientError> {
    let request = OpenSessionRequest {
        purpose: "part of it".to_owned(),
        parent_session_id: parent.to_owned(),
        principal: Some(Entity { r#type: "Agent".to_owned(), id: "chat-bot".to_owned() }),
        ..OpenSessionRequest::default()
    };
    Ok(client.open_session(request).await?.session.unwrap())
}

async fn open_beating(client: &Client, seconds: i64) -> String {
    let request = OpenSessionRequest {
        purpose: "a test".to_owned(),
        heartbeat: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..OpenSessionRequest::default()
    };
    client.open_session(request).await.unwrap().session.unwrap().session_id
}

fn handing(token: &str, session: &str) -> DelegateRequest {
    DelegateRequest {
        token: token.to_owned(),
        operation: Some(query()),
        audience: AUDIENCE.to_owned(),
        session_id: session.to_owned(),
        request_id: fresh_id(),
        ..DelegateRequest::default()
    }
}

async fn state(client: &Client, session: &str) -> SessionState {
    let request = GetSessionRequest { session_id: session.to_owned() };
    client.get_session(request).await.unwrap().session.unwrap().state()
}

#[tokio::test]
async fn a_sub_agent_acts_in_a_session_of_its_own_that_dies_with_the_one_it_was_opened_in() {
    let mut server = server().await;
    let (agent, helper) = (server.etl_bot().await, server.client("agent:chat-bot", None, &[]).await);
    let (session, warehouse) = (open(&agent).await, server.warehouse().await);
    let child = open_child(&agent, &session).await.unwrap();
    assert_eq!((child.parent_session_id.as_str(), child.chain.len()), (session.as_str(), 1));
    assert_eq!(child.operator.as_ref().map(|operator| operator.id.as_str()), Some("olivia"));
    let id = &child.session_id;
    let first = must_mint(&helper, id, &query(), "").await;
    redeem(&warehouse, &first.token, &query()).await.unwrap();
    let second = must_mint(&helper, id, &query(), "").await;
    // Nobody opens one in another's.
    let stranger = server.client("agent:deploy-bot", None, &[]).await;
    assert_eq!(refused(open_child(&stranger, &session).await), denied("SESSION_MISMATCH"));

    end(&agent, &session).await.unwrap();
    assert_eq!(state(&helper, id).await, SessionState::Ended);
    assert_eq!(refused(redeem(&warehouse, &second.token, &query()).await), denied("SESSION_OVER"));
    assert_eq!(refused(open_child(&agent, &session).await), denied("SESSION_OVER"));
    server.terminate().await;
    server.log_verifies_offline().await;
}

#[tokio::test]
async fn whoever_stands_in_the_chain_of_a_child_answers_for_nothing_in_it() {
    let server = server().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let child = open_child(&agent, &session).await.unwrap().session_id;
    let helper = server.client("agent:chat-bot", None, &[]).await;
    let approval = ask(&helper, &child, &export(5)).await.unwrap().approval_id;
    // wendy owns etl-bot, which is one link further away; olivia is the operator, and owns chat-bot.
    for who in ["wendy", "olivia"] {
        let voter = server.person(who).await;
        let voted = vote(&voter, &approval, VoteVerdict::Approve).await;
        assert_eq!(refused(voted).0, Code::PermissionDenied, "{who}");
    }
}

#[tokio::test]
async fn a_capability_is_handed_on_once_and_revoked_with_what_came_of_it() {
    let mut server = server().await;
    let (agent, warehouse) = (server.etl_bot().await, server.warehouse().await);
    let session = open(&agent).await;
    let child = open_child(&agent, &session).await.unwrap().session_id;
    let given = must_mint(&agent, &session, &query(), "").await;
    let request = handing(&given.token, &child);
    let answer = agent.delegate(request.clone()).await.unwrap().decision.unwrap();
    assert_eq!(answer.verdict(), Verdict::Allow, "{answer:?}");
    let handed = answer.capability.unwrap();
    let replayed = agent.delegate(request).await.unwrap().decision.unwrap();
    assert!(replayed.replayed && replayed.capability.unwrap().token == handed.token);
    assert_eq!(capability_state(&agent, &given.capability_id).await.unwrap(), CapabilityState::Delegated);
    assert_eq!(refused(redeem(&warehouse, &given.token, &query()).await), failed("CAPABILITY_DELEGATED"));
    assert_eq!(refused(agent.delegate(handing(&given.token, &child)).await), failed("CAPABILITY_DELEGATED"));
    redeem(&warehouse, &handed.token, &query()).await.unwrap();

    let given = must_mint(&agent, &session, &query(), "").await;
    assert_eq!(refused(agent.delegate(handing(&given.token, &session)).await), failed("NOT_DELEGABLE"));
    let answer = agent.delegate(handing(&given.token, &child)).await.unwrap().decision.unwrap();
    let handed = answer.capability.unwrap();
    revoke(&agent, &given.capability_id).await.unwrap();
    assert_eq!(refused(redeem(&warehouse, &handed.token, &query()).await), denied("CAPABILITY_REVOKED"));
    server.terminate().await;
    server.log_verifies_offline().await;
}

#[tokio::test]
async fn the_command_line_hands_a_capability_on() {
    let server = server().await;
    let token = server.token("agent:etl-bot", Some("olivia"), &[]);
    let agent = server.client_of(&token).await;
    let session = open(&agent).await;
    let open =
        ["session", "open", "--purpose", "part", "--parent", &session, "--principal", "Agent::chat-bot", "--json"];
    let opened = server.cli(&token, &open).await;
    assert_eq!(opened.code, 0, "{opened:?}");
    let child = opened.json()["session_id"].as_str().unwrap().to_owned();
    assert_eq!(opened.json()["parent_session_id"], session.as_str());
    let given = must_mint(&agent, &session, &crate::harness::flow::describe(), "").await;
    let hand = [
        "capability",
        "delegate",
        &given.token,
        "describe",
        "Dataset::docs",
        "--audience",
        AUDIENCE,
        "--to-session",
        &child,
        "--ttl",
        "1m",
        "--json",
    ];
    let handed = server.cli(&token, &hand).await;
    assert_eq!(handed.code, 0, "{handed:?}");
    let id = handed.json()["capability"]["capability_id"].as_str().unwrap().to_owned();
    let shown = server.cli(&token, &["capability", "show", &given.capability_id]).await;
    assert!(shown.stdout.contains("delegated") && shown.stdout.contains(&id), "{shown:?}");
}

#[tokio::test]
async fn a_session_ends_as_soon_as_the_connection_that_holds_it_is_gone() {
    let server = server().await;
    let agent = server.etl_bot().await;
    let session = open_beating(&agent, 60).await;
    let minted = must_mint(&agent, &session, &query(), "").await;
    // A connection of its own, which breaks.
    let holder = server.etl_bot().await;
    let mut hold = holder.hold_session(&session);
    assert_eq!(hold.next().await.unwrap().state(), SessionState::Open);
    drop((hold, holder));
    within("the session ends", async {
        while state(&agent, &session).await == SessionState::Open {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(state(&agent, &session).await, SessionState::Ended);
    let warehouse = server.warehouse().await;
    assert_eq!(refused(redeem(&warehouse, &minted.token, &query()).await), denied("SESSION_OVER"));
}

#[tokio::test]
async fn a_server_that_shuts_down_ends_no_session_that_it_holds_and_one_that_stays_away_does() {
    let mut server = Server::start(Options { bundle: bundle(), ..Options::default() }).await;
    let (session, brief) = {
        let agent = server.etl_bot().await;
        let (session, brief) = (open_beating(&agent, 300).await, open_beating(&agent, 1).await);
        let mut hold = agent.hold_session(&session);
        hold.next().await.unwrap();
        server.terminate().await;
        (session, brief)
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.restart().await;
    let agent = server.etl_bot().await;
    assert_eq!(state(&agent, &session).await, SessionState::Open);
    agent.heartbeat(HeartbeatRequest { session_id: session.clone() }).await.unwrap();
    assert_eq!(state(&agent, &brief).await, SessionState::Expired);
    let late = agent.heartbeat(HeartbeatRequest { session_id: brief }).await;
    assert_eq!(refused(late), denied("SESSION_OVER"));
    let without = agent.heartbeat(HeartbeatRequest { session_id: open(&agent).await }).await;
    assert_eq!(refused(without), failed("NO_HEARTBEAT"));
}
