//! Keys that are gone, changed or in the open keep a server from starting: a new one would end or fake what the old signed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::harness::Server;
use crate::harness::flow::*;

async fn stopped() -> Server {
    let mut server = Server::dev().await;
    open(&server.person(AGENT).await).await;
    server.terminate().await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_is_named_and_not_made_anew() {
    for name in ["token-1.key", "commitment.key", "log.key"] {
        let mut server = stopped().await;
        let path = server.data_dir().join("keys/dev").join(name);
        let kept = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let exited = server.try_restart().await.unwrap_err();
        assert!(exited.stderr.contains(path.to_str().unwrap()), "{}", exited.stderr);
        assert!(!path.exists(), "a new one was made");
        fs::write(&path, kept).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        server.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_others_can_read_is_refused() {
    let mut server = stopped().await;
    let path = server.data_dir().join("keys/dev/token-1.key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let exited = server.try_restart().await.unwrap_err();
    assert!(exited.stderr.contains("can be read by others"), "{}", exited.stderr);
}

/// Starts a server with somebody else's key in the place of its own.
async fn starts_with_another(name: &str) -> bool {
    let mut server = stopped().await;
    let other = stopped().await;
    let at = |server: &Server| server.data_dir().join("keys/dev").join(name);
    fs::copy(at(&other), at(&server)).unwrap();
    server.try_restart().await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_signing_key_in_the_place_of_the_old_one_is_refused() {
    assert!(!starts_with_another("token-1.key").await);
}

/// Heads under another key continue nothing that anybody could check: this is for people to settle.
#[tokio::test(flavor = "multi_thread")]
async fn another_key_of_the_log_in_the_place_of_the_old_one_is_refused() {
    assert!(!starts_with_another("log.key").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_without_a_store_are_what_is_left_of_a_lost_one() {
    let mut server = stopped().await;
    fs::remove_dir_all(server.data_dir().join("store")).unwrap();
    let exited = server.try_restart().await.unwrap_err();
    assert!(exited.stderr.contains("no store"), "{}", exited.stderr);
}
