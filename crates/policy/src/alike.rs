//! When two spellings are one name.

use icu_properties::props::{BinaryProperty as _, DefaultIgnorableCodePoint, EnumeratedProperty as _, GeneralCategory};
use unicase::UniCase;
use unicode_normalization::UnicodeNormalization as _;

/// What all spellings of a name have in common that differ only in compatibility forms (Unicode NFKC), case (full case folding),
/// space, or what nobody sees: two persons must not differ by that alone, else one human could be both and count twice. Nobody is
/// recognized by it.
pub(crate) fn likeness(name: &str) -> String {
    // First, so that what they stood between is composed.
    let spelled: String = name.chars().filter(|c| !is_unseen(*c)).nfkc().collect();
    let words: Vec<&str> = spelled.split_whitespace().collect();
    // Folding can make what was in NFKC not be, so it is brought there again (Unicode 3.13, D146).
    UniCase::unicode(words.join(" ")).to_folded_case().nfkc().collect()
}

/// Whether a character has no shape: it is ignored in display by default (Unicode 5.21), or a control or format character. A new
/// line or a tab is a space.
fn is_unseen(c: char) -> bool {
    !c.is_whitespace()
        && (DefaultIgnorableCodePoint::for_char(c)
            || matches!(GeneralCategory::for_char(c), GeneralCategory::Control | GeneralCategory::Format))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_name_are_alike() {
        for (one, other) in [
            ("alice", "Alice"),
            ("alice", " alice\t"),
            ("alice", "ａｌｉｃｅ"),
            ("anna lena", "anna\u{3000}lena"),
            ("straße", "STRASSE"),
            ("Ångström", "A\u{30a}ngstro\u{308}m"),
            ("ΣΊΣΥΦΟΣ", "σίσυφος"),
            ("ﬁona", "fiona"),
            ("alice", "ali\u{200b}ce"),
            ("alice", "\u{feff}al\u{ad}ice\u{1}"),
            ("alice", "alice\u{e0041}\u{fe0f}\u{3164}"),
            ("anna lena", "anna \u{200d} lena"),
            ("Zoë", "Zoe\u{2060}\u{308}"),
        ] {
            assert_eq!(likeness(one), likeness(other), "{one} {other}");
        }
    }

    #[test]
    fn different_names_are_not() {
        for (one, other) in [("alice", "alic3"), ("alice", "alicе"), ("anna lena", "annalena"), ("a", "ä")] {
            assert_ne!(likeness(one), likeness(other), "{one} {other}");
        }
    }
}
