//! The command line, as its users call it: with its output in pipes.

use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::PATIENCE;
use super::process::executable;
use super::server::Server;

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its exit code.
    pub code: i32,
    /// What it answered.
    pub stdout: String,
    /// What it remarked.
    pub stderr: String,
}

impl Finished {
    /// Its answer, as one JSON document.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// Its error, as one JSON document.
    pub fn json_error(&self) -> serde_json::Value {
        let error: serde_json::Value =
            serde_json::from_str(&self.stderr).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"));
        error["error"].clone()
    }
}

/// The Python that `make setup-prove` installs the solver for. Without it a test fails, and says so.
pub fn solver() -> String {
    let python = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    assert!(python.exists(), "there is no {}: run `make setup-prove`, which makes it", python.display());
    python.to_str().unwrap().to_owned()
}

/// Runs `countersign` with these arguments and environment variables.
pub async fn run(args: &[&str], env: &[(&str, &str)]) -> Finished {
    run_with_input(args, env, "").await
}

/// `countersign init`, with the configuration and the arguments that `serve` gets.
pub async fn init(config: &std::path::Path, args: &[String], env: &[(String, String)]) -> Finished {
    let config = config.to_str().unwrap();
    let args: Vec<&str> = ["init", "--config", config].into_iter().chain(args.iter().map(String::as_str)).collect();
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    run(&args, &env).await
}

/// As [`run`], with text on standard input.
pub async fn run_with_input(args: &[&str], env: &[(&str, &str)], input: &str) -> Finished {
    let mut command = Command::from(executable());
    command.args(args).envs(env.iter().copied()).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that does not read its input closes it, which is no fault.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("{args:?} does not end")).unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Finished {
        code: output.status.code().unwrap_or_else(|| panic!("{args:?} was killed: {output:?}")),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

impl Server {
    /// Runs a command against this server with a credential.
    pub async fn cli(&self, token: &str, args: &[&str]) -> Finished {
        run(args, &[("COUNTERSIGN_ENDPOINT", self.endpoint()), ("COUNTERSIGN_TOKEN", token)]).await
    }
}
