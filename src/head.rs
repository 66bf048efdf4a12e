//! Heads of the store that a command keeps, wherever it likes.

use std::io;

use countersign_store::{HeadKeeper, KnownHead};

use crate::command;

/// A head that a command keeps: called with `put` it takes one on standard input, and with `get` it prints the newest, or
/// nothing if there never was one.
#[derive(Debug)]
pub struct CommandHead {
    command: Vec<String>,
}

impl CommandHead {
    /// The command and its first arguments.
    #[must_use]
    pub const fn new(command: Vec<String>) -> Self {
        Self { command }
    }

    fn run(&self, verb: &str, input: &str) -> io::Result<String> {
        let command: Vec<String> = self.command.iter().cloned().chain([verb.to_owned()]).collect();
        command::run(&command, input).map(|output| output.to_string()).map_err(io::Error::other)
    }
}

impl HeadKeeper for CommandHead {
    fn read(&self) -> io::Result<Option<KnownHead>> {
        let text = self.run("get", "")?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        KnownHead::parse(&text).map(Some).ok_or_else(|| io::Error::other("what it printed is no head that is whole"))
    }

    fn write(&self, head: &KnownHead) -> io::Result<()> {
        self.run("put", &head.to_text()).map(drop)
    }

    fn place(&self) -> String {
        self.command.join(" ")
    }
}
