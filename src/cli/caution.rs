//! What a reader should know of a text that is shown as it is: letters that look like others, and text that reads backwards. Both
//! can be somebody's name, so they are not escaped; they are pointed out.

use icu_properties::CodePointMapData;
use icu_properties::props::BidiClass;
use unicode_security::MixedScript as _;

use super::output::{WARN, paint};

/// The text as it was made safe to show, and what to watch for in it.
pub fn with_caution(text: &str, shown: impl std::fmt::Display) -> String {
    match caution(text) {
        Some(caution) => format!("{shown} {}", paint(WARN, format!("({caution})"))),
        None => shown.to_string(),
    }
}

fn caution(text: &str) -> Option<&'static str> {
    let bidi = CodePointMapData::<BidiClass>::new();
    let backwards = |c| matches!(bidi.get(c), BidiClass::RightToLeft | BidiClass::ArabicLetter);
    let mixed = |word: &str| !word.is_single_script();
    match (text.split(|c: char| !c.is_alphanumeric()).any(mixed), text.chars().any(backwards)) {
        (true, _) => Some("a word of it mixes letters of several alphabets"),
        (false, true) => Some("parts of it read from right to left"),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_pose_as_others_are_pointed_out() {
        for posing in ["s3://\u{43e}urs-reports", "p\u{430}ypal", "\u{3bf}livia"] {
            assert!(with_caution(posing, posing).contains("several alphabets"), "{posing}");
        }
    }

    #[test]
    fn text_that_reads_backwards_is_pointed_out() {
        for backwards in ["שלום 12", "حذف"] {
            assert!(with_caution(backwards, backwards).contains("right to left"), "{backwards}");
        }
    }

    #[test]
    fn words_of_one_language_each_are_left_alone() {
        for plain in ["s3://our-reports/sync_2", "Zürich 東京 Ελλάδα", "日本語のテスト", "москва-1", ""]
        {
            assert_eq!(with_caution(plain, plain), plain);
        }
    }
}
