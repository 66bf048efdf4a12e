//! Receivers that do what they like.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_receiver_answers_others_are_told_and_calls_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (_key, file) = key_file(dir.path(), "hook.key");
    let (good, elsewhere) = (Receiver::new(Behaviour::Take).await, Receiver::new(Behaviour::Take).await);
    let redirecting = Receiver::new(Behaviour::Redirect(format!("http://{}/stolen", elsewhere.address))).await;
    let hanging = Receiver::new(Behaviour::Hang).await;
    let failing = Receiver::new(Behaviour::Answer(500)).await;
    let endless = Receiver::new(Behaviour::Endless).await;
    let sinks: Vec<String> = [
        ("good", &good),
        ("redirecting", &redirecting),
        ("hanging", &hanging),
        ("failing", &failing),
        ("endless", &endless),
    ]
    .map(|(name, receiver)| receiver.sink(name, &[&file], "timeout_seconds = 1"))
    .to_vec();
    let scene = Scene::new(dir, &sinks.join("\n")).await;
    let mut approvals = Vec::new();
    for rows in 1..=4 {
        approvals.push(scene.approved(rows).await);
    }
    for approval in &approvals {
        assert_eq!(good.told(approval, 4).await.len(), 4);
        // What it said is not read; that it answered 200 is enough.
        assert_eq!(endless.told(approval, 4).await.len(), 4);
    }
    let sinks = scene.until_sinks(|sinks| sinks[1..4].iter().all(|sink| sink.failed > 0)).await;
    assert_eq!(sinks[0].failed, 0);
    assert!(sinks[1].last_error.starts_with("answered 307"), "{sinks:?}");
    assert!(sinks[3].last_error.starts_with("answered 500"), "{sinks:?}");
    assert!(elsewhere.received().is_empty(), "a redirect was followed");
    assert_eq!(scene.server.get("/readyz").await.0, 200);
    let later = scene.approved(99).await;
    assert_eq!(good.told(&later, 4).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_missing_or_exposed_stops_the_start_and_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (_key, file) = key_file(dir.path(), "hook.key");
    let secret = std::fs::read_to_string(&file).unwrap();
    let tenant = Tenant::new("acme");
    let sink = receiver::sink("hook", "127.0.0.1:9".parse().unwrap(), &[&file], "");
    let toml = format!("{}\n{sink}", production::toml(dir.path(), &[&tenant], ""));
    let options = || Options { mode: Mode::Production(toml.clone()), ..Options::default() };
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let exposed = Server::try_start(options()).await.unwrap_err();
    assert!(exposed.stderr.contains("can be read by others"), "{exposed:?}");
    std::fs::remove_file(&file).unwrap();
    let missing = Server::try_start(options()).await.unwrap_err();
    assert!(missing.stderr.contains("which the sink `hook` needs"), "{missing:?}");
    assert!(!missing.stderr.contains(secret.trim()) && !exposed.stderr.contains(secret.trim()));
}
