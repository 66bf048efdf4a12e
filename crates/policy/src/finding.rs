//! What is wrong with a bundle, and where.

use std::fmt;

use countersign_core::visible::Visible;
use serde::Serialize;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The bundle is refused.
    Error,
    /// The bundle is accepted; somebody should look.
    Warning,
}

/// One thing that is wrong with a bundle.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The file inside the bundle.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The column, counted in characters from 1.
    pub column: usize,
    /// How much it matters.
    pub severity: Severity,
    /// The policy it is about, by id.
    pub policy: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl Finding {
    /// An error at the beginning of `file`.
    pub(crate) fn error(file: &str, message: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: 1,
            column: 1,
            severity: Severity::Error,
            policy: None,
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    pub(crate) fn at(mut self, (line, column): (usize, usize)) -> Self {
        (self.line, self.column) = (line, column);
        self
    }

    pub(crate) fn about(mut self, policy: &str) -> Self {
        self.policy = Some(policy.to_owned());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", Visible::new(&self.file), self.line, self.column)?;
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  {hint}")?;
        }
        Ok(())
    }
}

/// A bundle that is not fit to decide, with everything that is wrong with it: at least one finding is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// All findings, sorted by file and line.
    pub findings: Vec<Finding>,
}

impl Refused {
    pub(crate) fn new(mut findings: Vec<Finding>) -> Self {
        findings.sort();
        findings.dedup();
        Self { findings }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, finding) in self.findings.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{finding}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

/// Where the lines of a text begin: found once, since a file may hold a hundred thousand policies.
pub(crate) struct Places<'t> {
    text: &'t str,
    /// Byte offsets, sorted.
    lines: Vec<usize>,
}

impl<'t> Places<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        let feeds = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self { text, lines: std::iter::once(0).chain(feeds.map(|(at, _)| at + 1)).collect() }
    }

    /// Line and column, both from 1, of a byte offset.
    pub(crate) fn at(&self, offset: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|begins| *begins <= offset);
        let begins = self.lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let column = self.text.get(begins..offset).map_or(0, |before| before.chars().count()) + 1;
        (line, column)
    }
}

/// Line and column, both from 1, of a byte offset in `text`.
pub(crate) fn position(text: &str, offset: usize) -> (usize, usize) {
    Places::new(text).at(offset)
}

/// Where `word` first stands in `text` as a word of its own and outside of `//` comments; the beginning if nowhere.
pub(crate) fn locate(text: &str, word: &str) -> (usize, usize) {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for (offset, _) in code.match_indices(word) {
            let (before, after) = (code.get(..offset), code.get(offset + word.len()..));
            let inside =
                before.is_some_and(|b| b.ends_with(part_of_word)) || after.is_some_and(|a| a.starts_with(part_of_word));
            if !inside {
                return (number + 1, before.map_or(0, |b| b.chars().count()) + 1);
            }
        }
    }
    (1, 1)
}

/// What Cedar says about `text`, with its position and its advice.
pub(crate) fn from_cedar(file: &str, text: &str, error: &dyn miette::Diagnostic) -> Finding {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !message.contains(&cause_text) {
            message = format!("{message}: {cause_text}");
        }
        source = cause.source();
    }
    let offset = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
    let mut finding = Finding::error(file, message);
    if let Some(offset) = offset {
        finding = finding.at(position(text, offset));
    }
    if let Some(help) = error.help() {
        finding = finding.hint(help.to_string());
    }
    finding
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_says_where_what_and_what_to_do() {
        let finding = Finding::error("policies/a.cedar", "`@ttl` is wrong").at((3, 7)).hint("write `15m`");
        assert_eq!(finding.to_string(), "policies/a.cedar:3:7: `@ttl` is wrong\n  write `15m`");
    }

    #[test]
    fn positions_count_lines_and_characters() {
        assert_eq!(position("ab\ncd", 0), (1, 1));
        assert_eq!(position("ab\nÄd", 5), (2, 2));
        assert_eq!(position("ab\n", 3), (2, 1));
        assert_eq!(position("", 7), (1, 1));
        assert_eq!(locate("// Person\nentity PersonX, Person;", "Person"), (2, 17));
    }
}
