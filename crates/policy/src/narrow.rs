//! A rule that asks in fewer cases: the same bundle, with one more exception to one rule. To be tried and shown; whoever wants
//! it writes it into the bundle.

use crate::policies;
use crate::source::{MANIFEST, Source};

/// Why a rule was not narrowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotNarrowed {
    /// There is no such policy.
    #[error("the bundle has no policy `{0}`")]
    NoSuchPolicy(String),
    /// Its text was not found exactly once.
    #[error("the text of `{0}` is not found once in its file; write the exception into it by hand")]
    NotFound(String),
    /// The bundle that comes of it would not load.
    #[error("with the exception the bundle would be refused: {0}")]
    Refused(String),
}

impl Source {
    /// The same files, in which a policy has one more exception: `unless { exception }`. Nothing is checked but that the policy
    /// is there; load it to see whether it holds together. A digest that the manifest pins is the new one.
    ///
    /// # Errors
    /// [`NotNarrowed`].
    pub fn with_exception(&self, policy: &str, exception: &str) -> Result<Self, NotNarrowed> {
        let authored = policies::read(self, &mut Vec::new()).remove(policy);
        let authored = authored.ok_or_else(|| NotNarrowed::NoSuchPolicy(policy.to_owned()))?;
        let not_found = || NotNarrowed::NotFound(policy.to_owned());
        let text = self.text(&authored.file).ok_or_else(not_found)?;
        let mut places = text.match_indices(&authored.text);
        let (Some(_), None) = (places.next(), places.next()) else { return Err(not_found()) };
        let before = authored.text.trim_end().strip_suffix(';').ok_or_else(not_found)?;
        let narrowed = format!("{}\nunless {{\n  {}\n}};", before.trim_end(), exception.replace('\n', "\n  "));
        let mut files = self.files().clone();
        files.insert(authored.file.clone(), text.replacen(&authored.text, &narrowed, 1));
        let pinned = self.content_digest().to_string();
        let changed = Self::from_files(files).map_err(|error| NotNarrowed::Refused(error.to_string()))?;
        let now = changed.content_digest().to_string();
        let mut files = changed.files().clone();
        if let Some(manifest) = files.get_mut(MANIFEST) {
            *manifest = manifest.replace(&pinned, &now);
        }
        Self::from_files(files).map_err(|error| NotNarrowed::Refused(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Bundle;

    fn example() -> Source {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies/ai-platform");
        Source::read_dir(&path).unwrap()
    }

    #[test]
    fn a_rule_with_one_more_exception_is_the_same_rule_otherwise() {
        let exception = "principal == Agent::\"etl-bot\" &&\naction == Action::\"export\"";
        let narrowed = example().with_exception("export-needs-two", exception).unwrap();
        let (before, after) = (Bundle::load(example()).unwrap(), Bundle::load(narrowed).unwrap());
        assert_eq!(before.asking("export-needs-two"), after.asking("export-needs-two"));
        let text = |bundle: &Bundle| bundle.policy_text("export-needs-two").unwrap().text.clone();
        let added = "\nunless {\n  principal == Agent::\"etl-bot\" &&\n  action == Action::\"export\"\n};";
        assert_eq!(text(&after), format!("{}{added}", text(&before).trim_end_matches(';')));
        let other = "export-abroad-needs-security";
        assert_eq!(before.policy_text(other).unwrap().text, after.policy_text(other).unwrap().text);
    }

    #[test]
    fn there_is_nothing_to_narrow_in_what_is_not_there() {
        let refused = example().with_exception("no-such-rule", "true");
        assert_eq!(refused, Err(NotNarrowed::NoSuchPolicy("no-such-rule".to_owned())));
    }
}
