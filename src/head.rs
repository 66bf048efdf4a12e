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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;

    use countersign_store::Revision;

    use super::*;

    #[test]
    fn a_command_keeps_the_newest_head_and_its_failures_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let (script, kept) = (dir.path().join("keep"), dir.path().join("kept"));
        let text =
            format!("#!/bin/sh\ncase $1 in put) cat > {kept:?};; get) cat {kept:?} 2>/dev/null || true;; esac\n");
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
        let keeper = CommandHead::new(vec![script.to_str().unwrap().to_owned()]);
        assert_eq!(keeper.read().unwrap(), None);
        for revision in [1, 2] {
            let head = KnownHead { revision: Revision::new(revision), epoch: 1, logs: BTreeMap::new() };
            keeper.write(&head).unwrap();
            assert_eq!(keeper.read().unwrap(), Some(head));
        }
        std::fs::write(&kept, "something else").unwrap();
        assert!(keeper.read().is_err());
        assert!(CommandHead::new(vec!["/bin/false".to_owned()]).read().is_err());
    }
}
