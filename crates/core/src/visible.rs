//! Text of strangers, made safe to look at.

use std::fmt::{self, Write as _};

use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory, GeneralCategoryGroup, Script};
use icu_properties::{CodePointMapData, CodePointSetData};

/// Shows text so that nothing in it acts on the reader's terminal, page or eye: control, bidirectional, zero-width,
/// formatting, combining, variation and private-use characters, by Unicode's own tables, appear as `\u{…}`. What is digested is always the
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

/// Characters that have no shape of their own, or change that of their neighbours: controls, formats, private, unassigned,
/// default ignorable, every space but the one, and combining marks that go with any script. Marks that belong to one script
/// are how its words are written, but for the points of Hebrew and Arabic, which can be left out of theirs.
fn deceives(c: char) -> bool {
    const NEVER: GeneralCategoryGroup =
        GeneralCategoryGroup::Other.union(GeneralCategoryGroup::Separator).union(GeneralCategoryGroup::EnclosingMark);
    let category = CodePointMapData::<GeneralCategory>::new().get(c);
    let of_any_script = || {
        let script = CodePointMapData::<Script>::new().get(c);
        [Script::Inherited, Script::Common, Script::Hebrew, Script::Arabic].contains(&script)
    };
    NEVER.contains(category)
        || (GeneralCategoryGroup::Mark.contains(category) && of_any_script())
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
        || BLANK.contains(&c)
}

/// What nothing in the tables tells from letters and signs, and nobody sees: a Braille pattern without dots, a musical head without a
/// note, and the filler of Khitan.
const BLANK: [char; 3] = ['\u{2800}', '\u{1d159}', '\u{16fe4}'];

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
        for words in ["Zürich 東京 Ελλάδα", "हिन्दी", "ภาษาไทย", "עברית", "العربية", "👍 €5 – “ok”"]
        {
            assert_eq!(Visible::new(words).to_string(), words);
        }
    }

    #[test]
    fn what_nobody_sees_is_spelled_out() {
        let hidden = "\u{13430}\u{110bd}\u{890}\u{3099}\u{302a}\u{1d159}\u{2800}\u{3164}\u{16fe4}\u{e0041}\u{a0}\u{301}\u{5b0}\u{fffff}";
        let spelled: String = hidden.chars().map(|c| format!("\\u{{{:x}}}", u32::from(c))).collect();
        assert_eq!(Visible::new(hidden).to_string(), spelled);
    }

    #[test]
    fn a_cut_is_told() {
        assert_eq!(Visible::cut("abcdef", 2).to_string(), "ab… (4 more characters)");
    }
}
