//! Signatures of policy authors: who stands behind a bundle.
//!
//! `bundle.sig` is a signed note (C2SP signed-note) over the bundle's name, revision and digest. The digest is of every file that
//! can decide, so one signature covers all of them.

use std::collections::BTreeSet;

use countersign_audit::{Note, NoteError, NoteSigner, NoteVerifier};
use countersign_core::visible::Visible;
use countersign_policy::{Bundle, SIGNATURES};

/// Why a bundle does not count as signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorsError {
    /// There is no `bundle.sig`.
    #[error("it has no `{SIGNATURES}`; sign it with `countersign policy sign`")]
    Unsigned,
    /// `bundle.sig` is no note, or a signature in it does not hold.
    #[error("its `{SIGNATURES}` is refused: {0}")]
    Note(#[from] NoteError),
    /// The signatures are under something else.
    #[error("its `{SIGNATURES}` is of other content ({found}); sign what is there now with `countersign policy sign`")]
    Other {
        /// What was signed, visibly escaped and cut.
        found: String,
    },
    /// Too few have signed.
    #[error("it is signed by {signed}, and {wanted} of the configured authors must; have others sign it")]
    TooFew {
        /// How many have.
        signed: usize,
        /// How many must.
        wanted: usize,
    },
}

/// What an author signs.
#[must_use]
pub fn statement(bundle: &Bundle) -> String {
    let (name, revision, digest) = (bundle.name(), bundle.revision(), bundle.digest());
    format!("countersign/bundle-signature/v1\n{name}\n{revision}\n{digest}\n")
}

/// The note with one more signature. Signatures of other content are dropped: they stand behind something else.
///
/// # Errors
/// [`NoteError`] if there are too many.
pub fn sign(bundle: &Bundle, signer: &NoteSigner) -> Result<Note, NoteError> {
    let text = statement(bundle);
    let before = bundle.source().signatures().and_then(|note| Note::parse(note.as_bytes()).ok());
    match before.filter(|note| note.text() == text) {
        Some(note) => note.signed_also(signer),
        None => Note::sign(&text, &[signer]),
    }
}

/// The names of those of `authors` who signed this very bundle. One who signed with two keys is one.
///
/// # Errors
/// [`AuthorsError`], if nobody has, or any signature of theirs does not hold.
pub fn signers(bundle: &Bundle, authors: &[NoteVerifier]) -> Result<BTreeSet<String>, AuthorsError> {
    let note = bundle.source().signatures().ok_or(AuthorsError::Unsigned)?;
    let note = Note::parse(note.as_bytes())?;
    let names = note.verify(authors)?.into_iter().map(|signature| signature.name().to_owned()).collect();
    if note.text() != statement(bundle) {
        let found = note.text().split_whitespace().skip(1).collect::<Vec<_>>().join(" ");
        return Err(AuthorsError::Other { found: Visible::cut(&found, 160).to_string() });
    }
    Ok(names)
}

/// Those of `authors` who signed, if they are enough. Where nobody has to, nobody is asked for.
///
/// # Errors
/// [`AuthorsError`].
pub fn require(bundle: &Bundle, authors: &[NoteVerifier], wanted: usize) -> Result<BTreeSet<String>, AuthorsError> {
    if wanted == 0 {
        return Ok(BTreeSet::new());
    }
    let signers = signers(bundle, authors)?;
    let signed = signers.len();
    if signed < wanted { Err(AuthorsError::TooFew { signed, wanted }) } else { Ok(signers) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use countersign_policy::Source;

    use super::*;

    fn load(note: Option<&str>, change: impl Fn(&str) -> String) -> Bundle {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/minimal");
        let mut files = Source::read_dir(&path).unwrap().files().clone();
        files.values_mut().for_each(|text| *text = change(text));
        files.extend(note.map(|note| (SIGNATURES.to_owned(), note.to_owned())));
        Bundle::load(Source::from_files(files).unwrap()).unwrap_or_else(|refused| panic!("{refused}"))
    }

    fn same(text: &str) -> String {
        text.to_owned()
    }

    fn author(name: &str, seed: u8) -> NoteSigner {
        NoteSigner::from_seed(name, &[seed; 32]).unwrap()
    }

    #[test]
    fn a_bundle_counts_as_signed_by_those_who_signed_this_very_one() {
        let (alice, bob, mallory) = (author("alice", 1), author("bob", 2), author("mallory", 3));
        let pinned = [alice.verifier().clone(), bob.verifier().clone()];
        let plain = load(None, same);
        assert_eq!(require(&plain, &pinned, 1), Err(AuthorsError::Unsigned));

        let one = sign(&plain, &alice).unwrap().to_string();
        let signed = load(Some(&one), same);
        assert_eq!(signed.digest(), plain.digest(), "a signature makes no other bundle");
        assert_eq!(require(&signed, &pinned, 1), Ok(BTreeSet::from(["alice".to_owned()])));
        assert_eq!(require(&signed, &pinned, 2), Err(AuthorsError::TooFew { signed: 1, wanted: 2 }));

        let two = sign(&signed, &bob).unwrap().to_string();
        assert!(require(&load(Some(&two), same), &pinned, 2).is_ok());
        // Signing twice, or with another key of the same name, is one author.
        let again = sign(&load(Some(&one), same), &alice).unwrap().to_string();
        assert_eq!(again, one);
        let other_key = author("alice", 9);
        let twice = sign(&signed, &other_key).unwrap().to_string();
        let both = [alice.verifier().clone(), other_key.verifier().clone()];
        assert_eq!(require(&load(Some(&twice), same), &both, 2), Err(AuthorsError::TooFew { signed: 1, wanted: 2 }));

        let strange = sign(&plain, &mallory).unwrap().to_string();
        assert!(matches!(require(&load(Some(&strange), same), &pinned, 1), Err(AuthorsError::Note(_))));
        let changed = |text: &str| text.replace("revision = 1", "revision = 2");
        assert!(matches!(require(&load(Some(&two), changed), &pinned, 1), Err(AuthorsError::Other { .. })));
        let forged = one.replace(&plain.digest().to_string(), &load(None, changed).digest().to_string());
        assert!(matches!(
            require(&load(Some(&forged.replace("\n1\n", "\n2\n")), changed), &pinned, 1),
            Err(AuthorsError::Note(NoteError::BadSignature { .. }))
        ));
        for garbage in ["", "nonsense", "a\n\n— alice AAAA\n"] {
            assert!(matches!(require(&load(Some(garbage), same), &pinned, 1), Err(AuthorsError::Note(_))), "{garbage}");
        }
    }

    #[test]
    fn signing_what_was_changed_drops_what_others_signed() {
        let (alice, bob) = (author("alice", 1), author("bob", 2));
        let note = sign(&load(None, same), &alice).unwrap().to_string();
        let changed = load(Some(&note), |text| text.replace("revision = 1", "revision = 2"));
        let resigned = sign(&changed, &bob).unwrap();
        assert_eq!(resigned.signatures().iter().map(|made| made.name()).collect::<Vec<_>>(), ["bob"]);
    }
}
