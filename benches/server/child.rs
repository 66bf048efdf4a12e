//! The servers, each a process of its own, so that its CPU is known apart from the client's.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::Result;

/// How long a server may take to start.
const START: Duration = Duration::from_secs(30);
/// Linux counts CPU for user space in hundredths of a second, on every architecture (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// A running server. It is killed when this goes.
pub struct Child {
    process: std::process::Child,
    /// Where it serves.
    pub endpoint: String,
}

impl Child {
    /// The product: a development server with its defaults, its log in a file.
    pub async fn countersign(bundle: &Path, data: &Path) -> Result<Self> {
        let log = data.with_extension("log");
        let process = Command::new(env!("CARGO_BIN_EXE_countersign"))
            .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-format", "json"])
            .arg("--bundle")
            .arg(bundle)
            .arg("--data-dir")
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()?;
        let mut child = Self { process, endpoint: String::new() };
        child.endpoint = child.announced(&log).await?;
        Ok(child)
    }

    /// This program again, as the echo server.
    pub async fn echo(answers: &Path) -> Result<Self> {
        let log = answers.join("log");
        let process = Command::new(std::env::current_exe()?)
            .arg("--echo")
            .arg(answers)
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .spawn()?;
        let mut child = Self { process, endpoint: String::new() };
        child.endpoint = child.announced(&log).await?;
        Ok(child)
    }

    /// The address that a server writes once it serves.
    async fn announced(&mut self, log: &Path) -> Result<String> {
        let until = tokio::time::Instant::now() + START;
        while tokio::time::Instant::now() < until {
            let text = std::fs::read_to_string(log)?;
            if let Some(end) = text.split_once("\"endpoint\":\"").and_then(|(_, rest)| rest.split_once('"')) {
                return Ok(end.0.to_owned());
            }
            if let Some(status) = self.process.try_wait()? {
                return Err(format!("the server ended ({status}): {text}").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(format!("the server did not start; see {}", log.display()).into())
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The CPU it has used so far, user and system.
    pub fn cpu(&self) -> Result<Duration> {
        cpu(&self.process.id().to_string())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It holds nothing that anybody will want.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The CPU that this process has used so far.
pub fn own_cpu() -> Result<Duration> {
    cpu("self")
}

fn cpu(process: &str) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The command's name comes before, in parentheses, and may hold spaces. `utime` and `stime` are fields 14 and 15.
    let (_, fields) = text.rsplit_once(')').ok_or("/proc/PID/stat has no command")?;
    let mut ticks = 0_u32;
    for field in fields.split_whitespace().skip(11).take(2) {
        ticks += field.parse::<u32>()?;
    }
    Ok(TICK * ticks)
}
