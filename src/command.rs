//! Commands of the operator's: what fetches a key, or keeps a head.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

/// The longest that one may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(5);
/// The most that is read of what it prints.
const MOST: u64 = 1 << 20;

/// Runs a command with `input` on its standard input, and returns what it prints. What it says on standard error goes where
/// the server's own goes. Blocks.
///
/// # Errors
/// Why there is no output, in words that hold none of it.
pub fn run(command: &[String], input: &str) -> Result<Zeroizing<String>, String> {
    let (program, args) = command.split_first().ok_or("the command is empty")?;
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("`{program}` {what}: {error}");
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed("cannot be run", &error))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (stdin, stdout) = stdin.zip(stdout).ok_or_else(|| format!("`{program}` has no pipes"))?;
    let input = Zeroizing::new(input.to_owned());
    // Threads, so that neither side waits for the other. Who reads no input closes it, which is no fault.
    let mut writing = stdin;
    let writer = thread::spawn(move || drop(writing.write_all(input.as_bytes())));
    let reader = thread::spawn(move || {
        let mut output = Zeroizing::new(String::new());
        stdout.take(MOST).read_to_string(&mut output).map(|_| output)
    });
    let until = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().map_err(|error| failed("cannot be waited for", &error))? {
            Some(status) => break status,
            None if Instant::now() >= until => {
                // Gone already is as good.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("`{program}` did not end within {} s", PATIENCE.as_secs()));
            }
            None => thread::sleep(LOOK),
        }
    };
    let _ended = writer.join();
    let output = reader.join().map_err(|_| format!("the output of `{program}` cannot be read"))?;
    if !status.success() {
        return Err(format!("`{program}` failed: {status}"));
    }
    output.map_err(|error| failed("printed what is no text", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[test]
    fn what_a_command_prints_is_returned_and_a_failure_tells_none_of_it() {
        assert_eq!(run(&shell("cat"), "text").unwrap().as_str(), "text");
        let error = run(&shell("echo secret; exit 3"), "").unwrap_err();
        assert!(error.contains("/bin/sh") && !error.contains("secret"), "{error}");
        assert!(run(&["/nowhere/at-all".to_owned()], "").unwrap_err().contains("cannot be run"));
        assert!(run(&[], "").is_err());
    }
}
