//! Dead letters and the state of sinks, as operators see them.

use super::*;
use crate::harness::records_of;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_listed_retried_and_dropped_by_whoever_may() {
    let (dir, receiver) = (tempfile::tempdir().unwrap(), Receiver::new(Behaviour::Answer(500)).await);
    let (_key, file) = key_file(dir.path(), "hook.key");
    let more = "attempts = 1\nevents = [\"asked\", \"decided\"]";
    let scene = Scene::new(dir, &receiver.sink("hook", &[&file], more)).await;
    let approval = scene.approved(5).await;
    scene.until_sinks(|sinks| sinks[0].dead_letters == 2).await;

    let listed = scene.cli("aaron", &["notifications", "list", "--json"]).await;
    assert_eq!(listed.code, 0, "{listed:?}");
    let letters: Vec<serde_json::Value> = listed.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let mut kinds: Vec<&str> = letters.iter().map(|letter| letter["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["asked", "decided"]);
    assert!(letters.iter().all(|letter| letter["approval_id"] == approval.as_str() && letter["sink"] == "hook"));
    let id = |kind: &str| {
        let letter = letters.iter().find(|letter| letter["kind"] == kind).unwrap();
        letter["notification_id"].as_str().unwrap().to_owned()
    };
    let (asked, decided) = (id("asked"), id("decided"));

    for (who, args) in
        [("aaron", vec!["notifications", "drop", "--sink", "hook", &asked]), ("dana", vec!["notifications", "list"])]
    {
        let denied = scene.cli(who, &[&["--json"], args.as_slice()].concat()).await;
        assert_eq!(
            (denied.code, denied.json_error()["reason"].as_str()),
            (1, Some("ADMINISTRATION_DENIED")),
            "{denied:?}"
        );
    }
    let unknown = scene.cli("alice", &["--json", "notifications", "drop", "--sink", "other", &asked]).await;
    assert_eq!(unknown.json_error()["reason"], "NOTIFICATION_NOT_FOUND", "{unknown:?}");
    let bad = scene.cli("alice", &["--json", "notifications", "drop", "--sink", "a/b", &asked]).await;
    assert_eq!(bad.json_error()["reason"], "INVALID_FIELD", "{bad:?}");

    let dropped = scene.cli("alice", &["notifications", "drop", "--sink", "hook", &asked]).await;
    assert_eq!(dropped.code, 0, "{dropped:?}");
    receiver.behave(Behaviour::Take);
    let retried = scene.cli("alice", &["notifications", "retry", "--sink", "hook", "--all"]).await;
    assert_eq!(retried.stdout.trim(), format!("{decided} waits again"), "{retried:?}");
    scene.until_sinks(|sinks| sinks[0].delivered == 1 && sinks[0].dead_letters == 0).await;
    assert_eq!(receiver.received().last().unwrap().header("webhook-id"), decided);

    let records = records_of(&scene.client("aaron").await).await;
    let told: Vec<_> = records.iter().filter(|record| record.kind.starts_with("notification_")).collect();
    assert_eq!(
        told.iter().map(|record| record.kind.as_str()).collect::<Vec<_>>(),
        ["notification_dropped", "notification_retried"]
    );
    assert_eq!((told[0].text("/notification"), told[0].text("/caller/entity/id")), (asked.as_str(), "alice"));

    let shown = scene.cli("aaron", &["notifications", "sinks"]).await;
    assert!(shown.stdout.contains("all delivered") && shown.stdout.contains("answered 500"), "{shown:?}");
    let scraped = async {
        loop {
            let metrics = scene.server.metrics().await;
            if metrics.contains("countersign_notifications_total{tenant=\"acme\",sink=\"hook\",result=\"delivered\"} 1")
            {
                return metrics;
            }
            tokio::task::yield_now().await;
        }
    };
    let metrics = tokio::time::timeout(PATIENCE, scraped).await.unwrap();
    assert!(metrics.contains("countersign_notification_dead_letters{tenant=\"acme\",sink=\"hook\"} 0"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_sink_writes_each_notification_as_one_line() {
    let sinks = "[[tenants.acme.sinks]]\nname = \"log\"\nkind = \"log\"\nevents = [\"decided\"]\n";
    let mut scene = Scene::new(tempfile::tempdir().unwrap(), sinks).await;
    let approval = scene.approved(5).await;
    let line = scene.server.log_line(|line| line.contains("\"target\":\"countersign::notification\"")).await;
    let event = crate::harness::field(&line, "event").unwrap_or_else(|| panic!("{line}"));
    let event: serde_json::Value = serde_json::from_str(&event).unwrap();
    assert_eq!((&event["subject"], &event["type"]), (&approval.into(), &"countersign.approval.decided.v1".into()));
}
