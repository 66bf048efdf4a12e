//! One byte of what is stored is changed, by somebody who may write to the disk. It is found, and it is said where.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::cli::{self, Finished};
use crate::harness::flow::*;
use crate::harness::{Exited, Options, Server};

/// The files of a data directory, by their path in it.
pub type Image = BTreeMap<PathBuf, Vec<u8>>;

pub fn image(dir: &Path) -> Image {
    fn read(root: &Path, dir: &Path, image: &mut Image) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(root, &path, image);
            } else {
                image.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    let mut image = Image::new();
    read(dir, dir, &mut image);
    image
}

/// A new directory with these files.
fn restore(image: &Image) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_out(image, dir.path());
    dir
}

/// Writes these files into a directory.
pub fn write_out(image: &Image, dir: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    for (name, bytes) in image {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// The data directory of a server that did some work and ended in good order.
async fn worked() -> Image {
    let mut server = Server::dev().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    for n in 0..30 {
        decide(&agent, &session, &export(n + 1)).await.unwrap();
    }
    must_mint(&agent, &session, &describe(), "").await;
    assert!(server.terminate().await.status.success());
    image(server.data_dir())
}

async fn verify(dir: &Path) -> Finished {
    cli::run(&["audit", "verify", "--data-dir", dir.to_str().unwrap(), "--json"], &[]).await
}

async fn start(dir: &Path) -> Result<Server, Exited> {
    Server::try_start(Options { data_dir: Some(dir.to_owned()), ..Options::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_directory_verifies_and_tells_its_root() {
    let image = worked().await;
    let dir = restore(&image);
    let finished = verify(dir.path()).await;
    assert_eq!(finished.code, 0, "{finished:?}");
    let report = finished.json();
    assert_eq!(report["ok"], true);
    assert!(report["records"].as_u64().unwrap() >= 33, "{report}");
    assert!(!report["heads"].as_array().unwrap().is_empty(), "a signed head was compared: {report}");
    // Looking changes nothing: it verifies and starts again.
    assert_eq!(verify(dir.path()).await.json(), report);
    start(dir.path()).await.unwrap().terminate().await;
}

/// Where a byte is changed in a file: its beginning, its end, and places between.
fn offsets(len: usize) -> Vec<usize> {
    let mut offsets: Vec<usize> = (0..8).map(|i| i * len / 8 + len / 16).chain([0, len.saturating_sub(1)]).collect();
    offsets.retain(|at| *at < len);
    offsets.sort_unstable();
    offsets.dedup();
    offsets
}

#[tokio::test(flavor = "multi_thread")]
async fn one_changed_byte_of_the_stored_log_is_found_by_the_verifier_or_at_open() {
    let image = worked().await;
    let good = verify(restore(&image).path()).await.json();
    let stored = |name: &Path| name.starts_with("store") && !is_noise(name);
    let files: Vec<_> = image.keys().filter(|name| stored(name) && !image[*name].is_empty()).cloned().collect();
    assert!(files.len() >= 3, "{files:?}");
    let largest = files.iter().max_by_key(|name| image[*name].len()).unwrap();
    let mut found = BTreeMap::<&Path, usize>::new();
    for file in &files {
        for at in offsets(image[file].len()) {
            let mut damaged = image.clone();
            damaged.get_mut(file).unwrap()[at] ^= 0x10;
            let finished = verify(restore(&damaged).path()).await;
            assert!(!finished.stderr.contains("panicked"), "{finished:?}");
            if finished.code == 0 {
                // What records are not read from (filters, properties, the older half of the head) may change without a
                // consequence. What is then said must be the same to the last bit.
                assert_eq!(finished.json(), good, "{} at {at}", file.display());
                continue;
            }
            let error = &finished.stderr;
            assert!(error.contains("damaged") || error.contains("log") || error.contains("data directory"), "{error}");
            *found.entry(file).or_default() += 1;
        }
    }
    // The records themselves are in the largest file, and nearly all of it.
    let of_largest = found.get(largest.as_path()).copied().unwrap_or_default();
    assert!(of_largest + 2 >= offsets(image[largest].len()).len(), "{of_largest} found in {}", largest.display());
    assert!(found.len() >= 2, "{found:?}");
}

/// Files that nothing is read from.
fn is_noise(name: &Path) -> bool {
    let name = name.file_name().unwrap().to_str().unwrap();
    name.starts_with("LOG") || name == "LOCK" || name == "IDENTITY" || name.starts_with("OPTIONS")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shortened_or_missing_file_of_the_store_is_found() {
    let image = worked().await;
    for file in image.keys().filter(|name| name.starts_with("store") && !is_noise(name)) {
        let len = image[file].len();
        if len == 0 {
            continue;
        }
        for keep in [None, Some(0), Some(len / 2), Some(len - 1)] {
            let mut damaged = image.clone();
            match keep {
                None => drop(damaged.remove(file)),
                Some(keep) => damaged.get_mut(file).unwrap().truncate(keep),
            }
            let dir = restore(&damaged);
            let finished = verify(dir.path()).await;
            if file.ends_with("HEAD") && keep.is_some_and(|keep| keep >= len / 2) {
                // It holds its last two states, so that a torn write of one leaves the other.
                continue;
            }
            assert_ne!(finished.code, 0, "{} cut to {keep:?} of {len} was not noticed: {finished:?}", file.display());
            assert!(!finished.stderr.contains("panicked"), "{finished:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_checkpoint_or_key_is_found() {
    let image = worked().await;
    let name = image.keys().find(|name| name.starts_with("checkpoints")).unwrap().clone();
    for at in offsets(image[&name].len()) {
        let mut damaged = image.clone();
        damaged.get_mut(&name).unwrap()[at] ^= 0x01;
        let dir = restore(&damaged);
        assert_ne!(verify(dir.path()).await.code, 0, "the checkpoint's byte {at}");
    }
    // Another key than the one the log was signed with, from a channel of one's own.
    let dir = restore(&image);
    let other = worked().await;
    let other_key = String::from_utf8(other[Path::new("keys/dev/log.pub")].clone()).unwrap();
    let args = ["audit", "verify", "--data-dir", dir.path().to_str().unwrap(), "--log-key", other_key.trim()];
    assert_ne!(cli::run(&args, &[]).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_went_back_is_found_by_whoever_kept_a_checkpoint() {
    let mut server = Server::dev().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    assert!(server.terminate().await.status.success());
    let earlier = image(server.data_dir());
    server.restart().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    decide(&agent, &session, &describe()).await.unwrap();
    let printed = server.cli(&server.token("aaron", None, &[]), &["audit", "checkpoint"]).await;
    assert_eq!(printed.code, 0, "{printed:?}");
    let kept = tempfile::NamedTempFile::new().unwrap();
    fs::write(kept.path(), &printed.stdout).unwrap();
    let since = kept.path().to_str().unwrap();
    server.terminate().await;
    let now = server.data_dir().to_str().unwrap().to_owned();
    let forward = cli::run(&["audit", "verify", "--data-dir", &now, "--since", since], &[]).await;
    assert_eq!(forward.code, 0, "{forward:?}");
    let dir = restore(&earlier);
    let back = cli::run(&["audit", "verify", "--data-dir", dir.path().to_str().unwrap(), "--since", since], &[]).await;
    assert_ne!(back.code, 0, "{back:?}");
}

/// All that a server on this directory says that has happened.
async fn said(server: &Server) -> Vec<Vec<u8>> {
    server.audit_records().await.into_iter().map(|record| record.bytes).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_does_not_start_on_data_with_a_flipped_bit() {
    let image = worked().await;
    let untouched = restore(&image);
    let good = said(&start(untouched.path()).await.unwrap()).await;
    let mut refused = 0;
    let mut served = Vec::new();
    for file in image.keys().filter(|name| name.starts_with("store") && !is_noise(name)) {
        for at in offsets(image[file].len()).into_iter().step_by(3) {
            let mut damaged = image.clone();
            damaged.get_mut(file).unwrap()[at] ^= 0x04;
            let dir = restore(&damaged);
            match start(dir.path()).await {
                Err(exited) => {
                    assert_eq!(exited.status.code(), Some(1), "{exited:?}");
                    assert!(!exited.stderr.contains("panicked"), "{exited:?}");
                    assert!(exited.stderr.contains(dir.path().to_str().unwrap()), "which directory: {exited:?}");
                    refused += 1;
                }
                Ok(server) => {
                    // Nothing was read from there. Then nothing may be different, and it decides as ever.
                    assert_eq!(said(&server).await, good, "{} at {at}", file.display());
                    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
                    let session = open(&agent).await;
                    decide(&agent, &session, &describe()).await.unwrap();
                    served.push(format!("{} at {at}", file.display()));
                }
            }
        }
    }
    assert!(refused >= 4 && refused > served.len(), "{refused} refused, served {served:?}");
}
