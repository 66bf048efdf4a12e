//! What is found of the live requests is what reading all of them shows, whatever happened meanwhile.

use std::time::Duration;

use countersign_core::approval::ApprovalState;
use countersign_engine::Wanted;
use futures::FutureExt as _;

use crate::*;

const EVERYBODY: [&str; 5] = ["agent:bot", "dana", "dave", "adam", "olivia"];

type Seen = Vec<(ApprovalId, ApprovalState, bool)>;

/// What somebody finds of the live requests, in pages of two.
async fn found(world: &World<MemoryKernel>, who: &str, wanted: Wanted) -> Seen {
    let (mut seen, mut before) = (Seen::new(), None);
    loop {
        let page = world.engine.live_approvals(&call(who, "ListApprovals"), before, 2, wanted).await.unwrap();
        assert!(page.items.len() <= 2);
        seen.extend(page.items.into_iter().map(|item| (item.approval.value.id, item.state, item.may_answer)));
        match page.next {
            Some(next) => before = Some(next),
            None => return seen,
        }
    }
}

/// What somebody sees of them by reading all there ever were.
async fn read(world: &World<MemoryKernel>, who: &str) -> Seen {
    let page = world.engine.approvals(&call(who, "ListApprovals"), None, 200).await.unwrap();
    assert!(page.next.is_none());
    let live = page.items.into_iter().filter(|item| !item.state.is_terminal());
    live.map(|item| (item.approval.value.id, item.state, item.may_answer)).collect()
}

/// How many live requests each of [`EVERYBODY`] finds: the same that they read.
async fn agree(world: &World<MemoryKernel>) -> [usize; 5] {
    let mut numbers = [0; 5];
    for (number, who) in numbers.iter_mut().zip(EVERYBODY) {
        let all = read(world, who).await;
        assert_eq!(found(world, who, Wanted::Live).await, all, "{who}");
        let (pending, approved) = all.iter().cloned().partition::<Seen, _>(|seen| seen.1 == ApprovalState::Pending);
        assert_eq!(found(world, who, Wanted::Pending).await, pending, "{who}");
        assert_eq!(found(world, who, Wanted::Approved).await, approved, "{who}");
        *number = all.len();
    }
    numbers
}

async fn ask(world: &World<MemoryKernel>, note: &str) -> ApprovalId {
    let mut asked = operation("export", "docs");
    asked.input.insert("note".to_owned(), countersign_core::Value::String(note.to_owned()));
    world.ask_with(asked).await.unwrap()
}

#[tokio::test]
async fn what_is_found_of_live_requests_is_what_reading_all_shows() {
    let world = World::new().await;
    assert_eq!(agree(&world).await, [0; 5]);
    let mut asked = Vec::new();
    for note in ["a", "b", "c", "d", "e"] {
        asked.push(ask(&world, note).await);
    }
    assert_eq!(agree(&world).await, [5, 5, 5, 0, 0], "who asked, and who may answer");

    // Whoever stops waiting keeps nobody from finding what there is.
    for who in EVERYBODY {
        let call = call(who, "ListApprovals");
        let _begun = world.engine.live_approvals(&call, None, 2, Wanted::Live).now_or_never();
    }
    assert_eq!(agree(&world).await, [5, 5, 5, 0, 0]);

    world.vote("dana", asked[0]).await.unwrap();
    world.engine.cancel(&call("agent:bot", "CancelApproval"), asked[1]).await.unwrap();
    assert_eq!(agree(&world).await, [4, 4, 4, 0, 0]);

    world.change("service:sync", &[person("dave", &[]), person("adam", &["admins", "owners"])]).await.unwrap();
    assert_eq!(agree(&world).await, [4, 4, 0, 4, 0], "a role lost and one gained count at once");

    world.change("service:sync", &[agent("bot", "adam")]).await.unwrap();
    ask(&world, "f").await;
    assert_eq!(agree(&world).await, [5, 5, 0, 4, 0], "whoever owns the agent now cannot answer for what it asks now");

    world.say("dana", asked[2], Says::Deny, "").await.unwrap();
    assert_eq!(agree(&world).await, [4, 4, 0, 3, 0]);

    world.clock.advance(Duration::from_secs(24 * 60 * 60));
    assert_eq!(agree(&world).await, [0; 5], "what is over by time is not live, though nobody wrote it");
}

#[tokio::test]
async fn with_its_session_a_request_is_gone_from_what_is_found() {
    let world = World::new().await;
    ask(&world, "a").await;
    assert_eq!(agree(&world).await[1], 1);
    world.engine.end_session(&call("agent:bot", "EndSession"), world.session).await.unwrap();
    assert_eq!(agree(&world).await, [0; 5]);
}

#[tokio::test]
async fn who_may_answer_only_after_a_while_finds_it_then() {
    let mut files = files();
    let late = r#"@id("late") permit (principal in Group::"admins", action == Action::"approve", resource)
        when { context.waited >= duration("1m") };"#;
    files.get_mut("approve/approve.cedar").unwrap().push_str(late);
    let world = World::with(Arc::new(MemoryKernel::default()), parts(), files).await;
    ask(&world, "a").await;
    assert_eq!(agree(&world).await, [1, 1, 1, 0, 0]);
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(agree(&world).await, [1, 1, 1, 1, 0]);
}
