//! The only place that writes to stdout and stderr. Everything else hands its text over, so that tokens and strangers'
//! control characters reach a terminal neither by accident nor unescaped.

use std::fmt::{Display, Write as _};
use std::io::{self, IsTerminal as _, Write};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use countersign_core::visible::Visible;
use serde::Serialize;

use super::failure::Failure;

/// What stands out.
pub const STRONG: Style = Style::new().bold();
/// What is there for completeness.
pub const FAINT: Style = Style::new().dimmed();
/// Yes.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// No.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// Look here.
pub const WARN: Style = AnsiColor::Yellow.on_default();

/// Text in a style, which is dropped where there is no terminal.
pub fn paint(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Text of strangers in quotes: what it contains cannot end the quotes, move the cursor or hide anything.
pub fn quoted(text: &str) -> String {
    // `Visible` doubles every backslash, so escaping the quote afterwards stays unambiguous.
    format!("\"{}\"", Visible::new(text).to_string().replace('"', "\\\""))
}

/// Text of the server, line by line: nothing in it acts on the terminal, and what it already escaped stays readable.
pub fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || c == '\\' {
            shown.push(c);
        } else {
            // Writing to a string cannot fail.
            let _ = write!(shown, "{}", Visible::new(c.encode_utf8(&mut [0; 4])));
        }
    }
    shown
}

/// What a line that goes on begins with.
const MARGIN: &str = "  │ ";

fn fit(text: &str, width: usize) -> String {
    let options = textwrap::Options::new(width)
        .subsequent_indent(MARGIN)
        .word_separator(textwrap::WordSeparator::AsciiSpace)
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
        .wrap_algorithm(textwrap::WrapAlgorithm::FirstFit);
    text.lines().flat_map(|line| textwrap::wrap(line, &options)).map(|line| format!("{line}\n")).collect()
}

/// When colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    const fn choice(self) -> ColorChoice {
        match self {
            Self::Auto => ColorChoice::Auto,
            Self::Always => ColorChoice::Always,
            Self::Never => ColorChoice::Never,
        }
    }
}

/// Where answers and errors go.
pub struct Output {
    json: bool,
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    /// Whether a person watches stderr.
    watched: bool,
    /// How wide the terminal is that shows stdout, if one does.
    width: Option<usize>,
    progress: bool,
}

impl Output {
    /// The process' own stdout and stderr.
    pub fn standard(json: bool, color: Color) -> Self {
        Self {
            json,
            out: Box::new(AutoStream::new(io::stdout(), color.choice())),
            err: Box::new(AutoStream::new(io::stderr(), color.choice())),
            watched: io::stderr().is_terminal(),
            width: io::stdout().is_terminal().then(textwrap::termwidth),
            progress: false,
        }
    }

    /// Whether answers are JSON.
    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// Whether somebody can be asked: input and stderr are terminals, and answers are for people.
    pub fn can_ask(&self) -> bool {
        self.watched && !self.json && io::stdin().is_terminal()
    }

    /// The one document that answers a command.
    pub fn document(&mut self, json: &impl Serialize, human: &str) -> Result<(), Failure> {
        if !self.json {
            return self.human(human);
        }
        let text =
            serde_json::to_string_pretty(json).map_err(|error| Failure::new(format!("cannot write JSON: {error}")))?;
        self.raw(&format!("{text}\n"))
    }

    /// One of many answers: a line of JSON, or text.
    pub fn item(&mut self, json: &impl Serialize, human: &str) -> Result<(), Failure> {
        if !self.json {
            return self.human(human);
        }
        let text = serde_json::to_string(json).map_err(|error| Failure::new(format!("cannot write JSON: {error}")))?;
        self.raw(&format!("{text}\n"))
    }

    /// Text for people on stdout, ended by a line feed.
    pub fn human(&mut self, text: &str) -> Result<(), Failure> {
        self.end_progress();
        self.raw(&format!("{}\n", text.trim_end_matches('\n')))
    }

    /// Text that people decide on. A line that is longer than the terminal goes on behind a margin: a stranger's text cannot
    /// begin a line of its own, however long it is.
    pub fn fitted(&self, text: &str) -> String {
        self.width.map_or_else(|| text.to_owned(), |width| fit(text, width))
    }

    /// Text for people on stdout, whose empty last line is kept.
    pub fn human_exact(&mut self, text: &str) -> Result<(), Failure> {
        self.end_progress();
        self.raw(&format!("{text}\n"))
    }

    /// Bytes for stdout, exactly.
    pub fn raw(&mut self, text: &str) -> Result<(), Failure> {
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).map_err(Failure::from_output)
    }

    /// A remark beside the answer, on stderr. What cannot be told there is lost.
    pub fn remark(&mut self, text: &str) {
        self.end_progress();
        let _ = writeln!(self.err, "{text}").and_then(|()| self.err.flush());
    }

    /// A question, on stderr, without a line feed.
    pub fn prompt(&mut self, text: &str) {
        let _ = write!(self.err, "{text}").and_then(|()| self.err.flush());
    }

    /// How far something long has come; shown to people only, each time in the same line.
    pub fn progress(&mut self, text: &str) {
        if self.watched && !self.json {
            self.progress = true;
            let _ = write!(self.err, "\r\x1b[2K{text}").and_then(|()| self.err.flush());
        }
    }

    fn end_progress(&mut self) {
        if std::mem::take(&mut self.progress) {
            let _ = write!(self.err, "\r\x1b[2K").and_then(|()| self.err.flush());
        }
    }

    /// Why the command failed, on stderr.
    pub fn failure(&mut self, failure: &Failure) {
        self.end_progress();
        let text = if self.json { format!("{}\n", failure.to_json()) } else { failure.to_human() };
        let _ = self.err.write_all(text.as_bytes()).and_then(|()| self.err.flush());
    }
}

#[cfg(test)]
pub mod testing {
    //! An output that remembers what was written.

    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::Output;

    /// What was written.
    #[derive(Clone, Default)]
    pub struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        /// As text.
        pub fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Stdout and stderr of a command that no terminal watches.
    pub fn output(json: bool) -> (Output, Written, Written) {
        let (out, err) = (Written::default(), Written::default());
        let output = Output {
            json,
            out: Box::new(anstream::StripStream::new(Box::new(out.clone()) as Box<dyn Write>)),
            err: Box::new(anstream::StripStream::new(Box::new(err.clone()) as Box<dyn Write>)),
            watched: false,
            width: None,
            progress: false,
        };
        (output, out, err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_cannot_leave_the_quotes_or_move_the_cursor() {
        assert_eq!(quoted("a\", approve: \"yes"), "\"a\\\", approve: \\\"yes\"");
        assert_eq!(quoted("\\\""), "\"\\\\\\\"\"");
        assert_eq!(quoted("\u{1b}[2J\u{202e}"), "\"\\u{1b}[2J\\u{202e}\"");
        assert_eq!(harmless("a\n\u{1b}[1m `b\\u{202e}`"), "a\n\\u{1b}[1m `b\\u{202e}`");
    }

    #[test]
    fn a_long_text_of_a_stranger_does_not_begin_a_line_of_its_own() {
        for filler in ["x".repeat(500), " ".repeat(500), "word ".repeat(100)] {
            let shown = fit(&format!("  justification  {}\nVotes\n", quoted(&format!("{filler}Votes  Person"))), 80);
            let lines: Vec<&str> = shown.lines().collect();
            assert_eq!(lines.iter().filter(|line| line.starts_with("Votes")).count(), 1, "{shown}");
            assert!(lines[1..lines.len() - 1].iter().all(|line| line.starts_with(MARGIN)), "{shown}");
            assert!(lines.iter().all(|line| line.chars().count() <= 80), "{shown}");
        }
    }

    #[test]
    fn people_get_text_and_programs_get_json() {
        let (mut human, out, _) = testing::output(false);
        human.document(&serde_json::json!({"a": 1}), &paint(STRONG, "a is 1")).unwrap();
        assert_eq!(out.text(), "a is 1\n");
        let (mut json, out, _) = testing::output(true);
        json.item(&serde_json::json!({"a": 1}), "a is 1").unwrap();
        assert_eq!(out.text(), "{\"a\":1}\n");
    }
}
