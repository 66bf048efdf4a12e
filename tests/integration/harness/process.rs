//! A child process whose lines on standard error are kept.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::PATIENCE;

/// A running `countersign`. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    read: watch::Receiver<usize>,
}

/// How a process ended.
#[derive(Debug)]
pub struct Exited {
    /// Its status.
    pub status: ExitStatus,
    /// All that it said on standard error.
    pub stderr: String,
}

/// The built executable, with nothing of the environment that could configure it.
pub fn executable() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    command.env_clear().stdin(Stdio::null());
    command
}

impl Process {
    /// Starts it with these environment variables. With `largest_file`, writing a file beyond so many bytes fails, as on a disk that is full.
    pub fn spawn(args: &[String], env: &[(String, String)], largest_file: Option<u64>) -> Self {
        let mut command = executable();
        if let Some(bytes) = largest_file {
            let program = command.get_program().to_owned();
            // The limit is counted in blocks of 512 bytes. The signal that goes with it must not end the process first.
            let limited = format!("trap '' XFSZ && ulimit -f {} && exec \"$@\"", bytes / 512);
            command = Command::new("/bin/sh");
            command.env_clear().stdin(Stdio::null()).args(["-c", &limited, "sh"]).arg(program);
        }
        let mut child =
            command.args(args).envs(env.iter().cloned()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (tell, read) = watch::channel(0);
        let kept = Arc::clone(&lines);
        // A thread and not a task, so that it outlives the runtime of any one test. It ends with the child; when it does,
        // the channel closes, and that is how everybody learns.
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stderr);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                kept.lock().unwrap().push(text);
                tell.send_modify(|n| *n += 1);
                line.clear();
            }
        });
        Self { child, lines, read }
    }

    /// The first line that fits, once it was written; or how the process ended without it.
    pub async fn line(&mut self, fits: impl Fn(&str) -> bool) -> Result<String, Exited> {
        let waiting = async {
            let mut read = self.read.clone();
            loop {
                if let Some(line) = self.lines.lock().unwrap().iter().find(|line| fits(line)) {
                    return Some(line.clone());
                }
                if read.changed().await.is_err() {
                    // Closed: what was written last may not have been looked at yet.
                    return self.lines.lock().unwrap().iter().find(|line| fits(line)).cloned();
                }
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(Some(line)) => Ok(line),
            Ok(None) => Err(self.exited().await),
            Err(_) => panic!("the awaited line did not come; so far:\n{}", self.text()),
        }
    }

    /// All that was said so far.
    pub fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// Kills it at once, as a power cut would.
    pub async fn kill(&mut self) -> Exited {
        // An error says that it is gone already.
        let _ = self.child.kill();
        self.exited().await
    }

    /// Asks it to end.
    pub fn ask_to_end(&self) {
        self.signal("TERM");
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        let status = Command::new("/bin/sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status();
        assert!(status.unwrap().success(), "no such process to end:\n{}", self.text());
    }

    /// Waits until it has ended.
    pub async fn exited(&mut self) -> Exited {
        let mut read = self.read.clone();
        let closed = async { while read.changed().await.is_ok() {} };
        if tokio::time::timeout(PATIENCE, closed).await.is_err() {
            panic!("the process does not end:\n{}", self.text());
        }
        // It closed its standard error, so this is a moment only.
        let status = self.child.wait().unwrap();
        Exited { status, stderr: self.text() }
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
