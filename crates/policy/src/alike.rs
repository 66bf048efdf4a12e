//! When two spellings are one name.

use unicase::UniCase;
use unicode_normalization::UnicodeNormalization as _;

/// What all spellings of a name have in common that differ only in compatibility forms (Unicode NFKC), case (full case folding), or
/// space: two persons must not differ by that alone, else one human could be both and count twice. Nobody is recognized by it.
pub(crate) fn likeness(name: &str) -> String {
    let spelled: String = name.nfkc().collect();
    let words: Vec<&str> = spelled.split_whitespace().collect();
    // Folding can make what was in NFKC not be, so it is brought there again (Unicode 3.13, D146).
    UniCase::unicode(words.join(" ")).to_folded_case().nfkc().collect()
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
