//! Text of strangers, made safe to look at.

use std::fmt::{self, Write as _};

/// Shows text so that nothing in it acts on the reader's terminal, page or eye: control, bidirectional, zero-width,
/// formatting, combining, variation and private-use characters appear as `\u{…}`. What is digested is always the
/// original; only the display changes (I3: the escape is injective, because the backslash escapes itself).
#[derive(Debug, Clone, Copy)]
pub struct Visible<'a> {
    text: &'a str,
    limit: usize,
}

impl<'a> Visible<'a> {
    /// The whole text.
    #[must_use]
    pub const fn new(text: &'a str) -> Self {
        Self { text, limit: usize::MAX }
    }

    /// At most `limit` characters; a cut is told with the number of characters left out. For errors, never for what
    /// people vote on.
    #[must_use]
    pub const fn cut(text: &'a str, limit: usize) -> Self {
        Self { text, limit }
    }
}

impl fmt::Display for Visible<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.text.chars().take(self.limit) {
            match c {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                ' '..='~' => f.write_char(c)?,
                _ if deceives(c) => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                _ => f.write_char(c)?,
            }
        }
        match self.text.chars().count().saturating_sub(self.limit) {
            0 => Ok(()),
            left => write!(f, "… ({left} more characters)"),
        }
    }
}

/// Characters that have no shape of their own, or change that of their neighbours (Unicode Cc, Cf, Co, Mn in the common
/// blocks, and separators other than the space).
fn deceives(c: char) -> bool {
    matches!(u32::from(c) ,
        0x00..=0x1f | 0x7f..=0xa0 | 0xad
        | 0x300..=0x36f | 0x483..=0x489 | 0x591..=0x5c7 | 0x600..=0x605 | 0x610..=0x61c | 0x64b..=0x65f | 0x6dd
        | 0x70f | 0x8e2 | 0x115f..=0x1160 | 0x1680 | 0x17b4..=0x17b5 | 0x180b..=0x180f | 0x1ab0..=0x1aff | 0x1dc0..=0x1dff
        | 0x2000..=0x200f | 0x2028..=0x202f | 0x205f..=0x206f | 0x20d0..=0x20ff | 0x2800 | 0x3000 | 0x3164
        | 0xe000..=0xf8ff | 0xfe00..=0xfe0f | 0xfe20..=0xfe2f | 0xfeff | 0xffa0 | 0xfff0..=0xffff
        | 0x1_bca0..=0x1_bca3 | 0x1_d173..=0x1_d17a | 0xe_0000..=0x10_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_or_hides_text_reaches_the_reader() {
        let hostile = "pay\u{202e}evil\u{200b}\u{1b}[2J\r\nok\\";
        assert_eq!(Visible::new(hostile).to_string(), "pay\\u{202e}evil\\u{200b}\\u{1b}[2J\\r\\nok\\\\");
    }

    #[test]
    fn words_of_people_stay_readable() {
        assert_eq!(Visible::new("Zürich 東京 Ελλάδα").to_string(), "Zürich 東京 Ελλάδα");
    }

    #[test]
    fn a_cut_is_told() {
        assert_eq!(Visible::cut("abcdef", 2).to_string(), "ab… (4 more characters)");
    }
}
