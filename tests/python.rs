//! The public API from another language: the built executable, and a Python client over stubs generated from proto/.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that unwraps fails where it should; helpers of tests are tests"
)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use countersign::identity::DevIssuer;
use countersign_core::Clock as _;
use countersign_core::time::SystemClock;

/// A development server of the built executable, killed when the test is over.
struct Server {
    child: Child,
    endpoint: String,
    /// Kept open and read by a thread, so that the server never waits for room in the pipe.
    _log: std::thread::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Server {
    fn start(data_dir: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_countersign"))
            .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .args(["--log", "info", "--log-format", "json"])
            .arg("--bundle")
            .arg(root().join("policies/ai-platform"))
            .arg("--data-dir")
            .arg(data_dir)
            .env_remove("COUNTERSIGN_CONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the built executable starts");
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let endpoint =
            endpoint(&mut log).unwrap_or_else(|seen| panic!("the server did not say where it serves:\n{seen}"));
        let drained = std::thread::spawn(move || {
            let _until_it_ends = log.read_to_end(&mut Vec::new());
        });
        Self { child, endpoint, _log: drained }
    }
}

/// Where the server serves, as its log says; or all that it said.
fn endpoint(log: &mut BufReader<ChildStderr>) -> Result<String, String> {
    let mut seen = String::new();
    for line in log.lines() {
        let line = line.unwrap();
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if entry.get("message").and_then(|message| message.as_str()) == Some("serving") {
            return Ok(entry.get("endpoint").and_then(|endpoint| endpoint.as_str()).expect("an endpoint").to_owned());
        }
        seen.push_str(&line);
        seen.push('\n');
    }
    Err(seen)
}

/// The interpreter with what tests/python/requirements.txt names.
fn interpreter() -> PathBuf {
    let python = root().join(".venv/bin/python");
    assert!(python.exists(), "there is no {}: run `make setup`, which makes it", python.display());
    let modules = "import grpc, grpc_status, grpc_tools";
    let imports = Command::new(&python).args(["-c", modules]).output().expect("the interpreter starts");
    let said = String::from_utf8_lossy(&imports.stderr);
    assert!(imports.status.success(), "{} lacks modules: run `make setup`\n{said}", python.display());
    python
}

#[test]
fn the_whole_flow_works_from_python() {
    let python = interpreter();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let issuer = DevIssuer::open_or_create(dir.path()).unwrap();
    let token = |subject: &str, operator: Option<&str>| {
        issuer.token(subject, operator, &[], SystemClock::default().wall(), Duration::from_secs(600)).unwrap()
    };
    let run = Command::new(python)
        .arg(root().join("tests/python/test_flow.py"))
        .env("COUNTERSIGN_ENDPOINT", &server.endpoint)
        .env("COUNTERSIGN_TOKEN_AGENT", token("agent:etl-bot", Some("olivia")))
        .env("COUNTERSIGN_TOKEN_WAREHOUSE", token("service:warehouse-gateway", None))
        .env("COUNTERSIGN_TOKEN_OLIVIA", token("olivia", None))
        .env("COUNTERSIGN_TOKEN_DANA", token("dana", None))
        .env("COUNTERSIGN_TOKEN_DAVE", token("dave", None))
        .env("COUNTERSIGN_TOKEN_AARON", token("aaron", None))
        .output()
        .expect("the script starts");
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "the script ended with {}\n{out}\n{err}", run.status);
    assert!(out.ends_with("the whole flow, in Python: done\n"), "{out}\n{err}");
}

#[test]
fn the_python_twin_agrees_with_every_vector_of_the_canonical_form() {
    let run = Command::new(interpreter())
        .arg("-B")
        .arg(root().join("docs/canonical-form/canonical.py"))
        .output()
        .expect("the twin starts");
    let out = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && out.contains("all agree"), "{out}\n{}", String::from_utf8_lossy(&run.stderr));
}
