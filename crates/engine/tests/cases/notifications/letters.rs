//! Dead letters, in the hands of operators.

use countersign_engine::{DeadLetter, Replayable};
use serde_json::Value as Json;

use super::*;

/// A world in which so many notifications were given up.
async fn with_dead(count: usize) -> (Told, Vec<DeadLetter>) {
    let told = Told::new(vec![SinkSettings { attempts: 1, ..settings("all") }]).await;
    for number in 0..count {
        told.ask_about(&number.to_string()).await;
    }
    let sink = FakeSink::default();
    sink.refuse(|_| true);
    let mut courier = told.engine.courier("all", sink.sink()).unwrap();
    while courier.step().await.unwrap().is_some() {
        told.pass(60);
    }
    let letters = told.engine.dead_letters(&call("adam", "ListDeadLetters"), Some("all"), None, 100).await.unwrap();
    assert_eq!(letters.items.len(), count);
    (told, letters.items)
}

async fn last_record(told: &Told) -> Json {
    let size = told.kernel().log_size(told.engine.tenant()).await.unwrap();
    let records = told.kernel().log_entries(told.engine.tenant(), size - 1, 1).await.unwrap();
    serde_json::from_slice(&records[0].1).unwrap()
}

#[tokio::test]
async fn a_dead_letter_is_tried_again_when_an_operator_says_so() {
    let (told, letters) = with_dead(2).await;
    let (id, retry) = (letters[0].notification.id, call("adam", "RetryNotification"));
    assert!(!told.engine.retry_notification(&retry, "all", id).await.unwrap().replayed);
    assert!(told.engine.retry_notification(&retry, "all", id).await.unwrap().replayed);
    assert_eq!(told.queued("all").await, [letters[0].notification.clone()]);
    let record = last_record(&told).await;
    assert_eq!((&record["kind"], &record["event"]), (&"notification_retried".into(), &"asked".into()), "{record}");
    assert_eq!(told.deliver("all").await, [letters[0].notification.clone()]);
    let again = told.engine.retry_notification(&call("adam", "RetryNotification"), "all", id).await;
    assert!(matches!(again, Err(Error::NotificationNotFound)), "{again:?}");
}

#[tokio::test]
async fn a_dead_letter_that_is_dropped_is_gone_and_the_log_says_who_did_it() {
    let (told, letters) = with_dead(1).await;
    let id = letters[0].notification.id;
    let dropped = told.engine.drop_notification(&call("adam", "DropNotification"), "all", id).await.unwrap();
    assert_eq!(dropped, Replayable { answer: id, replayed: false });
    let record = last_record(&told).await;
    assert_eq!(record["kind"], "notification_dropped", "{record}");
    assert_eq!((&record["notification"], &record["sink"]), (&id.to_string().into(), &"all".into()));
    assert_eq!(record["caller"]["entity"]["id"], "adam");
    let left = told.engine.dead_letters(&call("adam", "ListDeadLetters"), None, None, 10).await.unwrap();
    assert_eq!(left.items, []);
}

#[tokio::test]
async fn only_whom_the_policies_permit_looks_at_dead_letters_or_changes_them() {
    let (told, letters) = with_dead(1).await;
    let id = letters[0].notification.id;
    for who in ["dana", "agent:bot", "service:sync"] {
        let denied = [
            told.engine.sinks(&call(who, "ListSinks")).await.err(),
            told.engine.dead_letters(&call(who, "ListDeadLetters"), None, None, 10).await.err(),
            told.engine.retry_notification(&call(who, "RetryNotification"), "all", id).await.err(),
            told.engine.drop_notification(&call(who, "DropNotification"), "all", id).await.err(),
        ];
        let all = denied.iter().all(|error| matches!(error, Some(Error::AdministrationDenied { .. })));
        assert!(all, "{who}: {denied:?}");
    }
    // Whoever acts for an admin is no admin.
    let via = call_via("adam", &["service:sync"], "DropNotification");
    assert!(told.engine.drop_notification(&via, "all", id).await.is_err());
    assert_eq!(told.engine.sinks(&call("adam", "ListSinks")).await.unwrap()[0].state.dead_letters, 1);
}

#[tokio::test]
async fn dead_letters_come_in_pages() {
    let (told, letters) = with_dead(5).await;
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = told.engine.dead_letters(&call("adam", "ListDeadLetters"), None, after, 2).await.unwrap();
        assert!(page.items.len() <= 2);
        seen.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, letters);
}

#[tokio::test]
async fn what_was_given_up_by_a_sink_that_is_gone_can_still_be_dropped() {
    let (told, letters) = with_dead(1).await;
    let id = letters[0].notification.id;
    let told = told.restarted(Vec::new()).await;
    let retried = told.engine.retry_notification(&call("adam", "RetryNotification"), "all", id).await;
    assert!(matches!(retried, Err(Error::InvalidField { .. })), "{retried:?}");
    told.engine.drop_notification(&call("adam", "DropNotification"), "all", id).await.unwrap();
}
